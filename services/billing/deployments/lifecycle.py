"""What may become of a deployment, from the purchase that ordered it to its end."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.clock import Clock
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from chassis.locks import locked_or_none
from chassis.outbox import publish
from contracts.billing import (
    Actor,
    ChangeCause,
    DeploymentActivated,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRequested,
    DeploymentStatus,
    RefundCause,
    ReportDeployment,
    Rung,
)
from contracts.catalog import BillingPeriod, Category
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.messages import Command, Event
from services.billing.deployments import ladder, periods, shortages
from services.billing.deployments.examples import example_access
from services.billing.deployments.months import one_month_after
from services.billing.deployments.periods import PeriodKind
from services.billing.models import (
    OVER,
    ChangeRow,
    DeploymentRow,
    PurchaseLineRow,
    PurchaseRow,
)
from services.billing.refunds.recording import Wish, refund
from services.billing.settings import BillingSettings

TRANSITIONS: dict[DeploymentStatus, frozenset[DeploymentStatus]] = {
    DeploymentStatus.REQUESTED: frozenset(
        {DeploymentStatus.ACTIVE, DeploymentStatus.FAILED, DeploymentStatus.CANCELLED}
    ),
    DeploymentStatus.ACTIVE: frozenset(
        {
            DeploymentStatus.STOPPED,
            DeploymentStatus.SUSPENDED,
            DeploymentStatus.FAILED,
            DeploymentStatus.CANCELLED,
        }
    ),
    DeploymentStatus.STOPPED: frozenset({DeploymentStatus.ACTIVE, DeploymentStatus.CANCELLED}),
    DeploymentStatus.SUSPENDED: frozenset(
        {DeploymentStatus.ACTIVE, DeploymentStatus.STOPPED, DeploymentStatus.CANCELLED}
    ),
    DeploymentStatus.FAILED: frozenset(),
    DeploymentStatus.CANCELLED: frozenset(),
}

REPORTABLE = (DeploymentStatus.ACTIVE, DeploymentStatus.FAILED)
"""What a provisioner may say; the rest is the user's or billing's own decision."""


_ACTORS = {
    ChangeCause.PROVISIONER: Actor.PROVISIONER,
    ChangeCause.UNPAID: Actor.BILLING,
    ChangeCause.REFUNDED: Actor.SUPPORT,
    ChangeCause.MONTH_ENDED: Actor.BILLING,
    ChangeCause.KEPT_LONG_ENOUGH: Actor.BILLING,
}


class _Unit(NamedTuple):
    line: PurchaseLineRow
    number: int


def deploy(
    now: datetime, purchase: PurchaseRow, rules: BillingSettings
) -> tuple[list[DeploymentRow], list[Event]]:
    """One deployment for each unit of a purchase that is being completed, and what it tells.

    They are active at once, or a provisioner is asked to make them so.
    """
    units = [
        _Unit(line, number) for line in purchase.lines for number in range(1, line.quantity + 1)
    ]
    rows = [_row(purchase, unit, now) for unit in units]
    if rules.provisioning == "external":
        return rows, [
            _requested(row, unit.line, now) for row, unit in zip(rows, units, strict=True)
        ]
    for row in rows:
        row.access = example_access(row.deployment_id, Category(row.category)).model_dump()
    return rows, [_move(now, row, DeploymentStatus.ACTIVE, rules) for row in rows]


def write(writes: Batch, rows: Iterable[DeploymentRow]) -> None:
    """Store new deployments."""
    writes.add(_INSERT, [[getattr(row, name) for name in _COLUMNS] for row in rows])


_COLUMNS = {
    "deployment_id": "uuid",
    "purchase_id": "uuid",
    "line_position": "integer",
    "unit_number": "integer",
    "user_id": "uuid",
    "product_id": "uuid",
    "name": "text",
    "category": "text",
    "billing_period": "text",
    "monthly_cost_micros": "bigint",
    "provider_id": "uuid",
    "fee_bps": "integer",
    "status": "text",
    "status_reason": "text",
    "created_at": "timestamptz",
    "status_changed_at": "timestamptz",
    "active_at": "timestamptz",
    "period_anchor_at": "timestamptz",
    "paid_until": "timestamptz",
    "due_at": "timestamptz",
    "ends_with_month": "boolean",
    "announced": "text",
    "access": "jsonb",
    "ended_at": "timestamptz",
}
_INSERT = Bulk("INSERT INTO deployments ({columns}) SELECT * FROM {rows}", **_COLUMNS)


def report_deployment(
    session: Session, clock: Clock, command: ReportDeployment, rules: BillingSettings
) -> DeploymentRow:
    """Take a provisioner's answer; the same answer twice changes nothing.

    Raises ``NotFound``, ``BadRequest`` for a status that a provisioner may not set, and
    ``Conflict`` when the deployment has moved on.
    """
    if command.status not in REPORTABLE:
        raise BadRequest("A provisioner reports active or failed.", "status")
    row = locked_or_none(session, DeploymentRow, command.deployment_id)
    if row is None:
        raise NotFound("There is no such deployment.")
    if row.status != command.status:
        if row.status not in (DeploymentStatus.REQUESTED, *REPORTABLE):
            raise Conflict(f"This deployment is {row.status}: only its owner has it run again.")
        now, to, cause = clock(), command.status, ChangeCause.PROVISIONER
        # As long as it runs: what began of a month, and nobody has come to yet, is known then.
        has_open = to is DeploymentStatus.FAILED and periods.close_months(session, now, row)
        has_waited = shortages.waits(row)
        change_status(session, now, row, to, cause, rules, reason=command.reason)
        if has_waited:
            shortages.tell_less(session, now, row.user_id)
        if to is DeploymentStatus.FAILED:
            _give_back(session, now, row)
        if has_open:
            row.due_at = now
    if command.access is not None and row.status == DeploymentStatus.ACTIVE:
        row.access = command.access.model_dump()
    return row


def _give_back(session: Session, now: datetime, row: DeploymentRow) -> None:
    """What failed is paid back: what never ran, and of what ran the month in which it failed."""
    is_asked = periods.give_back(session, now, row.deployment_id, PeriodKind.RESIZE)
    runs_now = row.paid_until is not None and row.paid_until > now
    if periods.give_back(session, now, row.deployment_id, PeriodKind.MONTH):
        is_asked = True
    elif row.active_at is None or runs_now:
        reason = row.status_reason or f"{row.name} could not be provided."
        refund(session, now, [row], Wish(RefundCause.FAILED, reason, Actor.PROVISIONER))
    if is_asked:
        row.due_at = now


def change_status(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    to: DeploymentStatus,
    cause: ChangeCause,
    rules: BillingSettings,
    *,
    reason: str = "",
    command: Command[Any] | None = None,
    made_by: tuple[str, str] | None = None,
) -> None:
    """Change a locked deployment's status, by a command or one that came before, as for
    :func:`note`. Raises ``Conflict`` for a move that the table lacks."""
    row.status_reason = reason
    event = _move(now, row, to, rules, cause)
    note(session, now, row, cause, command, made_by=made_by)
    publish(session, event)


def note(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    cause: ChangeCause,
    command: Command[Any] | None = None,
    *,
    made_by: tuple[str, str] | None = None,
) -> None:
    """Add a line to a deployment's history, after what happened; by a command, if by one.

    ``made_by`` is the key of a command that came before, and the hash of what it asked.
    """
    if command is not None:
        made_by = command.idempotency_key, request_hash(command).hex()
    key, body_hash = made_by or (None, "")
    session.add(
        ChangeRow(
            change_id=new_id(),
            deployment_id=row.deployment_id,
            user_id=row.user_id,
            changed_at=now,
            status=row.status,
            cause=cause,
            actor=_ACTORS.get(cause, Actor.OWNER),
            idempotency_key=key,
            body_hash=body_hash,
            resized_to_micros=row.monthly_cost_micros if cause is ChangeCause.RESIZED else None,
        )
    )


def _move(
    now: datetime,
    row: DeploymentRow,
    to: DeploymentStatus,
    rules: BillingSettings,
    cause: ChangeCause = ChangeCause.OWNER,
) -> Event:
    """Change a row's status; what is to be published of it."""
    status = DeploymentStatus(row.status)
    enter(row, now, to, rules)
    if status is DeploymentStatus.REQUESTED and to is DeploymentStatus.ACTIVE:
        return DeploymentActivated(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            deployment_id=row.deployment_id,
            name=row.name,
            monthly_cost_micros=row.monthly_cost_micros,
        )
    if to is DeploymentStatus.FAILED:
        return DeploymentFailed(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            deployment_id=row.deployment_id,
            purchase_id=row.purchase_id,
            name=row.name,
            reason=row.status_reason,
        )
    rung = ladder.next_rung(row, rules)
    return DeploymentChanged(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        deployment_id=row.deployment_id,
        name=row.name,
        status=to,
        cause=cause,
        next_status=rung.status if rung else None,
        next_status_at=rung.at if rung else None,
    )


def enter(
    row: ladder.Standing, now: datetime, to: DeploymentStatus, rules: BillingSettings
) -> None:
    """What a status begins with. Raises ``Conflict`` for a move that the table lacks."""
    status = DeploymentStatus(row.status)
    if to not in TRANSITIONS[status]:
        raise Conflict(f"This deployment is {status}: it cannot become {to}.")
    row.status = to.value
    row.status_changed_at = now
    row.announced = ladder.Announced.NOTHING.value
    row.announced_at = None
    row.short_since = None
    row.usage_short_since = None
    if to in OVER:
        row.ended_at = now
    if to is DeploymentStatus.ACTIVE:
        row.ends_with_month = False
        _start_period(row, now)
    ladder.look_again(row, now, rules)


def rungs_below(row: ladder.Standing, rules: BillingSettings) -> Iterator[Rung]:
    """What becomes of it, one after the other, unless somebody acts or a month is paid meanwhile.

    It is played with a copy: the row stays as it stands.
    """
    while (rung := ladder.next_rung(row, rules)) is not None:
        yield rung
        standing = {name: getattr(row, name) for name in ladder.Standing.__annotations__}
        row = cast(ladder.Standing, SimpleNamespace(**standing))
        enter(row, rung.at, rung.status, rules)


def _requested(row: DeploymentRow, line: PurchaseLineRow, now: datetime) -> DeploymentRequested:
    return DeploymentRequested(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        deployment_id=row.deployment_id,
        product_id=row.product_id,
        name=row.name,
        choices=line.choices,
    )


def _row(purchase: PurchaseRow, unit: _Unit, now: datetime) -> DeploymentRow:
    line = unit.line
    name = line.name or line.product_name
    recurs = line.billing_period == BillingPeriod.MONTH
    return DeploymentRow(
        deployment_id=new_id(),
        purchase_id=purchase.purchase_id,
        line_position=line.position,
        unit_number=unit.number,
        user_id=purchase.user_id,
        product_id=line.product_id,
        name=name if line.quantity == 1 else f"{name} {unit.number}",
        category=line.category,
        billing_period=line.billing_period,
        monthly_cost_micros=line.list_price_micros if recurs else 0,
        provider_id=line.provider_id,
        fee_bps=line.fee_bps,
        status=DeploymentStatus.REQUESTED.value,
        status_reason="",
        ends_with_month=False,
        announced=ladder.Announced.NOTHING.value,
        created_at=now,
        status_changed_at=now,
    )


def _start_period(row: ladder.Standing, now: datetime) -> None:
    """The first activation starts the months that the price is paid for."""
    row.active_at = row.active_at or now
    if row.billing_period == BillingPeriod.MONTH and row.period_anchor_at is None:
        row.period_anchor_at = now
        row.paid_until = one_month_after(now)
