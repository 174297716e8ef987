"""What a look at a deployment brings about, before the wallet is asked.

The month that is due is to be written down, or what has to be said is published, or it goes down a
rung of the ladder, as :func:`services.billing.deployments.ladder.next_step` decides.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.billing import (
    ChangeCause,
    DeletionAnnounced,
    DeploymentStatus,
    RenewalAnnounced,
    Rung,
)
from services.billing.deployments import ladder, lifecycle, periods
from services.billing.deployments.ladder import Announced, Step
from services.billing.deployments.prices import price_at
from services.billing.models import DeploymentRow
from services.billing.settings import BillingSettings

_CAUSES = {
    DeploymentStatus.STOPPED: ChangeCause.UNPAID,
    DeploymentStatus.CANCELLED: ChangeCause.KEPT_LONG_ENOUGH,
}


def look(
    session: Session, now: datetime, row: DeploymentRow, rules: BillingSettings
) -> periods.Owed | None:
    """Do what is due by now for a locked deployment. The month that is to be written down."""
    step = ladder.next_step(row, now, rules)
    rung, renews_at = ladder.next_rung(row, rules), ladder.renews_at(row)
    if step is Step.OWE_MONTH and renews_at is not None:
        return periods.month_owed(now, row, renews_at)
    if step is Step.ANNOUNCE_RENEWAL and renews_at is not None:
        _announce_renewal(session, now, row, renews_at)
    elif step is Step.GO_DOWN and rung is not None:
        _go_down(session, now, row, rung, rules)
    elif step is Step.ANNOUNCE_DELETION:
        _announce_deletion(session, now, row, rules)
    return None


def _go_down(
    session: Session, now: datetime, row: DeploymentRow, rung: Rung, rules: BillingSettings
) -> None:
    # Also of a start that has had no answer yet: it is not to be charged on a lower rung.
    is_asked = periods.close_months(session, now, row)
    if rung.status is DeploymentStatus.SUSPENDED:
        # Not before it is certain that the month was not paid: see outcomes.
        if not is_asked and row.short_since is None:
            suspended = DeploymentStatus.SUSPENDED
            lifecycle.change_status(session, now, row, suspended, ChangeCause.UNPAID, rules)
    elif row.status == DeploymentStatus.ACTIVE:
        lifecycle.change_status(session, now, row, rung.status, ChangeCause.MONTH_ENDED, rules)
    else:
        lifecycle.change_status(session, now, row, rung.status, _CAUSES[rung.status], rules)


def _announce_renewal(
    session: Session, now: datetime, row: DeploymentRow, renews_at: datetime
) -> None:
    row.announced = Announced.RENEWAL
    row.announced_at = now
    amount_micros = price_at(row, renews_at)
    if amount_micros == 0:
        # It is to cost nothing from then on, which its owner was told.
        return
    publish(
        session,
        RenewalAnnounced(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            deployment_id=row.deployment_id,
            name=row.name,
            amount_micros=amount_micros,
            renews_at=renews_at,
        ),
    )


def _announce_deletion(
    session: Session, now: datetime, row: DeploymentRow, rules: BillingSettings
) -> None:
    row.announced = ladder.next_announcement(row)
    row.announced_at = now
    rung = ladder.next_rung(row, rules)
    if rung is not None:
        publish(
            session,
            DeletionAnnounced(
                event_id=new_id(),
                occurred_at=now,
                user_id=row.user_id,
                deployment_id=row.deployment_id,
                name=row.name,
                deleted_at=rung.at,
            ),
        )
