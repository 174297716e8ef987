"""Rate limits that all processes of the website share, in its own database.

The generic cell rate algorithm: of each limited thing one moment is stored, until which its
allowance is used up. A limit of 10 per minute lets 10 through at once, and after that one every
6 seconds; what is refused uses nothing up. A row whose moment has passed says nothing any more
and is removed. The table is not logged: a crash of the database forgets, and nothing else.

What visitors type is part of keys, which are therefore hashes of one length.
"""

import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from chassis.database import Connected
from chassis.retention import Kept

KEPT = Kept("rate_limits", "used_until", days=0)
"""No index finds the rows: it would cost every request more than reading the table now and then."""
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_RATE = re.compile(rf"([1-9][0-9]{{0,6}}) per ({'|'.join(_SECONDS)})")

_TAKE = text(
    "INSERT INTO rate_limits (key, used_until) VALUES (:key, :now + :step)"
    " ON CONFLICT (key) DO UPDATE SET used_until = greatest(rate_limits.used_until, :now) + :step"
    " WHERE rate_limits.used_until <= :now + :period - :step"
    " RETURNING true"
)
_USED_UNTIL = text("SELECT used_until FROM rate_limits WHERE key = :key")


@dataclass(frozen=True)
class Rate:
    tries: int
    period: timedelta


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
    database: Connected, now: datetime, subject: str, rates: tuple[Rate, ...]
) -> timedelta | None:
    """Count one try of ``subject``. None: it may pass; else how long until one may.

    Of several rates the first that refuses decides.
    """
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for rate in rates:
            step = rate.period / rate.tries
            key = hashlib.sha256(f"{rate}:{subject}".encode("utf-8", "surrogatepass")).digest()
            given = {"key": key, "now": now, "step": step, "period": rate.period}
            if connection.scalar(_TAKE, given):
                continue
            used_until = connection.scalar(_USED_UNTIL, {"key": key})
            # Gone meanwhile: removed because it had passed.
            return max((used_until or now) + step - rate.period - now, timedelta(0))
    return None
