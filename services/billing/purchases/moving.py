"""What runs in the old system, and goes on here: as if it had been bought, and paid until its next
month."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.bulk import Batch
from chassis.clock import Clock
from chassis.identifiers import new_id
from chassis.locks import locked_or_none
from chassis.outbox import publish
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    DeploymentActivated,
    DeploymentStatus,
    PurchaseStatus,
)
from contracts.catalog import BillingPeriod
from contracts.errors import Conflict
from contracts.legacy import MovedService, PersonMoved, PersonMovedBack
from services.billing.deployments import commands, ladder
from services.billing.deployments.months import month_end, one_month_after
from services.billing.forecast import runways
from services.billing.models import OVER, DeploymentRow, PurchaseLineRow, PurchaseRow
from services.billing.settings import BillingSettings

NAME = "Moved from the old system"


def take_over(
    session: Session, now: datetime, events: Sequence[PersonMoved], rules: BillingSettings
) -> None:
    """Let what people brought along run on, each until the day on which its next month is due.

    What is there is left as it is: a move is told anew where the old system's data were restored.
    """
    brought = [each.deployment_id for event in events for each in event.services]
    found = select(DeploymentRow.deployment_id).where(DeploymentRow.deployment_id.in_(brought))
    there = set(session.scalars(found))
    purchases = [
        _purchase(now, event, rules)
        for event in events
        if event.services and event.services[0].deployment_id not in there
    ]
    session.add_all(purchases)
    publish(
        session,
        *(_activated(now, row) for purchase in purchases for row in purchase.deployments),
    )
    session.flush()
    with Batch(session) as writes:
        runways.look_after_purchases(writes, now, [purchase.user_id for purchase in purchases])


def _purchase(now: datetime, event: PersonMoved, rules: BillingSettings) -> PurchaseRow:
    """It cost nothing here: it was bought in the old system."""
    purchase_id = new_id()
    return PurchaseRow(
        purchase_id=purchase_id,
        user_id=event.user_id,
        idempotency_key=f"legacy:{event.event_id}",
        body_hash="",
        status=PurchaseStatus.COMPLETED.value,
        status_code="",
        status_reason=f"{NAME}.",
        total_micros=0,
        shortfall_micros=0,
        reservation_id=purchase_id,
        may_hold_stock=False,
        closing_code="",
        closing_reason="",
        attempts=0,
        created_at=now,
        updated_at=now,
        expires_at=now,
        ended_at=now,
        lines=[_line(place, service) for place, service in enumerate(event.services)],
        deployments=[
            _deployment(now, event, place, service, rules)
            for place, service in enumerate(event.services)
        ],
    )


def _line(place: int, service: MovedService) -> PurchaseLineRow:
    return PurchaseLineRow(
        position=place,
        product_id=service.deployment_id,
        product_name=service.name,
        category=service.category,
        billing_period=BillingPeriod.MONTH,
        quantity=1,
        unit_price_micros=0,
        amount_micros=0,
        is_stocked=False,
    )


def _deployment(
    now: datetime, event: PersonMoved, place: int, service: MovedService, rules: BillingSettings
) -> DeploymentRow:
    anchor = anchor_of(service.renews_at, now)
    row = DeploymentRow(
        deployment_id=service.deployment_id,
        line_position=place,
        unit_number=1,
        user_id=event.user_id,
        # The catalog sells no such thing: this names the thing itself.
        product_id=service.deployment_id,
        name=service.name,
        category=service.category,
        billing_period=BillingPeriod.MONTH,
        monthly_cost_micros=service.monthly_cost_micros,
        status=DeploymentStatus.ACTIVE.value,
        status_reason="",
        ends_with_month=False,
        announced=ladder.Announced.NOTHING.value,
        created_at=now,
        status_changed_at=now,
        active_at=now,
        period_anchor_at=anchor,
        paid_until=max(service.renews_at, month_end(anchor, now)),
    )
    row.due_at = ladder.due_at(row, now, rules)
    return row


def anchor_of(renews_at: datetime, now: datetime) -> datetime:
    """The instant that its months count from: of the same day of a month as its renewal, so that
    what was due on the 31st stays so, and not after ``now``."""
    months = 1
    while True:
        anchor = one_month_after(renews_at, -months)
        if anchor <= now and anchor.day == renews_at.day:
            return anchor
        months += 1


def _activated(now: datetime, row: DeploymentRow) -> DeploymentActivated:
    return DeploymentActivated(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        deployment_id=row.deployment_id,
        name=row.name,
        monthly_cost_micros=row.monthly_cost_micros,
    )


def give_up(session: Session, clock: Clock, event: PersonMovedBack, rules: BillingSettings) -> None:
    """End what somebody brought along who was moved back; what has ended stays as it is.

    Raises ``Conflict`` where it did not come yet: events may overtake one another, and this one
    comes again.
    """
    for deployment_id in event.deployment_ids:
        row = locked_or_none(session, DeploymentRow, deployment_id)
        if row is None:
            raise Conflict("What is moved back did not come yet.")
        if row.user_id == event.user_id and row.status not in OVER:
            command = CancelDeployment(
                idempotency_key=f"legacy:{event.event_id}:{deployment_id}",
                user_id=event.user_id,
                deployment_id=deployment_id,
                when=CancelWhen.NOW,
            )
            commands.cancel(session, clock, command, rules)
