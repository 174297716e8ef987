"""The numbers of /admin as it shows them: of now, against the plan's targets, and by day."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from chassis.clock import midnight
from chassis.money import MICROS_PER_USD
from contracts.analytics import (
    Cause,
    Figures,
    Kpi,
    KpiName,
    Kpis,
    Numbers,
    Point,
    Retention,
)
from contracts.billing import PurchaseWay
from contracts.gateway import PATHS, PathStep
from services.gateway.backend import database
from services.gateway.pages.charts import SIDE, Line, draw_line
from services.gateway.response_times import FAST_BPS, Counted, Kind, in_time_by_day
from services.gateway.staff.alerts import WHOLE_BPS

SHOWN_MAX = 8
WEEKS_MAX = 6
KPIS = {
    KpiName.PURCHASE_COMPLETION: ("Purchase completion", "of all that ended"),
    KpiName.FIRST_PURCHASE_IN_TIME: ("First purchase within 2 minutes", "of registering"),
    KpiName.AUTO_TOPUP_ADOPTION: ("Auto top-up adoption", "of who was active in 7 days"),
    KpiName.BUY_NOW_SUCCESS: ("Buy Now success", "of what nobody gave up"),
    KpiName.AUTO_TOPUP_SUCCESS: ("Auto top-up success", "of automatic charges"),
}
SPEEDS = {
    Kind.PAGE: ("Wallet and marketplace pages", "in 500 ms"),
    Kind.API: ("API: balance and purchases", "in 200 ms"),
}


@dataclass(frozen=True)
class Metric:
    """One of the plan's. Values are basis points, None where nothing was counted; ``line`` is of
    the days, ``drawn`` says of what where that is something else."""

    name: str
    about: str
    target_bps: int
    today_bps: int | None
    is_met: bool | None
    period_bps: int | None
    line: Line
    days: list[int | None]
    drawn: str = ""


@dataclass(frozen=True)
class Trend:
    """A figure day by day; ``is_money``: micro-dollars."""

    title: str
    is_money: bool
    values: list[int]
    line: Line


@dataclass(frozen=True)
class Stage:
    """A step of a path: how many ``came`` to it, and how many of them came no further."""

    label: str
    came: int
    left: int
    left_bps: int | None
    width: int
    """In a drawing of ``SIDE`` units, by those of the step to which most came."""

    @property
    def x(self) -> int:
        """Where it begins: each stands in the middle."""
        return (SIDE - self.width) // 2


@dataclass(frozen=True)
class Funnel:
    """What became of the paths of one way, step by step."""

    title: str
    stages: list[Stage]


@dataclass(frozen=True)
class ByWay:
    """Purchases that were begun, and paid, each way; ``starts_at`` is the hour or the day."""

    starts_at: datetime | None
    counts: list[tuple[int, int]]


@dataclass(frozen=True)
class Returned:
    """Who registered in a week: how many, and which share of them was active in it and in each
    week after it, in basis points."""

    week: date
    users: int
    shares_bps: list[int]


WAYS = {PurchaseWay.BUY_NOW: "Buy Now", PurchaseWay.CART: "Cart"}
STAGES = {
    PathStep.PRODUCT_PAGE: "Product page",
    PathStep.DIALOG: "Buy Now dialog",
    PathStep.FILLED: "Put into the cart",
    PathStep.CART_PAGE: "Cart",
    PathStep.CARD_PAGE: "Card page",
    PathStep.COMPLETED: "Completed",
}

TRENDS: dict[str, tuple[bool, Callable[[Point], int]]] = {
    "Active users": (False, lambda point: point.active_users),
    "Registrations": (False, lambda point: point.registrations),
    "Purchases completed": (False, lambda point: point.purchases_completed),
    "Users with auto top-up": (False, lambda point: point.auto_topup_users),
    "Credits sold": (True, lambda point: point.credits_by_hand_micros + point.credits_auto_micros),
    "Burn rate, per month": (True, lambda point: point.burn_micros),
}


def metrics(
    numbers: Numbers | None, today: Kpis | None, period: Kpis | None, now: datetime, days: int
) -> list[Metric]:
    """All of the plan's that are known: those of speed without analytics, too."""
    since = midnight(now) - timedelta(days=days - 1)
    with database().read() as session:
        speeds = in_time_by_day(session, since)
    dates = [(since + timedelta(days=number)).date() for number in range(days)]
    found = []
    if numbers and today and period:
        of_today = {kpi.name: kpi for kpi in today.kpis}
        of_period = {kpi.name: kpi for kpi in period.kpis}
        found = [_kpi(name, of_today[name], of_period[name], numbers.points) for name in KPIS]
    return found + [_speed(kind, speeds[kind], dates) for kind in SPEEDS]


def _kpi(name: KpiName, today: Kpi, period: Kpi, points: Sequence[Point]) -> Metric:
    title, about = KPIS[name]
    counts = [point.count_of(name) for point in points]
    shares = [_bps(*count) if count else None for count in counts]
    is_of_people = name is KpiName.AUTO_TOPUP_ADOPTION
    drawn: list[int | None] = [point.auto_topup_users for point in points]
    return Metric(
        title,
        about,
        today.target_bps,
        today.value_bps,
        today.is_met,
        period.value_bps,
        draw_line(drawn) if is_of_people else draw_line(shares, WHOLE_BPS),
        drawn if is_of_people else shares,
        "users with it on" if is_of_people else "",
    )


def _speed(kind: Kind, counted: Sequence[Counted], dates: Sequence[date]) -> Metric:
    title, about = SPEEDS[kind]
    of_day = {each.starts_at.date(): (each.count, each.answered) for each in counted}
    shares = [_bps(*of_day.get(day, (0, 0))) for day in dates]
    whole = [sum(each) for each in zip(*of_day.values(), strict=True)] or [0, 0]
    today = shares[-1]
    return Metric(
        title,
        about,
        FAST_BPS,
        today,
        None if today is None else today >= FAST_BPS,
        _bps(*whole),
        draw_line(shares, WHOLE_BPS),
        shares,
    )


def trends(numbers: Numbers) -> list[Trend]:
    found = []
    for title, (is_money, figure) in TRENDS.items():
        values = [figure(point) for point in numbers.points]
        line = draw_line(values, MICROS_PER_USD if is_money else 1)
        found.append(Trend(title, is_money, values, line))
    return found


def funnels(total: Figures) -> list[Funnel]:
    """Where who wanted to buy turned back, for each way."""
    found = []
    for way in PATHS:
        counts = total.path_of(way)
        most = max(each.came for each in counts) or 1
        stages = [
            Stage(
                STAGES[each.step],
                each.came,
                each.left or 0,
                _bps(each.left or 0, each.came),
                SIDE * each.came // most,
            )
            for each in counts
        ]
        found.append(Funnel(WAYS[way], stages))
    return found


def by_way(figures: Figures, starts_at: datetime | None = None) -> ByWay:
    """How many purchases were begun and paid by each of ``WAYS``."""
    return ByWay(starts_at, [figures.by_way(way) for way in WAYS])


def by_way_newest_first(numbers: Numbers | None) -> list[ByWay]:
    return [by_way(point, point.starts_at) for point in reversed(numbers.points if numbers else [])]


def cohorts(told: Retention) -> list[Returned]:
    """Who came back, the newest week first, ``WEEKS_MAX`` weeks of each."""
    return [
        Returned(
            each.week,
            each.users,
            [count * WHOLE_BPS // each.users for count in each.active[:WEEKS_MAX]],
        )
        for each in reversed(told.cohorts)
    ]


def causes(numbers: Numbers) -> list[Cause]:
    """Why purchases ended unpaid, the most frequent first."""
    return numbers.purchases_ended[:SHOWN_MAX]


def _bps(count: int, of: int) -> int | None:
    return count * WHOLE_BPS // of if of else None
