"""Rate limits that all processes of the website share, in its own database.

The generic cell rate algorithm: of each limited thing one moment is stored, until which its
allowance is used up. A limit of 10 per minute lets 10 through at once, and after that one every
6 seconds; what is refused uses nothing up. A row whose moment has passed says nothing any more
and is removed. The table is not logged: a crash of the database forgets, and nothing else.

The limit that every request counts against does not ask for each: see :class:`TakenAhead`.

What visitors type is part of keys, which are therefore hashes of one length.
"""

import functools
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chassis.database import Connected
from chassis.retention import Kept
from chassis.together import ALONE, Alone, Together

KEPT = Kept("rate_limits", "used_until", days=0)
"""No index finds the rows: it would cost every request more than reading the table now and then."""
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_RATE = re.compile(rf"([1-9][0-9]{{0,6}}) per ({'|'.join(_SECONDS)})")

# The bound stands twice: what is more than the limit itself would fit where nothing is used up.
_TAKE = text(
    "INSERT INTO rate_limits (key, used_until)"
    " SELECT :key, :now + :step WHERE :step <= CAST(:period AS interval)"
    " ON CONFLICT (key) DO UPDATE SET used_until = greatest(rate_limits.used_until, :now) + :step"
    " WHERE rate_limits.used_until <= :now + :period - :step"
    " RETURNING used_until"
)
# The same of several, of one rate: what is new tells by how much more each is to be used up.
_TAKE_ALL = text(
    "INSERT INTO rate_limits (key, used_until)"
    " SELECT key, CAST(:now AS timestamptz) + :step * tries"
    " FROM unnest(CAST(:keys AS bytea[]), CAST(:tries AS integer[])) AS new (key, tries)"
    " WHERE :step * tries <= CAST(:period AS interval)"
    " ORDER BY key"
    " ON CONFLICT (key) DO UPDATE"
    " SET used_until = greatest(rate_limits.used_until, :now) + (excluded.used_until - :now)"
    " WHERE rate_limits.used_until <= :now + :period - (excluded.used_until - :now)"
    " RETURNING key, used_until"
)
_USED_UNTIL = text("SELECT used_until FROM rate_limits WHERE key = :key")


@dataclass(frozen=True)
class Rate:
    tries: int
    period: timedelta

    @property
    def step(self) -> timedelta:
        """What one try uses up, rounded down to the microsecond: all of them fit in the period."""
        return self.period // self.tries

    def key_of(self, subject: str) -> bytes:
        return hashlib.sha256(f"{self}:{subject}".encode("utf-8", "surrogatepass")).digest()

    def left(self, now: datetime, used_until: datetime) -> int:
        """How many more would pass at once."""
        return (now + self.period - used_until) * self.tries // self.period


@functools.cache
def parse(limits: str) -> tuple[Rate, ...]:
    """``10 per minute; 100 per hour``. Raises ValueError."""
    rates = []
    for part in limits.split(";"):
        found = _RATE.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"not a rate: {part.strip()!r}")
        rates.append(Rate(int(found[1]), timedelta(seconds=_SECONDS[found[2]])))
    return tuple(rates)


def take(
    database: Connected, now: datetime, subject: str, rates: tuple[Rate, ...], tries: int = 1
) -> timedelta | None:
    """Count ``tries`` of ``subject``. None: they may pass; else how long until they may.

    Of several rates the first that refuses decides.
    """
    return _count(database, now, subject, rates, tries)[0]


_Counted = tuple[timedelta | None, int]


def _count(
    database: Connected, now: datetime, subject: str, rates: tuple[Rate, ...], tries: int
) -> _Counted:
    """As :func:`take`; and how many more would pass at once."""
    left = min(rate.tries for rate in rates)
    with database.singles.connect() as connection:
        for rate in rates:
            step, key = rate.step * tries, rate.key_of(subject)
            given = {"key": key, "now": now, "step": step, "period": rate.period}
            taken_until = connection.scalar(_TAKE, given)
            if taken_until is not None:
                left = min(left, rate.left(now, taken_until))
                continue
            used_until = connection.scalar(_USED_UNTIL, {"key": key})
            # Gone meanwhile: removed because it had passed.
            return max((used_until or now) + step - rate.period - now, timedelta(0)), 0
    return None, left


@dataclass(frozen=True)
class _Count:
    """What is to be counted: the arguments of :func:`_count`."""

    now: datetime
    subject: str
    rates: tuple[Rate, ...]
    tries: int


def _count_all(database: Connected, counts: Sequence[_Count]) -> list[_Counted | Exception | Alone]:
    """Those of the first one's rate in one statement. What it refuses is counted by itself, which
    tells how long it has to wait."""
    now, rates = max(each.now for each in counts), counts[0].rates
    if len(rates) > 1:
        return [ALONE] * len(counts)
    (rate,) = rates
    tries: Counter[bytes] = Counter()
    for each in counts:
        if each.rates == rates:
            tries[rate.key_of(each.subject)] += each.tries
    given = {"now": now, "step": rate.step, "period": rate.period}
    given |= {"keys": list(tries), "tries": list(tries.values())}
    try:
        with database.singles.connect() as connection:
            taken = {bytes(row.key): row.used_until for row in connection.execute(_TAKE_ALL, given)}
    except (OperationalError, PoolTimeout) as error:
        return [error] * len(counts)
    outcomes: list[_Counted | Exception | Alone] = []
    for each in counts:
        taken_until = taken.get(rate.key_of(each.subject)) if each.rates == rates else None
        outcomes.append(ALONE if taken_until is None else (None, rate.left(now, taken_until)))
    return outcomes


@dataclass
class _Pace:
    """What one subject did in a second: ``passed`` so far, and ``before``, in the one before it.

    ``left`` tries are counted in the database and not let through yet; they end with the second.
    ``beyond`` were not counted by anybody when the database was last asked.
    """

    since: datetime
    before: int = 0
    passed: int = 0
    left: int = 0
    beyond: int = 0
    is_taking: bool = False


class TakenAhead:
    """Takes tries of who asks often a few at a time, so that most of them cost no statement, and
    what is counted at the same moment in one.

    How many is a quarter of what the subject has just done in this process within a second, and
    what is left of them after that second is lost to it. No more pass than the limit says, in
    all processes together; nobody who asks now and then is counted more than once.
    """

    PART = 4
    SUBJECTS_MAX = 10_000
    SECOND = timedelta(seconds=1)

    def __init__(self, database: Connected) -> None:
        self._counts = Together(
            partial(_count_all, database),
            lambda each: _count(database, each.now, each.subject, each.rates, each.tries),
        )
        self._lock = threading.Lock()
        self._paces: dict[str, _Pace] = {}

    def take(self, now: datetime, subject: str, rates: tuple[Rate, ...]) -> timedelta | None:
        """As :func:`take`, of one try."""
        with self._lock:
            pace = self._pace(now, subject)
            pace.passed += 1
            if pace.left:
                pace.left -= 1
                return None
            ahead = max(pace.before, pace.passed) // self.PART
            # One thread takes for all. What one of several rates refuses would use up the others.
            is_ahead = ahead > 0 and not pace.is_taking and len(rates) == 1
            pace.is_taking = pace.is_taking or is_ahead
        if is_ahead and self._take_ahead(now, subject, rates, pace, ahead):
            return None
        wait, pace.beyond = self._counts.do(_Count(now, subject, rates, 1))
        return wait

    def left_of(self, subject: str) -> int | None:
        """How many more of a subject would pass, as far as this process has just seen."""
        with self._lock:
            pace = self._paces.get(subject)
            return pace.left + pace.beyond if pace else None

    def _pace(self, now: datetime, subject: str) -> _Pace:
        pace = self._paces.get(subject)
        if pace is None or now >= pace.since + self.SECOND:
            before = pace.passed if pace and now < pace.since + 2 * self.SECOND else 0
            if len(self._paces) >= self.SUBJECTS_MAX:
                self._paces.clear()
            pace = self._paces[subject] = _Pace(now, before)
        return pace

    def _take_ahead(
        self, now: datetime, subject: str, rates: tuple[Rate, ...], pace: _Pace, ahead: int
    ) -> bool:
        is_taken = False
        try:
            wait, pace.beyond = self._counts.do(_Count(now, subject, rates, 1 + ahead))
            is_taken = wait is None
        finally:
            with self._lock:
                pace.is_taking = False
                pace.left += ahead if is_taken else 0
        return is_taken
