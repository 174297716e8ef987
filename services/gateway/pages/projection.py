"""The projected balance as a line: what the dashboard draws and tabulates."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.money import divide_half_even
from contracts.billing import BurnRate
from contracts.topup import AutoTopupStatus

DAYS = 30
TABLE_EVERY_DAYS = 5


@dataclass(frozen=True)
class ProjectedDay:
    day: int
    at: datetime
    balance_micros: int


@dataclass(frozen=True)
class Projection:
    """``trigger_at`` is when the line meets the threshold; None when it does not in 30 days."""

    days: list[ProjectedDay]
    threshold_micros: int | None
    trigger_at: datetime | None

    @property
    def table(self) -> list[ProjectedDay]:
        return [day for day in self.days if day.day % TABLE_EVERY_DAYS == 0]

    @property
    def chart(self) -> dict[str, object]:
        """The same numbers for the chart: seconds since 1970 and micro-dollars."""
        return {
            "times": [int(day.at.timestamp()) for day in self.days],
            "balances_micros": [day.balance_micros for day in self.days],
            "threshold_micros": self.threshold_micros,
        }


def project(now: datetime, burn: BurnRate, auto_topup: AutoTopupStatus | None) -> Projection:
    """Balance − monthly burn × day ÷ 30 for each of the next 30 days.

    A straight line without top-ups: day 30 is ``projected_balance_30_days_micros``.
    """
    days = [
        ProjectedDay(
            day=day,
            at=now + timedelta(days=day),
            balance_micros=burn.balance_micros
            - divide_half_even(burn.monthly_burn_micros * day, DAYS),
        )
        for day in range(DAYS + 1)
    ]
    threshold = None
    if auto_topup is not None and auto_topup.state == "active":
        threshold = auto_topup.threshold_micros
    trigger_at = None
    if threshold is not None:
        trigger_at = next((day.at for day in days if day.balance_micros < threshold), None)
    return Projection(days=days, threshold_micros=threshold, trigger_at=trigger_at)
