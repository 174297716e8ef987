"""For roles, as :mod:`services.gateway.api.admin`: what happened, what of it the plan aims at, and
what is wrong now. docs/analytics.md says what each figure means."""

from datetime import date, datetime, timedelta
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from chassis.clock import utc_now
from contracts.analytics import (
    Figures,
    GetKpis,
    GetNumbers,
    GetPopularProducts,
    GetRetention,
    KpiName,
    Step,
)
from contracts.billing import PurchaseWay
from contracts.gateway import PATHS, PathStep
from contracts.messages import Moment
from services.gateway import showcase
from services.gateway.access import STAFF
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, DaysQuery, Limit, Usd
from services.gateway.backend import call, database
from services.gateway.response_times import FAST_BPS, IN_TIME_S, Counted, Kind, in_time_between
from services.gateway.staff import watch
from services.gateway.staff.alerts import WHOLE_BPS
from services.gateway.staff.guard import Staff

blueprint = Blueprint("api_numbers", __name__)

LATELY = timedelta(days=1)


class TimeQuery(ApiBody):
    """A day up to now, unless it says otherwise."""

    since: Moment | None = None
    until: Moment | None = None

    def bounds(self) -> tuple[datetime, datetime]:
        until = self.until or utc_now()
        return self.since or until - LATELY, until


class NumbersQuery(TimeQuery):
    step: Step = Step.HOUR


class PopularQuery(DaysQuery):
    limit: Limit = 25


class StepReply(ApiReply):
    """``came`` are the paths that came to it, ``left`` those of them that came no further: null
    at the last one."""

    step: PathStep
    came: int
    left: int | None


class PathReply(ApiReply):
    """How far browsers came on their way to a purchase: one on one day is one path."""

    way: PurchaseWay
    steps: list[StepReply]


class WayReply(ApiReply):
    """Purchases that were begun, and completed, in this way."""

    way: PurchaseWay
    begun: int
    completed: int


class FiguresReply(ApiReply):
    """What happened in a time; each figure is explained in docs/analytics.md."""

    registrations: int
    purchases_begun: int
    purchases_short: int
    purchases_completed: int
    purchases_cancelled: int
    purchases_expired: int
    purchases_failed: int
    first_purchases: int
    first_purchases_in_time: int
    first_purchase_s: int
    topups_by_hand: int
    topups_by_hand_failed: int
    credits_by_hand_micros: Usd = Field(serialization_alias="credits_by_hand_usd")
    topups_auto: int
    topups_auto_failed: int
    credits_auto_micros: Usd = Field(serialization_alias="credits_auto_usd")
    renewals: int
    suspended: int
    sales_micros: Usd = Field(serialization_alias="sales_usd")
    fees_micros: Usd = Field(serialization_alias="fees_usd")
    refunded_micros: Usd = Field(serialization_alias="refunded_usd")
    reversed_micros: Usd = Field(serialization_alias="reversed_usd")
    ways: list[WayReply]
    paths: list[PathReply]


class PointReply(FiguresReply):
    """One step, from ``starts_at`` on; ``auto_topup_users`` and ``burn_usd`` (a month) are as of
    its end."""

    starts_at: AwareDatetime
    active_users: int
    auto_topup_users: int
    burn_micros: Usd = Field(serialization_alias="burn_usd")


class CauseReply(ApiReply):
    """``code`` is of the service that says why; empty where it gave none."""

    outcome: str
    code: str
    count: int


class NumbersReply(ApiReply):
    """``since`` and ``until`` are whole steps, ``total`` is of all of the time. Why purchases ended
    unpaid and top-ups failed: the most frequent first, of top-ups the kind as ``outcome``."""

    since: AwareDatetime
    until: AwareDatetime
    step: Step
    points: list[PointReply]
    total: FiguresReply
    purchases_ended: list[CauseReply]
    topups_failed: list[CauseReply]


class KpiReply(ApiReply):
    """``value_bps`` is ``count`` of ``total`` in basis points, null where that is 0."""

    name: KpiName
    count: int
    total: int
    value_bps: int | None
    target_bps: int
    is_met: bool | None


class SpeedReply(ApiReply):
    """How many answers (``count`` of ``total``) the site gave within ``target_ms``: of the ``page``
    s and the calls of the ``api`` that the plan has a target for, and of all ``other`` ones."""

    kind: Kind
    target_ms: int
    count: int
    total: int
    value_bps: int | None
    target_bps: int
    is_met: bool | None


class KpiReplies(ApiReply):
    """The plan's success metrics; ``speeds`` are counted by the website itself."""

    since: AwareDatetime
    until: AwareDatetime
    kpis: list[KpiReply]
    speeds: list[SpeedReply]


class RaisedReply(ApiReply):
    """What is wrong since then; ``advice`` says what to do."""

    title: str
    since: AwareDatetime
    message: str
    advice: str


class AlertReplies(ApiReply):
    """The oldest first, a second old at most. ``not_watched`` names what cannot be told now."""

    at: AwareDatetime
    alerts: list[RaisedReply]
    not_watched: list[str]


class PopularReply(ApiReply):
    """``units`` were bought for ``sales_usd``, without the months after that. ``name`` is null of
    what the catalog does not show now."""

    product_id: UUID
    name: str | None
    units: int
    sales_micros: Usd = Field(serialization_alias="sales_usd")


class PopularReplies(ApiReply):
    """Those of which most units were bought first."""

    since: date
    until: date
    products: list[PopularReply]


class CohortReply(ApiReply):
    """Who registered in the week that begins on ``week``: how many of them were ``active`` in it,
    in the next one, and so on."""

    week: date
    users: int
    active: list[int]


class RetentionReply(ApiReply):
    """The earliest week first."""

    cohorts: list[CohortReply]


@endpoint(
    blueprint,
    "GET",
    "/api/admin/numbers",
    query=NumbersQuery,
    reply=NumbersReply,
    roles=STAFF,
)
def show_numbers(staff: Staff, query: NumbersQuery) -> NumbersReply:  # noqa: ARG001
    """Show what happened, step by step: how far browsers came and where they left, Buy Now against
    the cart, why purchases ended unpaid. 422: more than 1,000 steps, or a time without a length."""
    since, until = query.bounds()
    told = call(GetNumbers(since=since, until=until, step=query.step))
    points = [PointReply.of(point, **_by_way(point)) for point in told.points]
    total = FiguresReply.of(told.total, **_by_way(told.total))
    return NumbersReply.of(told, points=points, total=total)


@endpoint(
    blueprint,
    "GET",
    "/api/admin/kpis",
    query=TimeQuery,
    reply=KpiReplies,
    roles=STAFF,
)
def show_kpis(staff: Staff, query: TimeQuery) -> KpiReplies:  # noqa: ARG001
    """Show the plan's success metrics, in whole hours."""
    since, until = query.bounds()
    told = call(GetKpis(since=since, until=until))
    with database().read() as session:
        speeds = in_time_between(session, told.since, told.until)
    return KpiReplies.of(
        told,
        kpis=[KpiReply.of(kpi, total=kpi.of) for kpi in told.kpis],
        speeds=[_speed(kind, counted) for kind, counted in speeds.items()],
    )


@endpoint(blueprint, "GET", "/api/admin/alerts", reply=AlertReplies, roles=STAFF)
def show_alerts(staff: Staff) -> AlertReplies:  # noqa: ARG001
    """Show what is wrong now: purchases or automatic top-ups that fail, slow answers, payments."""
    now = watch.live(utc_now())
    return AlertReplies.of(now, not_watched=now.missing)


@endpoint(
    blueprint,
    "GET",
    "/api/admin/popular-products",
    query=PopularQuery,
    reply=PopularReplies,
    roles=STAFF,
)
def show_popular_products(staff: Staff, query: PopularQuery) -> PopularReplies:  # noqa: ARG001
    """Show what was bought most in these days. 422: the first day is after the last one."""
    since, until = query.bounds()
    told = call(GetPopularProducts(since=since, until=until, limit=query.limit))
    names = showcase.product_names() if told.products else {}
    return PopularReplies(
        since=since,
        until=until,
        products=[PopularReply.of(each, name=names.get(each.product_id)) for each in told.products],
    )


@endpoint(
    blueprint,
    "GET",
    "/api/admin/retention",
    query=DaysQuery,
    reply=RetentionReply,
    roles=STAFF,
)
def show_retention(staff: Staff, query: DaysQuery) -> RetentionReply:  # noqa: ARG001
    """Show how many of those who registered in each week of these days were active in it and in
    the weeks after it. 422: more than 106 weeks."""
    since, until = query.bounds()
    return RetentionReply.of(call(GetRetention(since=since, until=until)))


def _by_way(figures: Figures) -> dict[str, object]:
    ways = {way: figures.by_way(way) for way in PATHS}
    return {
        "ways": [
            WayReply(way=way, begun=begun, completed=completed)
            for way, (begun, completed) in ways.items()
        ],
        "paths": [
            PathReply(way=way, steps=[StepReply.of(each) for each in figures.path_of(way)])
            for way in PATHS
        ],
    }


def _speed(kind: Kind, counted: Counted) -> SpeedReply:
    count, total = counted.count, counted.answered
    return SpeedReply(
        kind=kind,
        target_ms=round(IN_TIME_S[kind] * 1_000),
        count=count,
        total=total,
        value_bps=count * WHOLE_BPS // total if total else None,
        target_bps=FAST_BPS,
        is_met=count * WHOLE_BPS >= FAST_BPS * total if total else None,
    )
