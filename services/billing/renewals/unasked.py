"""Debts that nobody is about to ask for: those that a version before left behind.

This one asks for what is owed for time that ran until it is paid. The versions before 0028 asked
once, and waited for money: also while they ran beside this one, after 0030 had made older debts
due, or came back for a while.
"""

from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from chassis.locks import for_update
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.models import DeploymentRow, PeriodRow
from services.billing.settings import BillingSettings

AT_ONCE = 1_000


def take_up(session: Session, now: datetime, rules: BillingSettings) -> int:
    """Make due what owes for time that ran and is asked later than it would be, or never: so many,
    1,000 at most. What somebody holds is left to the next look."""
    row = DeploymentRow
    owing = select(PeriodRow.deployment_id).where(
        PeriodRow.status == PeriodStatus.DUE, PeriodRow.kind == PeriodKind.ARREARS
    )
    found = session.scalars(
        for_update(
            select(row.deployment_id)
            .where(
                row.deployment_id.in_(owing),
                or_(row.due_at.is_(None), row.due_at > now + rules.renewal_retry),
            )
            .order_by(row.deployment_id)
            .limit(AT_ONCE),
            skip_locked=True,
        )
    ).all()
    session.execute(
        update(row)
        .where(row.deployment_id.in_(found))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )
    return len(found)
