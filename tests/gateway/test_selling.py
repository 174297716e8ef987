"""/dashboard/selling: becoming a seller, the sales, and asking to be paid."""

import csv
from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import (
    GetSalesSums,
    ListPayouts,
    ListSales,
    Payout,
    PayoutPage,
    PayoutStatus,
    ProductSales,
    RequestPayout,
    SalesPage,
    SalesSum,
    SalesSums,
)
from contracts.errors import (
    Conflict,
    DeadlineExceeded,
    InsufficientFunds,
    ServiceError,
    Unavailable,
)
from services.gateway import selling
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import SellerAgreement, User
from services.gateway.pages import selling as pages
from services.gateway.staff import grants
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_roles import COMMAND, WHY, Desk, held_by, last_acts
from tests.gateway.test_site import logged_in
from tests.gateway.test_support import clerk
from tests.locks import done_after

USD = 1_000_000
FORM = {"agree": "yes", "terms": selling.TERMS_VERSION, "fee_bps": "1000"}


@pytest.fixture
def people(database: Connected) -> list[User]:
    with database.begin() as session:
        session.execute(text("TRUNCATE seller_agreements"))
    return [add_user(database, has_wallet=True) for _ in range(3)]


@pytest.fixture
def desk(alone: Flask, database: Connected, people: list[User]) -> Desk:
    """Somebody between two others, who has a second step and no role."""
    return Desk(alone, database, people[1])


def test_somebody_agrees_to_the_fee_of_now_and_is_a_seller(
    database: Connected, desk: Desk, people: list[User]
) -> None:
    terms = desk.get("/dashboard/selling/join").text
    closed = desk.get("/dashboard/selling")
    done = desk.post("/dashboard/selling/join", **FORM)
    again = desk.post("/dashboard/selling/join", **FORM)

    assert "keeps <strong>10%</strong>" in terms
    assert (closed.headers["Location"], done.status_code, again.status_code) == (
        "/dashboard/selling/join", 303, 303,
    )  # fmt: skip
    assert [held_by(database, user) for user in people] == [set(), {"seller"}, set()]
    with database.read() as session:
        row = session.get_one(SellerAgreement, people[1].user_id)
        assert (row.terms_version, row.fee_bps, row.address) == (
            selling.TERMS_VERSION, 1_000, "127.0.0.1",
        )  # fmt: skip
    [act] = [each for each in last_acts(database, 5) if each.subject == str(people[1].user_id)]
    assert (act.actor_id, act.action, act.before, act.after) == (
        people[1].user_id, "seller.join", {"roles": ""},
        {"roles": "seller", "terms": selling.TERMS_VERSION, "fee_bps": 1_000},
    )  # fmt: skip
    assert "You agreed to a fee of 10%" in desk.get("/dashboard/selling").text


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({**FORM, "agree": ""}, "Tick that you agree"),
        ({**FORM, "terms": "2020-01-01"}, "The terms have changed"),
        ({**FORM, "fee_bps": "900"}, "The fee has changed"),
    ],
    ids=["not ticked", "terms of another day", "the fee of another day"],
)
def test_nothing_is_agreed_to_by_accident(
    database: Connected, desk: Desk, people: list[User], form: dict[str, str], sentence: str
) -> None:
    answer = desk.post("/dashboard/selling/join", **form)

    assert (answer.status_code, sentence in answer.text) == (409, True)
    assert held_by(database, people[1]) == set()


def test_without_a_second_step_nobody_sells(
    database: Connected, desk: Desk, people: list[User]
) -> None:
    with database.begin() as session:
        session.get_one(User, people[1].user_id).second_step_since = None

    answer = desk.post("/dashboard/selling/join", **FORM)

    assert (answer.status_code, "#second-step" in answer.text) == (409, True)
    assert held_by(database, people[1]) == set()


def test_whom_an_operator_took_the_role_from_does_not_take_it_back(
    database: Connected, desk: Desk, people: list[User]
) -> None:
    desk.post("/dashboard/selling/join", **FORM)
    with database.begin() as session:
        grants.take(session, utc_now(), COMMAND, people[1].user_id, Role.SELLER, WHY)

    answer = desk.post("/dashboard/selling/join", **FORM)

    assert (answer.status_code, "An operator took" in answer.text) == (409, True)
    assert held_by(database, people[1]) == set()


def test_whom_an_operator_took_the_role_from_is_paid_what_they_earned(
    database: Connected,
    desk: Desk,
    people: list[User],
    code_is_right: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by the API, which asks for no role."""
    desk.post("/dashboard/selling/join", **FORM)
    with database.begin() as session:
        grants.take(session, utc_now(), COMMAND, people[1].user_id, Role.SELLER, WHY)
    billing = Billing()
    answers_with(monkeypatch, billing)

    page = desk.get("/dashboard/selling").text
    asked = desk.post("/dashboard/selling/payouts", amount="5", key=str(uuid4()))
    products = desk.get("/dashboard/selling/products")

    assert ("You no longer have the seller role" in page, "Your products" in page) == (True, False)
    assert "$9.00 can be paid out" in page
    assert asked.status_code == 303
    assert [each.user_id for each in billing.of(RequestPayout)] == [people[1].user_id]
    assert products.status_code == 403


def test_the_sidebar_leads_to_selling_for_who_sells_alone(
    alone: Flask, desk: Desk, people: list[User]
) -> None:
    link = 'href="/dashboard/selling"'
    before = desk.get("/dashboard/account").text
    desk.post("/dashboard/selling/join", **FORM)
    after = desk.get("/dashboard/account").text

    assert (link in before, link in after) == (False, True)
    assert link not in logged_in(alone, people[2]).get("/dashboard/account").text


def test_who_agrees_twice_at_the_same_moment_agrees_once(
    database: Connected, people: list[User]
) -> None:
    user_id = people[1].user_id
    with database.begin() as session:
        session.get_one(User, user_id).second_step_since = utc_now()

    def agree(session: Any) -> None:
        selling.join(session, utc_now(), user_id, selling.TERMS_VERSION, 1_000, "here")

    def again() -> int:
        with database.begin() as session:
            agree(session)
        return len([act for act in last_acts(database, 5) if act.subject == str(user_id)])

    assert done_after(database, agree, again) == 1


class Billing:
    """Sales in two pages, a payout that was sent; ``fails`` is what asking for one raises."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.fails: ServiceError | None = None
        self.is_away = False

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        self.asked.append(request)
        if self.is_away:
            raise Unavailable("It is away.")
        match request:
            case ListSales():
                name = "VM" if request.cursor else "=HYPERLINK(1)"
                answer: Any = SalesPage(
                    sales=[sale(name)], next_cursor=None if request.cursor else "more"
                )
            case GetSalesSums():
                sums = {"gross_micros": 30, "refunded_micros": 2, "fee_micros": 3, "net_micros": 25}
                total = SalesSum(**{name: units * USD for name, units in sums.items()})
                answer = SalesSums(total=total, providers=[])
            case ListPayouts():
                sent = payout(PayoutStatus.PAID, reference="SEPA 7")
                answer = PayoutPage(payouts=[sent], payable_micros=9 * USD)
            case RequestPayout():
                if self.fails:
                    raise self.fails
                answer = payout(PayoutStatus.HELD)
            case _:
                raise Unavailable("It is away.")
        return lambda: answer

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.asked if isinstance(each, kind)]


def sale(name: str) -> ProductSales:
    return ProductSales(
        day=date(2026, 11, 28),
        product_id=UUID(int=7),
        product_name=name,
        units=2,
        renewals=1,
        units_refunded=0,
        gross_micros=10 * USD,
        refunded_micros=0,
        fee_micros=1 * USD,
        net_micros=9 * USD,
    )


def payout(status: PayoutStatus, reference: str = "") -> Payout:
    return Payout(
        payout_id=uuid4(),
        user_id=uuid4(),
        amount_micros=5 * USD,
        status=status,
        reference=reference,
        reason="",
        created_at=utc_now(),
        changed_at=utc_now(),
    )


@pytest.fixture
def seller(alone: Flask, database: Connected, people: list[User]) -> Desk:
    return clerk(alone, database, Role.SELLER)


@pytest.fixture
def billing(seller: Desk, monkeypatch: pytest.MonkeyPatch) -> Billing:
    stand_in = Billing()
    answers_with(monkeypatch, stand_in)
    return stand_in


@pytest.fixture
def code_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "check_may_pay_out", lambda *_: None)


def test_a_seller_sees_their_own_sales_and_payouts(
    database: Connected, seller: Desk, billing: Billing
) -> None:
    [became] = last_acts(database, 1)
    page = seller.get("/dashboard/selling?since=2026-11-01&until=2026-11-30").text

    assert ("+$9.00" in page, "+$25.00" in page) == (True, True)
    assert "SEPA 7" in page
    [asked], [summed] = billing.of(ListSales), billing.of(GetSalesSums)
    for each in (asked, summed):
        assert (each.since, each.until) == (date(2026, 11, 1), date(2026, 11, 30))
    asking = {str(asked.user_id), str(summed.user_id), str(billing.of(ListPayouts)[0].user_id)}
    assert asking == {became.subject}


def test_with_billing_away_the_page_still_works(seller: Desk, billing: Billing) -> None:
    billing.is_away = True

    answer = seller.get("/dashboard/selling")

    assert (answer.status_code, answer.text.count("cannot be shown at the moment")) == (200, 2)


@pytest.mark.parametrize(
    "query",
    [
        "since=x",
        "since=2026-12-01&until=2026-11-01",
        "until=0000",
        # 367 days.
        "since=2025-11-01&until=2026-11-02",
    ],
)
def test_days_that_are_none_are_refused(seller: Desk, billing: Billing, query: str) -> None:
    paths = ("/dashboard/selling", "/dashboard/selling/sales.csv")
    assert [seller.get(f"{path}?{query}").status_code for path in paths] == [422, 422]


def test_the_file_has_all_rows_and_no_formula(seller: Desk, billing: Billing) -> None:
    answer = seller.get("/dashboard/selling/sales.csv?since=2026-11-01&until=2026-11-30")

    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [row["product"] for row in rows] == ["'=HYPERLINK(1)", "VM"]
    assert rows[0]["net_usd"] == "9.00"
    assert "sales-2026-11-01-2026-11-30.csv" in answer.headers["Content-Disposition"]


def test_a_payout_is_reviewed_and_then_asked_for_once(
    seller: Desk, billing: Billing, code_is_right: None
) -> None:
    form = {"amount": "5", "key": str(uuid4()), "code": "1"}

    review = seller.post("/dashboard/selling/payouts/review", amount="5")
    asked = billing.of(RequestPayout)
    done = [seller.post("/dashboard/selling/payouts", **form) for _ in range(2)]

    assert ("Pay out $5.00?" in review.text, asked) == (True, [])
    assert [answer.status_code for answer in done] == [303, 303]
    requests = billing.of(RequestPayout)
    assert {each.amount_micros for each in requests} == {5 * USD}
    assert len({each.idempotency_key for each in requests}) == 1


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    seller: Desk, billing: Billing, code_is_right: None
) -> None:
    billing.fails = DeadlineExceeded("No answer.")
    key = str(uuid4())

    answer = seller.post("/dashboard/selling/payouts", amount="5", key=key, code="1")

    assert (answer.status_code, f'value="{key}"' in answer.text) == (504, True)
    assert "Pressing again is safe" in answer.text


@pytest.mark.parametrize("fails", [InsufficientFunds("So much was not earned."), Conflict("No.")])
def test_what_billing_refuses_is_said(
    seller: Desk, billing: Billing, code_is_right: None, fails: ServiceError
) -> None:
    billing.fails = fails

    answer = seller.post("/dashboard/selling/payouts", amount="5", key=str(uuid4()), code="1")

    assert (answer.status_code in (402, 409), str(fails) in answer.text) == (True, True)


def test_without_the_right_code_nothing_is_asked_for(seller: Desk, billing: Billing) -> None:
    answer = seller.post("/dashboard/selling/payouts", amount="5", key=str(uuid4()), code="1")

    assert (answer.status_code, billing.of(RequestPayout)) == (422, [])
