"""Unused credit back to its card: the pages and the API, without the services behind them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pyotp
import pytest
from flask import Flask
from flask.testing import FlaskClient

from chassis.clock import utc_now
from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.errors import Conflict, DeadlineExceeded, PaymentFailed, ServiceError
from contracts.topup import (
    CardRefund,
    CardRefundPage,
    CardRefundRefused,
    CardRefundStatus,
    GetCardRefund,
    ListCardRefunds,
    ListRefundable,
    RefundableTopup,
    RefundableTopups,
    RefundTopup,
    TopupKind,
    TopupRestored,
    TopupReversed,
)
from services.gateway.app import create_app
from services.gateway.models import User
from services.gateway.notifications import messages, topics
from services.gateway.people import second_step
from tests.gateway.conftest import add_user, gateway_settings, token_for
from tests.gateway.test_site import csrf_token, logged_in

USD = 1_000_000
PATH = "/api/wallet/refunds"
PAGE = "/dashboard/wallet/refunds"


@dataclass
class Topups:
    """In place of the top-up service: one top-up, of which $20 are unused."""

    topup_id: UUID = field(default_factory=uuid4)
    blocked: str = ""
    is_auto_topup_on: bool = False
    is_away: bool = False
    status: CardRefundStatus = CardRefundStatus.SUCCEEDED
    fails_with: ServiceError | None = None
    asked: list[RefundTopup] = field(default_factory=list)
    made: dict[str, CardRefund] = field(default_factory=dict)

    def ask(self, request: Any) -> Any:
        if self.is_away or not isinstance(request, ListRefundable | ListCardRefunds):
            return None
        return self.call(request)

    def call(self, request: Any) -> Any:
        if isinstance(request, RefundTopup):
            return self._refund(request)
        if isinstance(request, ListCardRefunds):
            return CardRefundPage(refunds=list(self.made.values()))
        if isinstance(request, GetCardRefund):
            return next(each for each in self.made.values() if each.refund_id == request.refund_id)
        offer = RefundableTopup(
            topup_id=self.topup_id,
            kind=TopupKind.MANUAL,
            amount_micros=25 * USD,
            refundable_micros=0 if self.made else 20 * USD,
            paid_at=utc_now(),
            refundable_until=utc_now(),
            card_brand="visa",
            card_last4="4242",
        )
        return RefundableTopups(
            topups=[] if self.made else [offer],
            blocked_reason=self.blocked,
            switches_off_auto_topup=self.is_auto_topup_on,
        )

    def _refund(self, request: RefundTopup) -> CardRefund:
        self.asked.append(request)
        if self.fails_with is not None:
            raise self.fails_with
        return self.made.setdefault(
            request.idempotency_key,
            CardRefund(
                refund_id=new_id(),
                user_id=request.user_id,
                topup_id=request.topup_id,
                amount_micros=request.amount_micros or 20 * USD,
                status=self.status,
                card_brand="visa",
                card_last4="4242",
                created_at=utc_now(),
                updated_at=utc_now(),
            ),
        )


@pytest.fixture
def topups(monkeypatch: pytest.MonkeyPatch) -> Topups:
    stand_in = Topups()
    monkeypatch.setattr("services.gateway.card_refunds.call", stand_in.call)
    monkeypatch.setattr("services.gateway.pages.transfers.ask", lambda _: None)
    monkeypatch.setattr("services.gateway.api.card_refunds.call", stand_in.call)
    page = "services.gateway.pages.card_refunds"
    monkeypatch.setattr(f"{page}.ask", stand_in.ask)
    monkeypatch.setattr(f"{page}.ask_all", lambda *each: [stand_in.ask(one) for one in each])
    return stand_in


@pytest.fixture
def app(nobody_answers: None, databases: dict[str, str], topups: Topups) -> Iterator[Flask]:
    app = create_app(gateway_settings(databases["gateway"]))
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, "ann@example.com", has_wallet=True)


@pytest.fixture
def browser(app: Flask, user: User) -> FlaskClient:
    return logged_in(app, user)


def program(app: Flask, database: Connected, user: User) -> Any:
    client, token = app.test_client(use_cookies=False), token_for(database, user)

    def send(key: str = "key", **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        return client.post(PATH, json=body, headers=headers)

    return send


def post(browser: FlaskClient, path: str, **form: Any) -> Any:
    token = csrf_token(browser.get("/dashboard/wallet/transfer").text)
    return browser.post(path, data={"csrf_token": token, **form})


# For programs


def test_a_program_asks_for_all_or_a_part_of_it(
    app: Flask, database: Connected, user: User, topups: Topups
) -> None:
    send = program(app, database, user)
    whole = send(key="a", topup_id=str(topups.topup_id))
    part = send(key="b", topup_id=str(topups.topup_id), amount=5.5)

    assert (whole.status_code, whole.json["amount_usd"], whole.json["status"]) == (
        201,
        20,
        "succeeded",
    )
    assert whole.headers["Location"] == f"{PATH}/{whole.json['refund_id']}"
    assert (part.status_code, part.json["amount_usd"]) == (201, 5.5)
    assert [each.amount_micros for each in topups.asked] == [None, 5_500_000]
    assert {each.user_id for each in topups.asked} == {user.user_id}
    assert len({each.idempotency_key for each in topups.asked}) == 2


def test_a_program_sees_what_can_be_and_what_was_paid_back(
    app: Flask, database: Connected, user: User, topups: Topups
) -> None:
    client, token = app.test_client(use_cookies=False), token_for(database, user)
    headers = {"Authorization": f"Bearer {token}"}
    before = client.get("/api/wallet/refundable", headers=headers).json
    made = program(app, database, user)(topup_id=str(topups.topup_id)).json
    listed = client.get(PATH, headers=headers).json
    one = client.get(f"{PATH}/{made['refund_id']}", headers=headers).json

    assert [each["refundable_usd"] for each in before["topups"]] == [20]
    assert (listed["refunds"], one) == ([made], made)


@pytest.mark.parametrize(
    ("error", "status"),
    [(Conflict("Too late."), 409), (PaymentFailed("No."), 402), (DeadlineExceeded("Late."), 504)],
)
def test_a_program_is_told_why_not(
    app: Flask, database: Connected, user: User, topups: Topups, error: ServiceError, status: int
) -> None:
    topups.fails_with = error

    answer = program(app, database, user)(topup_id=str(topups.topup_id))

    assert (answer.status_code, answer.json["error"]["code"]) == (status, error.code)


# The second step


def test_the_second_step_is_asked_before_money_leaves(
    app: Flask, database: Connected, user: User, topups: Topups
) -> None:
    now = utc_now()
    with database.begin() as session:
        secret = second_step.begin(session, user.user_id, app.config["SECRET_KEY"])
        earlier = pyotp.TOTP(secret).at(now - timedelta(seconds=30))
        second_step.confirm(session, now, user.user_id, app.config["SECRET_KEY"], earlier)
    send = program(app, database, user)
    body = {"topup_id": str(topups.topup_id)}
    refused = [send(code=wrong, **body).status_code for wrong in ("", "000000")]
    code = pyotp.TOTP(secret).at(utc_now())
    answers = [send(code=code, **body).status_code for _ in range(2)]
    other = send(key="other", code=code, **body).status_code

    # A retry brings the same code; another refund takes another one.
    assert (refused, answers, other) == ([401, 401], [201, 201], 401)
    assert len(topups.asked) == 2


# For people


def test_a_person_picks_reviews_and_confirms(browser: FlaskClient, topups: Topups) -> None:
    listed = browser.get(PAGE).text
    assert "Refund $20.00" in listed
    review = post(browser, f"{PAGE}/review", topup_id=topups.topup_id).text
    assert "Visa •••• 4242" in review
    assert "Auto top-up is switched off" not in review
    done = post(browser, PAGE, topup_id=topups.topup_id, amount="20")

    assert (done.status_code, done.location) == (303, PAGE)
    after = browser.get(PAGE).text
    assert "on its way to your card" in after
    assert "Paid back" in after
    assert [each.amount_micros for each in topups.asked] == [20 * USD]


def test_a_part_is_reviewed_and_given_back(browser: FlaskClient, topups: Topups) -> None:
    review = post(browser, f"{PAGE}/review", topup_id=topups.topup_id, amount="7.50").text
    post(browser, PAGE, topup_id=topups.topup_id, amount="7.50")

    assert "Refund $7.50?" in review
    assert 'name="amount" value="7.50"' in review
    assert [each.amount_micros for each in topups.asked] == [7_500_000]


@pytest.mark.parametrize("amount", ["0", "20.01", "x", "-1"])
def test_no_more_is_reviewed_than_is_unused(
    browser: FlaskClient, topups: Topups, amount: str
) -> None:
    answer = post(browser, f"{PAGE}/review", topup_id=topups.topup_id, amount=amount)

    assert (answer.status_code, 'id="amount-error"' in answer.text) == (422, True)
    assert "Refund $20.00?" in answer.text


def test_the_review_says_that_auto_topup_is_switched_off(
    browser: FlaskClient, topups: Topups
) -> None:
    topups.is_auto_topup_on = True

    review = post(browser, f"{PAGE}/review", topup_id=topups.topup_id).text

    assert "Auto top-up is switched off" in review


def test_what_is_unused_no_more_is_not_reviewed(browser: FlaskClient, topups: Topups) -> None:
    other = post(browser, f"{PAGE}/review", topup_id=uuid4())
    topups.blocked = "A payment of yours is disputed with your bank."
    blocked = post(browser, f"{PAGE}/review", topup_id=topups.topup_id)

    assert (other.status_code, blocked.status_code) == (409, 409)
    assert "Nothing was paid back" in other.text
    assert "disputed with your bank" in blocked.text
    assert "Refund $20.00" not in blocked.text


@pytest.mark.parametrize("form", [{}, {"amount": "20"}, {"amount": "0"}, {"amount": "x"}])
def test_a_form_without_its_figures_pays_nothing_back(
    browser: FlaskClient, topups: Topups, form: dict[str, str]
) -> None:
    topup = {} if form == {"amount": "20"} else {"topup_id": topups.topup_id}

    assert post(browser, PAGE, **topup, **form).status_code == 422
    assert topups.asked == []


def test_less_than_was_shown_is_refused_with_the_reason(
    browser: FlaskClient, topups: Topups
) -> None:
    topups.fails_with = Conflict(
        "$5.00 of these credits is unused and can be paid back.", "5000000"
    )

    answer = post(browser, PAGE, topup_id=topups.topup_id, amount="20")

    assert (answer.status_code, "$5.00 of these credits" in answer.text) == (409, True)


def test_an_answer_that_is_lost_is_asked_for_again_under_the_same_key(
    browser: FlaskClient, topups: Topups
) -> None:
    topups.fails_with = DeadlineExceeded("It did not answer in time.")
    key = str(new_id())
    lost = post(browser, PAGE, topup_id=topups.topup_id, amount="20", key=key)
    topups.fails_with = None
    post(browser, PAGE, topup_id=topups.topup_id, amount="20", key=key)

    assert (lost.status_code, "Pressing again is safe" in lost.text, key in lost.text) == (
        504,
        True,
        True,
    )
    assert len({each.idempotency_key for each in topups.asked}) == 1


def test_the_pages_stand_while_the_service_is_away(browser: FlaskClient, topups: Topups) -> None:
    topups.is_away = True

    assert "cannot be shown at the moment" in browser.get(PAGE).text
    assert post(browser, f"{PAGE}/review", topup_id=topups.topup_id).status_code == 409


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (CardRefundStatus.SENT, "set aside for your card"),
        (CardRefundStatus.PENDING, "on its way to your card"),
    ],
)
def test_what_is_not_done_yet_says_so(
    browser: FlaskClient, topups: Topups, status: CardRefundStatus, said: str
) -> None:
    topups.status = status
    post(browser, PAGE, topup_id=topups.topup_id, amount="20")

    assert said in browser.get(PAGE).text


# What people are told


def facts(**fields: Any) -> dict[str, Any]:
    common = {"event_id": new_id(), "occurred_at": utc_now(), "user_id": new_id()}
    return {**common, "topup_id": new_id(), "amount_micros": 20 * USD, **fields}


def test_people_are_told_what_became_of_it_and_by_mail() -> None:
    reversal = {"reversal_id": "re_1", "is_dispute": False, "description": "-"}
    refund = {"refund_id": new_id()}
    told = [
        messages.topup_reversed(TopupReversed(**facts(**reversal, **refund))),
        messages.topup_restored(TopupRestored(**facts(**reversal, **refund))),
        messages.card_refund_refused(
            CardRefundRefused(**facts(**refund, reason="It is too late."))
        ),
    ]

    assert [message.title for message in told] == [
        "$20.00 is on its way to your card",
        "Your bank sent $20.00 back",
        "$20.00 was not paid back to your card",
    ]
    assert "It is too late. The credits are in your wallet" in told[2].body
    assert all(topics.BY_KIND[message.kind].must_mail for message in told)
    # What support gave back is told as before.
    assert messages.topup_reversed(TopupReversed(**facts(**reversal))).kind == "topup_reversed"
