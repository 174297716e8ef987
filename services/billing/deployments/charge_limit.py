"""A bound on how often a deployment is charged within a day, and a wallet for what is used.

Nothing that is meant charges more often. A fault of ours that bills in a loop, each time under
another key, is stopped here, before the wallet hears of it, and somebody is called.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.metrics import Gauge
from contracts.billing import ChargeKind
from contracts.errors import LimitExceeded
from contracts.wallet import BatchError
from services.billing.models import PeriodRow, UsageChargeRow
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

DAY = timedelta(days=1)

TOO_OFTEN = BatchError(
    code=LimitExceeded.code,
    message="It was charged too often today. Nothing more is charged until that was looked at.",
)
"""What is answered in the wallet's place."""

GAUGES = {
    "charges_in_a_day_max": Gauge(
        "How often the deployment, or the wallet for usage, with most charges was charged in a day,"
        " of those that owe any and those that are charged for usage later than usual.",
        "SELECT max(charges) FROM (SELECT count(*) AS charges FROM periods WHERE deployment_id IN"
        " (SELECT deployment_id FROM periods WHERE status IN ('due', 'closing', 'refunding'))"
        " AND kind IN ('month', 'arrears', 'resize') AND status <> 'closed'"
        " AND created_at > :now - interval '1 day' GROUP BY deployment_id"
        # Who is charged as usual is so within the hour: all of those would be too many to count.
        " UNION ALL SELECT count(*) FROM usage_charges WHERE user_id IN"
        " (SELECT user_id FROM usage_wallets WHERE due_at > :now + interval '1 hour')"
        " AND paid_at > :now - interval '1 day' GROUP BY user_id) AS counted",
    ),
}
"""At ``CHARGES_PER_DAY_MAX`` and above something is not charged any more."""


def beyond_limit(
    session: Session, now: datetime, deployment_ids: Iterable[UUID], rules: BillingSettings
) -> set[UUID]:
    """Those of these deployments that are not to be charged again today, about which it calls."""
    counted = session.execute(
        select(PeriodRow.deployment_id, func.count())
        .where(
            PeriodRow.deployment_id.in_(list(deployment_ids)),
            PeriodRow.kind.in_(ChargeKind),
            PeriodRow.status != "closed",
            PeriodRow.created_at > now - DAY,
        )
        .group_by(PeriodRow.deployment_id)
        .having(func.count() > rules.charges_per_day_max)
    ).all()
    for deployment_id, count in counted:
        log.error(
            "a deployment would be charged more often than ever in a day; its money is left alone",
            extra={"deployment_id": str(deployment_id), "charges": count},
        )
    return {deployment_id for deployment_id, _ in counted}


def usage_beyond_limit(
    session: Session, now: datetime, user_ids: Iterable[UUID], rules: BillingSettings
) -> set[UUID]:
    """Those of these users whose wallets are not to be charged for usage again today, about which
    it calls. Once an hour is what is meant."""
    counted = session.execute(
        select(UsageChargeRow.user_id, func.count())
        .where(UsageChargeRow.user_id.in_(list(user_ids)), UsageChargeRow.paid_at > now - DAY)
        .group_by(UsageChargeRow.user_id)
        .having(func.count() >= rules.charges_per_day_max)
    ).all()
    for user_id, count in counted:
        log.error(
            "a wallet would be charged for usage more often than ever in a day; it is left alone",
            extra={"user_id": str(user_id), "charges": count},
        )
    return {user_id for user_id, _ in counted}
