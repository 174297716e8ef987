"""Counting: what is new of some subjects, and what that changes, in one transaction.

One transaction at a time counts. It takes what it knows of the subjects, adds what it is told, and
adds to the counts the difference between what both come to. Of products the counts are running
totals: what was sold up to a day's end.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.database import lock_until_commit
from contracts.analytics import Step
from services.analytics.facts import Fact, Kind, Told
from services.analytics.figures import Counts, Figure, come_to

GRAINS_OF = {
    Figure.PRODUCT_UNITS: (Step.DAY,),
    Figure.PRODUCT_SALES_MICROS: (Step.DAY,),
    Figure.RETENTION: (Step.WEEK,),
}
"""Where a figure has so many details that it is not counted by the hour."""

PRODUCTS = (Figure.PRODUCT_UNITS, Figure.PRODUCT_SALES_MICROS)
Counted = Counter[tuple[Step, str, datetime, str]]
Facts = dict[tuple[UUID, Kind, str], Fact]

_KNOWN = Bulk(
    "SELECT subject_id, kind, key, at, data FROM {rows} JOIN facts USING (subject_id)",
    subject_id="uuid",
)
_TELL = Bulk(
    "INSERT INTO facts ({columns}) SELECT * FROM {rows} ON CONFLICT (subject_id, kind, key)"
    " DO UPDATE SET at = excluded.at, data = excluded.data",
    subject_id="uuid",
    kind="text",
    key="text",
    at="timestamptz",
    data="jsonb",
)
_ACTIVE = Bulk(
    "INSERT INTO activity ({columns}) SELECT * FROM {rows} ON CONFLICT DO NOTHING"
    " RETURNING grain, starts_at",
    grain="text",
    starts_at="timestamptz",
    user_id="uuid",
)
_ADD = Bulk(
    "INSERT INTO counts ({columns}) SELECT * FROM {rows}"
    " ON CONFLICT (grain, figure, starts_at, detail)"
    " DO UPDATE SET value = counts.value + excluded.value",
    grain="text",
    figure="text",
    starts_at="timestamptz",
    detail="text",
    value="bigint",
)
_SOLD = {"product_id": "uuid", "starts_at": "timestamptz", "units": "bigint", "micros": "bigint"}
# A day of a product begins with what was sold before it.
_BEGIN_DAY = Bulk(
    "INSERT INTO product_totals SELECT new.product_id, new.starts_at, coalesce(before.units, 0),"
    " coalesce(before.sales_micros, 0) FROM {rows} LEFT JOIN LATERAL (SELECT units, sales_micros"
    " FROM product_totals AS earlier WHERE earlier.product_id = new.product_id"
    " AND earlier.starts_at < new.starts_at ORDER BY earlier.starts_at DESC LIMIT 1) AS before"
    " ON true ON CONFLICT DO NOTHING",
    **_SOLD,
)
# What is sold counts on its day and on all that came after it, if it is heard of so late.
_SELL = Bulk(
    "UPDATE product_totals AS total SET units = total.units + sold.units,"
    " sales_micros = total.sales_micros + sold.micros FROM (SELECT old.product_id, old.starts_at,"
    " sum(new.units)::bigint AS units, sum(new.micros)::bigint AS micros FROM {rows}"
    " JOIN product_totals AS old ON old.product_id = new.product_id"
    " AND old.starts_at >= new.starts_at GROUP BY 1, 2) AS sold"
    " WHERE total.product_id = sold.product_id AND total.starts_at = sold.starts_at",
    **_SOLD,
)


def start_of(step: Step, at: datetime) -> datetime:
    """When the hour, the day or the week (from Monday on) of a moment begins, in UTC."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    if step is Step.HOUR:
        return hour
    day = hour.replace(hour=0)
    return day if step is Step.DAY else day - timedelta(days=day.weekday())


def count(session: Session, told: Iterable[Told]) -> None:
    """Count what is new in this. Told again, it changes nothing."""
    told = list(told)
    active = {each for one in told for each in one.active}
    facts = [fact for one in told for fact in one.facts]
    facts += [_week(user_id, at) for user_id, at in active]
    if not facts:
        return
    lock_until_commit(session, "analytics:counting")
    known = _known(session, {fact.subject_id for fact in facts})
    by_now = _with(known, facts)
    changed = [fact for name, fact in by_now.items() if known.get(name) != fact]
    counts: Counted = Counter()
    for sign, each in ((1, by_now), (-1, known)):
        for place, value in _come_to(each).items():
            for grain in GRAINS_OF.get(place.figure, tuple(Step)):  # type: ignore[call-overload]
                key = (grain, str(place.figure), start_of(grain, place.at), place.detail)
                counts[key] += sign * value
    for grain, starts_at in _newly_active(session, active):
        counts[grain, Figure.ACTIVE_USERS, starts_at, ""] += 1
    sold = _sold(counts)
    with Batch(session) as writes:
        writes.add(_TELL, changed)
        writes.add(_BEGIN_DAY, sold)
        writes.add(_SELL, sold)
        writes.add(_ADD, [(*key, value) for key, value in sorted(counts.items()) if value])


def _sold(counts: Counted) -> list[tuple[UUID, datetime, int, int]]:
    """Take out of the counts what was sold of which product on which day."""
    days: dict[tuple[str, datetime], list[int]] = {}
    for key in [key for key in counts if key[1] in PRODUCTS]:
        _, figure, starts_at, product_id = key
        day = days.setdefault((product_id, starts_at), [0, 0])
        day[PRODUCTS.index(Figure(figure))] += counts.pop(key)
    return [
        (UUID(product_id), at, units, micros)
        for (product_id, at), (units, micros) in sorted(days.items())
        # Most news of a purchase sell no more of it, and would write every later day again.
        if units or micros
    ]


def _week(user_id: UUID, at: datetime) -> Fact:
    starts_at = start_of(Step.WEEK, at)
    return Fact(user_id, Kind.WEEK, starts_at.date().isoformat(), starts_at, {})


def _known(session: Session, subjects: set[UUID]) -> Facts:
    rows = _KNOWN.execute(session, [(subject_id,) for subject_id in sorted(subjects)])
    facts = (Fact(row.subject_id, Kind(row.kind), row.key, row.at, row.data) for row in rows)
    return {fact[:3]: fact for fact in facts}


def _with(known: Facts, told: Iterable[Fact]) -> Facts:
    """What is known after this was told: of what has been told twice, the earliest moment."""
    by_now = dict(known)
    for fact in told:
        before = by_now.get(fact[:3])
        if before is None or fact.at < before.at:
            by_now[fact[:3]] = fact
    return by_now


def _come_to(facts: Facts) -> Counts:
    of_each: dict[UUID, list[Fact]] = {}
    for fact in facts.values():
        of_each.setdefault(fact.subject_id, []).append(fact)
    counts: Counts = Counter()
    for theirs in of_each.values():
        counts.update(come_to(theirs))
    return counts


def _newly_active(
    session: Session, active: set[tuple[UUID, datetime]]
) -> list[tuple[Step, datetime]]:
    """The hours, days and weeks in which somebody was not known to have been active."""
    rows = {(grain, start_of(grain, at), user_id) for user_id, at in active for grain in Step}
    if not rows:
        return []
    new = _ACTIVE.execute(session, sorted(rows))
    return [(Step(row.grain), row.starts_at) for row in new]
