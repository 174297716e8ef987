"""What a user's deployments cost, and how long the balance lasts.

The formulas stand in :class:`contracts.billing.BurnRate`. Each figure is rounded once, from
the exact monthly cost: the parts need not add up to the last micro-dollar of the whole.
"""

from datetime import datetime, timedelta

from chassis.money import divide_half_even
from contracts.billing import BurnRate, DeploymentBurnRate, DeploymentStatus
from contracts.catalog import Category
from services.billing.deployments.queries import Burning, Burns

DAYS_PER_MONTH = 30
HOURS_PER_MONTH = DAYS_PER_MONTH * 24
_DAY = timedelta(days=1)


def analyse(balance_micros: int, burning: Burning, now: datetime) -> BurnRate:
    """The analysis of a balance and of the deployments that cost something every month."""
    monthly_micros = burning.monthly_micros
    return BurnRate(
        balance_micros=balance_micros,
        monthly_burn_micros=monthly_micros,
        daily_burn_micros=divide_half_even(monthly_micros, DAYS_PER_MONTH),
        hourly_burn_micros=divide_half_even(monthly_micros, HOURS_PER_MONTH),
        monthly_usage_micros=sum(burning.usage.values()),
        deployments=[
            _part(row, burning.usage.get(row.deployment_id, 0), monthly_micros)
            for row in burning.dearest
        ],
        deployments_total=burning.total,
        projected_balance_30_days_micros=balance_micros - monthly_micros,
        days_until_empty=_days_until_empty(balance_micros, monthly_micros),
        empty_at=_empty_at(balance_micros, monthly_micros, now),
    )


def _part(row: Burns, usage_micros: int, whole_micros: int) -> DeploymentBurnRate:
    monthly_micros = row.monthly_cost_micros + usage_micros
    return DeploymentBurnRate(
        deployment_id=row.deployment_id,
        deployment_name=row.name,
        category=Category(row.category),
        status=DeploymentStatus(row.status),
        monthly_cost_micros=monthly_micros,
        monthly_usage_micros=usage_micros,
        daily_cost_micros=divide_half_even(monthly_micros, DAYS_PER_MONTH),
        share_percent=divide_half_even(100 * monthly_micros, whole_micros),
    )


def _days_until_empty(balance_micros: int, monthly_micros: int) -> int | None:
    """Whole days, by the exact daily burn: $20.00 at $5.00 a month is 120 days, not 119."""
    if monthly_micros == 0:
        return None
    return max(balance_micros, 0) * DAYS_PER_MONTH // monthly_micros


def _empty_at(balance_micros: int, monthly_micros: int, now: datetime) -> datetime | None:
    """The moment at which nothing is left; None where that is beyond the calendar."""
    if monthly_micros == 0:
        return None
    day_us = _DAY // timedelta(microseconds=1)
    lasts_us = max(balance_micros, 0) * DAYS_PER_MONTH * day_us // monthly_micros
    try:
        return now + timedelta(microseconds=lasts_us)
    except OverflowError:
        return None
