"""The shapes every message is made of.

A **request** knows the service and the method that answer it, how long that may take, and
the type of the reply, so that one object is the whole call::

    reply = rpc.call(GetWallet(user_id=user_id))        # reply: Wallet

On the wire it is an ordinary nameko call, ``wallet.get_wallet(user_id="…")``:
the fields of the request are the keyword arguments, so that any nameko caller
can make it by hand.

A **command** is a request that changes something. It carries the idempotency
key that its caller chose before the first try.

An **event** says what happened. It is published by its ``source`` under its
``type``, both in nameko's own exchange and routing key.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

MAX_AMOUNT_MICROS = 1_000_000_000 * 1_000_000
"""A billion dollars: more than any amount that this product moves at once."""

AmountMicros = Annotated[int, Field(strict=True, gt=0, le=MAX_AMOUNT_MICROS)]
"""A positive amount of money in micro-dollars (1 USD = 1 000 000)."""

SignedMicros = Annotated[int, Field(strict=True)]
"""A balance or a difference in micro-dollars; it may be zero or negative."""

PriceMicros = Annotated[int, Field(strict=True, ge=0, le=MAX_AMOUNT_MICROS)]
"""A price, a limit or a threshold in micro-dollars; it may be zero."""


TotalMicros = Annotated[int, Field(strict=True, ge=0)]
"""What several amounts come to, in micro-dollars; no amount's bound holds for it."""


_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
)


def moment_from(value: Any) -> datetime:
    """A moment in UTC, from a date with a time and a zone as RFC 3339 writes it.

    What is finer than a microsecond is cut off. Raises ValueError for everything else: pydantic by
    itself takes any number, also one that was meant as a day, for seconds since 1970.
    """
    if isinstance(value, datetime) and value.tzinfo is UTC:
        return value
    if isinstance(value, str) and _RFC_3339.fullmatch(value.upper()):
        value = datetime.fromisoformat(value.upper())
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(
            "a time is written with its zone, like 2026-11-28T09:30:00Z (RFC 3339); in a query,"
            " + is %2B"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is too far away in time") from None


def day_from(value: Any) -> date:
    """A day from its ISO form. Raises ValueError for everything else: pydantic by itself takes
    any number for seconds since 1970."""
    if isinstance(value, str) and _ISO_DAY.fullmatch(value):
        return date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise ValueError("a day is written like 2026-11-28")


_ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Day = Annotated[date, BeforeValidator(day_from)]
"""A day in UTC."""


Moment = Annotated[AwareDatetime, BeforeValidator(moment_from)]
"""A moment, in UTC. PostgreSQL does not know all zones."""


def storable(text: str) -> str:
    """The text, unless PostgreSQL cannot hold it. Raises ValueError."""
    if "\0" in text:
        raise ValueError("it holds a NUL character, which cannot be stored")
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("it holds half a character (a lone surrogate), which cannot be stored")
    return text


_SURROGATE = re.compile("[\ud800-\udfff]")

Storable = AfterValidator(storable)
"""For every text that a caller writes. It stands last: pydantic drops a pattern that follows it."""

IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200), Storable]
ShortText = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), Storable
]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64), Storable],
        Annotated[str, StringConstraints(max_length=500), Storable],
    ],
    Field(max_length=50),
]
CURSOR_LENGTH_MAX = 2000
"""Enough for a sort key of 200 characters in any script."""
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=CURSOR_LENGTH_MAX), Storable]
PageLimit = Annotated[int, Field(strict=True, ge=1, le=200)]


class Value(BaseModel):
    """A part of a message. Unknown fields are ignored, so that a newer sender may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Reply(Value):
    """What a method returns."""


class Done(Reply):
    """The reply of a command that has nothing more to say."""


ReplyT = TypeVar("ReplyT", bound=Reply)


class Request(BaseModel, Generic[ReplyT]):
    """A call: its fields are the arguments, its class names the service and the method.

    Unknown fields are refused: a misspelt argument must not be dropped in silence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    service: ClassVar[str]
    method: ClassVar[str]
    reply: ClassVar[type[Reply]]
    answer_within_s: ClassVar[float] = 8.0
    """How long an answer may take. A caller that has less time waits for less."""

    def __init_subclass__(
        cls,
        service: str | None = None,
        method: str | None = None,
        answer_within_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if service is not None:
            cls.service = service
        if method is not None:
            cls.method = method
        if answer_within_s is not None:
            cls.answer_within_s = answer_within_s

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__()
        for ancestor in cls.__mro__:
            arguments = getattr(ancestor, "__pydantic_generic_metadata__", {}).get("args", ())
            if arguments and isinstance(arguments[0], type):
                cls.reply = arguments[0]
                break

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the call, as plain JSON values."""
        return self.model_dump(mode="json")


class Command(Request[ReplyT], Generic[ReplyT]):
    """A request that changes something, at most once per idempotency key.

    The same key with the same body returns the first answer again; the same
    key with another body raises :class:`contracts.errors.IdempotencyConflict`.
    """

    idempotency_key: IdempotencyKey

    may_differ: ClassVar[set[str]] = {"idempotency_key"}
    """What does not tell one command from another: a retry may say it otherwise."""

    def repeated(self) -> dict[str, Any]:
        """What a retry repeats: the arguments that count and are not at their defaults."""
        return self.model_dump(mode="json", exclude=self.may_differ, exclude_defaults=True)


class Event(BaseModel):
    """A fact in the past tense, published at least once through its service's outbox.

    ``event_id`` identifies the fact: a consumer records it in its inbox, in the
    transaction of the effect, and ignores it the second time.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    source: ClassVar[str]
    type: ClassVar[str]
    needs_listener: ClassVar[bool] = True
    """Whether an event that no queue wants is kept and tried again (True), or may vanish."""
    told_to: ClassVar[timedelta] = timedelta(0)
    """How finely ``occurred_at`` is told: it happened at most so long after that."""
    inside: ClassVar[frozenset[str]] = frozenset()
    """The fields that are for the services alone: webhooks of users leave them out."""

    event_id: UUID
    occurred_at: Moment
    version: int = 1

    def __init_subclass__(
        cls,
        source: str | None = None,
        type: str | None = None,  # noqa: A002  (the name that nameko gives it)
        needs_listener: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if source is not None:
            cls.source = source
        if type is not None:
            cls.type = type
        cls.needs_listener = needs_listener


class UserEvent(Event):
    """A fact about one user."""

    user_id: UUID
