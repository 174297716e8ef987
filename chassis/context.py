"""The call that is being worked on: who called whom, and until when an answer is of use.

It travels in the message headers (nameko's own ``call_id_stack``, our ``deadline_ms``, and W3C's
``traceparent``), lives in a context variable while a worker runs, and stands in every line of the
log.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from contracts.calls import CALL_CHAIN_KEY, DEADLINE_KEY, HEADER_PREFIX, TRACE_KEY
from contracts.errors import DeadlineExceeded

CALLER_KEY = "caller"
CALL_CHAIN_MAX = 10


@dataclass(frozen=True)
class CallContext:
    """``chain`` names the calls that led here, oldest first; ``deadline_ms`` is Unix time.

    ``caller`` is the login at the broker that sent the call, or the exchange that the event came
    through; the broker vouches for both. None where the sender did not name itself.

    ``trace`` is the span that is worked in, as a ``traceparent`` (:mod:`chassis.traces`).
    """

    chain: tuple[str, ...] = ()
    deadline_ms: int | None = None
    caller: str | None = None
    trace: str | None = None

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never negative; None without one."""
        if self.deadline_ms is None:
            return None
        return max(self.deadline_ms / 1000 - time.time(), 0.0)

    def require_time(self) -> None:
        """Raises ``DeadlineExceeded`` when it has passed: nobody waits for an answer any more."""
        if self.remaining_s() == 0:
            raise DeadlineExceeded("The call came too late; nothing was done.")

    def afterwards(self) -> "CallContext":
        """What this call leaves to be done later, at any time: without its deadline."""
        return CallContext(chain=self.chain, trace=self.trace)

    def headers(self) -> dict[str, Any]:
        """The AMQP headers that carry this context to the next service."""
        headers: dict[str, Any] = {}
        if self.chain:
            headers[HEADER_PREFIX + CALL_CHAIN_KEY] = list(self.chain[-CALL_CHAIN_MAX:])
        if self.deadline_ms is not None:
            headers[HEADER_PREFIX + DEADLINE_KEY] = self.deadline_ms
        if self.trace is not None:
            headers[TRACE_KEY] = self.trace
        return headers


current_call: ContextVar[CallContext] = ContextVar("current_call", default=CallContext())  # noqa: B039


@contextmanager
def nobodys_call() -> Iterator[None]:
    """What is done here is done for several: the deadline of no single caller ends it."""
    token = current_call.set(CallContext(trace=current_call.get().trace))
    try:
        yield
    finally:
        current_call.reset(token)
