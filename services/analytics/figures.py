"""What the facts of one subject come to: a function of them all, whatever order they came in.

docs/analytics.md says in words what each figure means.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from contracts.billing import DeploymentStatus
from contracts.gateway import PATHS, PathStep
from services.analytics.facts import Fact, Kind

IN_TIME_S = 120
"""The plan's two minutes from registering to a first purchase."""


class Figure(StrEnum):
    """The names of what is counted. Those that :class:`contracts.analytics.Figures` has bear the
    names of its fields; the others are shown in another way, or have a ``detail``."""

    REGISTRATIONS = "registrations"
    PURCHASES_BEGUN = "purchases_begun"
    PURCHASES_SHORT = "purchases_short"
    PURCHASES_COMPLETED = "purchases_completed"
    FIRST_PURCHASES = "first_purchases"
    FIRST_PURCHASES_IN_TIME = "first_purchases_in_time"
    FIRST_PURCHASE_S = "first_purchase_s"
    RENEWALS = "renewals"
    SUSPENDED = "suspended"
    SALES_MICROS = "sales_micros"
    FEES_MICROS = "fees_micros"
    REFUNDED_MICROS = "refunded_micros"
    REVERSED_MICROS = "reversed_micros"

    ACTIVE_USERS = "active_users"
    AUTO_TOPUP_USERS = "auto_topup_users"
    BURN_MICROS = "burn_micros"
    PURCHASES_ENDED = "purchases_ended"
    TOPUPS_FAILED = "topups_failed"
    PRODUCT_UNITS = "product_units"
    PRODUCT_SALES_MICROS = "product_sales_micros"
    RETENTION = "retention"


class Place(NamedTuple):
    """Where something is counted: what, and when. Purchases that ended and top-ups have figures
    named for their ends and kinds: a text."""

    figure: str
    at: datetime
    detail: str = ""


Counts = Counter[Place]
ByKind = dict[Kind, list[Fact]]


def come_to(facts: Iterable[Fact]) -> Counts:
    """What all facts of one subject come to."""
    found: ByKind = {}
    for fact in sorted(facts, key=lambda fact: (fact.at, fact.key)):
        found.setdefault(fact.kind, []).append(fact)
    counts: Counts = Counter()
    for of in (_purchase, _topup, _person, _deployment, _path):
        of(found, counts)
    return counts


def _purchase(found: ByKind, counts: Counts) -> None:
    way = None
    for begun in found.get(Kind.BEGUN, ()):
        counts[Place(Figure.PURCHASES_BEGUN, begun.at)] += 1
        way = begun.data.get("way")
        if way:
            counts[Place(f"{Figure.PURCHASES_BEGUN}_{way}", begun.at)] += 1
    for short in found.get(Kind.SHORT, ()):
        counts[Place(Figure.PURCHASES_SHORT, short.at)] += 1
    for done in found.get(Kind.COMPLETED, ()):
        counts[Place(Figure.PURCHASES_COMPLETED, done.at)] += 1
        if way:
            counts[Place(f"{Figure.PURCHASES_COMPLETED}_{way}", done.at)] += 1
        _sold(counts, done.at, done.data["total_micros"], done.data["fee_micros"])
        for product_id, units, amount_micros in done.data["lines"]:
            counts[Place(Figure.PRODUCT_UNITS, done.at, product_id)] += units
            counts[Place(Figure.PRODUCT_SALES_MICROS, done.at, product_id)] += amount_micros
    for ended in found.get(Kind.ENDED, ()):
        status, code = ended.data["status"], ended.data["code"]
        counts[Place(f"purchases_{status}", ended.at)] += 1
        counts[Place(Figure.PURCHASES_ENDED, ended.at, f"{status}:{code}")] += 1
    for back in found.get(Kind.REFUNDED, ()):
        counts[Place(Figure.REFUNDED_MICROS, back.at)] += back.data["amount_micros"]


def _sold(counts: Counts, at: datetime, amount_micros: int, fee_micros: int) -> None:
    counts[Place(Figure.SALES_MICROS, at)] += amount_micros
    counts[Place(Figure.FEES_MICROS, at)] += fee_micros


_BY = {"manual": "by_hand", "auto": "auto"}


def _topup(found: ByKind, counts: Counts) -> None:
    """What was declined first and paid after all is paid."""
    paid, failed = found.get(Kind.PAID, []), found.get(Kind.FAILED, [])
    for done in paid:
        by = _BY[done.data["kind"]]
        counts[Place(f"topups_{by}", done.at)] += 1
        counts[Place(f"credits_{by}_micros", done.at)] += done.data["amount_micros"]
    if failed and not paid:
        kind, code = failed[-1].data["kind"], failed[-1].data["code"]
        counts[Place(f"topups_{_BY[kind]}_failed", failed[-1].at)] += 1
        counts[Place(Figure.TOPUPS_FAILED, failed[-1].at, f"{kind}:{code}")] += 1
    for sign, kind_of in ((1, Kind.REVERSED), (-1, Kind.RESTORED)):
        for back in found.get(kind_of, ()):
            counts[Place(Figure.REVERSED_MICROS, back.at)] += sign * back.data["amount_micros"]


def _person(found: ByKind, counts: Counts) -> None:
    for registered in found.get(Kind.REGISTERED, ()):
        counts[Place(Figure.REGISTRATIONS, registered.at)] += 1
        for bought in found.get(Kind.BOUGHT, ()):
            took_s = max(int((bought.at - registered.at).total_seconds()), 0)
            counts[Place(Figure.FIRST_PURCHASES, bought.at)] += 1
            counts[Place(Figure.FIRST_PURCHASE_S, bought.at)] += took_s
            counts[Place(Figure.FIRST_PURCHASES_IN_TIME, bought.at)] += took_s <= IN_TIME_S
        for week in found.get(Kind.WEEK, ()):
            counts[Place(Figure.RETENTION, registered.at, week.key)] += 1
    _auto_topup(found.get(Kind.AUTO_TOPUP, ()), counts)


def _auto_topup(saved: Sequence[Fact], counts: Counts) -> None:
    """Versions say which settings came later: the clocks of two machines may not."""
    was_on, at = False, None
    for settings in sorted(saved, key=lambda fact: fact.data["version"]):
        is_on = settings.data["is_on"]
        at = max(settings.at, at or settings.at)
        counts[Place(Figure.AUTO_TOPUP_USERS, at)] += is_on - was_on
        was_on = is_on


def _deployment(found: ByKind, counts: Counts) -> None:
    for month in found.get(Kind.RENEWED, ()):
        counts[Place(Figure.RENEWALS, month.at)] += 1
        _sold(counts, month.at, month.data["amount_micros"], month.data["fee_micros"])
    # Told by an event and by a record it is one; another size is no change of the state.
    suspended = {
        change.at
        for change in found.get(Kind.CHANGED, ())
        if change.data["status"] == DeploymentStatus.SUSPENDED and "cost_micros" not in change.data
    }
    for at in suspended:
        counts[Place(Figure.SUSPENDED, at)] += 1
    parts = (Kind.ACTIVATED, Kind.CHANGED, Kind.RENEWED)
    _burn([fact for kind in parts for fact in found.get(kind, ())], counts)


def _burn(history: Sequence[Fact], counts: Counts) -> None:
    """What a deployment costs a month while it runs: a month that is paid says what it costs."""
    is_running, cost_micros, before_micros = False, 0, 0
    for fact in sorted(history, key=lambda fact: fact.at):
        if fact.kind is Kind.CHANGED:
            is_running = fact.data["status"] == DeploymentStatus.ACTIVE
            cost_micros = fact.data.get("cost_micros", cost_micros)
        elif fact.kind is Kind.ACTIVATED:
            is_running, cost_micros = True, fact.data["cost_micros"]
        else:
            cost_micros = fact.data["amount_micros"]
        now_micros = cost_micros if is_running else 0
        counts[Place(Figure.BURN_MICROS, fact.at)] += now_micros - before_micros
        before_micros = now_micros


def _path(found: ByKind, counts: Counts) -> None:
    """To which steps a browser came, each way by itself, and which was the last that it came to."""
    came = {step.key: step.at for step in found.get(Kind.STEP, ())}
    for way, steps in PATHS.items():
        taken = [step for step in steps if f"{way}:{step}" in came]
        for step in taken:
            counts[Place(f"paths_{way}_{step}", came[f"{way}:{step}"])] += 1
        if taken and taken[-1] is not PathStep.COMPLETED:
            last = taken[-1]
            counts[Place(f"left_{way}_{last}", came[f"{way}:{last}"])] += 1
