"""Amounts as the old program wrote them: decimals, exact to the last digit.

The decimal that stands in the file is the amount. Its largest has 29 digits and Python's default
context keeps 28, so that nothing here computes in that one; nor is anything a float on its way.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact

from chassis.money import MICROS_PER_USD

EXACT = Context(prec=200, traps=[Inexact])
"""Everything that can be read fits into it many times over; what would not raises."""

_DECIMAL = re.compile(r"[+-]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][+-]?[0-9]{1,4})?")
"""What the old program's own library reads: underscores between digits, and exponents."""
_DIGITS_MAX = 40
_PLACES_MAX = 60


class Written(str):
    """A number of a JSON document as it stands there, with all its digits."""

    __slots__ = ()


class Unreadable(ValueError):
    """What was found where an amount has to be. ``str(error)`` is a part of a sentence."""


@dataclass(frozen=True)
class Dollars:
    """What an amount is worth: ``micros``, and what rounding took from it (negative: added), in
    micro-dollars, at most half of one."""

    micros: int
    rounded_away: Decimal


def parse(value: object) -> Decimal:
    """An amount, from a text or a number of a document. Raises :class:`Unreadable`."""
    if value is None:
        raise Unreadable("null")
    if isinstance(value, bool) or not isinstance(value, str):
        raise Unreadable(f"{_kind_of(value)} where an amount has to be")
    if not value:
        raise Unreadable("an empty text where an amount has to be")
    if not _DECIMAL.fullmatch(value):
        raise Unreadable(f"{value[:50]!r} is no amount")
    amount = Decimal(value.replace("_", ""))
    _sign, digits, exponent = amount.as_tuple()
    if len(digits) > _DIGITS_MAX or not -_PLACES_MAX <= int(exponent) <= _PLACES_MAX:
        raise Unreadable(f"{value[:50]!r} has more digits than an amount can have")
    return amount or amount.copy_abs()


def _kind_of(value: object) -> str:
    return {bool: "true or false", dict: "an object", list: "a list"}.get(type(value), "a value")


def in_dollars(amount: Decimal, usd_each: Decimal) -> Dollars:
    """What so many are worth at ``usd_each``: multiplied exactly, rounded once, half-even."""
    exact = EXACT.multiply(EXACT.multiply(amount, usd_each), Decimal(MICROS_PER_USD))
    micros = exact.to_integral_value(ROUND_HALF_EVEN)
    return Dollars(int(micros), EXACT.subtract(exact, micros))


def in_units(amount: Decimal) -> Dollars:
    """An amount of a coin in millionths of it, which are its smallest units here."""
    return in_dollars(amount, Decimal(1))


def plain(amount: Decimal) -> str:
    """Without an exponent and without zeros behind: ``150.50`` is 150.5, ``2.5E-6`` is
    0.0000025."""
    return f"{amount.normalize(EXACT):f}" if amount else "0"
