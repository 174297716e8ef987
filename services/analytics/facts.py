"""What is kept of an event, or of another service's record of the same: one fact, told alike.

A fact has a name of its own: what it is about, its kind, and a key where there may be several of
the kind. Told again, or told by another event of the same (a top-up that is published as paid once
more), it is the same fact, and its earliest moment holds. So neither copies nor order matter.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from functools import singledispatch
from typing import Any, NamedTuple
from uuid import UUID

from contracts.billing import (
    DeploymentActivated,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRecord,
    DeploymentRenewed,
    DeploymentStatus,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRecord,
    PurchaseRefunded,
    PurchaseShortOfFunds,
    PurchaseStatus,
    PurchaseWay,
    SoldLine,
)
from contracts.gateway import StepsTaken, UserRegistered
from contracts.messages import Event
from contracts.topup import (
    AutoTopupRecord,
    AutoTopupSettingsChanged,
    TopupFailed,
    TopupKind,
    TopupPaid,
    TopupRecord,
    TopupRestored,
    TopupReversed,
)


class Kind(StrEnum):
    """Of a purchase, a top-up, a person, a deployment, a path; no two of these share one."""

    BEGUN = "begun"
    SHORT = "short"
    COMPLETED = "completed"
    ENDED = "ended"
    REFUNDED = "refunded"
    PAID = "paid"
    FAILED = "failed"
    REVERSED = "reversed"
    RESTORED = "restored"
    REGISTERED = "registered"
    BOUGHT = "bought"
    AUTO_TOPUP = "auto_topup"
    WEEK = "week"
    ACTIVATED = "activated"
    CHANGED = "changed"
    RENEWED = "renewed"
    STEP = "step"


class Fact(NamedTuple):
    """``data`` is what of it is counted."""

    subject_id: UUID
    kind: Kind
    key: str
    at: datetime
    data: dict[str, Any]


class Told(NamedTuple):
    """What one event or record says: facts, and that somebody did something themself, and when."""

    facts: list[Fact]
    active: list[tuple[UUID, datetime]]


@singledispatch
def told(event: Event) -> Told:
    """What an event says. Raises TypeError for one that nobody counts."""
    raise TypeError(f"{type(event).__name__} is not counted")


@told.register
def _(event: UserRegistered) -> Told:
    return registered(event.user_id, event.occurred_at)


@told.register
def _(event: StepsTaken) -> Told:
    steps = [
        Fact(each.path_id, Kind.STEP, f"{each.way}:{each.step}", each.taken_at, {})
        for each in event.steps
    ]
    return Told(steps, [])


@told.register
def _(event: PurchaseShortOfFunds) -> Told:
    begun = _begun(event.purchase_id, event.user_id, event.begun_at or event.occurred_at, event.way)
    return _and(begun, [Fact(event.purchase_id, Kind.SHORT, "", event.occurred_at, {})])


@told.register
def _(event: PurchaseCompleted) -> Told:
    begun = _begun(event.purchase_id, event.user_id, event.begun_at or event.occurred_at, event.way)
    return _and(
        begun,
        _completed(
            event.purchase_id,
            event.user_id,
            event.occurred_at,
            event.total_micros,
            event.fee_micros,
            event.lines,
        ),
    )


@told.register
def _(event: PurchaseEnded) -> Told:
    begun = _begun(event.purchase_id, event.user_id, event.begun_at or event.occurred_at, event.way)
    ended = _ended(event.purchase_id, event.occurred_at, event.status, event.status_code)
    return _and(begun, [ended])


@told.register
def _(event: PurchaseRefunded) -> Told:
    return Told(
        [_refunded(event.purchase_id, event.refund_id, event.occurred_at, event.amount_micros)], []
    )


@told.register
def _(event: TopupPaid) -> Told:
    return _paid(event.topup_id, event.user_id, event.occurred_at, event.kind, event.amount_micros)


@told.register
def _(event: TopupFailed) -> Told:
    failed = _failed(event.topup_id, event.occurred_at, event.kind, event.failure_code)
    return Told([failed], [])


@told.register
def _(event: TopupReversed) -> Told:
    return Told([_moved_back(Kind.REVERSED, event)], [])


@told.register
def _(event: TopupRestored) -> Told:
    return Told([_moved_back(Kind.RESTORED, event)], [])


@told.register
def _(event: AutoTopupSettingsChanged) -> Told:
    is_on = event.threshold_micros is not None
    return Told([_auto_topup(event.user_id, event.settings_version, event.occurred_at, is_on)], [])


@told.register
def _(event: DeploymentActivated) -> Told:
    cost = {"cost_micros": event.monthly_cost_micros}
    return Told([Fact(event.deployment_id, Kind.ACTIVATED, "", event.occurred_at, cost)], [])


@told.register
def _(event: DeploymentChanged) -> Told:
    changed = _changed(event, event.deployment_id, event.status)
    if event.monthly_cost_micros is not None:
        changed.data["cost_micros"] = event.monthly_cost_micros
    return Told([changed], [])


@told.register
def _(event: DeploymentFailed) -> Told:
    return Told([_changed(event, event.deployment_id, DeploymentStatus.FAILED)], [])


@told.register
def _(event: DeploymentRenewed) -> Told:
    paid = {"amount_micros": event.amount_micros, "fee_micros": event.fee_micros}
    key = str(event.transaction_id)
    return Told([Fact(event.deployment_id, Kind.RENEWED, key, event.occurred_at, paid)], [])


def registered(user_id: UUID, at: datetime) -> Told:
    """Somebody has an account since then."""
    return Told([Fact(user_id, Kind.REGISTERED, "", at, {})], [(user_id, at)])


def of_purchase(record: PurchaseRecord) -> Told:
    """What billing's record says, as its events said it."""
    found = _begun(record.purchase_id, record.user_id, record.begun_at, record.way)
    if record.short_at is not None:
        found = _and(found, [Fact(record.purchase_id, Kind.SHORT, "", record.short_at, {})])
    if record.ended_at is not None and record.status is PurchaseStatus.COMPLETED:
        completed = _completed(
            record.purchase_id,
            record.user_id,
            record.ended_at,
            record.total_micros,
            record.fee_micros,
            record.lines,
        )
        found = _and(found, completed)
    elif record.ended_at is not None:
        ended = _ended(record.purchase_id, record.ended_at, record.status, record.status_code)
        found = _and(found, [ended])
    refunds = [
        _refunded(record.purchase_id, refund.refund_id, refund.done_at, refund.amount_micros)
        for refund in record.refunds
    ]
    return _and(found, refunds)


def of_deployment(record: DeploymentRecord) -> Told:
    """What billing's record says of a deployment. Changes have other names than the events of the
    same: it is by their moments that they are one."""
    name = record.deployment_id
    cost = {"cost_micros": record.monthly_cost_micros}
    found = [Fact(name, Kind.ACTIVATED, "", record.activated_at, cost)]
    for change in record.changes:
        data: dict[str, Any] = {"status": change.status.value}
        if change.monthly_cost_micros is not None:
            data["cost_micros"] = change.monthly_cost_micros
        key = str(change.change_id)
        found.append(Fact(name, Kind.CHANGED, key, change.changed_at, data))
    for month in record.months:
        paid = {"amount_micros": month.amount_micros, "fee_micros": month.fee_micros}
        found.append(Fact(name, Kind.RENEWED, str(month.transaction_id), month.paid_at, paid))
    return Told(found, [])


def of_topup(record: TopupRecord) -> Told:
    """What the top-up service's record says, as its events said it."""
    found = Told([], [])
    if record.paid_at is not None:
        found = _paid(
            record.topup_id, record.user_id, record.paid_at, record.kind, record.amount_micros
        )
    elif record.failed_at is not None:
        found = _and(
            found, [_failed(record.topup_id, record.failed_at, record.kind, record.failure_code)]
        )
    for reversal in record.reversals:
        amount, name = {"amount_micros": reversal.amount_micros}, reversal.reversal_id
        back = [Fact(record.topup_id, Kind.REVERSED, name, reversal.taken_at, amount)]
        if reversal.restored_at is not None:
            back.append(Fact(record.topup_id, Kind.RESTORED, name, reversal.restored_at, amount))
        found = _and(found, back)
    return found


def of_auto_topup(record: AutoTopupRecord) -> Told:
    """What the settings are since when: those before are not recorded."""
    return Told(
        [_auto_topup(record.user_id, record.settings_version, record.changed_at, record.is_on)], []
    )


def _and(first: Told, more: Iterable[Fact]) -> Told:
    return Told([*first.facts, *more], first.active)


def _begun(purchase_id: UUID, user_id: UUID, at: datetime, way: PurchaseWay | None) -> Told:
    ordered = {"way": way.value} if way else {}
    return Told([Fact(purchase_id, Kind.BEGUN, "", at, ordered)], [(user_id, at)])


def _completed(
    purchase_id: UUID,
    user_id: UUID,
    at: datetime,
    total_micros: int,
    fee_micros: int,
    lines: Iterable[SoldLine],
) -> list[Fact]:
    sold = {
        "total_micros": total_micros,
        "fee_micros": fee_micros,
        "lines": [[str(line.product_id), line.quantity, line.amount_micros] for line in lines],
    }
    return [
        Fact(purchase_id, Kind.COMPLETED, "", at, sold),
        Fact(user_id, Kind.BOUGHT, "", at, {}),
    ]


def _ended(purchase_id: UUID, at: datetime, status: PurchaseStatus, code: str) -> Fact:
    return Fact(purchase_id, Kind.ENDED, "", at, {"status": status.value, "code": code})


def _refunded(purchase_id: UUID, refund_id: UUID, at: datetime, amount_micros: int) -> Fact:
    amount = {"amount_micros": amount_micros}
    return Fact(purchase_id, Kind.REFUNDED, str(refund_id), at, amount)


def _paid(topup_id: UUID, user_id: UUID, at: datetime, kind: TopupKind, amount_micros: int) -> Told:
    paid = Fact(topup_id, Kind.PAID, "", at, {"kind": kind.value, "amount_micros": amount_micros})
    return Told([paid], [(user_id, at)] if kind is TopupKind.MANUAL else [])


def _failed(topup_id: UUID, at: datetime, kind: TopupKind, code: str) -> Fact:
    why = {"kind": kind.value, "code": code}
    return Fact(topup_id, Kind.FAILED, at.isoformat(), at, why)


def _moved_back(kind: Kind, event: TopupReversed | TopupRestored) -> Fact:
    amount = {"amount_micros": event.amount_micros}
    return Fact(event.topup_id, kind, event.reversal_id, event.occurred_at, amount)


def _auto_topup(user_id: UUID, version: int, at: datetime, is_on: bool) -> Fact:
    return Fact(user_id, Kind.AUTO_TOPUP, str(version), at, {"version": version, "is_on": is_on})


def _changed(
    event: DeploymentChanged | DeploymentFailed, deployment_id: UUID, status: DeploymentStatus
) -> Fact:
    changed = {"status": status.value}
    return Fact(deployment_id, Kind.CHANGED, str(event.event_id), event.occurred_at, changed)
