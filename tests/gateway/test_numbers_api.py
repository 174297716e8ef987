"""/api/admin: what happened, what is wrong and what runs, as the pages for roles show it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.analytics import (
    Cohort,
    Figures,
    GetNumbers,
    GetPopularProducts,
    GetRetention,
    Numbers,
    Retention,
    StepCount,
)
from contracts.billing import PurchaseWay
from contracts.gateway import PATHS, PathStep
from contracts.operating import SERVICES
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import Mail, User
from services.gateway.notifications import mails
from services.gateway.people import sessions, tokens
from services.gateway.response_times import Kind, ResponseTimes
from services.gateway.staff import grants
from tests.gateway import (
    test_admin_api,
    test_admin_numbers,
    test_finance_page,
    test_operations_page,
)
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_admin_api import Ask, become, code_of
from tests.gateway.test_admin_numbers import services
from tests.gateway.test_roles import COMMAND, WHY, held_by, last_acts

__all__ = ["become", "services"]

COUNTED = Figures(
    registrations=3,
    sales_micros=12_500_000,
    purchases_begun_buy_now=9,
    purchases_completed_buy_now=8,
    purchases_begun_cart=2,
    purchases_completed_cart=1,
    paths_buy_now_product_page=40,
    left_buy_now_product_page=25,
    paths_buy_now_dialog=15,
    left_buy_now_dialog=6,
    paths_buy_now_card_page=4,
    left_buy_now_card_page=1,
    paths_buy_now_completed=8,
    paths_cart_filled=5,
    left_cart_filled=2,
    paths_cart_cart_page=3,
    left_cart_cart_page=1,
    paths_cart_card_page=1,
    left_cart_card_page=0,
    paths_cart_completed=1,
)


class Counting(test_admin_numbers.Services):
    """The same, with what was counted by hand in its total, and one week of people."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Any] = []

    def begin(self, backend: Backend, request: Any, timeout_s: float) -> Callable[[], Any]:
        self.questions.append(request)
        if isinstance(request, GetRetention):
            cohort = Cohort(week=request.since, users=4, active=[4, 2, 1])
            return lambda: Retention(cohorts=[cohort])
        return super().begin(backend, request, timeout_s)

    def numbers(self, request: GetNumbers) -> Numbers:
        return super().numbers(request).model_copy(update={"total": COUNTED})


@pytest.fixture
def counting(services: Any, monkeypatch: pytest.MonkeyPatch) -> Counting:
    stand_in = Counting()
    answers_with(monkeypatch, stand_in)
    return stand_in


def test_the_steps_of_a_way_are_those_that_were_counted() -> None:
    assert COUNTED.path_of(PurchaseWay.CART) == [
        StepCount(PathStep.FILLED, 5, 2),
        StepCount(PathStep.CART_PAGE, 3, 1),
        StepCount(PathStep.CARD_PAGE, 1, 0),
        StepCount(PathStep.COMPLETED, 1, None),
    ]
    assert [COUNTED.by_way(way) for way in PATHS] == [(9, 8), (2, 1)]


def test_paths_and_ways_are_told_with_the_numbers_in_all_and_step_by_step(
    counting: Counting, become: Callable[..., Ask]
) -> None:
    ask = become(Role.AUDITOR)
    query = "since=2026-11-01T00:00:00Z&until=2026-11-03T00:00:00Z&step=day"

    told = ask("GET", f"/api/admin/numbers?{query}").get_json()

    [asked] = counting.questions
    assert (asked.since.isoformat(), asked.step) == ("2026-11-01T00:00:00+00:00", "day")
    total, points = told["total"], told["points"]
    assert (total["registrations"], total["sales_usd"]) == (3, 12.5)
    assert total["ways"] == [
        {"way": "buy_now", "begun": 9, "completed": 8},
        {"way": "cart", "begun": 2, "completed": 1},
    ]
    assert [(step["step"], step["came"], step["left"]) for step in total["paths"][0]["steps"]] == [
        ("product_page", 40, 25), ("dialog", 15, 6), ("card_page", 4, 1), ("completed", 8, None),
    ]  # fmt: skip
    assert [(point["active_users"], point["burn_usd"]) for point in points] == [(7, 30)] * 2
    assert {len(point["paths"]) for point in points} == {2}
    assert told["purchases_ended"] == [
        {"outcome": "expired", "code": "card_declined", "count": 12}
    ]  # fmt: skip


def test_nothing_said_means_a_day_by_the_hour(
    counting: Counting, become: Callable[..., Ask]
) -> None:
    ask = become(Role.SUPPORT)

    told = ask("GET", "/api/admin/numbers").get_json()

    [asked] = counting.questions
    assert (asked.until - asked.since, told["step"]) == (timedelta(days=1), "hour")
    for query in ("step=year", "since=yesterday", "days=7"):
        assert code_of(ask("GET", f"/api/admin/numbers?{query}")) == (422, "bad_request")


def test_every_figure_of_the_analytics_is_told(
    counting: Counting, become: Callable[..., Ask]
) -> None:
    """A new one must not be forgotten here."""
    total = become(Role.AUDITOR)("GET", "/api/admin/numbers").get_json()["total"]

    told = {name.removesuffix("_usd") for name in total}
    own = {name.removesuffix("_micros") for name in Figures.model_fields}
    by_way = {
        name
        for name in own
        if name.startswith(("paths_", "left_")) or name.endswith(("_buy_now", "_cart"))
    }
    assert told == own - by_way | {"ways", "paths"}


def test_popular_products_have_their_names_and_retention_its_weeks(
    counting: Counting, become: Callable[..., Ask]
) -> None:
    ask = become(Role.FINANCE)
    days = "since=2026-11-01&until=2026-11-30"

    [popular] = ask("GET", f"/api/admin/popular-products?{days}&limit=5").get_json()["products"]
    [cohort] = ask("GET", f"/api/admin/retention?{days}").get_json()["cohorts"]
    today = utc_now().date()
    ask("GET", "/api/admin/retention")

    assert (popular["name"], popular["units"]) == (counting.products.products[0].name, 3)
    assert popular["sales_usd"] == 15
    [asked] = [each for each in counting.questions if isinstance(each, GetPopularProducts)]
    assert (f"{asked.since}", f"{asked.until}", asked.limit) == ("2026-11-01", "2026-11-30", 5)
    assert cohort == {"week": "2026-11-01", "users": 4, "active": [4, 2, 1]}
    last = counting.questions[-1]
    assert last.until in (today, utc_now().date())  # it may be midnight
    assert last.until - last.since == timedelta(days=29)


def test_alerts_are_those_of_the_page_and_what_is_not_watched_is_named(
    counting: Counting, become: Callable[..., Ask]
) -> None:
    ask = become(Role.OPERATOR)

    told = ask("GET", "/api/admin/alerts").get_json()

    assert {each["title"] for each in told["alerts"]} == {"Purchases fail", "Payments need a look"}
    assert told["not_watched"] == []


def test_alerts_of_who_does_not_answer_are_not_watched(
    counting: Counting, become: Callable[..., Ask]
) -> None:
    counting.away = {"analytics", "topup"}

    told = become(Role.OPERATOR)("GET", "/api/admin/alerts").get_json()

    assert told["alerts"] == []
    assert told["not_watched"] == ["purchases and automatic top-ups", "payments"]


def test_speeds_stand_with_the_metrics_and_count_their_time_alone(
    counting: Counting, database: Connected, become: Callable[..., Ask]
) -> None:
    now = utc_now()
    times = ResponseTimes(database, 3600)
    for seconds, ago in ((0.1, 0), (0.4, 0), (0.6, 0), (2.0, 0), (2.0, 2)):
        times.count(Kind.PAGE, now - timedelta(days=ago), seconds)
    times.add()
    times.stop()
    ask = become(Role.AUDITOR)
    since, until = now - timedelta(hours=2), now + timedelta(hours=1)
    query = f"since={since:%Y-%m-%dT%H:%M:%SZ}&until={until:%Y-%m-%dT%H:%M:%SZ}"

    told = ask("GET", f"/api/admin/kpis?{query}").get_json()

    page, api, other = told["speeds"]
    assert [each["kind"] for each in (page, api, other)] == ["page", "api", "other"]
    assert (page["count"], page["total"], page["value_bps"], page["is_met"]) == (2, 4, 5_000, False)
    assert (page["target_ms"], page["target_bps"]) == (500, 9_500)
    assert (api["value_bps"], api["is_met"]) == (None, None)


def test_services_their_queues_and_payments_to_look_at_are_told(
    monkeypatch: pytest.MonkeyPatch, services: Any, become: Callable[..., Ask]
) -> None:
    ask = become(Role.OPERATOR)
    problems = ask("GET", "/api/admin/problems").get_json()["problems"]
    answers_with(monkeypatch, test_operations_page.Services())

    told = ask("GET", "/api/admin/services").get_json()

    found = {each["name"]: each for each in told["services"]}
    assert [*found] == [*SERVICES]
    assert found["wallet"] == {
        "name": "wallet",
        "processes": 2,
        "waiting": 17,
        "outbox_unsent": 3,
        "outbox_oldest_s": 120,
        "dead_letters": 1,
        "queues": [{"name": "evt-of-it", "waiting": 17, "consumers": 2}],
    }
    assert set(found["billing"].values()) == {"billing", None}
    assert told["switches"]["POOLS_PAGE"] == "on"
    assert [each["code"] for each in problems] == ["notice_undone"]


# What support and operators do for and with people.


@pytest.fixture
def ann(database: Connected) -> User:
    return add_user(database, has_wallet=True)


def test_what_support_does_on_the_page_a_program_does_too(
    database: Connected, ann: User, become: Callable[..., Ask]
) -> None:
    ask, other = become(Role.SUPPORT), add_user(database, has_wallet=True)
    path, why = f"/api/admin/users/{ann.user_id}", {"reason": "They lost the laptop"}
    with database.begin() as session:
        for user in (ann, other):
            sessions.start(session, utc_now(), user.user_id, timedelta(days=1))
            tokens.issue(session, utc_now(), user.user_id, "t")
        session.get_one(User, ann.user_id).second_step_since = utc_now()
        told = ("purchase_completed", "It is paid", "It is paid.", "/dashboard")
        mails.queue(session, utc_now(), [(ann.user_id, *told)])
        mail = session.query(Mail).filter_by(user_id=ann.user_id).one()
        mail.outcome, mail.due_at = "refused", None
        mail_id = mail.mail_id

    closed = [
        ask("POST", f"{path}/{what}", why) for what in ("logins", "second-step", f"mails/{mail_id}")
    ]
    ask("POST", "/api/admin/users", {"whom": ann.email, "reason": "Case 17: they ask"})
    before = ask("GET", path).get_json()
    done = [
        ask("POST", f"{path}/{what}", why) for what in ("logins", "second-step", f"mails/{mail_id}")
    ]
    after = ask("GET", path).get_json()

    assert [code_of(each) for each in closed] == [(409, "conflict")] * 3
    assert [each.status_code for each in done] == [200] * 3
    assert (before["sessions"], after["sessions"]) == (1, 0)
    assert (before["user"]["has_second_step"], after["user"]["has_second_step"]) == (True, False)
    assert [each["outcome"] for each in before["mails"]] == ["refused"]
    assert "" in [each["outcome"] for each in after["mails"]]
    assert [each["action"] for each in after["acts"][:3]] == [
        "mail.send_again", "user.end_second_step", "user.end_logins",
    ]  # fmt: skip
    with database.read() as session:
        assert len(sessions.open_ones(session, utc_now(), other.user_id)) == 1
        assert len(tokens.living(session, utc_now(), other.user_id)) == 1


def test_nobody_ends_their_own_logins_this_way(become: Callable[..., Ask]) -> None:
    ask = become(Role.SUPPORT)
    me = ask.user.user_id  # type: ignore[attr-defined]
    ask("POST", "/api/admin/users", {"whom": str(me), "reason": "Case 17: my own"})

    answer = ask("POST", f"/api/admin/users/{me}/logins", {"reason": "I want it"})

    assert code_of(answer) == (409, "conflict")
    assert ask("GET", "/api/admin/kpis").status_code != 401


def test_what_a_user_was_charged_and_told_stands_in_their_file(
    ann: User, become: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_with(monkeypatch, test_admin_api.Services())
    ask = become(Role.SUPPORT)
    ask("POST", "/api/admin/users", {"whom": ann.email, "reason": "Case 17: they ask"})

    told = ask("GET", f"/api/admin/users/{ann.user_id}").get_json()

    assert (told["transactions"], told["topups"]) == (None, None)
    assert [each["action"] for each in told["acts"]] == ["user.read"]
    assert told["purchases"]


def test_roles_are_listed_given_and_taken(
    database: Connected, ann: User, become: Callable[..., Ask]
) -> None:
    ask, auditor = become(Role.OPERATOR), become(Role.AUDITOR)
    body = {"whom": ann.email, "role": "finance", "reason": "She joins finance"}

    given = ask("POST", "/api/admin/roles/grant", body)
    listed = auditor("GET", "/api/admin/roles").get_json()["holders"]
    again = ask("POST", "/api/admin/roles/grant", body)
    held = held_by(database, ann)
    taken = ask("POST", "/api/admin/roles/take", body)

    assert (given.status_code, given.get_json()["roles"], held) == (200, ["finance"], {"finance"})
    assert {each["email"]: each["roles"] for each in listed}[ann.email] == ["finance"]
    assert code_of(again) == (409, "conflict")
    assert (taken.get_json()["roles"], held_by(database, ann)) == ([], set())
    assert [(act.action, act.before, act.after) for act in last_acts(database, 2)] == [
        ("role.grant", {"roles": ""}, {"roles": "finance"}),
        ("role.take", {"roles": "finance"}, {"roles": ""}),
    ]
    for bad in ({"role": "buyer"}, {"role": "owner"}, {"reason": "no"}):
        assert code_of(ask("POST", "/api/admin/roles/grant", {**body, **bad}))[0] == 422
    own = {**body, "whom": str(ask.user.user_id)}  # type: ignore[attr-defined]
    assert code_of(ask("POST", "/api/admin/roles/grant", own)) == (409, "conflict")
    assert code_of(auditor("POST", "/api/admin/roles/grant", body)) == (403, "role_missing")


def test_programs_give_no_role_to_an_address_that_nobody_confirmed_and_take_one(
    alone: Flask,
    database: Connected,
    ann: User,
    become: Callable[..., Ask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask, backend = become(Role.OPERATOR), alone.extensions["mycelium"]
    body = {"whom": ann.email, "role": "finance", "reason": "She joins finance"}
    with database.begin() as session:
        session.get_one(User, ann.user_id).email_confirmed_at = None
        grants.grant(session, utc_now(), COMMAND, ann.user_id, Role.SUPPORT, WHY)
    mailing = backend.settings.model_copy(update={"smtp_url": "smtp+plain://127.0.0.1:1"})
    monkeypatch.setattr(backend, "settings", mailing)

    refused = ask("POST", "/api/admin/roles/grant", body)
    held = held_by(database, ann)
    taken = ask("POST", "/api/admin/roles/take", {**body, "role": "support"})

    assert (code_of(refused), held) == ((409, "conflict"), {"support"})
    assert "not confirmed this address" in refused.text
    assert (taken.status_code, held_by(database, ann)) == (200, set())


def test_the_books_tell_as_much_as_the_page(
    ann: User, become: Callable[..., Ask], alone: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = test_finance_page.Services(ann)
    dispute = test_finance_page.disputed(ann, "needs_response")
    telling.disputes = [dispute]
    answers_with(monkeypatch, telling)

    told = become(Role.FINANCE)("GET", "/api/admin/finance").get_json()

    books, payments = told["books"], told["payments"]
    assert books["verification"] == books["verifications"][0]
    assert books["verification"]["transaction_count"] is not None
    [told_dispute] = payments["disputes"]
    assert dispute.details
    assert told_dispute["submission_count"] == dispute.details.submission_count
    assert told_dispute["has_evidence"] == dispute.details.has_evidence
    assert told_dispute["opened_at"] is not None
    assert payments["stuck"][0]["looks"] >= 0


def test_what_is_known_of_a_disputed_payment_is_told_with_a_reason(
    database: Connected,
    ann: User,
    become: Callable[..., Ask],
    alone: Flask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telling = test_finance_page.Services(ann)
    telling.disputes = [test_finance_page.disputed(ann, "needs_response")]
    answers_with(monkeypatch, telling)
    ask, path = become(Role.FINANCE), "/api/admin/finance/disputes/{}/payment"
    before = last_acts(database, 1)

    unknown = ask("POST", path.format("du_2"), {"reason": "The bank asks"})
    unsaid = ask("POST", path.format("du_1"), {"reason": "no"})
    acts_of_refused = last_acts(database, 1)
    told = ask("POST", path.format("du_1"), {"reason": "The bank asks"}).get_json()

    assert (unknown.status_code, unsaid.status_code) == (404, 422)
    assert [each.position for each in acts_of_refused] == [each.position for each in before]
    assert told["csv"].startswith("what,at_utc,description,reference,amount_usd")
    assert ann.email in told["csv"]
    [act] = last_acts(database, 1)
    assert (act.action, act.subject, act.before) == (
        "dispute.read", str(ann.user_id), {"dispute_id": "du_1"},
    )  # fmt: skip
