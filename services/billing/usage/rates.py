"""How fast something is used: what was used of a deployment lately, over the time in which it was.

Lately are the last seven days, or the time since it began to run if that is less, but never less
than a day: what was used in its first hour says little of a month.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from contracts.billing import DeploymentStatus
from contracts.catalog import Meter
from services.billing.deployments.meters import meters_of, with_lines
from services.billing.deployments.months import month_at
from services.billing.deployments.rating import rated_micros
from services.billing.models import DeploymentRow, UsageRecordRow, UsageTotalRow

LATELY = timedelta(days=7)
AT_LEAST = timedelta(days=1)
LONGEST_MONTH = timedelta(days=31)
DAYS_PER_MONTH = 30


@dataclass(frozen=True)
class Rate:
    """A meter of a deployment: ``used`` units were used in the time ``within``.

    Its months count from ``anchor``; ``so_far`` was used in the one that runs at ``now``.
    """

    meter: Meter
    used: int
    within: timedelta
    anchor: datetime
    now: datetime
    so_far: int

    def quantity(self, time: timedelta) -> int:
        """What is used in so much time."""
        return self.used * (time // time.resolution) // (self.within // time.resolution)

    @property
    def monthly_micros(self) -> int:
        """What 30 days at this rate cost, as a month of their own."""
        return rated_micros(self.meter, self.quantity(timedelta(days=DAYS_PER_MONTH)))

    def cost_micros(self, until: datetime) -> int:
        """What is used from ``now`` until then comes to: of each month what it costs as a whole,
        less what it cost before."""
        month, begins, before = month_at(self.anchor, self.now), self.now, self.so_far
        cost = -rated_micros(self.meter, before)
        while True:
            ends = min(month.ends_at, until)
            used = self.quantity(ends - self.now) - self.quantity(begins - self.now)
            cost += rated_micros(self.meter, before + used)
            if until <= month.ends_at:
                return cost
            month, begins, before = month_at(self.anchor, ends), ends, 0


HAVE_USED = "EXISTS (SELECT FROM usage_wallets WHERE user_id = new.user_id)"
"""What :func:`have_used` asks, as SQL over users named ``new``."""
_HAVE_USED = Bulk(
    f"SELECT user_id FROM {{rows}} WHERE {HAVE_USED}",  # noqa: S608 - our words
    user_id="uuid",
)


def have_used(session: Session, users: Iterable[UUID]) -> set[UUID]:
    """Those of them of whom any use was ever recorded: there are no rates of the others, and
    nothing that they owe for it."""
    return set(_HAVE_USED.scalars(session, [(user_id,) for user_id in set(users)]))


def rates(session: Session, user_id: UUID, now: datetime) -> dict[UUID, list[Rate]]:
    """The rates of what runs of this user's and is used, by deployment."""
    record, row = UsageRecordRow, DeploymentRow
    since = now - LATELY
    found = session.execute(
        select(record.deployment_id, record.meter, func.sum(record.quantity))
        .join(row, row.deployment_id == record.deployment_id)
        .where(
            row.user_id == user_id,
            row.status == DeploymentStatus.ACTIVE,
            record.month_starts_at > since - LONGEST_MONTH,
            record.used_at > since,
            record.used_at >= row.status_changed_at,
            record.used_at <= now,
        )
        .group_by(record.deployment_id, record.meter)
        .having(func.sum(record.quantity) > 0)
        .order_by(record.deployment_id, record.meter)
    ).all()
    if not found:
        return {}
    so_far = _so_far(session, {deployment_id for deployment_id, _, _ in found}, now)
    deployments = {row.deployment_id: (row, line) for row, line in with_lines(session, so_far)}
    measured: dict[UUID, list[Rate]] = defaultdict(list)
    for deployment_id, meter, used in found:
        row_, line = deployments[deployment_id]
        if row_.active_at is not None:
            within = max(min(now - row_.status_changed_at, LATELY), AT_LEAST)
            quantity = so_far[deployment_id].get(meter, 0)
            rate = Rate(meters_of(line)[meter], int(used), within, row_.active_at, now, quantity)
            measured[deployment_id].append(rate)
    return dict(measured)


def monthly_micros(session: Session, user_id: UUID, now: datetime) -> dict[UUID, int]:
    """What 30 days of usage of each deployment of this user's cost at its rate, where any do."""
    if not have_used(session, [user_id]):
        return {}
    measured = rates(session, user_id, now)
    costs = {each: sum(rate.monthly_micros for rate in found) for each, found in measured.items()}
    return {each: micros for each, micros in costs.items() if micros}


def _so_far(
    session: Session, deployment_ids: set[UUID], now: datetime
) -> dict[UUID, dict[str, int]]:
    """What was used of each meter in the months that run."""
    total = UsageTotalRow
    found: dict[UUID, dict[str, int]] = {each: {} for each in deployment_ids}
    for deployment_id, meter, quantity in session.execute(
        select(total.deployment_id, total.meter, total.quantity).where(
            total.deployment_id.in_(deployment_ids),
            total.month_starts_at <= now,
            total.month_ends_at > now,
        )
    ):
        found[deployment_id][meter] = quantity
    return found
