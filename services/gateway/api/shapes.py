"""The shapes that bodies, queries and replies of the HTTP API are made of.

Money is a JSON number of dollars outside and micro-dollars inside: a body's ``amount``
arrives here as a Decimal and is ``amount_micros`` from here on, and a reply's ``amount_micros``
leaves as ``amount``.
"""

import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from chassis.clock import utc_now
from chassis.digits import whole_number
from chassis.money import InvalidAmount, parse_usd, usd_number
from contracts.billing import EVENTS_MAX
from contracts.messages import CURSOR_LENGTH_MAX, MAX_AMOUNT_MICROS, Day


class ApiBody(BaseModel):
    """What a program sends, by the names of the document and by no others: a misspelt one is
    not dropped, and the name of a field in here, which counts micro-dollars, is not dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class PeriodQuery(ApiBody):
    """Both days (UTC) and all between them; where one is not named the time has no such end."""

    since: Day | None = None
    until: Day | None = None

    def bounds(self) -> tuple[date | None, date | None]:
        """The first day and the last one."""
        return self.since, self.until

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        since, until = self.bounds()
        if since and until and since > until:
            raise ValueError("since must not be after until.")
        return self


class DaysQuery(PeriodQuery):
    """Both days (UTC) and all between them: the last 30, unless it says otherwise."""

    DAYS: ClassVar[int] = 30

    def bounds(self) -> tuple[date, date]:
        until = self.until or utc_now().date()
        # In the first month that there is, the first day is as early as can be asked.
        least = timedelta(days=min(self.DAYS, until.toordinal()) - 1)
        return self.since or until - least, until


def _as_shown(name: str) -> str:
    return name.removesuffix("_micros")


class ApiReply(BaseModel):
    """What a program gets. Fields have the names of the contracts; in the document ``_micros`` is
    missing from them, unless they name another alias."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=AliasGenerator(serialization_alias=_as_shown),
        defer_build=True,
    )

    @classmethod
    def of(cls, told: object, **own: Any) -> Self:
        """What a service told, as far as it is shown; ``own`` are fields that it did not tell."""
        given = {name: getattr(told, name) for name in cls.model_fields if hasattr(told, name)}
        return cls.model_validate({**given, **own}, from_attributes=True)


def _micros(value: Any, *, allow_negative: bool = False) -> int:
    try:
        return parse_usd(value, allow_negative=allow_negative)
    except (InvalidAmount, ArithmeticError) as error:
        message = str(error) if isinstance(error, InvalidAmount) else "This is no amount of money."
        raise ValueError(message) from None


def _number_to_micros(value: Any) -> int:
    return _micros(_number(value))


def _signed_number_to_micros(value: Any) -> int:
    return _micros(_number(value), allow_negative=True)


def _number(value: Any) -> int | Decimal:
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        raise ValueError("An amount is a JSON number of dollars, such as 25.00.")
    return value


def _not_zero(amount_micros: int) -> int:
    if amount_micros == 0:
        raise ValueError("The amount must be more than zero.")
    return amount_micros


_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f"


def _plain_text(value: str) -> str:
    if re.search(f"[{_CONTROL}]", value):
        raise ValueError("Control characters are not allowed.")
    return value


_AMOUNT_SCHEMA = {
    "type": "number",
    "maximum": MAX_AMOUNT_MICROS // 1_000_000,
    "multipleOf": Decimal("0.000001"),
    "description": "US dollars, with at most 6 decimals.",
}

PositiveUsd = Annotated[
    int,
    BeforeValidator(_number_to_micros),
    AfterValidator(_not_zero),
    WithJsonSchema({**_AMOUNT_SCHEMA, "exclusiveMinimum": 0}),
]
"""A positive amount in a body, in micro-dollars once it is read."""

CardUsd = Annotated[
    PositiveUsd,
    WithJsonSchema(
        {
            **_AMOUNT_SCHEMA,
            "exclusiveMinimum": 0,
            "multipleOf": Decimal("0.01"),
            "description": "US dollars in whole cents, as a card is charged.",
        }
    ),
]
"""An amount in a body that a card is to pay. The top-up service refuses a part of a cent."""

UsdOrZero = Annotated[
    int, BeforeValidator(_number_to_micros), WithJsonSchema({**_AMOUNT_SCHEMA, "minimum": 0})
]
"""An amount in a body that may be zero, in micro-dollars once it is read."""

SignedUsd = Annotated[
    int,
    BeforeValidator(_signed_number_to_micros),
    WithJsonSchema({**_AMOUNT_SCHEMA, "minimum": -MAX_AMOUNT_MICROS // 1_000_000}),
]
"""An amount in a body that is negative where money comes back, in micro-dollars once it is read."""

PositiveUsdText = Annotated[
    int,
    BeforeValidator(_micros),
    AfterValidator(_not_zero),
    WithJsonSchema({**_AMOUNT_SCHEMA, "exclusiveMinimum": 0}),
]
"""A positive amount in a query string, such as ``amount=5.00``."""

Usd = Annotated[
    int,
    PlainSerializer(usd_number),
    WithJsonSchema({"type": "number", "description": "US dollars, two decimals."}),
]
"""An amount in a reply, in micro-dollars until it is written. It may be negative where money went
out."""


def _whole_number(value: Any) -> Any:
    return whole_number(value) if isinstance(value, str) else value


def _exact_integer(value: Any) -> Any:
    """To JSON Schema, and to a program that knows one kind of number, 43.0 is an integer."""
    is_integer = isinstance(value, Decimal) and value.adjusted() < 20 and value % 1 == 0
    return int(value) if is_integer else value


def _true_or_false(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


QueryFlag = Annotated[bool, Field(strict=True), BeforeValidator(_true_or_false)]
"""``true`` or ``false`` in a query string, as the document says, and no other word."""

CursorText = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9_-]{{1,{CURSOR_LENGTH_MAX}}}$")]
# What changes a value comes last: a bound that follows it is not in the document.
Limit = Annotated[int, Field(ge=1, le=200), BeforeValidator(_whole_number)]

Least = Annotated[int, Field(ge=1, le=1_000_000_000), BeforeValidator(_whole_number)]
"""Of processors, or of gigabytes."""
Days = Annotated[int, Field(ge=1, le=366), BeforeValidator(_whole_number)]
EventsMax = Annotated[int, Field(ge=0, le=EVENTS_MAX), BeforeValidator(_whole_number)]
"""How many events of a day."""
Quantity = Annotated[int, Field(strict=True, ge=1, le=100), BeforeValidator(_exact_integer)]
WholeDays = Annotated[int, Field(strict=True, ge=1, le=366), BeforeValidator(_exact_integer)]
"""A number of days in a body."""

AnyText = Annotated[str, Field(json_schema_extra={"pattern": r"^[^\x00]*$"})]
"""A text of every character that can be stored. All of a request is checked for it at once."""

PlainText = Annotated[
    str,
    AfterValidator(_plain_text),
    Field(json_schema_extra={"pattern": f"^[^{_CONTROL}]*$"}),
]


class NoReply(ApiReply):
    """An empty object: it is done."""


class ErrorDetail(BaseModel):
    """``field`` names the offending one where there is one; some codes add more."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    field: str | None = None


class ErrorReply(BaseModel):
    """Every error looks like this: a problem document (RFC 9457). ``detail`` is the message once
    more, and ``type`` the code, as a URN."""

    type: str
    title: str
    status: int
    detail: str
    error: ErrorDetail
