"""What an operator asks of every service alike: how it is, and its dead letters.

Each of :data:`SERVICES` answers these; :func:`of` makes the request to one of them::

    state = rpc.call(of("wallet", GetState)())
"""

from collections.abc import Iterator
from functools import cache
from types import new_class
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints

from contracts.messages import PageLimit, Reply, Request, Storable, Value

SERVICES = ("wallet", "catalog", "billing", "topup", "legacy", "analytics", "notifier")

BODY_LENGTH_MAX = 4_000

Count = Annotated[int, Field(strict=True, ge=0)]
LetterId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{12}$"), Storable]


class QueueState(Value):
    """``waiting`` messages that nobody has in hand, and how many processes take from it."""

    name: str
    waiting: Count
    consumers: Count


class ServiceState(Reply):
    """``processes`` that are connected and take calls, as the broker knows; all queues of the
    service but its dead letters, whose number is ``dead_letters``; what waits in its outbox, and
    for how long, in whole seconds."""

    processes: Count
    queues: list[QueueState]
    dead_letters: Count
    outbox_unsent: Count
    outbox_oldest_s: Count


class DeadLetter(Value):
    """A message that was in ``queue`` and could not be handled; ``body`` up to 4,000 characters.
    Neither it nor ``error`` holds an email address."""

    message: LetterId
    queue: str
    attempts: int
    error: str
    body: str


class DeadLetters(Reply):
    """The oldest first; ``total`` there are."""

    letters: list[DeadLetter]
    total: Count


class LetterDone(Reply):
    """How many there were with this id: the same message may have failed several times."""

    count: Count


class GetState(Request[ServiceState], method="get_state", answer_within_s=3):
    """How the service is, over all of its processes."""


class GetDeadLetters(Request[DeadLetters], method="get_dead_letters"):
    limit: PageLimit = 50


class ReplayDeadLetter(Request[LetterDone], method="replay_dead_letter"):
    """Give it back to the queue that it came from, its tries counted anew.

    An event that was handled meanwhile changes nothing. Raises ``NotFound`` for one that is gone,
    as after a first try whose answer was lost, and ``Conflict`` where it might happen twice or its
    queue is gone.
    """

    message: LetterId


class DiscardDeadLetter(Request[LetterDone], method="discard_dead_letter"):
    """Drop it for good. Raises ``NotFound``."""

    message: LetterId


REQUESTS: tuple[type[Request[Any]], ...] = (
    GetState,
    GetDeadLetters,
    ReplayDeadLetter,
    DiscardDeadLetter,
)
METHODS = frozenset(request.method for request in REQUESTS)

RequestT = TypeVar("RequestT", bound=Request[Any])


@cache
def of(service: str, request: type[RequestT]) -> type[RequestT]:
    """The request as this service answers it."""
    made: type[RequestT] = new_class(request.__name__, (request,), {"service": service})
    return made


def calls() -> Iterator[str]:
    """All of these calls, as ``service.method``."""
    for service in SERVICES:
        yield from (f"{service}.{request.method}" for request in REQUESTS)
