"""What is asked of the counts. Whole weeks of a time are read as such, the days and hours at its
ends by themselves, so that a year costs hardly more than a day; of products two running totals."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.clock import midnight
from chassis.money import divide_half_even
from contracts.analytics import (
    POINTS_MAX,
    Cause,
    Cohort,
    Figures,
    GetKpis,
    GetNumbers,
    GetPopularProducts,
    GetRetention,
    Kpi,
    KpiName,
    Kpis,
    Numbers,
    Point,
    PopularProducts,
    ProductCount,
    Retention,
    Step,
)
from contracts.errors import BadRequest
from services.analytics.counting import start_of
from services.analytics.figures import Figure

LENGTHS = {Step.HOUR: timedelta(hours=1), Step.DAY: timedelta(days=1), Step.WEEK: timedelta(days=7)}
LEVELS = (Figure.AUTO_TOPUP_USERS, Figure.BURN_MICROS)
"""What is counted as changes, and shown as what they come to from the beginning on."""
ADOPTION_DAYS = KPI_DAYS = 7
COHORTS_MAX = 106
FIRST_YEAR, LAST_YEAR = 2000, 9000
WHOLE_BPS = 10_000
TARGETS_BPS = {
    KpiName.PURCHASE_COMPLETION: 9_500,
    KpiName.BUY_NOW_SUCCESS: 9_900,
    KpiName.FIRST_PURCHASE_IN_TIME: 5_000,
    KpiName.AUTO_TOPUP_ADOPTION: 4_000,
    KpiName.AUTO_TOPUP_SUCCESS: 9_800,
}
"""The plan's; of first purchases, half in time is that the median is."""

_FIGURES = tuple(Figures.model_fields)
_CAUSES = (Figure.PURCHASES_ENDED, Figure.TOPUPS_FAILED)

_POINTS = text(
    "SELECT starts_at, jsonb_object_agg(figure, value) AS figures FROM counts WHERE grain = :grain"
    " AND figure = ANY(CAST(:figures AS text[])) AND starts_at >= :since AND starts_at < :until"
    " GROUP BY starts_at"
)
_SUMS = text(
    "SELECT counts.figure, counts.detail, sum(counts.value)::bigint AS value"
    " FROM unnest(CAST(:grains AS text[]), CAST(:starts AS timestamptz[]),"
    " CAST(:ends AS timestamptz[])) AS part (grain, starts_at, ends_at)"
    " CROSS JOIN unnest(CAST(:figures AS text[])) AS wanted (figure)"
    " JOIN counts ON counts.grain = part.grain AND counts.figure = wanted.figure"
    " AND counts.starts_at >= part.starts_at AND counts.starts_at < part.ends_at"
    " GROUP BY counts.figure, counts.detail"
)
_BEFORE = text(
    "SELECT figure, sum(value)::bigint AS value FROM counts WHERE grain = 'week'"
    " AND figure = ANY(CAST(:figures AS text[])) AND starts_at < :week GROUP BY figure"
)
_ADOPTION = text(
    "SELECT count(*), count(*) FILTER (WHERE settings.is_on) FROM (SELECT DISTINCT user_id"
    " FROM activity WHERE grain = 'hour' AND starts_at >= :since AND starts_at < :until) AS active"
    " LEFT JOIN LATERAL (SELECT (data ->> 'is_on')::boolean AS is_on FROM facts"
    " WHERE subject_id = active.user_id AND kind = 'auto_topup' AND at < :until"
    " ORDER BY (data ->> 'version')::integer DESC LIMIT 1) AS settings ON true"
)
_RETENTION = text(
    "SELECT starts_at, detail, value FROM counts WHERE grain = 'week' AND figure = :figure"
    " AND starts_at >= :since AND starts_at < :until"
)
_REGISTERED = text(
    "SELECT starts_at, value FROM counts WHERE grain = 'week' AND figure = 'registrations'"
    " AND starts_at >= :since AND starts_at < :until AND value > 0 ORDER BY starts_at"
)
# The totals at both ends, for each product there is: however long the time, so many rows are read.
_POPULAR = text(
    "WITH RECURSIVE known (product_id) AS ((SELECT product_id FROM product_totals"
    " ORDER BY product_id LIMIT 1) UNION ALL SELECT (SELECT product_id FROM product_totals AS next"
    " WHERE next.product_id > known.product_id ORDER BY next.product_id LIMIT 1)"
    " FROM known WHERE product_id IS NOT NULL)"
    " SELECT known.product_id, at_end.units - coalesce(before.units, 0) AS units,"
    " at_end.sales_micros - coalesce(before.sales_micros, 0) AS sales_micros FROM known"
    " CROSS JOIN LATERAL (SELECT units, sales_micros FROM product_totals AS total"
    " WHERE total.product_id = known.product_id AND total.starts_at < :until"
    " ORDER BY total.starts_at DESC LIMIT 1) AS at_end"
    " LEFT JOIN LATERAL (SELECT units, sales_micros FROM product_totals AS total"
    " WHERE total.product_id = known.product_id AND total.starts_at < :since"
    " ORDER BY total.starts_at DESC LIMIT 1) AS before ON true"
    " WHERE at_end.units > coalesce(before.units, 0) ORDER BY units DESC, known.product_id"
    " LIMIT :limit"
)


class Part(NamedTuple):
    grain: Step
    starts_at: datetime
    ends_at: datetime


def get_numbers(session: Session, request: GetNumbers) -> Numbers:
    """The figures step by step, and of all of the time. Raises ``BadRequest``."""
    since, until = _whole(request.since, request.until, request.step)
    length = LENGTHS[request.step]
    if (until - since) // length > POINTS_MAX:
        raise BadRequest(
            f"That is more than {POINTS_MAX:,} steps: ask for longer ones, or for less time.",
            "step",
        )
    found = _points(session, request.step, since, until)
    levels = _levels_before(session, since)
    points = []
    for number in range((until - since) // length):
        starts_at = since + number * length
        values = found.get(starts_at, {})
        levels.update({level: values.get(level, 0) for level in LEVELS})
        points.append(_point(starts_at, values, levels))
    sums = _sums(session, [*_FIGURES, *_CAUSES], since, until)
    return Numbers(
        since=since,
        until=until,
        step=request.step,
        points=points,
        total=_figures({figure: value for (figure, detail), value in sums.items() if not detail}),
        purchases_ended=_causes(sums, Figure.PURCHASES_ENDED),
        topups_failed=_causes(sums, Figure.TOPUPS_FAILED),
    )


def get_kpis(session: Session, request: GetKpis) -> Kpis:
    """The success metrics against their targets. Raises ``BadRequest``."""
    since, until = _whole(request.since, request.until, Step.HOUR)
    sums = _sums(session, _FIGURES, since, until)
    made = _figures({figure: value for (figure, _), value in sums.items()})
    week = {"since": until - timedelta(days=ADOPTION_DAYS), "until": until}
    active, adopted = session.execute(_ADOPTION, week).one()
    counts = {name: made.count_of(name) or (adopted, active) for name in TARGETS_BPS}
    return Kpis(
        since=since,
        until=until,
        kpis=[_kpi(name, target, *counts[name]) for name, target in TARGETS_BPS.items()],
    )


def kpi_ratios(session: Session, now: datetime) -> list[tuple[str, float]]:
    """The success metrics of the last seven days and this hour, each from 0 to 1; what has nothing
    to be a part of is left out."""
    asked = GetKpis(since=now - timedelta(days=KPI_DAYS), until=now)
    kpis = get_kpis(session, asked).kpis
    return [(kpi.name, kpi.value_bps / WHOLE_BPS) for kpi in kpis if kpi.value_bps is not None]


def kpi_targets(_session: Session, _now: datetime) -> list[tuple[str, float]]:
    """What the plan wants of each."""
    return [(name, target / WHOLE_BPS) for name, target in TARGETS_BPS.items()]


def get_popular_products(session: Session, request: GetPopularProducts) -> PopularProducts:
    """Of which most units were bought. Raises ``BadRequest``."""
    since, until = _days(request.since, request.until)
    asked = {"since": since, "until": until, "limit": request.limit}
    return PopularProducts(
        products=[
            ProductCount(product_id=row.product_id, units=row.units, sales_micros=row.sales_micros)
            for row in session.execute(_POPULAR, asked)
        ]
    )


def get_retention(session: Session, request: GetRetention) -> Retention:
    """Who registered in a week, and how many of them were there in the next ones. Raises
    ``BadRequest``."""
    since, until = _days(request.since, request.until)
    since, until = _whole(since, until, Step.WEEK)
    if (until - since) // LENGTHS[Step.WEEK] > COHORTS_MAX:
        raise BadRequest(f"That is more than {COHORTS_MAX} weeks: ask for less time.", "until")
    given = {"since": since, "until": until}
    came: dict[datetime, dict[date, int]] = {}
    for week, detail, value in session.execute(_RETENTION, {**given, "figure": Figure.RETENTION}):
        came.setdefault(week, {})[date.fromisoformat(detail)] = value
    return Retention(
        cohorts=[
            Cohort(week=week.date(), users=users, active=_week_by_week(week, came.get(week, {})))
            for week, users in session.execute(_REGISTERED, given)
        ]
    )


def _week_by_week(week: datetime, came: dict[date, int]) -> list[int]:
    """What was before is left out: a clock of another machine that was late by seconds."""
    first = week.date()
    last = max((each for each, value in came.items() if value), default=first)
    weeks = max((last - first).days // 7 + 1, 1)
    return [came.get(first + timedelta(weeks=number), 0) for number in range(weeks)]


def _whole(since: datetime, until: datetime, step: Step) -> tuple[datetime, datetime]:
    """From the beginning of the step with ``since`` to the end of the one before ``until``."""
    if until <= since:
        raise BadRequest("A time begins before it ends: since is earlier than until.", "until")
    _check_near(since, until)
    last = start_of(step, until)
    return start_of(step, since), last if last == until else last + LENGTHS[step]


def _days(first: date, last: date) -> tuple[datetime, datetime]:
    if last < first:
        raise BadRequest("A time begins before it ends: since is not after until.", "until")
    _check_near(first, last)
    since, last_day = (midnight(day) for day in (first, last))
    return since, last_day + timedelta(days=1)


def _check_near(since: date, until: date) -> None:
    """Weeks before and after can be reckoned with."""
    for name, day in (("since", since), ("until", until)):
        if not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise BadRequest(
                f"It is too far away in time: the years {FIRST_YEAR} to {LAST_YEAR} are known.",
                name,
            )


def parts(since: datetime, until: datetime) -> list[Part]:
    """A time of whole hours, in the fewest hours, days and weeks: of each what does not make up the
    next longer."""
    inner, found = [(since, until)], []
    for grain, longer in ((Step.HOUR, Step.DAY), (Step.DAY, Step.WEEK)):
        ((starts_at, ends_at),) = inner
        first = start_of(longer, starts_at)
        first = first if first == starts_at else first + LENGTHS[longer]
        last = start_of(longer, ends_at)
        if first >= last:
            found.append(Part(grain, starts_at, ends_at))
            return [part for part in found if part.starts_at < part.ends_at]
        found += [Part(grain, starts_at, first), Part(grain, last, ends_at)]
        inner = [(first, last)]
    ((starts_at, ends_at),) = inner
    found.append(Part(Step.WEEK, starts_at, ends_at))
    return [part for part in found if part.starts_at < part.ends_at]


def _sums(
    session: Session, figures: Iterable[str], since: datetime, until: datetime
) -> Counter[tuple[str, str]]:
    """What each figure comes to in a time, by its name and detail."""
    grains, starts, ends = zip(*parts(since, until), strict=True)
    given = {
        "grains": [grain.value for grain in grains],
        "starts": list(starts),
        "ends": list(ends),
        "figures": [str(figure) for figure in figures],
    }
    return Counter({(row.figure, row.detail): row.value for row in session.execute(_SUMS, given)})


def _points(
    session: Session, step: Step, since: datetime, until: datetime
) -> dict[datetime, dict[str, int]]:
    figures = [*_FIGURES, Figure.ACTIVE_USERS.value, *(level.value for level in LEVELS)]
    given = {"grain": step.value, "figures": figures, "since": since, "until": until}
    return {row.starts_at: row.figures for row in session.execute(_POINTS, given)}


def _levels_before(session: Session, since: datetime) -> Counter[str]:
    """How high the levels stood right before a moment."""
    levels = [level.value for level in LEVELS]
    week = start_of(Step.WEEK, since)
    before = session.execute(_BEFORE, {"figures": levels, "week": week})
    found: Counter[str] = Counter({row.figure: row.value for row in before})
    if week < since:
        sums = _sums(session, levels, week, since)
        found.update({figure: value for (figure, _), value in sums.items()})
    return found


def _figures(values: dict[str, int]) -> Figures:
    return Figures(**values)


def _point(starts_at: datetime, values: dict[str, int], levels: Counter[str]) -> Point:
    return Point(
        starts_at=starts_at,
        **{figure: values.get(figure, 0) for figure in (*_FIGURES, Figure.ACTIVE_USERS.value)},
        **{level.value: levels[level] for level in LEVELS},
    )


def _causes(sums: Counter[tuple[str, str]], figure: Figure) -> list[Cause]:
    found = [(detail, value) for (name, detail), value in sums.items() if name == figure and value]
    return [
        Cause(outcome=outcome, code=code, count=value)
        for detail, value in sorted(found, key=lambda each: (-each[1], each[0]))
        for outcome, _, code in [detail.partition(":")]
    ]


def _kpi(name: KpiName, target_bps: int, count: int, of: int) -> Kpi:
    value_bps = divide_half_even(count * WHOLE_BPS, of) if of else None
    is_met = count * WHOLE_BPS >= target_bps * of if of else None
    return Kpi(
        name=name, count=count, of=of, value_bps=value_bps, target_bps=target_bps, is_met=is_met
    )
