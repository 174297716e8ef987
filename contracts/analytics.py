"""Analytics: what happened by hour, day and week, counted of what the other services say.

Nobody is named in its replies. docs/analytics.md says of which event each figure is made.
"""

from datetime import date
from enum import StrEnum
from typing import Annotated, NamedTuple
from uuid import UUID

from pydantic import Field

from contracts.billing import PurchaseWay
from contracts.gateway import PATHS, PathStep
from contracts.messages import (
    Day,
    Moment,
    PageLimit,
    Reply,
    Request,
    SignedMicros,
    TotalMicros,
    Value,
)

SERVICE = "analytics"

POINTS_MAX = 1_000
"""So many steps at most between ``since`` and ``until``."""

Count = Annotated[int, Field(strict=True, ge=0)]


class Step(StrEnum):
    """How long a point is: an hour, a day, or a week from Monday on, all in UTC."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


class KpiName(StrEnum):
    """The plan's success metrics, as far as events tell them."""

    PURCHASE_COMPLETION = "purchase_completion"
    BUY_NOW_SUCCESS = "buy_now_success"
    FIRST_PURCHASE_IN_TIME = "first_purchase_in_time"
    AUTO_TOPUP_ADOPTION = "auto_topup_adoption"
    AUTO_TOPUP_SUCCESS = "auto_topup_success"


class StepCount(NamedTuple):
    """Of one way's paths ``came`` to a step, and ``left`` of them came no further; None at the
    last step, where nobody can."""

    step: PathStep
    came: int
    left: int | None


class Figures(Value):
    """What happened in a time, in the order of docs/analytics.md.

    A purchase is begun at the moment that it was ordered, and counted once it has completed, ended
    or fallen short of funds. ``sales_micros`` is what was paid for purchases and months,
    ``fees_micros`` what of it the marketplace keeps of what others sell. ``first_purchase_s`` is
    how long all ``first_purchases`` took from registering, in seconds, and
    ``first_purchases_in_time`` how many of them took two minutes at most.

    A path is what one browser did on one day to buy in one way: ``paths_…`` counts those that came
    to a step, ``left_…`` those that came no further.
    """

    registrations: Count = 0
    purchases_begun: Count = 0
    purchases_short: Count = 0
    purchases_completed: Count = 0
    purchases_cancelled: Count = 0
    purchases_expired: Count = 0
    purchases_failed: Count = 0
    first_purchases: Count = 0
    first_purchases_in_time: Count = 0
    first_purchase_s: Count = 0
    topups_by_hand: Count = 0
    topups_by_hand_failed: Count = 0
    credits_by_hand_micros: TotalMicros = 0
    topups_auto: Count = 0
    topups_auto_failed: Count = 0
    credits_auto_micros: TotalMicros = 0
    renewals: Count = 0
    suspended: Count = 0
    sales_micros: TotalMicros = 0
    fees_micros: TotalMicros = 0
    refunded_micros: TotalMicros = 0
    reversed_micros: SignedMicros = 0
    """What went back to cards, less what of it came back: disputes that were won."""
    purchases_begun_buy_now: Count = 0
    purchases_begun_cart: Count = 0
    purchases_completed_buy_now: Count = 0
    purchases_completed_cart: Count = 0
    paths_buy_now_product_page: Count = 0
    paths_buy_now_dialog: Count = 0
    paths_buy_now_card_page: Count = 0
    paths_buy_now_completed: Count = 0
    left_buy_now_product_page: Count = 0
    left_buy_now_dialog: Count = 0
    left_buy_now_card_page: Count = 0
    paths_cart_filled: Count = 0
    paths_cart_cart_page: Count = 0
    paths_cart_card_page: Count = 0
    paths_cart_completed: Count = 0
    left_cart_filled: Count = 0
    left_cart_cart_page: Count = 0
    left_cart_card_page: Count = 0

    def count_of(self, metric: KpiName) -> tuple[int, int] | None:
        """How many of how many a success metric counts; None for adoption, which is of people."""
        ended = self.purchases_completed + self.purchases_failed
        unpaid = self.purchases_cancelled + self.purchases_expired
        return {
            KpiName.PURCHASE_COMPLETION: (self.purchases_completed, ended + unpaid),
            KpiName.BUY_NOW_SUCCESS: (self.purchases_completed, ended),
            KpiName.FIRST_PURCHASE_IN_TIME: (self.first_purchases_in_time, self.first_purchases),
            KpiName.AUTO_TOPUP_SUCCESS: (
                self.topups_auto,
                self.topups_auto + self.topups_auto_failed,
            ),
        }.get(metric)

    def by_way(self, way: PurchaseWay) -> tuple[int, int]:
        """How many purchases were begun, and how many completed, in this way."""
        begun: int = getattr(self, f"purchases_begun_{way}")
        completed: int = getattr(self, f"purchases_completed_{way}")
        return begun, completed

    def path_of(self, way: PurchaseWay) -> list[StepCount]:
        """How far paths came in this way, step by step."""
        return [
            StepCount(
                step,
                getattr(self, f"paths_{way}_{step}"),
                getattr(self, f"left_{way}_{step}", None),
            )
            for step in PATHS[way]
        ]


class Point(Figures):
    """One step, from ``starts_at`` on.

    ``active_users`` registered, began a purchase or bought credits by hand in it. At its end
    ``auto_topup_users`` had auto top-up switched on, and what ran cost ``burn_micros`` a month.
    """

    starts_at: Moment
    active_users: Count
    auto_topup_users: Count
    burn_micros: TotalMicros


class Cause(Value):
    """Why something ended without success, and how often: the ``code`` of the service that says so,
    empty where it gave none."""

    outcome: str
    code: str
    count: Count


class Numbers(Reply):
    """``total`` is of all of the time, ``since`` and ``until`` whole steps.

    ``purchases_ended`` says why purchases were cancelled, expired or failed; ``topups_failed`` why
    top-ups did, ``outcome`` being the kind. The most frequent first.
    """

    since: Moment
    until: Moment
    step: Step
    points: list[Point]
    total: Figures
    purchases_ended: list[Cause]
    topups_failed: list[Cause]


class GetNumbers(Request[Numbers], service=SERVICE, method="get_numbers"):
    """What happened from ``since`` up to ``until``, exclusive, step by step.

    A part of a step at either end counts as a whole one. Errors: ``BadRequest`` for a time without
    a length, and for more than 1,000 steps.
    """

    since: Moment
    until: Moment
    step: Step = Step.DAY


class Kpi(Value):
    """``count`` of ``of`` is ``value_bps`` basis points, rounded half-even; None where ``of`` is 0,
    and then it is not known whether the target is met."""

    name: KpiName
    count: Count
    of: Count
    value_bps: int | None
    target_bps: int
    is_met: bool | None


class Kpis(Reply):
    since: Moment
    until: Moment
    kpis: list[Kpi]


class GetKpis(Request[Kpis], service=SERVICE, method="get_kpis"):
    """The success metrics from ``since`` up to ``until``, in whole hours.

    Adoption is of those who were active in the seven days before ``until``, by their settings of
    then. Errors: ``BadRequest`` for a time without a length.
    """

    since: Moment
    until: Moment


class ProductCount(Value):
    """``units`` were bought for ``sales_micros``, without the months that followed."""

    product_id: UUID
    units: Count
    sales_micros: TotalMicros


class PopularProducts(Reply):
    """Those of which most units were bought first."""

    products: list[ProductCount]


class GetPopularProducts(Request[PopularProducts], service=SERVICE, method="get_popular_products"):
    """What was bought from the day ``since`` up to and including ``until``."""

    since: Day
    until: Day
    limit: PageLimit = 25


class Cohort(Value):
    """Who registered in the week that begins on ``week``. ``active`` says how many of them were
    active in that week, in the next one, and so on, up to the last week in which one was."""

    week: date
    users: Count
    active: list[Count]


class Retention(Reply):
    """The earliest week first; weeks in which nobody registered are left out."""

    cohorts: list[Cohort]


class GetRetention(Request[Retention], service=SERVICE, method="get_retention"):
    """Of the weeks of the days ``since`` up to and including ``until``: 106 at most."""

    since: Day
    until: Day
