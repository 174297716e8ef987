"""/api/admin: what a token with the scope ``admin`` opens, to whom, and what is recorded of it."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pyotp
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from chassis.chain import check_lines
from chassis.clock import utc_now
from chassis.database import Connected
from contracts.analytics import GetKpis, Kpi, KpiName, Kpis
from contracts.billing import GetPurchase, ListPurchases, Purchase, PurchasePage, RefundPurchase
from contracts.errors import BadRequest, DeadlineExceeded, ServiceError, Unavailable
from contracts.operating import DeadLetters as Letters
from contracts.operating import GetDeadLetters, LetterDone, ReplayDeadLetter
from contracts.topup import GetOperatorSwitch, OperatorSwitch, SetOperatorSwitch
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import User
from services.gateway.people import second_step, tokens
from services.gateway.people.tokens import Scope
from services.gateway.staff import acts, grants
from tests.contracts.golden import examples
from tests.gateway import test_adjustments_page, test_finance_page, test_promotions_page
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_operations_page import LETTER
from tests.gateway.test_roles import COMMAND, WHY, Desk, last_acts

Ask = Callable[..., TestResponse]


@pytest.fixture
def become(alone: Flask, database: Connected) -> Callable[..., Ask]:
    """Somebody with these roles, and a token with these scopes: a function that asks."""

    def start(*roles: Role, scopes: tuple[Scope, ...] = (Scope.ADMIN,), steps: bool = True) -> Ask:
        user = add_user(database, has_wallet=True)
        with database.begin() as session:
            if steps:
                key = alone.config["SECRET_KEY"]
                steps_secret = second_step.begin(session, user.user_id, key)
                session.get_one(User, user.user_id).second_step_since = utc_now()
            for role in roles:
                grants.grant(session, utc_now(), COMMAND, user.user_id, role, WHY)
            secret = tokens.issue(session, utc_now(), user.user_id, "t", scopes)
        client = alone.test_client(use_cookies=False)

        def ask(method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
            given = {"Authorization": f"Bearer {secret}", **headers}
            return client.open(path, method=method, json=body, headers=given)

        ask.user = user  # type: ignore[attr-defined]
        ask.code = pyotp.TOTP(steps_secret).at(utc_now()) if steps else ""  # type: ignore[attr-defined]
        return ask

    return start


class Services:
    """Billing with one purchase of somebody, topup's switch, analytics, a dead letter."""

    def __init__(self) -> None:
        self.purchase = Purchase.model_validate(examples("billing")["Purchase"]).model_copy(
            update={"refunded_micros": 0}
        )
        self.switch = OperatorSwitch(is_stopped=False)
        self.refunds: list[RefundPurchase] = []

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        answer: Any
        match request:
            case GetPurchase():
                answer = self.purchase
            case ListPurchases():
                answer = PurchasePage(purchases=[self.purchase], next_cursor=None)
            case RefundPurchase():
                self.refunds.append(request)
                answer = self.purchase.model_copy(update={"refunded_micros": 5_000_000})
            case SetOperatorSwitch():
                answer = self.switch = OperatorSwitch(**request.model_dump())
            case GetOperatorSwitch():
                answer = self.switch
            case GetDeadLetters():
                answer = Letters(letters=[LETTER], total=1)
            case ReplayDeadLetter():
                answer = LetterDone(count=1)
            case GetKpis():
                kpi = Kpi(
                    name=KpiName.BUY_NOW_SUCCESS, count=99, of=100, value_bps=9_900,
                    target_bps=9_900, is_met=True,
                )  # fmt: skip
                answer = Kpis(since=request.since, until=request.until, kpis=[kpi])
            case _:
                raise Unavailable("It is away.")
        return lambda: answer


@pytest.fixture
def services(alone: Flask, monkeypatch: pytest.MonkeyPatch) -> Services:
    stand_in = Services()
    answers_with(monkeypatch, stand_in)
    return stand_in


def code_of(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["code"]


NEW = {"name": "ops", "scopes": ["admin"], "expires_in_days": None}


def test_only_who_has_a_role_and_a_second_step_makes_a_token_with_the_scope(
    database: Connected, become: Callable[..., Ask]
) -> None:
    able = (*Scope,)

    ask = become(Role.AUDITOR, scopes=able)
    without_code = ask("POST", "/api/tokens", NEW)
    made = ask("POST", "/api/tokens", {**NEW, "code": ask.code})  # type: ignore[attr-defined]

    assert code_of(without_code) == (401, "second_step_required")
    [act] = last_acts(database, 1)
    assert (act.action, act.actor_id, act.subject, act.after) == (
        "token.make", ask.user.user_id, str(ask.user.user_id),  # type: ignore[attr-defined]
        {"token_id": made.get_json()["token_id"], "scopes": ["admin"]},
    )  # fmt: skip
    assert code_of(become(scopes=able)("POST", "/api/tokens", NEW)) == (403, "role_missing")
    assert code_of(become(Role.SELLER, scopes=able)("POST", "/api/tokens", NEW)) == (
        403, "role_missing",
    )  # fmt: skip
    without = become(Role.AUDITOR, scopes=able, steps=False)
    assert code_of(without("POST", "/api/tokens", NEW)) == (403, "second_step_missing")
    assert made.status_code == 201
    assert made.get_json()["scopes"] == ["read", "admin"]


@pytest.mark.parametrize(("asked", "days"), [(None, 30), (366, 30), (7, 7)])
def test_such_a_token_works_for_thirty_days_at_most(
    become: Callable[..., Ask], asked: int | None, days: int
) -> None:
    ask = become(Role.AUDITOR, scopes=(*Scope,))
    body = {**NEW, "expires_in_days": asked, "code": ask.code}  # type: ignore[attr-defined]

    ends_at = datetime.fromisoformat(ask("POST", "/api/tokens", body).get_json()["expires_at"])

    assert round((ends_at - utc_now()) / timedelta(days=1)) == days


def test_what_may_do_everything_else_opens_nothing_here_and_makes_no_such_token(
    become: Callable[..., Ask],
) -> None:
    ask = become(Role.OPERATOR, scopes=(*tokens.EVERYTHING,))

    assert code_of(ask("GET", "/api/admin/kpis")) == (403, "scope_missing")
    assert code_of(ask("POST", "/api/tokens", NEW)) == (403, "scope_missing")


def test_a_token_opens_nothing_any_more_once_the_role_is_taken(
    database: Connected, services: Services, become: Callable[..., Ask]
) -> None:
    ask = become(Role.AUDITOR)
    before = ask("GET", "/api/admin/kpis")
    user_id = ask.user.user_id  # type: ignore[attr-defined]
    with database.begin() as session:
        grants.take(session, utc_now(), COMMAND, user_id, Role.AUDITOR, WHY)
    taken = ask("GET", "/api/admin/kpis").status_code
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, user_id, Role.AUDITOR, WHY)
        left = tokens.living(session, utc_now(), user_id)

    assert before.get_json()["kpis"][0]["value_bps"] == 9_900
    assert (taken in {401, 403}, left) == (True, [])


def test_a_session_alone_makes_no_such_token(alone: Flask, database: Connected) -> None:
    user = add_user(database, has_wallet=True)
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, user.user_id, Role.AUDITOR, WHY)
        secret = second_step.begin(session, user.user_id, alone.config["SECRET_KEY"])
    desk = Desk(alone, database, user)
    form = {"name": "ops", "scopes": "admin", "expires_in_days": "30"}

    refused = desk.post("/dashboard/account/tokens", **form)
    with database.read() as session:
        made = tokens.living(session, utc_now(), user.user_id)
    code = pyotp.TOTP(secret).at(utc_now())
    given = desk.post("/dashboard/account/tokens", **form, code=code)

    assert (refused.status_code, "Enter the code" in refused.text, made) == (422, True, [])
    assert (given.status_code, "myc_" in given.text) == (200, True)
    assert last_acts(database, 1)[0].action == "token.make"


def test_a_user_is_found_with_a_reason_and_then_shown(
    database: Connected, services: Services, become: Callable[..., Ask]
) -> None:
    ann, bob = (add_user(database, has_wallet=True) for _ in range(2))
    ask = become(Role.SUPPORT)
    body = {"whom": ann.email, "reason": "Case 17: they ask"}

    closed = ask("GET", f"/api/admin/users/{ann.user_id}")
    found = ask("POST", "/api/admin/users", body).get_json()
    shown = ask("GET", f"/api/admin/users/{ann.user_id}").get_json()

    assert code_of(closed) == (409, "conflict")
    assert found["user_id"] == str(ann.user_id)
    assert shown["user"] == found
    assert shown["wallet"] is None
    assert shown["purchases"][0]["purchase_id"] == str(services.purchase.purchase_id)
    [act] = last_acts(database, 1)
    assert (act.action, act.subject, act.reason) == (
        "user.read", str(ann.user_id), "Case 17: they ask",
    )  # fmt: skip
    assert code_of(ask("GET", f"/api/admin/users/{bob.user_id}")) == (409, "conflict")
    assert code_of(ask("POST", "/api/admin/users", {**body, "reason": "no"}))[0] == 422


def test_a_refund_has_one_key_for_all_tries_and_stands_in_the_log_as_that_of_the_page(
    database: Connected, services: Services, become: Callable[..., Ask]
) -> None:
    ann = add_user(database, has_wallet=True)
    ask = become(Role.SUPPORT)
    path = f"/api/admin/users/{ann.user_id}/purchases/{services.purchase.purchase_id}/refund"
    body = {"line": 0, "reason": "It never ran"}
    key = {"Idempotency-Key": "a-key-of-mine-17"}

    closed = ask("POST", path, body, **key)
    ask("POST", "/api/admin/users", {"whom": ann.email, "reason": "Case 17: they ask"})
    tries = [ask("POST", path, body, **key) for _ in range(2)]
    without_key = ask("POST", path, body)

    assert code_of(closed) == (409, "conflict")
    assert [each.get_json()["refunded_usd"] for each in tries] == [5.0, 5.0]
    assert len({each.idempotency_key for each in services.refunds}) == 1
    assert {(each.line, each.reason) for each in services.refunds} == {(0, "It never ran")}
    assert without_key.status_code == 400
    done = last_acts(database, 4)
    assert [act.action for act in done] == ["purchase.refund"] * 4
    assert done[1].after == {"outcome": "done", "refunded_micros": 5_000_000}
    assert {act.subject for act in done} == {str(ann.user_id)}


def test_nobody_refunds_their_own(
    database: Connected, services: Services, become: Callable[..., Ask]
) -> None:
    ask = become(Role.SUPPORT)
    me: UUID = ask.user.user_id  # type: ignore[attr-defined]
    ask("POST", "/api/admin/users", {"whom": str(me), "reason": "Case 17: my own"})

    answer = ask(
        "POST", f"/api/admin/users/{me}/purchases/{uuid4()}/refund", {"reason": "I want it"},
        **{"Idempotency-Key": "a-key-of-mine-18"},
    )  # fmt: skip

    assert (code_of(answer), services.refunds) == ((409, "conflict"), [])


def test_charges_are_stopped_and_let_go_with_who_and_why(
    database: Connected, services: Services, become: Callable[..., Ask]
) -> None:
    ask = become(Role.OPERATOR)

    stopped = ask("POST", "/api/admin/charges/stop", {"reason": "Charges twice?"}).get_json()
    going = ask("POST", "/api/admin/charges/release", {"reason": "It was one person"}).get_json()

    assert (stopped["is_stopped"], going["is_stopped"]) == (True, False)
    assert [act.action for act in last_acts(database, 4)] == [
        "charges.stop", "charges.stop", "charges.release", "charges.release",
    ]  # fmt: skip
    assert code_of(become(Role.FINANCE)("POST", "/api/admin/charges/stop", {"reason": WHY})) == (
        403, "role_missing",
    )  # fmt: skip


def test_dead_letters_are_listed_and_replayed(
    database: Connected, services: Services, become: Callable[..., Ask]
) -> None:
    ask = become(Role.OPERATOR)
    path = "/api/admin/dead-letters/wallet"

    listed = ask("GET", path).get_json()
    replayed = ask("POST", f"{path}/{LETTER.message}/replay", {"reason": "It is mended"})

    assert listed["letters"][0]["message"] == LETTER.message
    assert replayed.get_json() == {"count": 1}
    assert last_acts(database, 1)[0].after == {"outcome": "done", "count": 1}
    assert ask("GET", "/api/admin/dead-letters/nobody").status_code == 404


def test_the_audit_log_comes_in_pages_that_the_command_checks(
    services: Services, become: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = become(Role.AUDITOR)
    monkeypatch.setattr("services.gateway.staff.acts.PAGE_SIZE", 3)
    lines: list[str] = []
    after: int | None = 0
    while after is not None:
        page = ask("GET", f"/api/admin/audit?after={after}").get_json()
        assert len(page["lines"]) <= 3
        lines += page["lines"]
        after = page["next_after"]

    positions = [json.loads(line)["content"]["position"] for line in lines]
    assert positions == list(range(1, len(lines) + 1))
    assert check_lines(lines, acts.flaw)[0] is None


class Money:
    """The services as the tests of the pages have them; ``fails`` is what a command raises."""

    def __init__(self, user: User) -> None:
        self.adjusting = test_adjustments_page.Wallet()
        self.giving = test_promotions_page.Wallet()
        self.telling = test_finance_page.Services(user)

    def fail(self, error: ServiceError | None) -> None:
        self.adjusting.fails = self.giving.fails = self.telling.fails = error

    def begin(self, backend: Backend, request: Any, timeout_s: float) -> Callable[[], Any]:
        for part in (self.adjusting, self.giving, self.telling):
            try:
                return part.begin(backend, request, timeout_s)
            except Unavailable:
                continue
        raise Unavailable("It is away.")

    def keys(self) -> list[str]:
        """Of the commands, in their order."""
        asked = [*self.adjusting.asked, *self.giving.given, *self.telling.asked]
        return [each.idempotency_key for each in asked if hasattr(each, "idempotency_key")]


@pytest.fixture
def ann(database: Connected) -> User:
    return add_user(database, has_wallet=True)


@pytest.fixture
def money(alone: Flask, ann: User, monkeypatch: pytest.MonkeyPatch) -> Money:
    stand_in = Money(ann)
    answers_with(monkeypatch, stand_in)
    return stand_in


ADJUSTMENTS, PROMOTIONS, BOOKS = (
    f"/api/admin/{name}" for name in ("adjustments", "promotions", "finance")
)
KEY = {"Idempotency-Key": "a-key-of-mine-19"}


def test_one_of_finance_proposes_and_another_approves_as_on_the_pages(
    database: Connected, ann: User, money: Money, become: Callable[..., Ask]
) -> None:
    ask, colleague = become(Role.FINANCE), become(Role.FINANCE)
    body = {"whom": ann.email, "direction": "debit", "amount": 5.25, "reason": "Charged twice"}

    made = ask("POST", ADJUSTMENTS, body, **KEY)
    path = f"{ADJUSTMENTS}/{made.get_json()['adjustment_id']}"
    listed = colleague("GET", f"{ADJUSTMENTS}?only_open=true").get_json()["adjustments"]
    approved = colleague("POST", f"{path}/approve", {"reason": "Seen the invoices"}, **KEY)
    rejected = colleague("POST", f"{path}/reject", {"reason": "Seen the invoices"}, **KEY)

    assert (made.status_code, made.get_json()["amount_usd"]) == (201, -5.25)
    assert [each["adjustment_id"] for each in listed] == [made.get_json()["adjustment_id"]]
    assert [each.get_json()["status"] for each in (approved, rejected)] == ["posted", "rejected"]
    proposed, decided, _ = money.adjusting.asked
    assert decided.decided_by == colleague.user.user_id  # type: ignore[attr-defined, union-attr]
    assert money.keys()[0] == f"{proposed.proposed_by}:a-key-of-mine-19"  # type: ignore[union-attr]
    done = last_acts(database, 6)
    assert [act.action for act in done[::2]] == [
        "adjustment.propose", "adjustment.approve", "adjustment.reject",
    ]  # fmt: skip
    assert (done[0].subject, done[0].before) == (str(ann.user_id), {"amount_micros": -5_250_000})
    assert (done[3].after or {})["status"] == "posted"
    assert ask("POST", ADJUSTMENTS, body).status_code == 400
    assert code_of(ask("POST", ADJUSTMENTS, {**body, "whom": "nobody"}, **KEY))[0] == 404
    for bad in ({"amount": 0}, {"amount": "5"}, {"direction": "up"}, {"reason": "no"}):
        assert code_of(ask("POST", ADJUSTMENTS, {**body, **bad}, **KEY))[0] == 422


def test_promotional_credit_is_given_and_what_is_left_of_it_stands_with_the_user(
    database: Connected, ann: User, money: Money, become: Callable[..., Ask]
) -> None:
    ask = become(Role.SUPPORT)
    body = {"whom": ann.email, "amount": 5.25, "last_day": "2999-03-01", "reason": "A slow machine"}

    given = ask("POST", PROMOTIONS, body, **KEY).get_json()
    listed = ask("GET", PROMOTIONS).get_json()["promotions"][0]
    ask("POST", "/api/admin/users", {"whom": ann.email, "reason": "Case 17: they ask"})
    [left] = ask("GET", f"/api/admin/users/{ann.user_id}").get_json()["promotions"]

    assert (given["amount_usd"], given["expires_at"]) == (5.25, "2999-03-02T00:00:00Z")
    assert (listed["user_id"], listed["amount_usd"], listed["is_done"]) == (
        str(ann.user_id), 5.25, True,
    )  # fmt: skip
    assert left["left_usd"] == 4.25
    for last_day in ("9999-12-31", "tomorrow", 5):
        refused = ask("POST", PROMOTIONS, {**body, "last_day": last_day}, **KEY)
        assert code_of(refused) == (422, "bad_request")
    money.fail(BadRequest("More than one may give.", "amount_micros"))
    error = ask("POST", PROMOTIONS, body, **KEY).get_json()["error"]
    assert (error["code"], error["field"]) == ("bad_request", "amount")


def test_the_books_and_the_journal_are_told_and_verified(
    database: Connected, ann: User, money: Money, become: Callable[..., Ask]
) -> None:
    ask = become(Role.FINANCE)

    told = ask("GET", BOOKS).get_json()
    lines = ask("GET", f"{BOOKS}/journal?since=2026-11-01&until=2026-11-30").get_json()["lines"]
    asked = ask("POST", f"{BOOKS}/verify", {"reason": "End of the month"}, **KEY)
    money.telling.away = {"topup", "billing"}
    in_part = ask("GET", BOOKS).get_json()

    assert (told["books"]["difference_usd"], told["books"]["negative"][0]["balance_usd"]) == (0, -7)
    [new, old] = told["payments"]["differences"]
    assert [each["differences"][0]["age_hours"] for each in (new, old)] in ([None, 73], [73, None])
    assert told["payments"]["stuck"]
    assert told["payments"]["disputes"][0]["amount_usd"]
    assert told["payouts"][0]["amount_usd"]
    assert (lines[0]["day"], asked.status_code) == ("2026-11-01", 202)
    assert lines[0]["net_usd"] == lines[0]["received_usd"] - lines[0]["given_usd"]
    assert last_acts(database, 1)[0].action == "ledger.verify"
    assert (in_part["payments"], in_part["payouts"], in_part["books"] is None) == (
        None, None, False,
    )  # fmt: skip
    for days in ("since=2026-11-01&until=2026-12-02", "since=2026-11-02&until=2026-11-01", ""):
        assert code_of(ask("GET", f"{BOOKS}/journal?{days}"))[0] == 422


def test_a_lost_answer_has_no_outcome_and_its_repetition_the_same_key(
    database: Connected, ann: User, money: Money, become: Callable[..., Ask]
) -> None:
    ask = become(Role.FINANCE)
    why = {"reason": "Case 17: charged twice"}
    commands = {
        ADJUSTMENTS: {**why, "whom": ann.email, "direction": "credit", "amount": 5},
        f"{ADJUSTMENTS}/{uuid4()}/approve": why,
        f"{BOOKS}/verify": why,
    }

    money.fail(DeadlineExceeded("No answer came in time."))
    lost = [ask("POST", path, body, **KEY) for path, body in commands.items()]
    left_open = last_acts(database, 3)
    money.fail(None)
    again = [ask("POST", path, body, **KEY) for path, body in commands.items()]

    assert [each.status_code for each in lost] == [504] * 3
    assert [each.status_code for each in again] == [201, 200, 202]
    assert [act.after for act in left_open] == [None] * 3
    assert (len(money.keys()), len(set(money.keys()))) == (6, 1)


def test_who_may_read_the_books_changes_nothing_in_them(
    ann: User, money: Money, become: Callable[..., Ask]
) -> None:
    auditor, support = become(Role.AUDITOR), become(Role.SUPPORT)
    why = {"reason": "Case 17: charged twice"}

    for path in (ADJUSTMENTS, f"{ADJUSTMENTS}/{uuid4()}/approve", f"{BOOKS}/verify"):
        for ask in (auditor, support):
            assert code_of(ask("POST", path, why, **KEY)) == (403, "role_missing")
    assert code_of(auditor("POST", PROMOTIONS, why, **KEY)) == (403, "role_missing")
    assert auditor("GET", BOOKS).status_code == 200
    assert code_of(support("GET", BOOKS)) == (403, "role_missing")
    assert money.keys() == []
