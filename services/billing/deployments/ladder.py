"""When a deployment is looked at next, and what becomes of it unless somebody acts.

::

    active ─ its month or usage is not paid ─▶ 3 days of grace ─▶ suspended ─ 14 days ─▶ stopped
    stopped ─ its data is kept for 30 days, announced 7 days and 1 day before ─▶ cancelled

The time between two rungs begins with what its owner was told of, not with what should have
happened: an outage of ours shortens nobody's grace. A month that was paid is kept in any case.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from contracts.billing import DeploymentStatus, Rung
from contracts.errors import AccountFrozen, InsufficientFunds, NotFound
from services.billing.settings import BillingSettings

NO_MONEY = (InsufficientFunds.code, NotFound.code, AccountFrozen.code)
"""Refusals that money, or the end of a freeze, turns into a payment. Who has no wallet has none."""


class Standing(Protocol):
    """How a deployment stands: its row, or one in a forecast."""

    status: str
    status_changed_at: datetime
    billing_period: str
    monthly_cost_micros: int
    active_at: datetime | None
    period_anchor_at: datetime | None
    paid_until: datetime | None
    due_at: datetime | None
    short_since: datetime | None
    usage_short_since: datetime | None
    ends_with_month: bool
    announced: str
    announced_at: datetime | None
    new_price_micros: int | None
    new_price_from: datetime | None
    ended_at: datetime | None


class Announced(StrEnum):
    """What an owner was told last of what is going to happen."""

    NOTHING = ""
    RENEWAL = "renewal"
    DELETION = "deletion"
    DELETION_AGAIN = "deletion_again"


class Step(StrEnum):
    """What a look at a deployment brings about, before the wallet is asked."""

    OWE_MONTH = "owe_month"
    GO_DOWN = "go_down"
    ANNOUNCE_RENEWAL = "announce_renewal"
    ANNOUNCE_DELETION = "announce_deletion"


def is_renewed(row: Standing) -> bool:
    """Whether it is charged every month while it is active."""
    return row.monthly_cost_micros > 0 and row.paid_until is not None


def next_rung(row: Standing, rules: BillingSettings) -> Rung | None:
    """The rung below this one; None for what runs on."""
    if row.status == DeploymentStatus.ACTIVE:
        return min(_rungs_below_active(row, rules), key=lambda rung: rung.at, default=None)
    if row.status == DeploymentStatus.SUSPENDED:
        return Rung(status=DeploymentStatus.STOPPED, at=row.status_changed_at + rules.suspended)
    if row.status == DeploymentStatus.STOPPED:
        return Rung(status=DeploymentStatus.CANCELLED, at=_deleted_at(row, rules))
    return None


def _rungs_below_active(row: Standing, rules: BillingSettings) -> Iterator[Rung]:
    if row.usage_short_since is not None:
        yield Rung(status=DeploymentStatus.SUSPENDED, at=row.usage_short_since + rules.grace)
    if is_renewed(row) and row.short_since is not None:
        yield Rung(status=DeploymentStatus.SUSPENDED, at=row.short_since + rules.grace)
    elif is_renewed(row) and row.ends_with_month and row.paid_until is not None:
        yield Rung(status=DeploymentStatus.CANCELLED, at=row.paid_until)


def renews_at(row: Standing) -> datetime | None:
    """When the next month is due; None for what is not renewed as it is now."""
    is_active = row.status == DeploymentStatus.ACTIVE
    return row.paid_until if is_active and is_renewed(row) and not row.ends_with_month else None


def due_at(row: Standing, now: datetime, rules: BillingSettings) -> datetime | None:
    """When there is something to do or to say next."""
    rung, renewal_at = next_rung(row, rules), renews_at(row)
    if rung is not None and row.status == DeploymentStatus.ACTIVE and row.short_since is not None:
        return min(rung.at, now + rules.renewal_retry)
    moments = [_announcement_at(row, rung, rules) or rung.at] if rung is not None else []
    if renewal_at is not None:
        is_announced = row.announced == Announced.RENEWAL
        moments.append(renewal_at if is_announced else announces_at(renewal_at, rules))
    return min(moments, default=None)


def look_again(row: Standing, now: datetime, rules: BillingSettings) -> None:
    """It changed, and is looked at when there is something to do or to say next; no later than was
    meant before: the wallet may have something to answer about it that was lost."""
    moments = (row.due_at, due_at(row, now, rules))
    row.due_at = min((each for each in moments if each is not None), default=None)


def announces_at(renewal_at: datetime, rules: BillingSettings) -> datetime:
    """When an owner is told that a month will be charged."""
    return renewal_at - rules.renewal_notice


def next_step(row: Standing, now: datetime, rules: BillingSettings) -> Step | None:
    """What is due by now, if anything is: what renewals do, and what a forecast foretells.

    A renewal that is due by now is announced no more; nothing is deleted that was not announced
    twice, and as long before as promised.
    """
    next_at = due_at(row, now, rules)
    if next_at is None or next_at > now:
        return None
    rung, renewal_at = next_rung(row, rules), renews_at(row)
    if rung is not None and rung.at <= now and not _has_to_announce(row):
        return Step.GO_DOWN
    if renewal_at is not None and row.short_since is None:
        return Step.OWE_MONTH if renewal_at <= now else Step.ANNOUNCE_RENEWAL
    return Step.ANNOUNCE_DELETION if row.status == DeploymentStatus.STOPPED else None


def _has_to_announce(row: Standing) -> bool:
    """Whether something has to be said before it goes down its next rung."""
    is_stopped = row.status == DeploymentStatus.STOPPED
    return is_stopped and next_announcement(row) is not Announced.NOTHING


def _deleted_at(row: Standing, rules: BillingSettings) -> datetime:
    """When a stopped deployment's data goes: never sooner after an announcement than promised, the
    first of which is made when it stops, at the soonest."""
    stopped_at = max(row.status_changed_at, row.paid_until or row.status_changed_at)
    announced, announced_at = Announced(row.announced), row.announced_at
    if announced_at is None:
        announced, announced_at = Announced.DELETION, row.status_changed_at
    return max(stopped_at + rules.kept, announced_at + _lead(announced, rules))


def kept_until(row: Standing, now: datetime, rules: BillingSettings) -> datetime:
    """When the data of something would be deleted that is stopped now."""
    stopped_at = max(now, row.paid_until or now)
    return max(stopped_at + rules.kept, now + _lead(Announced.DELETION, rules))


def _lead(announcement: Announced, rules: BillingSettings) -> timedelta:
    first_s, last_s = rules.deletion_notices_s
    return timedelta(seconds=first_s if announcement is Announced.DELETION else last_s)


def next_announcement(row: Standing) -> Announced:
    """What is said of a stopped deployment's data next; nothing after the second time."""
    if row.announced == Announced.DELETION:
        return Announced.DELETION_AGAIN
    return Announced.NOTHING if row.announced == Announced.DELETION_AGAIN else Announced.DELETION


def _announcement_at(row: Standing, rung: Rung, rules: BillingSettings) -> datetime | None:
    if row.status != DeploymentStatus.STOPPED:
        return None
    announcement = next_announcement(row)
    if announcement is Announced.NOTHING:
        return None
    return rung.at - _lead(announcement, rules)
