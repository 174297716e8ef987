"""The numbers of /admin as it shows them: of now, against the plan's targets, and by day."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

from chassis.clock import midnight
from chassis.money import MICROS_PER_USD
from contracts.analytics import (
    Cause,
    Figures,
    GetNumbers,
    Kpi,
    KpiName,
    Kpis,
    Numbers,
    Point,
    Step,
)
from contracts.billing import PurchaseWay
from contracts.catalog import ListProducts
from contracts.gateway import PATHS, PathStep
from contracts.topup import ListProblems
from services.gateway.backend import ask_all, current_backend, database
from services.gateway.pages.charts import SIDE, Line, draw_line
from services.gateway.response_times import Counted, Kind, in_time_by_day, slow_by_step
from services.gateway.showcase import show_if_it_answers
from services.gateway.staff import alerts
from services.gateway.staff.alerts import WHOLE_BPS, Alert

LIVE_FOR = timedelta(days=1)
PROBLEMS_MAX = 200
SHOWN_MAX = 8
NAMES_MAX = 200
FAST_BPS = 9_500
"""Of a hundred answers so many are to be in time: the slowest five may be anything."""

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
class Live:
    """As of ``at``; None is what could not be told. ``missing`` names what is not watched."""

    at: datetime
    today: Point | None
    hour: Point | None
    alerts: list[Alert]
    missing: list[str]


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


def live(now: datetime) -> Live:
    """The numbers of now, at most a second old, whoever looks at them and how often."""
    found: Live = current_backend().live.find("live", lambda: _look(now))
    return found


def _look(now: datetime) -> Live:
    until = now + timedelta(seconds=1)
    hours, days, problems = ask_all(
        GetNumbers(since=now - LIVE_FOR, until=until, step=Step.HOUR),
        GetNumbers(since=midnight(now), until=until, step=Step.DAY),
        ListProblems(limit=PROBLEMS_MAX),
    )
    with database().read() as session:
        steps = slow_by_step(session, now - LIVE_FOR)
    found = alerts.of_answers(steps, now)
    missing = []
    if hours:
        found += alerts.of_purchases(hours, now) + alerts.of_topups(hours, now)
    else:
        missing.append("purchases and automatic top-ups")
    if problems:
        found += alerts.of_payments(problems.problems)
    else:
        missing.append("payments")
    return Live(
        now,
        days.points[-1] if days else None,
        hours.points[-1] if hours else None,
        sorted(found, key=lambda alert: alert.since),
        missing,
    )


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
    for way, steps in PATHS.items():
        counts = [
            (getattr(total, f"paths_{way}_{step}"), getattr(total, f"left_{way}_{step}", 0))
            for step in steps
        ]
        most = max(came for came, _ in counts) or 1
        stages = [
            Stage(STAGES[step], came, left, _bps(left, came), SIDE * came // most)
            for step, (came, left) in zip(steps, counts, strict=True)
        ]
        found.append(Funnel(WAYS[way], stages))
    return found


def by_way(figures: Figures, starts_at: datetime | None = None) -> ByWay:
    """How many purchases were begun and paid by each of ``WAYS``."""
    counts = [
        (
            getattr(figures, f"purchases_begun_{way}"),
            getattr(figures, f"purchases_completed_{way}"),
        )
        for way in WAYS
    ]
    return ByWay(starts_at, counts)


def by_way_newest_first(numbers: Numbers | None) -> list[ByWay]:
    return [by_way(point, point.starts_at) for point in reversed(numbers.points if numbers else [])]


def causes(numbers: Numbers) -> list[Cause]:
    """Why purchases ended unpaid, the most frequent first."""
    return numbers.purchases_ended[:SHOWN_MAX]


def product_names() -> dict[UUID, str]:
    """Of what is sold; empty where the catalog does not answer."""
    page = show_if_it_answers(ListProducts(limit=NAMES_MAX))
    return {product.product_id: product.name for product in page.products} if page else {}


def _bps(count: int, of: int) -> int | None:
    return count * WHOLE_BPS // of if of else None
