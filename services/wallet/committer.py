"""Group commit: one greenlet for each container carries out what all of its workers ask for.

A worker hands in a job and waits. The committer takes what has queued up, carries it out in
one database transaction, and tells every waiting worker what became of its own commands. At
40 callers that makes one fsync for dozens of debits.

Truth comes first. A refused command fails alone. A lost connection makes the committer try
the batch again: the keys tell what had been committed already. If the database stays away,
callers hear ``Unavailable`` and that the outcome is unknown. A batch that the database refuses
is carried out job by job, so that only the wrong one fails.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import eventlet
import psycopg2
from eventlet.event import Event as Signal
from nameko.extensions import DependencyProvider
from psycopg2 import errorcodes
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.service_database import DatabaseConnection
from contracts.errors import Overloaded, ServiceError, Unavailable
from contracts.messages import ReplyT
from services.wallet import ledger
from services.wallet.ledger import Outcome, Postable
from services.wallet.settings import get_settings

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0)
# The other transaction won, or the server is restarting: the same batch may succeed next.
_PASSING = {
    errorcodes.SERIALIZATION_FAILURE,
    errorcodes.DEADLOCK_DETECTED,
    errorcodes.LOCK_NOT_AVAILABLE,
    errorcodes.UNIQUE_VIOLATION,
    errorcodes.QUERY_CANCELED,
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
}


@dataclass(slots=True, eq=False)
class Job:
    """Commands that one worker handed in. ``outcomes`` is there once ``done`` was sent."""

    commands: Sequence[Postable]
    is_atomic: bool = False
    is_dry_run: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    done: Signal = field(default_factory=Signal)

    @property
    def stands_alone(self) -> bool:
        """Whether it needs a transaction of its own, which may be rolled back."""
        return self.is_atomic or self.is_dry_run


class _RolledBack(Exception):
    """Ends a transaction that must leave nothing behind."""


class Queue:
    """Jobs that wait, counted in commands."""

    def __init__(self, size_max: int) -> None:
        self._jobs: deque[Job] = deque()
        self._size_max = size_max
        self._size = 0
        self._filled = Signal()

    def put(self, job: Job) -> None:
        """Raises ``Overloaded`` when too much waits already."""
        if self._size + len(job.commands) > self._size_max:
            raise Overloaded(
                "Too many commands wait here; nothing was done. Try again in a moment."
            )
        self._size += len(job.commands)
        self._jobs.append(job)
        if not self._filled.ready():
            self._filled.send()

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
        while self._jobs and (not taken or size + len(self._jobs[0].commands) <= batch_size):
            if taken and (taken[-1].stands_alone or self._jobs[0].stands_alone):
                break
            job = self._jobs.popleft()
            taken.append(job)
            size += len(job.commands)
        self._size -= size
        return taken


Begin = Callable[[], AbstractContextManager[Session]]


def commit(begin: Begin, now: datetime, jobs: Sequence[Job]) -> None:
    """Carry out jobs in one transaction and set their outcomes. Raises database errors."""
    if jobs[0].stands_alone:
        (job,) = jobs
        _commit_alone(begin, now, job)
        return
    commands = [command for job in jobs for command in job.commands]
    with begin() as session:
        outcomes = ledger.post(session, now, commands)
        crash_point("wallet.committing")
    crash_point("wallet.committed")
    for job in jobs:
        job.outcomes, outcomes = outcomes[: len(job.commands)], outcomes[len(job.commands) :]


def _commit_alone(begin: Begin, now: datetime, job: Job) -> None:
    """An atomic batch with a refusal, and every dry run, is rolled back."""
    try:
        with begin() as session:
            job.outcomes = ledger.post(session, now, job.commands)
            is_refused = any(isinstance(outcome, ServiceError) for outcome in job.outcomes)
            if job.is_dry_run or (job.is_atomic and is_refused):
                raise _RolledBack
    except _RolledBack:
        pass


def commit_with_retries(begin: Begin, jobs: Sequence[Job]) -> None:
    """Carry out jobs, whatever happens: every one has its outcomes afterwards."""
    for delay_s in (*RETRY_DELAYS_S, None):
        try:
            commit(begin, utc_now(), jobs)
        except Exception as error:
            if delay_s is not None and _may_pass(error):
                log.warning("a batch is tried again", extra={"error": str(error)[:500]})
                eventlet.sleep(delay_s)
                continue
            _give_up(begin, jobs, error)
        return


def _give_up(begin: Begin, jobs: Sequence[Job], error: Exception) -> None:
    if _is_lost(error):
        log.error("the database cannot be reached", extra={"error": str(error)[:500]})
        _fail(jobs, _outcome_unknown())
    elif len(jobs) > 1:
        # The database, or a rule, refuses something in the batch: find out whose it is.
        log.warning("a batch is split", extra={"error": str(error)[:500]})
        for job in jobs:
            commit_with_retries(begin, [job])
    else:
        log.error("a job was refused by the database", exc_info=error)
        _fail(jobs, ServiceError("Something went wrong on our side; nothing was done."))


def _fail(jobs: Sequence[Job], error: ServiceError) -> None:
    for job in jobs:
        job.outcomes = [error] * len(job.commands)


def _outcome_unknown() -> Unavailable:
    return Unavailable(
        "The wallet's database cannot be reached; the outcome is unknown."
        " Repeat the command with the same key, or ask for the key's outcome."
    )


def _may_pass(error: Exception) -> bool:
    return _is_lost(error) or getattr(_cause(error), "pgcode", None) in _PASSING


def _is_lost(error: Exception) -> bool:
    """Whether the connection went, or there was none: a commit may have come through."""
    if isinstance(error, DBAPIError):
        cause = _cause(error)
        return error.connection_invalidated or (
            isinstance(cause, psycopg2.OperationalError) and cause.pgcode is None
        )
    return isinstance(error, PoolTimeout | OSError)


def _cause(error: Exception) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else None


class Committer(DependencyProvider):
    """Injects itself: ``committer = Committer()``, then ``self.committer.carry_out(…)``."""

    connection = DatabaseConnection()

    def setup(self) -> None:
        settings = get_settings()
        self._batch_size = settings.committer_batch_size
        self._queue = Queue(settings.committer_queue_size)
        self._stopping = False

    def start(self) -> None:
        self._greenlet = self.container.spawn_managed_thread(self._run, identifier="committer")

    def stop(self) -> None:
        """Carry out what was accepted, then end."""
        self._stopping = True
        self._queue.wake()
        self._greenlet.wait()

    def get_dependency(self, _worker_ctx: Any) -> "Committer":
        return self

    def carry_out(self, command: Postable, reply_class: type[ReplyT]) -> ReplyT:
        """Carry out one command. Raises what refuses it, ``Overloaded`` or ``Unavailable``."""
        is_dry_run = getattr(command, "dry_run", False)
        (outcome,) = self.submit_all([command], is_dry_run=is_dry_run)
        if isinstance(outcome, ServiceError):
            raise outcome
        if not isinstance(outcome, reply_class):
            raise TypeError(f"{command.method} made a {type(outcome).__name__}")
        if is_dry_run and "dry_run" in reply_class.model_fields:
            return outcome.model_copy(update={"dry_run": True})
        return outcome

    def submit_all(
        self, commands: Sequence[Postable], *, is_atomic: bool = False, is_dry_run: bool = False
    ) -> list[Outcome]:
        """Carry out commands; one outcome for each. Raises ``Overloaded``."""
        job = Job(commands, is_atomic=is_atomic, is_dry_run=is_dry_run)
        self._queue.put(job)
        job.done.wait()
        return job.outcomes

    def _run(self) -> None:
        database: Connected = self.connection.connected
        while True:
            # What has arrived by now gets into this batch.
            eventlet.sleep(0)
            jobs = self._queue.take(self._batch_size)
            if jobs:
                self._commit(database, jobs)
            elif self._stopping:
                return
            else:
                self._queue.wait()

    def _commit(self, database: Connected, jobs: list[Job]) -> None:
        try:
            commit_with_retries(database.begin, jobs)
        finally:
            for job in jobs:
                if not job.outcomes:
                    _fail([job], _outcome_unknown())
                job.done.send()
