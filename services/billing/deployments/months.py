"""Months, counted from the instant of an activation, and what a part of them costs.

Each month's end is counted from the anchor and not from the month before, so that a subscription
of the 31st stays one. All of it is UTC.
"""

import calendar
from datetime import datetime
from typing import NamedTuple

from chassis.money import divide_half_even

SHORTEST = 28
"""The days that every month has."""


def one_month_after(anchor: datetime, months: int = 1) -> datetime:
    """The same day ``months`` later, or the month's last day where that day is missing."""
    month_index = anchor.month - 1 + months
    year, month = anchor.year + month_index // 12, month_index % 12 + 1
    day = anchor.day
    if day > SHORTEST:
        day = min(day, calendar.monthrange(year, month)[1])
    return anchor.replace(year=year, month=month, day=day)


def month_end(anchor: datetime, moment: datetime) -> datetime:
    """The end of the month that runs at ``moment``, which is not before the anchor."""
    number = (moment.year - anchor.year) * 12 + moment.month - anchor.month
    end = one_month_after(anchor, number)
    return end if end > moment else one_month_after(anchor, number + 1)


class Month(NamedTuple):
    """A month that counts from an anchor."""

    starts_at: datetime
    ends_at: datetime


def month_at(anchor: datetime, moment: datetime) -> Month:
    """The month that runs at ``moment``, which is not before the anchor."""
    end = month_end(anchor, moment)
    return Month(_month_start(anchor, end), end)


def cost_micros(anchor: datetime, monthly_micros: int, start: datetime, end: datetime) -> int:
    """What the time between two moments costs: a whole month its price, a part its share of the
    month that it is a part of; rounded half-even, once for each month."""
    cost = 0
    while start < end:
        next_start = month_end(anchor, start)
        month_start = _month_start(anchor, next_start)
        part = min(end, next_start) - start
        whole = next_start - month_start
        cost += divide_half_even(
            monthly_micros * (part // part.resolution), whole // whole.resolution
        )
        start = next_start
    return cost


def _month_start(anchor: datetime, end: datetime) -> datetime:
    number = (end.year - anchor.year) * 12 + end.month - anchor.month
    return one_month_after(anchor, number - 1)
