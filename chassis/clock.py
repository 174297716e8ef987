"""The one place that reads the clock. Rules take ``now`` as an argument."""

import re
from datetime import UTC, datetime

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def start_of_day(written: str) -> datetime:
    """Midnight (UTC) at which a day begins, from a date as RFC 3339 writes it.

    Raises ValueError for everything else that could be a date too, such as 20261128.
    """
    if not _DAY.fullmatch(written):
        raise ValueError("a day is written like 2026-11-28")
    return datetime.fromisoformat(written).replace(tzinfo=UTC)
