"""Group commit: one greenlet for each container carries out what all callers ask for.

A call hands in a job and occupies no worker. The committer takes what has queued up, carries it
out in one database transaction, and tells every caller what became of its own commands. At 40
callers that makes one fsync for dozens of debits.

Truth comes first. A refused command fails alone. A lost connection makes the committer try
the batch again: the keys tell what had been committed already. If the database stays away,
callers hear ``Unavailable`` and that the outcome is unknown. A batch that the database refuses
is carried out piece by piece, so that only the wrong command fails. A wallet that somebody else
holds is not waited for: what concerns it is refused, and the others go on without it.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import eventlet
from eventlet.event import Event as Signal
from nameko.extensions import DependencyProvider
from prometheus_client import Gauge, Histogram
from psycopg2 import errorcodes
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.context import CallContext, current_call
from chassis.crash_points import crash_point
from chassis.database import Connected, is_held, is_lost
from chassis.deferred import Deferred
from chassis.instruments import REGISTRY, SECONDS
from chassis.service_database import DatabaseConnection
from contracts.errors import DeadlineExceeded, Overloaded, ServiceError, Unavailable
from contracts.messages import ReplyT
from contracts.wallet import WalletCommand
from services.wallet import ledger
from services.wallet.book import accounts, keys
from services.wallet.ledger import Outcome, Postable
from services.wallet.settings import get_settings

log = logging.getLogger(__name__)

_BATCH = Histogram(
    "mycelium_wallet_batch_commands",
    "How many commands were carried out in one go.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
    registry=REGISTRY,
)
_BATCH_DURATION = Histogram(
    "mycelium_wallet_batch_duration_seconds",
    "How long that took, whatever became of it.",
    buckets=SECONDS,
    registry=REGISTRY,
)
_WAITING = Gauge(
    "mycelium_wallet_commands_waiting", "Commands that wait for the next batch.", registry=REGISTRY
)
_HELD = Gauge(
    "mycelium_wallet_held_wallets",
    "Wallets that somebody else held at the last look; what concerns them is refused.",
    registry=REGISTRY,
)
SHARE = 5
"""So many commands of a job that gives way are carried out at once while others ask for something:
whoever does waits for them, and with fewer a batch takes longer than it spares others."""
ALONE = 50
"""So many while nobody else does: more make it hardly faster, and the first who comes waits."""
SHARED_FOR_S = 10.0
"""So long after somebody's command more of them are expected."""
RETRY_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0)
# The other transaction won, or the server is restarting: the same batch may succeed next.
_PASSING = {
    errorcodes.SERIALIZATION_FAILURE,
    errorcodes.DEADLOCK_DETECTED,
    errorcodes.UNIQUE_VIOLATION,
    errorcodes.QUERY_CANCELED,
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
}


@dataclass(slots=True, eq=False)
class Job:
    """Commands that one call handed in. ``tell`` is called with their outcomes."""

    commands: Sequence[Postable]
    is_atomic: bool = False
    is_dry_run: bool = False
    gives_way: bool = False
    call: CallContext = field(default_factory=current_call.get)
    outcomes: list[Outcome] = field(default_factory=list)
    tell: Callable[[list[Outcome]], None] = lambda _outcomes: None

    @property
    def stands_alone(self) -> bool:
        """Whether it needs a transaction of its own, which may be rolled back."""
        return self.is_atomic or self.is_dry_run


class _RolledBack(Exception):
    """Ends a transaction that must leave nothing behind."""


class Queue:
    """Jobs that wait, counted in commands.

    A job that gives way is taken when no other waits, or after those that were taken before it: so
    that everybody else waits for one of them at most, and it is carried out, however many come.
    """

    def __init__(self, size_max: int) -> None:
        self._jobs: deque[Job] = deque()
        self._giving_way: deque[Job] = deque()
        self._is_their_turn = False
        self._others_at_s = -math.inf
        self._size_max = size_max
        self._size = 0
        self._filled = Signal()

    @property
    def size(self) -> int:
        """How many commands wait."""
        return self._size

    def put(self, job: Job) -> None:
        """Raises ``Overloaded`` when too much waits already."""
        if self._size + len(job.commands) > self._size_max:
            raise Overloaded(
                "Too many commands wait here; nothing was done. Try again in a moment."
            )
        self._size += len(job.commands)
        if job.gives_way:
            self._giving_way.append(job)
        else:
            self._jobs.append(job)
            self._others_at_s = time.monotonic()
        self.wake()

    def share(self) -> int:
        """How many commands the next job that gives way may have."""
        is_shared = time.monotonic() < self._others_at_s + SHARED_FOR_S
        return SHARE if is_shared else ALONE

    def wait(self) -> None:
        """Until there is a job, or the committer is woken to stop."""
        self._filled.wait()
        self._filled.reset()

    def wake(self) -> None:
        """End a wait."""
        if not self._filled.ready():
            self._filled.send()

    def take(self, batch_size: int) -> list[Job]:
        """The oldest jobs, up to ``batch_size`` commands; at least one job, if there is any."""
        taken: list[Job] = []
        size = 0
        if self._giving_way and (self._is_their_turn or not self._jobs):
            taken.append(self._giving_way.popleft())
            self._size -= len(taken[0].commands)
            self._is_their_turn = False
            return taken
        while self._jobs and (not taken or size + len(self._jobs[0].commands) <= batch_size):
            if taken and (taken[-1].stands_alone or self._jobs[0].stands_alone):
                break
            job = self._jobs.popleft()
            taken.append(job)
            size += len(job.commands)
        self._size -= size
        self._is_their_turn = bool(taken)
        return taken


def in_time(jobs: Sequence[Job]) -> list[Job]:
    """Those that somebody still waits for. The others hear that they came too late."""
    kept = []
    for job in jobs:
        try:
            job.call.require_time()
        except DeadlineExceeded as late:
            job.tell([late] * len(job.commands))
        else:
            kept.append(job)
    return kept


Begin = Callable[[], AbstractContextManager[Session]]


def commit(begin: Begin, now: datetime, jobs: Sequence[Job]) -> None:
    """Carry out jobs in one transaction and set their outcomes. Raises database errors."""
    if jobs[0].stands_alone:
        (job,) = jobs
        _commit_alone(begin, now, job)
        return
    commands = [command for job in jobs for command in job.commands]
    calls = [job.call for job in jobs for _ in job.commands]
    with begin() as session:
        outcomes = ledger.post(session, now, commands, calls)
        crash_point("wallet.committing")
        if all(isinstance(outcome, ServiceError) for outcome in outcomes):
            # Nothing was written. The commit of what holds rows would wait for the disk.
            session.rollback()
    crash_point("wallet.committed")
    for job in jobs:
        job.outcomes, outcomes = outcomes[: len(job.commands)], outcomes[len(job.commands) :]


def _commit_alone(begin: Begin, now: datetime, job: Job) -> None:
    """An atomic batch with a refusal, and every dry run, is rolled back."""
    try:
        with begin() as session:
            job.outcomes = ledger.post(session, now, job.commands, [job.call] * len(job.commands))
            is_refused = any(isinstance(outcome, ServiceError) for outcome in job.outcomes)
            if job.is_dry_run or (job.is_atomic and is_refused):
                raise _RolledBack
    except _RolledBack:
        if job.is_dry_run:
            job.outcomes = [_rehearsed(outcome) for outcome in job.outcomes]


def _rehearsed(outcome: Outcome) -> Outcome:
    if isinstance(outcome, ServiceError) or "dry_run" not in type(outcome).model_fields:
        return outcome
    return outcome.model_copy(update={"dry_run": True})


def settle(begin: Begin, jobs: Sequence[Job], may_have_committed: bool = False) -> frozenset[UUID]:
    """Carry out jobs, whatever happens: every one has its outcomes afterwards.

    Returns whose wallets somebody else was found to hold.
    """
    for delay_s in (0, *RETRY_DELAYS_S):
        if delay_s:
            eventlet.sleep(delay_s)
        try:
            commit(begin, utc_now(), jobs)
            return frozenset()
        except Exception as raised:
            error, fate = raised, _fate(raised)
        may_have_committed = may_have_committed or fate is _Fate.LOST
        if fate in (_Fate.LOCKED, _Fate.REFUSED):
            break
        log.warning("a batch is tried again", extra={"error": str(error)[:500]})
    held = held_by_others(begin, _owners(jobs)) if fate is _Fate.LOCKED else frozenset()
    if held:
        log.warning("wallets are passed over that somebody holds", extra={"users": len(held)})
        return pass_over(begin, jobs, held, may_have_committed)
    parts = [] if fate is _Fate.LOST else _parts(jobs)
    if parts:
        # Something in the batch is refused, or a key is taken: find out which.
        log.warning("a batch is split", extra={"error": str(error)[:500]})
        found = [settle(begin, [part], may_have_committed) for part in parts]
        _put_together(jobs, parts)
        return frozenset().union(*found)
    log.error("a job failed", exc_info=error)
    for job in jobs:
        job.outcomes = [_failure(fate, may_have_committed)] * len(job.commands)
    return frozenset()


def pass_over(
    begin: Begin, jobs: Sequence[Job], held: frozenset[UUID], may_have_committed: bool = False
) -> frozenset[UUID]:
    """Settle jobs, but refuse at once what concerns a held wallet. All that are held now."""
    free = [job for job in jobs if held.isdisjoint(_owners([job]))]
    found = settle(begin, free, may_have_committed) if free else frozenset()
    for job in jobs:
        if job in free:
            continue
        pieces = _parts([job])
        if pieces:
            found |= pass_over(begin, pieces, held, may_have_committed)
            _put_together([job], pieces)
        else:
            job.outcomes = [_failure(_Fate.LOCKED, may_have_committed)] * len(job.commands)
    return found | held


def held_by_others(begin: Begin, users: frozenset[UUID]) -> frozenset[UUID]:
    """Whose wallets somebody else holds. Nobody's when the database does not say."""
    try:
        with begin() as session:
            return frozenset(accounts.held_by_others(session, users))
    except DBAPIError as error:
        log.warning("it is not known which wallets are held", extra={"error": str(error)[:500]})
        return frozenset()


def _owners(jobs: Sequence[Job]) -> frozenset[UUID]:
    return frozenset(
        user_id for job in jobs for command in job.commands for user_id in ledger.owners(command)
    )


def _parts(jobs: Sequence[Job]) -> list[Job]:
    """Smaller jobs that do the same; none where it cannot be divided."""
    if len(jobs) > 1:
        return list(jobs)
    (job,) = jobs
    if job.stands_alone or len(job.commands) == 1:
        return []
    return [replace(job, commands=[command], outcomes=[]) for command in job.commands]


def _put_together(jobs: Sequence[Job], parts: list[Job]) -> None:
    if len(jobs) == 1:
        jobs[0].outcomes = [outcome for part in parts for outcome in part.outcomes]


class _Fate(Enum):
    """What an error says of a batch."""

    LOST = "lost"
    """The connection went, or there was none: the commit may have come through."""
    PASSING = "passing"
    """Rolled back; the same batch may succeed next."""
    LOCKED = "locked"
    """Rolled back: somebody else has held a wallet for too long."""
    REFUSED = "refused"
    """Rolled back: the database, or a rule, does not take it."""


def _fate(error: Exception) -> _Fate:
    if is_lost(error) or isinstance(error, OSError):
        return _Fate.LOST
    if is_held(error):
        return _Fate.LOCKED
    code = getattr(error.orig, "pgcode", None) if isinstance(error, DBAPIError) else None
    return _Fate.PASSING if code in _PASSING else _Fate.REFUSED


def _failure(fate: _Fate, may_have_committed: bool) -> ServiceError:
    if may_have_committed:
        return _unknown()
    if fate is _Fate.LOCKED:
        return Overloaded("The wallet is being changed; nothing was done. Try again in a moment.")
    return ServiceError("Something went wrong on our side; nothing was done.")


def _unknown() -> Unavailable:
    return Unavailable(
        "The wallet's database cannot be reached; the outcome is unknown."
        " Repeat the command with the same key, or ask for the key's outcome."
    )


class Committer(DependencyProvider):
    """Injects itself: ``committer = Committer()``, then ``self.committer.submit(…)``."""

    connection = DatabaseConnection()

    def setup(self) -> None:
        settings = get_settings()
        self._batch_size = settings.committer_batch_size
        self._queue = Queue(settings.committer_queue_size)
        self._held: frozenset[UUID] = frozenset()
        """Whose wallets somebody else held at the last look: nobody waits for them again."""
        self._stopping = False
        _WAITING.set_function(lambda: self._queue.size)
        _HELD.set_function(lambda: len(self._held))

    def start(self) -> None:
        self._greenlet = self.container.spawn_managed_thread(self._run, identifier="committer")

    def stop(self) -> None:
        """Carry out what was accepted, then end."""
        self._stopping = True
        self._queue.wake()
        self._greenlet.wait()

    def get_dependency(self, _worker_ctx: Any) -> "Committer":
        return self

    def submit(self, command: WalletCommand[ReplyT]) -> Deferred[ReplyT]:
        """Carry out one command, soon. What settles the reply may be what refuses the command.

        Raises ``BadRequest`` for a key that no caller chooses, and ``Overloaded``.
        """
        keys.require_callers_own(command.idempotency_key)
        deferred: Deferred[Any] = Deferred()

        def tell(outcomes: list[Outcome]) -> None:
            deferred.settle(*outcomes)

        self._queue.put(Job([command], is_dry_run=command.dry_run, tell=tell))
        return deferred

    def share(self) -> int:
        """How many commands may be the next to be handed in of those that give way."""
        return self._queue.share()

    def submit_all(
        self,
        commands: Sequence[Postable],
        *,
        is_atomic: bool = False,
        is_dry_run: bool = False,
        gives_way: bool = False,
    ) -> list[Outcome]:
        """Carry out commands and wait; one outcome for each. Raises ``Overloaded``."""
        done = Signal()
        self._queue.put(Job(commands, is_atomic, is_dry_run, gives_way, tell=done.send))
        outcomes: list[Outcome] = done.wait()
        return outcomes

    def _run(self) -> None:
        database: Connected = self.connection.connected
        while True:
            # What has arrived by now gets into this batch.
            eventlet.sleep(0)
            jobs = self._queue.take(self._batch_size)
            if jobs:
                self._commit(database, in_time(jobs))
            elif self._stopping:
                return
            else:
                self._queue.wait()

    def _commit(self, database: Connected, jobs: list[Job]) -> None:
        began_s = time.perf_counter()
        try:
            if self._held:
                self._held = held_by_others(database.begin, self._held)
            if jobs and self._held:
                self._held = pass_over(database.begin, jobs, self._held)
            elif jobs:
                self._held = settle(database.begin, jobs)
        finally:
            for job in jobs:
                job.tell(job.outcomes or [_unknown()] * len(job.commands))
            if jobs:
                _BATCH.observe(sum(len(job.commands) for job in jobs))
                _BATCH_DURATION.observe(time.perf_counter() - began_s)
