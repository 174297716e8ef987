"""/admin/promotions, and what the wallet's page tells of promotional credit."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from chassis.database import Connected
from contracts.errors import BadRequest, Conflict, DeadlineExceeded, ServiceError, Unavailable
from contracts.wallet import (
    GetPromotions,
    GetWallet,
    GivePromotion,
    Promotion,
    Promotions,
    Statement,
    StatementPage,
)
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.models import User
from tests.contracts.golden import examples
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_roles import last_acts
from tests.gateway.test_site import logged_in
from tests.gateway.test_support import clerk, open_page

USD = 1_000_000
FORM = {"amount": "5.25", "last_day": "2999-03-01", "reason": "Case 17: a slow machine"}


class Wallet:
    """What was given; ``fails`` is what giving raises."""

    def __init__(self) -> None:
        self.given: list[GivePromotion] = []
        self.fails: ServiceError | None = None

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if isinstance(request, GivePromotion):
            self.given.append(request)
            if self.fails:
                raise self.fails
            return lambda: promotion(request.amount_micros, request)
        if isinstance(request, GetPromotions | Statement):
            found = [
                promotion(each.amount_micros - USD, each)
                for each in self.given
                if each.user_id == request.user_id
            ]
            if isinstance(request, Statement):
                told = found if request.with_promotions else None
                return lambda: StatementPage(transactions=[], promotions=told)
            return lambda: Promotions(promotions=found)
        if isinstance(request, GetWallet):
            told = {**examples("wallet")["Wallet"], "available_micros": 20 * USD}
            return lambda: GetWallet.reply.model_validate(told)
        raise Unavailable("It is away.")


def promotion(left_micros: int, command: GivePromotion) -> Promotion:
    said = command.model_dump(exclude={"idempotency_key", "user_id"})
    given_at = examples("wallet")["Promotion"]["given_at"]
    return Promotion(promotion_id=uuid4(), left_micros=left_micros, given_at=given_at, **said)


@pytest.fixture
def wallet(monkeypatch: pytest.MonkeyPatch) -> Wallet:
    stand_in = Wallet()
    answers_with(monkeypatch, stand_in)
    return stand_in


@pytest.fixture
def people(database: Connected) -> list[User]:
    return [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abc"]


@pytest.mark.parametrize("role", [Role.SUPPORT, Role.FINANCE])
def test_credit_is_given_until_the_end_of_a_day_and_recorded_before_and_after(
    alone: Flask, database: Connected, people: list[User], wallet: Wallet, role: Role
) -> None:
    desk = clerk(alone, database, role)
    answer = desk.post("/admin/promotions", whom="b@example.com", **FORM)

    [given] = wallet.given
    assert answer.status_code == 303
    assert (given.user_id, given.amount_micros) == (people[1].user_id, 5_250_000)
    assert f"{given.expires_at:%Y-%m-%d %H:%M}" == "2999-03-02 00:00"
    begun, ended = last_acts(database, 2)
    assert given.given_by == begun.actor_id
    assert [(act.action, act.subject, act.reason) for act in (begun, ended)] == [
        ("promotion.give", str(people[1].user_id), "Case 17: a slow machine")
    ] * 2
    assert (begun.before or {})["amount_micros"] == 5_250_000
    assert (ended.after or {})["outcome"] == "done"
    page = desk.get("/admin/promotions").text
    assert page.count(">b@example.com<") == 1
    assert "$5.25" in page
    assert "not known yet" not in page


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"amount": "0"}, 422),
        ({"last_day": "tomorrow"}, 422),
        ({"last_day": "9999-12-31"}, 422),
        ({"reason": "no"}, 422),
        ({"whom": "nobody@example.com"}, 404),
    ],
)
def test_what_nobody_can_mean_is_not_given(
    alone: Flask,
    database: Connected,
    people: list[User],
    wallet: Wallet,
    fields: dict[str, str],
    status: int,
) -> None:
    desk = clerk(alone, database, Role.SUPPORT)
    form = {"whom": people[1].email, **FORM, **fields}
    answer = desk.post("/admin/promotions", **form)

    assert (answer.status_code, wallet.given) == (status, [])
    assert 'aria-invalid="true"' in answer.text


@pytest.mark.parametrize(
    ("fails", "status", "after"),
    [
        (BadRequest("Too much.", "amount_micros"), 422, {"outcome": "bad_request"}),
        (Conflict("Nobody gives themself credit."), 409, {"outcome": "conflict"}),
        (DeadlineExceeded("No answer."), 504, None),
    ],
    ids=["bound", "own", "lost"],
)
def test_what_the_wallet_refuses_or_leaves_unanswered_is_not_recorded_as_given(
    alone: Flask,
    database: Connected,
    people: list[User],
    wallet: Wallet,
    fails: ServiceError,
    status: int,
    after: dict[str, str] | None,
) -> None:
    desk = clerk(alone, database, Role.SUPPORT)
    wallet.fails = fails
    form = {"whom": people[1].email, "key": str(uuid4()), **FORM}
    answers = [desk.post("/admin/promotions", **form).status_code for _ in range(2)]

    assert (answers, last_acts(database, 1)[0].after) == ([status] * 2, after)
    assert wallet.given[0] == wallet.given[1]
    page = desk.get("/admin/promotions").text
    unanswered = 0 if after else 1
    assert (page.count(">b@example.com<"), page.count("not known yet")) == (unanswered,) * 2


def test_what_was_left_unanswered_is_sent_again_by_the_form_that_is_shown_and_listed_once(
    alone: Flask, database: Connected, people: list[User], wallet: Wallet
) -> None:
    desk = clerk(alone, database, Role.FINANCE)
    wallet.fails = DeadlineExceeded("No answer.")
    lost = desk.post("/admin/promotions", whom=people[1].email, key=str(uuid4()), **FORM)
    wallet.fails = None
    [key] = re.findall(r'name="key" value="([^"]+)"', lost.text)
    again = desk.post("/admin/promotions", whom=people[1].email, key=key, **FORM)

    assert (lost.status_code, again.status_code) == (504, 303)
    assert "No answer. Pressing again is safe: it is given once." in lost.text
    assert all(typed in lost.text for typed in (people[1].email, *FORM.values()))
    assert wallet.given[0] == wallet.given[1]
    page = desk.get("/admin/promotions").text
    assert re.findall(r">b@example.com</span>(.*?)</p>", page) == [""]


def test_its_user_alone_sees_how_much_of_the_balance_expires_and_when(
    alone: Flask, database: Connected, people: list[User], wallet: Wallet
) -> None:
    desk = clerk(alone, database, Role.SUPPORT)
    desk.post("/admin/promotions", whom="b@example.com", **FORM)

    pages = [logged_in(alone, user).get("/dashboard/wallet").text for user in people]

    assert ["$4.25 of your credits is promotional" in page for page in pages] == [
        False,
        True,
        False,
    ]
    assert "2\N{NO-BREAK SPACE}Mar\N{NO-BREAK SPACE}2999" in pages[1]
    seen = [desk.get(open_page(desk, user)).text for user in people]
    assert ["$4.25 of it is promotional" in page for page in seen] == [False, True, False]
