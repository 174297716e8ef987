"""Every figure of a story equals what is counted by hand, by day, by week and over all."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from chassis.database import Connected
from contracts.analytics import (
    Cause,
    Cohort,
    Figures,
    GetKpis,
    GetNumbers,
    GetPopularProducts,
    GetRetention,
    KpiName,
    Numbers,
    Step,
)
from contracts.errors import BadRequest
from services.analytics import questions
from services.analytics.service import GAUGES
from tests.analytics.conftest import (
    ANN,
    DISK,
    USD,
    VM,
    at,
    completed,
    saved,
    story,
)
from tests.counted import all_counts, hear

# By hand. Levels go on from day to day.
BY_DAY: dict[int, dict[str, int]] = {
    2: {
        "active_users": 2,
        "registrations": 2,
        "purchases_begun": 1,
        "purchases_completed": 1,
        "first_purchases": 1,
        "first_purchases_in_time": 1,
        "first_purchase_s": 90,
        "sales_micros": 23 * USD,
        "fees_micros": 2 * USD,
        "auto_topup_users": 1,
        "burn_micros": 30 * USD,
        "purchases_begun_buy_now": 1,
        "purchases_completed_buy_now": 1,
        "paths_buy_now_product_page": 2,
        "paths_buy_now_dialog": 2,
        "paths_buy_now_completed": 1,
        "left_buy_now_product_page": 1,
        "left_buy_now_dialog": 1,
    },
    3: {
        "active_users": 1,
        "purchases_begun": 1,
        "purchases_short": 1,
        "purchases_completed": 1,
        "first_purchases": 1,
        # From 10:30 on Monday.
        "first_purchase_s": 22 * 3600 + 35 * 60 + 10,
        "topups_by_hand": 1,
        "credits_by_hand_micros": 25 * USD,
        "sales_micros": 25 * USD,
        "fees_micros": 2_500_000,
        "auto_topup_users": 2,
        "burn_micros": 30 * USD,
        "purchases_begun_cart": 1,
        "purchases_completed_cart": 1,
        "paths_buy_now_product_page": 1,
        "left_buy_now_product_page": 1,
        "paths_cart_filled": 1,
        "paths_cart_cart_page": 1,
        "paths_cart_card_page": 1,
        "paths_cart_completed": 1,
    },
    4: {
        "topups_auto": 1,
        "credits_auto_micros": 10 * USD,
        "refunded_micros": 5 * USD,
        "auto_topup_users": 1,
        "burn_micros": 30 * USD,
    },
    5: {
        "topups_auto_failed": 1,
        "reversed_micros": 25 * USD,
        "auto_topup_users": 1,
        "burn_micros": 30 * USD,
    },
    6: {"reversed_micros": -25 * USD, "auto_topup_users": 1, "burn_micros": 30 * USD},
    7: {"auto_topup_users": 1, "burn_micros": 30 * USD},
    8: {"auto_topup_users": 1, "burn_micros": 30 * USD},
    9: {
        "active_users": 1,
        "registrations": 1,
        "purchases_begun": 2,
        "purchases_failed": 1,
        "renewals": 1,
        "sales_micros": 35 * USD,
        "fees_micros": 3 * USD,
        "auto_topup_users": 1,
        "burn_micros": 35 * USD,
        "purchases_begun_buy_now": 1,
        "purchases_begun_cart": 1,
        "paths_buy_now_product_page": 1,
        "paths_buy_now_dialog": 1,
        "paths_buy_now_card_page": 1,
        "left_buy_now_card_page": 1,
        "paths_cart_filled": 2,
        "paths_cart_cart_page": 2,
        "paths_cart_card_page": 1,
        "left_cart_filled": 1,
        "left_cart_cart_page": 1,
        "left_cart_card_page": 1,
    },
    10: {
        "active_users": 1,
        "purchases_begun": 1,
        "purchases_expired": 1,
        "purchases_cancelled": 1,
        "suspended": 1,
        "auto_topup_users": 1,
    },
    11: {"auto_topup_users": 1, "burn_micros": 50 * USD},
    12: {"auto_topup_users": 1},
}
LEVELS = ("active_users", "auto_topup_users", "burn_micros")


def summed(days: range) -> dict[str, int]:
    names = {name for day in days for name in BY_DAY[day]} - set(LEVELS)
    return {name: sum(BY_DAY[day].get(name, 0) for day in days) for name in names}


@pytest.fixture
def told(database: Connected) -> Connected:
    hear(database, story())
    return database


def numbers(database: Connected, since: datetime, until: datetime, step: Step) -> Numbers:
    with database.read() as session:
        return questions.get_numbers(session, GetNumbers(since=since, until=until, step=step))


def shown(point: Any) -> dict[str, int]:
    """What is not zero."""
    return {k: v for k, v in point.model_dump(exclude={"starts_at"}).items() if v}


def test_each_day_is_as_counted_by_hand(told: Connected) -> None:
    found = numbers(told, at(2, "00:00:00"), at(13, "00:00:00"), Step.DAY)

    assert {point.starts_at.day: shown(point) for point in found.points} == BY_DAY
    assert shown(found.total) == {k: v for k, v in summed(range(2, 13)).items() if v}


def test_each_week_is_the_sum_of_its_days_and_counts_a_person_once(told: Connected) -> None:
    found = numbers(told, at(4, "11:00:00"), at(12, "11:00:00"), Step.WEEK)

    assert found.since == at(2, "00:00:00")
    assert found.until == at(16, "00:00:00")
    assert [shown(point) for point in found.points] == [
        {k: v for k, v in summed(range(2, 9)).items() if v}
        | {"active_users": 2, "auto_topup_users": 1, "burn_micros": 30 * USD},
        summed(range(9, 13)) | {"active_users": 2, "auto_topup_users": 1},
    ]


def test_an_hour_has_what_happened_in_it_and_the_levels_from_before(told: Connected) -> None:
    found = numbers(told, at(3, "09:00:00"), at(3, "10:00:00"), Step.HOUR)

    assert [shown(point) for point in found.points] == [BY_DAY[3]]
    (before,) = numbers(told, at(2, "09:30:00"), at(2, "09:31:00"), Step.HOUR).points
    assert shown(before) == {}


def test_it_says_why_purchases_and_topups_ended_without_success(told: Connected) -> None:
    found = numbers(told, at(2, "00:00:00"), at(13, "00:00:00"), Step.DAY)

    assert found.purchases_ended == [
        Cause(outcome="cancelled", code="", count=1),
        Cause(outcome="expired", code="card_declined", count=1),
        Cause(outcome="failed", code="out_of_stock", count=1),
    ]
    # The last reason of a charge that was tried twice; what was paid after all did not fail.
    assert found.topups_failed == [Cause(outcome="auto", code="card_declined", count=1)]


def test_the_success_metrics_are_those_of_the_plan(told: Connected) -> None:
    with told.read() as session:
        asked = GetKpis(since=at(2, "00:00:00"), until=at(9, "00:00:00"))
        first = questions.get_kpis(session, asked).kpis
        asked = GetKpis(since=at(2, "00:00:00"), until=at(13, "00:00:00"))
        both = questions.get_kpis(session, asked).kpis

    assert {kpi.name: (kpi.count, kpi.of, kpi.value_bps, kpi.is_met) for kpi in first} == {
        KpiName.PURCHASE_COMPLETION: (2, 2, 10_000, True),
        KpiName.BUY_NOW_SUCCESS: (2, 2, 10_000, True),
        KpiName.FIRST_PURCHASE_IN_TIME: (1, 2, 5_000, True),
        KpiName.AUTO_TOPUP_ADOPTION: (1, 2, 5_000, True),
        KpiName.AUTO_TOPUP_SUCCESS: (1, 2, 5_000, False),
    }
    assert {kpi.name: (kpi.count, kpi.of, kpi.value_bps, kpi.is_met) for kpi in both} == {
        KpiName.PURCHASE_COMPLETION: (2, 5, 4_000, False),
        KpiName.BUY_NOW_SUCCESS: (2, 3, 6_667, False),
        KpiName.FIRST_PURCHASE_IN_TIME: (1, 2, 5_000, True),
        # Ann and Cleo were active since the 6th, and Bob was not.
        KpiName.AUTO_TOPUP_ADOPTION: (1, 2, 5_000, True),
        KpiName.AUTO_TOPUP_SUCCESS: (1, 2, 5_000, False),
    }
    assert [kpi.target_bps for kpi in both] == [9_500, 9_900, 5_000, 4_000, 9_800]


def test_the_success_metrics_of_seven_days_are_gauges_beside_what_the_plan_wants(
    told: Connected,
) -> None:
    with told.read() as session:
        found = dict(GAUGES["kpi_ratio"].rows(session, at(9, "00:00:00")))
        a_day_later = dict(GAUGES["kpi_ratio"].rows(session, at(10, "00:00:00")))
        asked = GetKpis(since=at(3, "00:00:00"), until=at(10, "00:00:00"))
        of_its_days = questions.get_kpis(session, asked).kpis
        wanted = dict(GAUGES["kpi_target_ratio"].rows(session, at(9, "00:00:00")))
        # Nothing was a part of anything a year later.
        later = GAUGES["kpi_ratio"].rows(session, at(9, "00:00:00").replace(year=2027))

    assert found == {
        KpiName.PURCHASE_COMPLETION: 1,
        KpiName.BUY_NOW_SUCCESS: 1,
        KpiName.FIRST_PURCHASE_IN_TIME: 0.5,
        KpiName.AUTO_TOPUP_ADOPTION: 0.5,
        KpiName.AUTO_TOPUP_SUCCESS: 0.5,
    }
    expected = {
        kpi.name: kpi.value_bps / 10_000 for kpi in of_its_days if kpi.value_bps is not None
    }
    assert a_day_later == expected != found
    assert wanted[KpiName.AUTO_TOPUP_SUCCESS] == 0.98
    assert set(wanted) == set(KpiName)
    assert later == []


def test_adoption_is_by_the_settings_of_then(told: Connected) -> None:
    asked = GetKpis(since=at(2, "00:00:00"), until=at(4, "13:00:00"))
    with told.read() as session:
        (adoption,) = [
            kpi
            for kpi in questions.get_kpis(session, asked).kpis
            if kpi.name is KpiName.AUTO_TOPUP_ADOPTION
        ]

    assert (adoption.count, adoption.of) == (2, 2)


def test_without_anything_nothing_is_known_to_be_met(database: Connected) -> None:
    with database.read() as session:
        asked = GetKpis(since=at(2, "00:00:00"), until=at(3, "00:00:00"))
        found = questions.get_kpis(session, asked)

    assert {(kpi.of, kpi.value_bps, kpi.is_met) for kpi in found.kpis} == {(0, None, None)}


def test_products_of_which_most_was_bought_come_first(told: Connected) -> None:
    def popular(first: int, last: int, limit: int = 25) -> list[tuple[Any, int, int]]:
        asked = GetPopularProducts(
            since=date(2026, 11, first), until=date(2026, 11, last), limit=limit
        )
        with told.read() as session:
            found = questions.get_popular_products(session, asked).products
        return [(each.product_id, each.units, each.sales_micros) for each in found]

    assert popular(1, 30) == [(VM, 3, 45 * USD), (DISK, 1, 3 * USD)]
    assert popular(3, 3) == [(VM, 1, 25 * USD)]
    assert popular(1, 30, limit=1) == [(VM, 3, 45 * USD)]
    assert popular(4, 30) == []


def test_retention_says_who_of_a_week_was_there_in_the_next_ones(told: Connected) -> None:
    asked = GetRetention(since=date(2026, 11, 4), until=date(2026, 11, 9))
    with told.read() as session:
        found = questions.get_retention(session, asked)

    assert found.cohorts == [
        Cohort(week=date(2026, 11, 2), users=2, active=[2, 1]),
        Cohort(week=date(2026, 11, 9), users=1, active=[1]),
    ]


def test_an_earlier_first_purchase_that_is_told_late_takes_the_place_of_the_later_one(
    database: Connected,
) -> None:
    hear(database, story())
    hear(database, [completed("p0", ANN, at(2, "10:00:10"), at(2, "10:00:20"), (VM, 1, 1))])

    (monday,) = numbers(database, at(2, "00:00:00"), at(3, "00:00:00"), Step.DAY).points
    assert (monday.first_purchases, monday.first_purchase_s) == (1, 20)


def test_settings_that_come_late_change_only_the_time_until_the_next_ones(
    database: Connected,
) -> None:
    hear(database, [saved(ANN, at(4, "00:00:00"), 2, None)])
    hear(database, [saved(ANN, at(2, "00:00:00"), 1, USD)])

    points = numbers(database, at(2, "00:00:00"), at(6, "00:00:00"), Step.DAY).points
    assert [point.auto_topup_users for point in points] == [1, 1, 0, 0]


def test_nobody_switches_it_off_before_they_switched_it_on_whatever_the_clocks_say(
    database: Connected,
) -> None:
    hear(database, [saved(ANN, at(3, "00:00:01"), 1, USD), saved(ANN, at(2, "23:59:59"), 2, None)])

    points = numbers(database, at(2, "00:00:00"), at(4, "00:00:00"), Step.DAY).points
    assert [point.auto_topup_users for point in points] == [0, 0]


def test_nothing_of_a_person_is_in_the_counts(told: Connected) -> None:
    written = str(all_counts(told))

    assert not [name for name in (ANN, "ann") if str(name) in written]


@pytest.mark.parametrize(
    ("since", "until", "step", "message"),
    [
        (at(3, "00:00:00"), at(3, "00:00:00"), Step.DAY, "earlier"),
        (at(3, "00:00:00"), at(2, "00:00:00"), Step.HOUR, "earlier"),
        (at(1, "00:00:00").replace(year=2020), at(1, "00:00:00"), Step.DAY, "1,000 steps"),
        (
            at(1, "00:00:00"),
            datetime.max.replace(tzinfo=at(1, "00:00:00").tzinfo),
            Step.WEEK,
            "far",
        ),
    ],
    ids=["nothing", "backwards", "many", "far"],
)
def test_a_time_that_makes_no_sense_is_refused(
    database: Connected, since: datetime, until: datetime, step: Step, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        numbers(database, since, until, step)


@pytest.mark.parametrize("year", [1, 1999, 9001, 9999])
def test_no_question_comes_to_the_ends_of_time(database: Connected, year: int) -> None:
    day = date(year, 12 if year > 9000 else 1, 31 if year > 9000 else 2)
    start = datetime(day.year, day.month, day.day, 21, tzinfo=UTC)
    with database.read() as session:
        for ask in (
            lambda: questions.get_kpis(
                session, GetKpis(since=start, until=start + timedelta(hours=2))
            ),
            lambda: questions.get_popular_products(
                session, GetPopularProducts(since=day, until=day)
            ),
            lambda: questions.get_retention(session, GetRetention(since=day, until=day)),
        ):
            with pytest.raises(BadRequest, match="far away"):
                ask()


def test_every_figure_that_is_shown_is_counted_in_the_story() -> None:
    assert {name for day in BY_DAY.values() for name in day} - set(LEVELS) == set(
        Figures.model_fields
    ) - {"topups_by_hand_failed"}
