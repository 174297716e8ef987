"""Moments as the old program wrote them: RFC 3339 with up to nine digits of a second, times without
a zone (which are UTC), and counts since 1970.

What is finer than a microsecond is cut off where it is stored, never rounded: a millionth of a
second before midnight is still this year. What no store can hold is kept as the text that it is.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone

from services.legacy.reading.amounts import Written

_MOMENT = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<minute>[0-9]{2}:[0-9]{2}):(?P<second>[0-9]{2})"
    r"(\.(?P<fraction>[0-9]+))?(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_COUNT = re.compile(r"-?[0-9]{1,19}")
_UNITS = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3))
"""Counts below a bound are of so many nanoseconds each: seconds, milliseconds, microseconds."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class OldMoment:
    """``text`` has nine digits of a second where it is a moment, and is as written where it is
    none; ``at`` is None where nothing of ours can hold it."""

    text: str
    at: datetime | None = None
    day: date | None = None


def read(value: object) -> OldMoment | None:
    """None for what is absent. Nothing is refused: a time is no money."""
    if isinstance(value, Written):
        return _counted(value) if _COUNT.fullmatch(value) else OldMoment(value)
    if not isinstance(value, str):
        return None
    if _DAY.fullmatch(value):
        return _day(value)
    found = _MOMENT.fullmatch(value)
    try:
        return _written(found) if found else OldMoment(_with_nine_digits(value))
    except (ValueError, OverflowError):
        return OldMoment(value)


def _day(value: str) -> OldMoment:
    try:
        return OldMoment(value, day=date.fromisoformat(value))
    except ValueError:
        return OldMoment(value)


def _written(found: re.Match[str]) -> OldMoment:
    second = int(found["second"])
    # chrono writes a leap second as the second 60: here, the first one of the next minute.
    at = datetime.fromisoformat(f"{found['date']}T{found['minute']}:{min(second, 59):02}")
    at = at.replace(tzinfo=_zone(found["zone"]))
    if second > 60:
        raise ValueError("a minute has no such second")
    at = (at + timedelta(seconds=second - min(second, 59))).astimezone(UTC)
    return _moment(at, f"{found['fraction'] or '':0<9}"[:9])


def _zone(written: str | None) -> timezone:
    if written is None or written in "Zz":
        return UTC
    hours, minutes = int(written[1:3]), int(written[4:])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if written[0] == "-" else offset)


def _counted(value: str) -> OldMoment:
    count = int(value)
    each = next((unit for bound, unit in _UNITS if abs(count) < bound), 1)
    seconds, nanoseconds = divmod(count * each, 10**9)
    try:
        return _moment(_EPOCH + timedelta(seconds=seconds), f"{nanoseconds:09}")
    except OverflowError:
        return OldMoment(value)


def _moment(second: datetime, fraction: str) -> OldMoment:
    at = second + timedelta(microseconds=int(fraction[:6]))
    return OldMoment(f"{second.replace(tzinfo=None).isoformat()}.{fraction}Z", at)


def _with_nine_digits(value: str) -> str:
    """Of a year that has more than four digits, say, which no calendar here knows."""
    found = re.fullmatch(r"([+-][0-9]{4,6}-[0-9-]{5}T[0-9:]{8})(\.[0-9]+)?Z", value)
    if found is None:
        return value
    return f"{found[1]}.{(found[2] or '.')[1:]:0<9}Z"
