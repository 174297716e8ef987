"""Many workers on many rows: batches, progress, and what to do when somebody does not answer."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected, is_held
from contracts.errors import DeadlineExceeded, Overloaded, ServiceError, Unavailable
from contracts.wallet import BatchCommand, BatchError, BatchResult, PostBatch
from services.legacy.models import MoveRow
from services.legacy.moving import moves
from services.legacy.moving.moves import MoveStatus, Undone

log = logging.getLogger(__name__)

PASSING = (Unavailable.code, DeadlineExceeded.code, Overloaded.code)
"""Refusals that another try may turn into an answer."""
AGAIN_AFTER = timedelta(seconds=1)
FAILURES_MAX = 20
"""So many batches of a worker in a row without an answer: then the rest is for another run."""
LOOK_AGAIN_S = 0.2


@dataclass
class Progress:
    """What the workers have done; they count into it together."""

    done: int = 0
    refused: int = 0
    gave_up: bool = False
    began_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, done: int, refused: int = 0) -> None:
        with self._lock:
            self.done += done
            self.refused += refused

    def line(self, total: int) -> str:
        """``1,200 of 10,000, 850 a second, 10 s left``."""
        passed_s = max(time.monotonic() - self.began_s, 0.001)
        rate = (self.done + self.refused) / passed_s
        left = total - self.done - self.refused
        rest = f"{left / rate:.0f} s left" if rate else "no end in sight yet"
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{self.done:,} of {total:,}{refused}, {rate:,.0f} a second, {rest}"


@contextmanager
def _held_is_passing() -> Iterator[None]:
    """What somebody else holds for too long is tried again, as what the wallet says it holds is."""
    try:
        yield
    except DBAPIError as error:
        if not is_held(error):
            raise
        raise Overloaded("Somebody holds what was to be written; nothing was.") from error


@dataclass(frozen=True)
class Crew:
    """Workers of one process. ``batch`` rows are asked of the wallet in one call, one call at a
    time: it gives way to everybody else's, and two would be in their way twice as much."""

    database: Connected
    rpc: RpcClient
    clock: Clock
    workers: int = 2
    batch: int = 250
    lease: timedelta = timedelta(seconds=90)
    """Longer than the wallet may take for a batch; so long what a killed process had in hand
    waits."""
    turn: threading.Lock = field(default_factory=threading.Lock)

    def work(
        self,
        plan_id: UUID,
        status: MoveStatus,
        do: Callable[[Sequence[MoveRow]], tuple[int, list[Undone]]],
        progress: Progress,
    ) -> None:
        """Take up what is due, and ``do`` it, until nothing is: how many came through, and who not.

        Errors of calls are waited out; what is left then stays for another run.
        """
        with ThreadPoolExecutor(self.workers, thread_name_prefix="mover") as pool:
            crew = [
                pool.submit(self._work, plan_id, status, do, progress) for _ in range(self.workers)
            ]
        for worker in crew:
            worker.result()

    def _work(
        self,
        plan_id: UUID,
        status: MoveStatus,
        do: Callable[[Sequence[MoveRow]], tuple[int, list[Undone]]],
        progress: Progress,
    ) -> None:
        failures = 0
        while failures < FAILURES_MAX:
            with self.database.begin() as session:
                now = self.clock()
                taken = moves.take(session, now, plan_id, status, self.batch, self.lease)
                is_over = not taken and not moves.is_any_leased(session, plan_id, status)
            if is_over:
                return
            if not taken:
                time.sleep(LOOK_AGAIN_S)
                continue
            crash_point("legacy.taken")
            try:
                with _held_is_passing():
                    done, undone = do(taken)
            except ServiceError as error:
                if error.code not in PASSING:
                    raise
                log.warning("no answer; it is tried again", extra={"error": str(error)})
                done, undone = 0, [self.later(each, error.code, str(error)) for each in taken]
            self._put_back(undone)
            passing = sum(each.due_at is not None for each in undone)
            progress.count(done, len(undone) - passing)
            failures = 0 if passing < len(taken) else failures + 1
            if passing:
                time.sleep(AGAIN_AFTER.total_seconds())
        progress.gave_up = True

    def _put_back(self, undone: list[Undone]) -> None:
        try:
            with _held_is_passing(), self.database.begin() as session:
                moves.put_back(session, undone)
        except Overloaded as held:
            log.warning("rows wait for their lease", extra={"error": str(held)})

    def later(self, move: MoveRow, code: str, message: str) -> Undone:
        """What is done with somebody who was refused: tried again, if that may help."""
        due_at = self.clock() + AGAIN_AFTER if code in PASSING else None
        return Undone(move, f"{code}: {message}", due_at)

    def refused(self, move: MoveRow, error: BatchError) -> Undone:
        return self.later(move, error.code, error.message)

    def post(self, commands: Sequence[BatchCommand], *, dry_run: bool = False) -> list[BatchResult]:
        """One call of the wallet, each command by itself. Raises what the call raises."""
        request = PostBatch(commands=list(commands), dry_run=dry_run, gives_way=True)
        with self.turn:
            return self.rpc.call(request).results
