"""Work that waits for the card processor, kept away from the workers that answer calls.

Each kind of work has a lane of its own, and within a lane one thing at a time is done for each
owner, whose turns alternate with those of the others: a payment that was refunded sixty times
keeps neither a charge waiting nor what its neighbours have to hear.

What is submitted may be lost with the process: everything here has a row in the database that
a timer finds. So nothing is stored here, and a full lane may leave work to the timer.
"""

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import eventlet
from eventlet.greenpool import GreenPool
from nameko.extensions import DependencyProvider

from chassis.context import CallContext, current_call
from chassis.leases import Leases
from services.topup.settings import get_settings
from services.topup.till import Till

log = logging.getLogger(__name__)

PATIENCE_S = 25
"""How long a stopping process waits for its charges: longer than one answer may take."""
WAITING_MAX = 1_000
OWNERS_WAITING_MAX = 50
"""How much of one owner's may wait in a lane."""

Owner = UUID | None
"""Whose work it is; None stands for what belongs to no user of ours."""
Work = tuple[Callable[..., Any], tuple[Any, ...]]


class Lane:
    """Work of one kind: so much at once, for each owner one thing at a time, owners in turn."""

    def __init__(self, workers: int) -> None:
        self._pool = GreenPool(workers)
        self._waiting: dict[Owner, deque[tuple[Work, CallContext]]] = {}
        """By owner, for everybody of whom something waits or is under way; each with the call that
        asked for it."""
        self._turns: deque[Owner] = deque()
        """Owners of whom something waits and nothing is under way."""
        self._size = 0

    def add(self, owner: Owner, work: Work) -> bool:
        """Do it soon; False when too much waits already."""
        waiting = self._waiting.get(owner, ())
        if self._size >= WAITING_MAX or len(waiting) >= OWNERS_WAITING_MAX:
            return False
        if owner not in self._waiting:
            self._waiting[owner] = deque()
            self._turns.append(owner)
        self._waiting[owner].append((work, current_call.get().afterwards()))
        self._size += 1
        if self._pool.free():
            self._pool.spawn_n(self._work)
        return True

    def wait(self) -> None:
        """Until all is done."""
        self._pool.waitall()

    def _work(self) -> None:
        while self._turns:
            owner = self._turns.popleft()
            (work, arguments), call = self._waiting[owner].popleft()
            self._size -= 1
            current_call.set(call)
            try:
                work(*arguments)
            except Exception:
                log.exception("work in the background failed; a timer takes it up again")
            finally:
                if self._waiting[owner]:
                    self._turns.append(owner)
                else:
                    del self._waiting[owner]


class Background(DependencyProvider):
    """Injects a function: ``later(work, *arguments, owner=user_id)``.

    The lane is that of the file in which the work is defined: charges, notices, cards, …
    """

    def setup(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._workers = get_settings().charge_workers

    def stop(self) -> None:
        """Let what is under way end; the timers of the next process find the rest."""
        with eventlet.Timeout(PATIENCE_S, exception=False):
            for lane in list(self._lanes.values()):
                lane.wait()

    def get_dependency(self, _worker_ctx: object) -> Callable[..., None]:
        return self.submit

    def submit(self, work: Callable[..., Any], *arguments: Any, owner: Owner) -> None:
        """Run it soon. When too much waits, a timer will find the work instead."""
        lane = self._lanes.setdefault(work.__module__, Lane(self._workers))
        if not lane.add(owner, (work, arguments)):
            log.warning(
                "too much waits for the card processor; it is left to the timers",
                extra={"lane": work.__module__, "owner": str(owner)},
            )


def take_up(till: Till, due: Leases, work: Callable[[Till, Any], object]) -> datetime | None:
    """Have done in the background what is due; when something is due next."""
    now = till.clock()
    with till.database.read() as session:
        next_at = due.next_at(session)
    if next_at is None or next_at > now:
        return next_at
    with till.database.begin() as session:
        taken = due.take(session, now)
    for key, owner in taken.items():
        till.later(work, till, key, owner=owner)
    return None
