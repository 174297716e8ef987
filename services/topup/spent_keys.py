"""Idempotency keys that the card processor has spent: it keeps a 500 under one, and repeats it.

For a day at least, whoever asks again under such a key hears the same. What charges nobody by
being made (a customer, a hosted page) is looked for, since a 500 may have made it, and is made
under the next key if it is not there. A charge and a refund never are: see the janitor, and
:mod:`services.topup.charging.giving_back`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.dialects.postgresql import insert

from chassis.locks import locked_or_none
from services.topup.models import SpentKey
from services.topup.processor import KeySpent, Object
from services.topup.till import Till

LONGEST_WAIT = timedelta(minutes=10)
"""So that whoever asks all day long takes at most 160 keys: the waits double, from a second on."""


def make(
    till: Till, key: str, create: Callable[[str], Object], find: Callable[[], Object | None]
) -> Object:
    """What ``create`` makes under ``key``, or under the next one where that is spent.

    ``find`` looks for what a 500 may have made after all. Raises ``ProcessorError``;
    ``KeySpent`` while the next key has to wait.
    """
    with till.database.read() as session:
        spent = session.get(SpentKey, key)
    attempt = spent.attempt if spent is not None else 1
    try:
        return create(_name(key, attempt))
    except KeySpent:
        found = find()
        if found is not None:
            return found
        following = _next(till, key, attempt)
        if following == attempt:
            raise
    return create(_name(key, following))


def _name(key: str, attempt: int) -> str:
    return key if attempt == 1 else f"{key}:{attempt}"


def _next(till: Till, key: str, attempt: int) -> int:
    """The next key is written down before it is used: after a crash it is this one again, as it
    is for somebody who asks at the same moment. The same number where it is too early."""
    now = till.clock()
    with till.database.begin() as session:
        first = insert(SpentKey).values(key=key, attempt=1, begun_at=now)
        session.execute(first.on_conflict_do_nothing())
        row = locked_or_none(session, SpentKey, key)
        if row is None:
            return attempt
        if row.attempt == attempt and _has_waited(row, now):
            row.attempt, row.begun_at = attempt + 1, now
        return row.attempt


def _has_waited(row: SpentKey, now: datetime) -> bool:
    if row.attempt == 1:
        return True
    wait = min(timedelta(seconds=2 ** min(row.attempt - 2, 10)), LONGEST_WAIT)
    # A clock that was set back is not waited for.
    return abs(now - row.begun_at) >= wait
