"""/admin: the numbers of now, the plan's success metrics, and what happens by day."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.analytics import (
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
from contracts.catalog import ListProducts, ProductPage
from contracts.errors import Unavailable
from contracts.topup import ListProblems, Problem, ProblemList
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.pages.admin.home import POLLS_MAX
from services.gateway.response_times import Kind, ResponseTimes
from tests.contracts.golden import examples
from tests.gateway.conftest import answers_with
from tests.gateway.test_roles import Desk
from tests.gateway.test_support import clerk

USD = 1_000_000
LENGTHS = {Step.HOUR: timedelta(hours=1), Step.DAY: timedelta(days=1)}


class Services:
    """Analytics, topup and the catalog: each step the same, the last one with a failure."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away: set[str] = set()

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        self.asked.append(f"{request.service}.{request.method}")
        if request.service in self.away:
            raise Unavailable("It is away.")
        match request:
            case GetNumbers():
                answer: Any = self.numbers(request)
            case GetKpis():
                answer = Kpis(
                    since=request.since, until=request.until, kpis=list(map(kpi, KpiName))
                )
            case GetRetention():
                cohort = Cohort(week=request.until, users=8, active=[8, 2])
                answer = Retention(cohorts=[cohort])
            case GetPopularProducts():
                [known] = self.products.products[:1]
                sold = {"units": 3, "sales_micros": 15 * USD}
                answer = PopularProducts(
                    products=[ProductCount(product_id=known.product_id, **sold)]
                )
            case ListProblems():
                since = utc_now() - timedelta(hours=1)
                problem = Problem(code="notice_undone", message="late", since=since)
                answer = ProblemList(problems=[problem])
            case ListProducts():
                answer = self.products
            case _:
                raise Unavailable("It is away.")
        return lambda: answer

    @property
    def products(self) -> ProductPage:
        return ProductPage.model_validate(examples("catalog")["ProductPage"])

    def numbers(self, request: GetNumbers) -> Numbers:
        length = LENGTHS[request.step]
        start = request.since.replace(minute=0, second=0, microsecond=0)
        count = -((start - request.until) // length)
        points = [
            Point(
                starts_at=start + number * length,
                active_users=7,
                auto_topup_users=4,
                burn_micros=30 * USD,
                purchases_completed=9,
                purchases_failed=1 if number == count - 1 else 0,
                credits_by_hand_micros=25 * USD,
            )
            for number in range(count)
        ]
        return Numbers(
            since=request.since,
            until=request.until,
            step=request.step,
            points=points,
            total=Figures(),
            purchases_ended=[Cause(outcome="expired", code="card_declined", count=12)],
            topups_failed=[],
        )


def kpi(name: KpiName) -> Kpi:
    return Kpi(name=name, count=96, of=100, value_bps=9_600, target_bps=9_500, is_met=True)


@pytest.fixture
def services(alone: Flask, database: Connected, monkeypatch: pytest.MonkeyPatch) -> Services:
    with database.begin() as session:
        session.execute(text("TRUNCATE response_times"))
    stand_in = Services()
    answers_with(monkeypatch, stand_in)
    return stand_in


@pytest.fixture
def desk(alone: Flask, database: Connected, services: Services) -> Desk:
    return clerk(alone, database, Role.AUDITOR)


def test_it_shows_today_the_metrics_the_days_and_the_alerts(desk: Desk) -> None:
    page = desk.get("/admin?days=7").text

    assert "$25.00" in page
    assert "7 this hour" in page
    assert page.count("96%") == 10
    assert page.count("<tr><th") >= 7
    assert "Expired: card declined" in page
    assert "1 of 10 purchases failed" in page
    assert "1 week later" in page
    assert ['100%</td><td class="end number">25%' in page, "2 weeks later" in page] == [True, False]
    assert "notice undone" in page
    assert "analytics does not answer" not in page


def test_without_analytics_it_says_so_and_shows_the_rest(desk: Desk, services: Services) -> None:
    services.away = {"analytics", "topup"}

    answer = desk.get("/admin")

    assert answer.status_code == 200
    assert "analytics does not answer" in answer.text
    assert "an alert about purchases and automatic top-ups, or payments cannot be told" in (
        answer.text
    )
    assert "Wallet and marketplace pages" in answer.text
    assert "No alerts" not in answer.text


def test_how_fast_the_site_answered_is_told_without_analytics_too(
    database: Connected, desk: Desk, services: Services
) -> None:
    services.away = {"analytics", "topup"}
    counting = ResponseTimes(database, 3600)
    for seconds in (0.1, 0.4, 0.6, 2.0):
        counting.count(Kind.PAGE, utc_now(), seconds)
    counting.add()
    counting.stop()

    page = desk.get("/admin").text

    # Of today, of all days, and three times in what the line says of itself.
    assert page.count("50%") == 5
    assert "1 of 4 answers took over a second" in page


def test_who_watches_asks_the_services_once_in_a_second_at_most(
    desk: Desk, services: Services
) -> None:
    desk.get("/admin/live")
    asked = services.asked.count("topup.list_problems")
    for _ in range(3):
        desk.get("/admin/live")

    # A slow machine may take longer than the second.
    assert asked == 1
    assert services.asked.count("topup.list_problems") <= 2


def test_a_page_that_nobody_looks_at_asks_no_more_after_ten_minutes(desk: Desk) -> None:
    last = desk.get(f"/admin/live?polls={POLLS_MAX - 1}").text
    before = desk.get(f"/admin/live?polls={POLLS_MAX - 2}").text

    assert f"polls={POLLS_MAX - 1}" in before
    assert "hx-get" in before
    assert "hx-get" not in last
    assert "Go on" in last


@pytest.mark.parametrize("days", ["", "8", "-1", "x", "99999999999999999999"])
def test_another_number_of_days_is_thirty(desk: Desk, days: str) -> None:
    assert "30 days</th>" in desk.get(f"/admin?days={days}").text
