"""The one place that reads the clock. Rules take ``now`` as an argument, or a :data:`Clock`.

A local run may live some days ahead of the world (``CLOCK_OFFSET_DAYS``), with the card processor's
sandbox; durations, such as the deadline of a call, are not touched by that.
"""

import functools
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from chassis.settings import ClockSettings, load_settings

Clock = Callable[[], datetime]
"""What says how late it is. A rule that has to wait for a row takes one, and reads it once it holds
the row: what it writes is no older than what it finds."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC) + ahead()


@functools.cache
def ahead() -> timedelta:
    """How far ahead of the world this process lives."""
    return timedelta(days=load_settings(ClockSettings).clock_offset_days)


def midnight(day: date) -> datetime:
    """The moment at which a day begins (UTC), also that of a moment in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def start_of_day(written: str) -> datetime:
    """Midnight (UTC) at which a day begins, from a date as RFC 3339 writes it.

    Raises ValueError for everything else that could be a date too, such as 20261128.
    """
    if not _DAY.fullmatch(written):
        raise ValueError("a day is written like 2026-11-28")
    return datetime.fromisoformat(written).replace(tzinfo=UTC)
