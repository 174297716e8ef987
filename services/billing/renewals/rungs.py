"""What a look at a deployment brings about, before the wallet is asked.

The month that is due is written down, or what has to be said is published, or it goes down a rung
of the ladder. A renewal that is due by now is announced no more; nothing is deleted that was not
announced twice, and as long before as promised.
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
)
from services.billing.deployments import ladder, lifecycle, periods
from services.billing.deployments.ladder import Announced, Rung
from services.billing.models import DeploymentRow
from services.billing.settings import BillingSettings

_CAUSES = {
    DeploymentStatus.STOPPED: ChangeCause.UNPAID,
    DeploymentStatus.CANCELLED: ChangeCause.KEPT_LONG_ENOUGH,
}


def look(session: Session, now: datetime, row: DeploymentRow, rules: BillingSettings) -> None:
    """Do what is due by now for a locked deployment."""
    due_at = ladder.due_at(row, now, rules)
    if due_at is None or due_at > now:
        return
    rung = ladder.next_rung(row, rules)
    renews_at = ladder.renews_at(row)
    if rung is None:
        if renews_at is not None and renews_at <= now:
            periods.owe_month(session, now, row, renews_at)
        elif renews_at is not None:
            _announce_renewal(session, now, row, renews_at)
    elif _is_silent(row) and rung.at <= now:
        _go_down(session, now, row, rung, rules)
    elif row.status == DeploymentStatus.STOPPED:
        _announce_deletion(session, now, row, rules)


def _is_silent(row: DeploymentRow) -> bool:
    """Whether nothing has to be said before it goes down its next rung."""
    is_stopped = row.status == DeploymentStatus.STOPPED
    return not is_stopped or ladder.next_announcement(row) is Announced.NOTHING


def _go_down(
    session: Session, now: datetime, row: DeploymentRow, rung: Rung, rules: BillingSettings
) -> None:
    if rung.status is DeploymentStatus.SUSPENDED:
        # Not before it is certain that the month was not paid: see outcomes.
        periods.close_months(session, now, row.deployment_id)
    elif row.status == DeploymentStatus.ACTIVE:
        lifecycle.change_status(session, now, row, rung.status, ChangeCause.MONTH_ENDED, rules)
    else:
        lifecycle.change_status(session, now, row, rung.status, _CAUSES[rung.status], rules)


def _announce_renewal(
    session: Session, now: datetime, row: DeploymentRow, renews_at: datetime
) -> None:
    row.announced = Announced.RENEWAL
    row.announced_at = now
    publish(
        session,
        RenewalAnnounced(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            deployment_id=row.deployment_id,
            name=row.name,
            amount_micros=row.monthly_cost_micros,
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
