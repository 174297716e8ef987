"""What one old user comes to: the dollars, the services that come across, what a person decides."""

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from chassis.clock import midnight
from contracts.catalog import Category
from contracts.legacy import SERVICES_MAX, UNITS_MAX
from contracts.messages import MAX_AMOUNT_MICROS, storable
from services.legacy.pools.book import COINS
from services.legacy.reading.amounts import EXACT, Dollars, Written, in_dollars, in_units
from services.legacy.reading.documents import TFP, OldService, OldUser, Refused

RUNNING = "Running"
"""Only what runs comes across: the rest can be read in the old history."""
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_YEARS = range(2000, 2100)
"""A renewal in another one is what a program writes for none, and months cannot be counted from
the first and the last year that there is."""
_FLOAT_DIGITS_MIN = 15
_MEANT_DIGITS_MAX = 9


class Conflict(StrEnum):
    """What keeps somebody from being moved until a person has decided."""

    DUPLICATE_ADDRESS = "duplicate_address"
    ADDRESS_REGISTERED = "address_registered"
    ACCOUNT_DELETED = "account_deleted"
    ADDRESS_UNUSABLE = "address_unusable"
    NEGATIVE_BALANCE = "negative_balance"
    TOO_LARGE = "too_large"
    FLOAT_TAIL = "float_tail"
    UNKNOWN_CATEGORY = "unknown_category"
    UNKNOWN_PRICE = "unknown_price"
    UNKNOWN_RENEWAL = "unknown_renewal"


MEANINGS = {
    Conflict.DUPLICATE_ADDRESS: "several documents of one person: neither added up nor chosen",
    Conflict.ADDRESS_REGISTERED: "the new site has an account with this address",
    Conflict.ACCOUNT_DELETED: "the person was moved, and has deleted the account since",
    Conflict.ADDRESS_UNUSABLE: "no invitation can be sent to this address",
    Conflict.NEGATIVE_BALANCE: "the old balance is below zero",
    Conflict.TOO_LARGE: "more than a wallet holds",
    Conflict.FLOAT_TAIL: "the old program's floats wrote it: 99.99999999999999 was 100",
    Conflict.UNKNOWN_CATEGORY: "a running service of a category that is not sold",
    Conflict.UNKNOWN_PRICE: "a running service without a monthly price in points",
    Conflict.UNKNOWN_RENEWAL: "a running service without the date of its next month",
}


@dataclass(frozen=True)
class Judged:
    """``services`` are those that run, each with the problem that keeps it from coming across;
    ``holdings`` are what is opened in the pools."""

    email: str
    email_key: str
    balance: Decimal
    dollars: Dollars
    services: list[dict[str, Any]]
    holdings: list[dict[str, Any]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def judge(user: OldUser, rate: Decimal) -> Judged:
    """Raises :class:`Refused` for an address that cannot even be stored, and more services than
    can be told of."""
    try:
        email = storable(user.email.strip())
    except ValueError as error:
        raise Refused(f"user_email: {error}") from None
    dollars = in_dollars(user.balance, rate)
    services = [_service(each, rate) for each in user.services if each.status == RUNNING]
    if len(services) > SERVICES_MAX:
        raise Refused(f"services: more than {SERVICES_MAX:,} run, which no event can tell")
    conflicts = [*_about_address(email), *_about_balance(user, dollars)]
    conflicts += sorted({each["problem"] for each in services if each["problem"]})
    return Judged(
        email, email_key(email), user.balance, dollars, services, _holdings(user), conflicts
    )


def _holdings(user: OldUser) -> list[dict[str, Any]]:
    """What was staked or in pools, each coin rounded once, half-even. What is no coin of a pool, is
    below zero, or is more than is exchanged at once, stays in the archive."""
    sums = {(TFP, True): user.staked}
    for position in user.positions:
        known = sums.get((position.unit, False), Decimal())
        sums[position.unit, False] = EXACT.add(known, position.exact)
    return [
        {"coin": coin, "units": units, "is_staked": is_staked}
        for (coin, is_staked), amount in sorted(sums.items())
        if coin in COINS and 0 < (units := in_units(amount).micros) <= UNITS_MAX
    ]


def email_key(email: str) -> str:
    """Who it is: without blanks around, in small letters."""
    return unicodedata.normalize("NFC", email.strip()).casefold()


def _about_address(email: str) -> list[str]:
    is_usable = _ADDRESS.fullmatch(email) and len(email) <= 254
    return [] if is_usable else [Conflict.ADDRESS_UNUSABLE]


def _about_balance(user: OldUser, dollars: Dollars) -> list[str]:
    found: list[str] = []
    if user.balance < 0:
        found.append(Conflict.NEGATIVE_BALANCE)
    if abs(dollars.micros) > MAX_AMOUNT_MICROS:
        found.append(Conflict.TOO_LARGE)
    if isinstance(user.balance_written, Written) and has_float_tail(user.balance):
        found.append(Conflict.FLOAT_TAIL)
    return found


def has_float_tail(amount: Decimal) -> bool:
    """Whether a float of few digits was meant: as long as a float is written, and short as soon as
    its last digits are rounded off."""
    digits = amount.normalize(EXACT).as_tuple().digits
    if len(digits) < _FLOAT_DIGITS_MIN:
        return False
    rounded = Decimal(f"{amount:.11e}").normalize()
    return len(rounded.as_tuple().digits) <= _MEANT_DIGITS_MAX


def _service(service: OldService, rate: Decimal) -> dict[str, Any]:
    problem = ""
    category = service.category.strip().lower()
    if category not in set(Category):
        problem = Conflict.UNKNOWN_CATEGORY.value
    monthly_micros = _monthly_micros(service, rate)
    if monthly_micros is None:
        problem = Conflict.UNKNOWN_PRICE.value
    renews_at = _renews_at(service)
    if renews_at is None:
        problem = Conflict.UNKNOWN_RENEWAL.value
    return {
        "name": shown(service.name)[:100] or "Service",
        "category": shown(category),
        "monthly_cost_micros": monthly_micros,
        "renews_at": renews_at.isoformat() if renews_at else None,
        "problem": problem,
    }


def _monthly_micros(service: OldService, rate: Decimal) -> int | None:
    if service.monthly is None or service.monthly.unit != TFP:
        return None
    micros = in_dollars(service.monthly.exact, rate).micros
    return micros if 0 <= micros <= MAX_AMOUNT_MICROS else None


def _renews_at(service: OldService) -> datetime | None:
    renewal = service.renewal
    if renewal is None:
        return None
    at = renewal.at
    if renewal.day is not None:
        at = midnight(renewal.day)
    return at if at is not None and at.year in _YEARS else None


def shown(text: str) -> str:
    """A text of the old system, without what neither the database nor a page can hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode().strip()
