"""What many ask for at the same moment, done in one go.

::

    records = Together(record_all, record_one)
    claimed = records.do(order)          # in each caller's own worker

The first who asks leads: he waits for those who ask in the same moment, does it for all of
them, and hands on to the first of those who came meanwhile. A transaction, or a call, that
stands for many costs each of them little; who is by himself pays nothing for it.

Nobody pays for another. One whose part cannot be done with the others (somebody holds his row)
does it alone, and so does each of them where the whole fails: what is done has a key, so that
doing it again changes nothing.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

from chassis import traces
from chassis.context import current_call, nobodys_call
from contracts.errors import DeadlineExceeded, ServiceError, Unavailable

if TYPE_CHECKING:
    from chassis.recorder import Span

log = logging.getLogger(__name__)

GROUP_MAX = 100
TOGETHER = "together"
"""The span of a group, and of what that was for each who is in it."""

JobT = TypeVar("JobT")
OutcomeT = TypeVar("OutcomeT")


class Alone(Enum):
    """Stands for the outcome of what is not done with the others."""

    ALONE = "alone"


ALONE = Alone.ALONE


class _Place(Generic[JobT, OutcomeT]):
    """Where one waits until he is called: to lead, or to hear his outcome."""

    def __init__(self, job: JobT) -> None:
        self.job = job
        self.trace = current_call.get().trace
        self.group: str | None = None
        """The span of the group that it is part of, where there is one."""
        self.leads = False
        self.is_next = threading.Event()
        """First of those who wait, or called."""
        self.called = threading.Event()
        self.outcome: OutcomeT | Exception | Alone = ALONE


class Together(Generic[JobT, OutcomeT]):
    """Does what is asked for, in groups.

    ``group`` does several and returns an outcome for each: the result, an exception that its
    caller is to raise, or ``ALONE``. ``alone`` does one.

    A group has the turn to itself for ``turn_s`` seconds, while the next one gathers, which begins
    when the one before is done and no later than that. With 0, nobody waits for a group that he is
    no part of.
    """

    def __init__(
        self,
        group: Callable[[Sequence[JobT]], Sequence[OutcomeT | Exception | Alone]],
        alone: Callable[[JobT], OutcomeT],
        *,
        turn_s: float = math.inf,
    ) -> None:
        self._group = group
        self._alone = alone
        self._turn_s = turn_s
        self._lock = threading.Lock()
        self._waiting: deque[_Place[JobT, OutcomeT]] = deque()
        self._leader: _Place[JobT, OutcomeT] | None = None
        self._turn_ends_at_s = math.inf

    def do(self, job: JobT) -> OutcomeT:
        """Do it, with others or alone. Raises what became of it."""
        mine: _Place[JobT, OutcomeT] = _Place(job)
        began_ns = time.time_ns()
        with self._lock:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                mine.is_next.set()
            if self._leader is None:
                self._appoint(mine)
        if not mine.leads:
            self._await_call(mine)
        if mine.leads:
            self._lead(mine)
        traces.waited(TOGETHER, mine.trace, began_ns, mine.group)
        if isinstance(mine.outcome, Alone):
            return self._alone(job)
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome

    def _await_call(self, mine: _Place[JobT, OutcomeT]) -> None:
        """Until the outcome is there, or the turn is ours."""
        mine.is_next.wait()
        if self._turn_s < math.inf:
            rest_s = max(self._turn_ends_at_s - time.monotonic(), 0)
            if not mine.called.wait(rest_s):
                with self._lock:
                    if not mine.called.is_set():
                        self._appoint(mine)
        mine.called.wait()

    def _appoint(self, place: _Place[JobT, OutcomeT]) -> None:
        self._leader = place
        place.leads = True
        place.called.set()
        place.is_next.set()

    def _lead(self, mine: _Place[JobT, OutcomeT]) -> None:
        # Whoever asks in this moment gets a place.
        time.sleep(0)
        with self._lock:
            size = min(len(self._waiting), GROUP_MAX)
            places = [self._waiting.popleft() for _ in range(size)]
            self._turn_ends_at_s = time.monotonic() + self._turn_s
            if self._waiting:
                # More than a group holds: somebody has to watch for the end of its turn.
                self._waiting[0].is_next.set()
        if not self._turn_s:
            self._hand_on(mine)
        span: Span | None = None
        try:
            span = traces.grouped(TOGETHER, [place.trace for place in places])
            with traces.inside(span):
                outcomes = self._group([place.job for place in places])
            for place, outcome in zip(places, outcomes, strict=True):
                place.outcome = outcome
        except Exception as error:
            log.warning("a group failed; each is done alone", extra={"error": str(error)[:500]})
        finally:
            self._hand_on(mine)
            for place in places:
                place.group = span.traceparent if span is not None else None
                place.called.set()
                place.is_next.set()
            if span is not None:
                span.end()

    def _hand_on(self, mine: _Place[JobT, OutcomeT]) -> None:
        """Unless somebody took the turn, when ours was over."""
        with self._lock:
            if self._leader is not mine:
                return
            self._leader = None
            if self._waiting:
                self._appoint(self._waiting[0])


class AskedTogether(Generic[JobT, OutcomeT]):
    """What many ask another service at the same moment, in one call.

    ``ask`` answers about several, and leaves out those of whom nothing is known. A service that
    does not answer is asked once for all of them.
    """

    def __init__(self, ask: Callable[[Sequence[JobT]], Mapping[JobT, OutcomeT]]) -> None:
        self._ask = ask
        self._questions = Together(self._ask_all, lambda one: self._ask([one]).get(one))

    def find(self, about: JobT) -> OutcomeT | None:
        """The answer about one; None where there is none. Raises what the call raises."""
        return self._questions.do(about)

    def _ask_all(self, questions: Sequence[JobT]) -> list[OutcomeT | Exception | Alone | None]:
        try:
            with nobodys_call():
                found = self._ask(list(dict.fromkeys(questions)))
        except ServiceError as error:
            if len(questions) > 1 and not isinstance(error, DeadlineExceeded | Unavailable):
                raise
            return [error] * len(questions)
        return [found.get(question) for question in questions]
