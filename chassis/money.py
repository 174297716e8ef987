"""Money at the edges: dollars, cents and micro-dollars.

Inside, money is an integer of micro-dollars (1 USD = 1 000 000). Dollars with
decimals exist only where a person or a JSON document shows them, cents only where
the card processor wants them. This module is the only one that converts.
"""

import re
from decimal import Decimal

MICROS_PER_USD = 1_000_000
MINUS = "\N{MINUS SIGN}"
MICROS_PER_CENT = 10_000
MAX_AMOUNT_MICROS = 1_000_000_000 * MICROS_PER_USD
"""A billion dollars: more than any amount that this product moves at once."""

_CENT = Decimal("0.01")
_MICRO = Decimal("0.000001")
_DOLLARS = re.compile(r"-?[0-9]{1,12}(\.[0-9]+)?")
"""Decimal itself takes ``1_0``, ``1e2`` and the digits of any script."""


class InvalidAmount(ValueError):
    """An amount of money that nobody can mean. ``str(error)`` is a sentence for a person."""


def parse_usd(value: str | int | Decimal, *, allow_negative: bool = False) -> int:
    """Dollars as a person or a JSON document writes them, in micro-dollars.

    A text is ASCII digits, with a point before its decimals. Raises :class:`InvalidAmount` for
    any other text, and for what is not finite, has more than 6 decimals, exceeds a billion
    dollars, or is negative where that makes no sense.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise InvalidAmount("An amount is a number of dollars, such as 25.00.")
    if isinstance(value, str) and not _DOLLARS.fullmatch(value):
        raise InvalidAmount("An amount is a number of dollars, such as 25.00.")
    dollars = Decimal(value)
    if not dollars.is_finite():
        raise InvalidAmount("An amount is a finite number of dollars, such as 25.00.")
    if abs(dollars) > MAX_AMOUNT_MICROS // MICROS_PER_USD:
        raise InvalidAmount("An amount is at most $1,000,000,000.")
    if dollars < 0 and not allow_negative:
        raise InvalidAmount("An amount cannot be negative.")
    if dollars and abs(dollars) < _MICRO:
        raise InvalidAmount("An amount has at most 6 decimals.")
    # Decimal's own arithmetic rounds to 28 digits; the ratio is of all that were written.
    numerator, denominator = dollars.as_integer_ratio()
    micros, rest = divmod(numerator * MICROS_PER_USD, denominator)
    if rest:
        raise InvalidAmount("An amount has at most 6 decimals.")
    return micros


def usd_number(amount_micros: int) -> Decimal:
    """Dollars for a JSON document: two decimals, or up to six where there is less than a cent."""
    dollars = Decimal(amount_micros) / MICROS_PER_USD
    if amount_micros % MICROS_PER_CENT == 0:
        return dollars.quantize(_CENT)
    return dollars.normalize()


def format_usd(amount_micros: int) -> str:
    """Dollars as people read them: ``$1,250.00``, ``−$5.00``, ``$0.000125``."""
    sign = MINUS if amount_micros < 0 else ""
    cents, part_of_a_cent = divmod(abs(amount_micros), MICROS_PER_CENT)
    if part_of_a_cent:
        return f"{sign}${usd_number(abs(amount_micros)):,f}"
    return f"{sign}${cents // 100:,}.{cents % 100:02}"


def whole_cents(amount_micros: int) -> int:
    """The amount up to the next whole cent, in micro-dollars: what a card must pay at least."""
    return -(-amount_micros // MICROS_PER_CENT) * MICROS_PER_CENT


def to_cents(amount_micros: int) -> int:
    """Whole cents for the card processor. Raises :class:`InvalidAmount` for part of a cent."""
    cents, rest = divmod(amount_micros, MICROS_PER_CENT)
    if rest:
        raise InvalidAmount("A card payment is a whole number of cents.")
    return cents


def from_cents(amount_cents: int) -> int:
    """The card processor's cents, in micro-dollars."""
    return amount_cents * MICROS_PER_CENT


def bps_of(amount_micros: int, bps: int) -> int:
    """So many basis points (hundredths of a percent) of an amount, rounded down."""
    return amount_micros * bps // 10_000


def divide_half_even(numerator: int, denominator: int) -> int:
    """``numerator`` ÷ ``denominator``, rounded once to a whole number, halves to the even one."""
    quotient, rest = divmod(numerator, denominator)
    doubled = rest * 2
    if doubled > denominator or (doubled == denominator and quotient % 2 == 1):
        return quotient + 1
    return quotient
