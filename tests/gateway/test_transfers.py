"""Credits to another user: limits, checks, one effect for each key, and nobody enumerated."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pyotp
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import (
    BadRequest,
    DeadlineExceeded,
    InsufficientFunds,
    KeyClosed,
    ServiceError,
    Unavailable,
)
from contracts.wallet import (
    AccountStatus,
    Affordability,
    ClosedKey,
    CloseKey,
    Transaction,
    TransactionKind,
    Transfer,
)
from services.gateway import transfers
from services.gateway.app import create_app
from services.gateway.models import TransferRow, User
from services.gateway.people import closing, second_step
from tests.gateway.conftest import add_user, gateway_settings, token_for
from tests.gateway.test_site import csrf_token, logged_in
from tests.locks import done_after

USD = 1_000_000
PATH = "/api/wallet/transfers"
OTHER = "c@example.com"
PAGE = "/dashboard/wallet/transfer"


@dataclass
class Wallet:
    """In place of the wallet service: a balance, and a memory of keys."""

    balance_micros: int = 1_000 * USD
    status: AccountStatus = AccountStatus.OPEN
    fails_with: ServiceError | None = None
    """After what was asked was done, where its answer is lost."""

    done: dict[str, Transaction] = field(default_factory=dict)
    asked: list[Transfer] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    refuses_to_close: set[str] = field(default_factory=set)
    is_away: bool = False

    def call(self, request: Any) -> Any:
        if self.is_away:
            raise Unavailable("Nobody is there.")
        if isinstance(request, CloseKey):
            if request.idempotency_key in self.refuses_to_close:
                raise BadRequest("This key cannot be closed.")
            made = self.done.get(request.idempotency_key)
            self.closed += [] if made else [request.idempotency_key]
            return ClosedKey(
                idempotency_key=request.idempotency_key, closed=made is None, transaction=made
            )
        if not isinstance(request, Transfer):
            lacking = max(request.amount_micros - self.balance_micros, 0)
            return Affordability(
                can_afford=not lacking and self.status is AccountStatus.OPEN,
                status=self.status,
                available_micros=self.balance_micros,
                shortfall_micros=lacking,
            )
        self.asked.append(request)
        if request.idempotency_key in self.closed:
            raise KeyClosed("This idempotency key was closed before the command came.")
        if isinstance(self.fails_with, InsufficientFunds):
            raise self.fails_with
        if request.idempotency_key not in self.done:
            self.balance_micros -= request.amount_micros
            self.done[request.idempotency_key] = Transaction(
                transaction_id=uuid4(),
                kind=TransactionKind.TRANSFER,
                amount_micros=-request.amount_micros,
                balance_after_micros=self.balance_micros,
                description=request.description,
                metadata={},
                effective_at=utc_now(),
                recorded_at=utc_now(),
            )
        if self.fails_with is not None:
            raise self.fails_with
        return self.done[request.idempotency_key]


@pytest.fixture
def wallet(monkeypatch: pytest.MonkeyPatch) -> Wallet:
    stand_in = Wallet()
    monkeypatch.setattr("services.gateway.transfers.call", stand_in.call)
    monkeypatch.setattr("services.gateway.pages.transfers.ask", lambda _: None)
    return stand_in


@pytest.fixture
def app(nobody_answers: None, databases: dict[str, str], wallet: Wallet) -> Iterator[Flask]:
    app = create_app(
        gateway_settings(
            databases["gateway"],
            smtp_url="smtp+plain://127.0.0.1:1",
            rate_limit_transfer="20 per hour",
        )
    )
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def people(database: Connected) -> list[User]:
    return [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abcd"]


@dataclass
class Sender:
    client: FlaskClient
    token: str

    def send(self, to: str, dollars: float, key: str | None = None, code: str = "") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key or str(uuid4())}
        body = {"to_email": to, "amount": dollars, "code": code}
        return self.client.post(PATH, json=body, headers=headers)


@pytest.fixture
def sender(app: Flask, database: Connected, people: list[User]) -> Sender:
    """The second of the people."""
    return Sender(app.test_client(use_cookies=False), token_for(database, people[1]))


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]["code"]


def reserved(database: Connected) -> list[tuple[int, bool]]:
    with database.read() as session:
        rows = session.scalars(select(TransferRow).order_by(TransferRow.created_at))
        return [(row.amount_micros, row.transaction_id is not None) for row in rows]


def change(database: Connected, user: User, **values: Any) -> None:
    with database.begin() as session:
        session.execute(update(User).where(User.user_id == user.user_id).values(**values))


def test_a_day_has_a_limit_of_all_transfers_and_the_next_one_begins_anew(
    database: Connected, wallet: Wallet, sender: Sender, people: list[User]
) -> None:
    with database.begin() as session:
        # What others sent is theirs.
        session.add(_row(people[0].user_id, 400 * USD))
        session.add(_row(people[2].user_id, 400 * USD))
    first = [sender.send("c@example.com", amount).status_code for amount in (300, 200)]
    beyond = sender.send("c@example.com", 0.01)
    with database.begin() as session:
        yesterday = utc_now() - timedelta(days=1)
        session.execute(update(TransferRow).values(created_at=yesterday))

    assert (first, refusal(beyond)) == ([201, 201], (409, "limit_exceeded"))
    assert "$0.00 more today" in beyond.json["error"]["message"]
    assert sender.send("c@example.com", 500).status_code == 201
    assert {each.to_user_id for each in wallet.asked} == {people[2].user_id}


def _row(user_id: UUID, amount_micros: int) -> TransferRow:
    return TransferRow(
        key=str(uuid4()),
        user_id=user_id,
        to_user_id=uuid4(),
        asked_sha256=b"",
        amount_micros=amount_micros,
        created_at=utc_now(),
    )


def test_a_transfer_waits_for_another_of_the_same_user_that_is_just_reserved(
    database: Connected, wallet: Wallet, sender: Sender, people: list[User]
) -> None:
    user_id = people[1].user_id

    def hold(session: Session) -> None:
        session.get_one(User, user_id, with_for_update=True)
        session.add(_row(user_id, 450 * USD))

    answer = done_after(database, hold, lambda: sender.send("c@example.com", 50.01))

    assert (refusal(answer), wallet.asked) == ((409, "limit_exceeded"), [])


def test_two_who_send_to_each_other_do_not_wait_for_one_another(
    database: Connected, sender: Sender, people: list[User]
) -> None:
    with database.begin() as session:
        # As the other one holds what they send.
        session.get_one(User, people[2].user_id, with_for_update={"key_share": True})
        assert sender.send("c@example.com", 20).status_code == 201


def test_nothing_is_sent_to_an_account_that_is_just_deleted(
    database: Connected, wallet: Wallet, sender: Sender, people: list[User]
) -> None:
    def hold(session: Session) -> None:
        closing.forget(session, utc_now(), people[2].user_id)

    answer = done_after(database, hold, lambda: sender.send("c@example.com", 20))

    assert (refusal(answer), wallet.asked) == ((422, "bad_request"), [])


@pytest.mark.parametrize("is_answer_lost", [True, False])
def test_an_account_stays_while_credits_are_on_their_way_to_it(
    app: Flask,
    wallet: Wallet,
    sender: Sender,
    people: list[User],
    monkeypatch: pytest.MonkeyPatch,
    is_answer_lost: bool,
) -> None:
    """They come after the wallet was asked for the last time, or their answer is lost."""
    key = str(uuid4())
    wallet.fails_with = DeadlineExceeded("No answer in time.") if is_answer_lost else None

    def send(_: UUID) -> list[closing.Reason]:
        sender.send("c@example.com", 20, key)
        return []

    for name in ("_end_charges", "_money", "_deployments"):
        monkeypatch.setattr(closing, name, lambda _: [])
    monkeypatch.setattr(closing, "_unfinished", send)
    with app.app_context():
        [reason] = closing.close(people[2].user_id)
        wallet.fails_with = None
        sender.send("c@example.com", 20, key)
        monkeypatch.setattr(closing, "_unfinished", lambda _: [])

        assert "may still come" in reason.sentence
        # It came, and the wallet would say so.
        assert closing.reasons_against(people[2].user_id) == []


@pytest.mark.parametrize("is_made", [True, False])
def test_a_transfer_whose_answer_nobody_heard_is_ended_and_stands_against_nothing(
    app: Flask,
    database: Connected,
    wallet: Wallet,
    sender: Sender,
    people: list[User],
    is_made: bool,
) -> None:
    wallet.fails_with = DeadlineExceeded("No answer in time.")
    sender.send("c@example.com", 20, key="k")
    [key] = wallet.done
    if not is_made:
        wallet.done.clear()
    wallet.fails_with = None

    transfers.settle_unanswered(database, wallet, utc_now() + transfers.SETTLED_AFTER / 2)
    assert reserved(database) == [(20 * USD, False)]
    wallet.is_away = True
    transfers.settle_unanswered(database, wallet, utc_now() + transfers.SETTLED_AFTER)
    assert reserved(database) == [(20 * USD, False)]
    wallet.is_away = False
    transfers.settle_unanswered(database, wallet, utc_now() + transfers.SETTLED_AFTER)

    assert reserved(database) == ([(20 * USD, True)] if is_made else [])
    assert wallet.closed == ([] if is_made else [key])
    with app.app_context(), database.read() as session:
        assert closing._sent_since(session, people[2].user_id, None) == []


def test_a_transfer_that_the_wallet_refuses_to_end_keeps_none_behind_it(
    database: Connected, wallet: Wallet, sender: Sender
) -> None:
    wallet.fails_with = DeadlineExceeded("No answer in time.")
    for dollars in (20, 10):
        sender.send("c@example.com", dollars)
    wallet.refuses_to_close = {next(iter(wallet.done))}

    transfers.settle_unanswered(database, wallet, utc_now() + transfers.SETTLED_AFTER)

    assert reserved(database) == [(20 * USD, False), (10 * USD, True)]


def test_who_sends_again_under_a_key_that_was_ended_hears_that_nothing_was_sent(
    database: Connected, wallet: Wallet, sender: Sender
) -> None:
    answer = _sent_again_after_the_end(database, wallet, lambda: sender.send(OTHER, 20, key="k"))

    assert refusal(answer) == (409, "key_closed")
    assert "Nothing was sent" in answer.json["error"]["message"]
    assert "new Idempotency-Key" in answer.json["error"]["message"]
    assert reserved(database) == []
    assert sender.send(OTHER, 20, key="another").status_code == 201


def test_the_page_says_that_nothing_was_sent_and_sends_under_a_new_key(
    database: Connected, wallet: Wallet, browser: FlaskClient
) -> None:
    token = csrf_token(browser.get(PAGE).text)
    form = {"csrf_token": token, "to_email": OTHER, "amount": "20", "key": str(uuid4())}

    answer = _sent_again_after_the_end(database, wallet, lambda: browser.post(PAGE, data=form))

    assert (answer.status_code, "Nothing was sent" in answer.text) == (409, True)
    assert "Idempotency" not in answer.text
    assert form["key"] not in answer.text
    review = browser.post(f"{PAGE}/review", data={**form, "key": ""})
    fields = dict(re.findall(r'name="(key|to_email|amount)" value="([^"]*)"', review.text))
    assert browser.post(PAGE, data={"csrf_token": token, **fields}).status_code == 303


def _sent_again_after_the_end(database: Connected, wallet: Wallet, send: Callable[[], Any]) -> Any:
    wallet.fails_with = DeadlineExceeded("No answer in time.")
    send()
    wallet.done.clear()
    wallet.fails_with = None
    transfers.settle_unanswered(database, wallet, utc_now() + transfers.SETTLED_AFTER)
    return send()


def test_a_key_that_comes_again_sends_once_and_for_another_transfer_is_refused(
    wallet: Wallet, sender: Sender
) -> None:
    wallet.fails_with = DeadlineExceeded("No answer in time.")
    lost = sender.send("c@example.com", 20, key="k")
    wallet.fails_with = None

    again = [sender.send("C@Example.com", 20, key="k") for _ in range(2)]

    assert refusal(lost) == (504, "deadline_exceeded")
    assert [each.status_code for each in again] == [201, 201]
    assert wallet.balance_micros == 980 * USD
    for to, amount in (("c@example.com", 21), ("d@example.com", 20)):
        assert refusal(sender.send(to, amount, key="k")) == (409, "idempotency_conflict")


def test_a_lost_answer_stays_reserved_and_a_refusal_does_not(
    database: Connected, wallet: Wallet, sender: Sender
) -> None:
    wallet.fails_with = DeadlineExceeded("No answer in time.")
    sender.send("c@example.com", 400)
    assert reserved(database) == [(400 * USD, False)]
    wallet.fails_with = InsufficientFunds("Too little.", "0", "1")
    assert refusal(sender.send("c@example.com", 100, key="k")) == (402, "insufficient_funds")
    wallet.fails_with = None

    assert reserved(database) == [(400 * USD, False)]
    assert refusal(sender.send("c@example.com", 100.01)) == (409, "limit_exceeded")
    assert sender.send("c@example.com", 100, key="k").status_code == 201
    assert reserved(database) == [(400 * USD, False), (100 * USD, True)]


def test_who_could_not_pay_learns_nothing_of_an_address(wallet: Wallet, sender: Sender) -> None:
    wallet.balance_micros = 0
    answers = [sender.send(to, 10) for to in ("c@example.com", "nobody@example.com")]
    wallet.balance_micros, wallet.status = 100 * USD, AccountStatus.FROZEN
    frozen = [sender.send(to, 10) for to in ("c@example.com", "nobody@example.com")]

    assert [refusal(each) for each in answers] == [(402, "insufficient_funds")] * 2
    assert [refusal(each) for each in frozen] == [(403, "account_frozen")] * 2
    assert answers[0].data == answers[1].data
    assert wallet.asked == []


def test_an_address_that_is_unknown_unconfirmed_or_deleted_is_answered_alike(
    database: Connected, wallet: Wallet, sender: Sender, people: list[User]
) -> None:
    change(database, people[2], email_confirmed_at=None)
    change(database, people[3], deleted_at=utc_now())

    answers = [sender.send(f"{name}@example.com", 10) for name in "cdx"]

    assert [refusal(each) for each in answers] == [(422, "bad_request")] * 3
    assert len({each.data for each in answers}) == 1
    assert (wallet.asked, reserved(database)) == ([], [])


def test_tries_are_limited_whoever_is_meant_and_a_retry_is_none(
    app: Flask, database: Connected, wallet: Wallet, people: list[User]
) -> None:
    who = Sender(app.test_client(use_cookies=False), token_for(database, people[0]))
    assert who.send("c@example.com", 1, key="k").status_code == 201

    tries = [who.send("nobody@example.com", 1).status_code for _ in range(20)]

    assert tries == [422] * 19 + [429]
    assert who.send("c@example.com", 1, key="k").status_code == 201


@pytest.mark.parametrize(
    ("to", "amount", "field"),
    [
        ("B@example.com", 10, "to_email"),
        ("c@example.com", 10.001, "amount"),
        ("c@example.com", 0, "amount"),
        ("c@example.com", -1, "amount"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(
    wallet: Wallet, sender: Sender, to: str, amount: float, field: str
) -> None:
    answer = sender.send(to, amount)

    assert refusal(answer) == (422, "bad_request")
    assert (answer.json["error"]["field"], wallet.asked) == (field, [])


def test_above_fifty_dollars_in_a_day_the_address_must_be_confirmed(
    database: Connected, sender: Sender, people: list[User]
) -> None:
    change(database, people[1], email_confirmed_at=None)

    small = sender.send("c@example.com", 30)
    together_exactly = sender.send("c@example.com", 20)
    beyond = sender.send("c@example.com", 0.01)

    assert (small.status_code, together_exactly.status_code) == (201, 201)
    assert refusal(beyond) == (403, "email_not_confirmed")


def test_above_fifty_dollars_in_a_day_the_second_step_is_asked(
    app: Flask, database: Connected, sender: Sender, people: list[User]
) -> None:
    now = utc_now()
    with app.app_context(), database.begin() as session:
        secret = second_step.begin(session, people[1].user_id, app.config["SECRET_KEY"])
        code = pyotp.TOTP(secret).at(now - timedelta(seconds=30))
        second_step.confirm(session, now, people[1].user_id, app.config["SECRET_KEY"], code)
    good = pyotp.TOTP(secret).at(utc_now())

    assert sender.send("c@example.com", 50).status_code == 201
    assert refusal(sender.send("c@example.com", 10)) == (401, "second_step_required")
    sent = [sender.send("c@example.com", 10, key="k", code=good) for _ in range(2)]
    assert [each.status_code for each in sent] == [201, 201]
    assert refusal(sender.send("c@example.com", 10, code=good)) == (401, "second_step_required")


@pytest.fixture
def browser(app: Flask, people: list[User]) -> FlaskClient:
    return logged_in(app, people[1])


def test_the_pages_review_and_send_once_however_often_it_is_pressed(
    wallet: Wallet, browser: FlaskClient
) -> None:
    token = csrf_token(browser.get(PAGE).text)
    typed = {"csrf_token": token, "to_email": "c@EXAMPLE.com", "amount": "1,250.50"}
    wallet.balance_micros = 2_000 * USD
    too_much = browser.post(PAGE, data=typed)
    review = browser.post(f"{PAGE}/review", data={**typed, "amount": "20"})
    assert wallet.asked == []
    fields = dict(re.findall(r'name="(key|to_email|amount)" value="([^"]*)"', review.text))

    sent = [browser.post(PAGE, data={"csrf_token": token, **fields}) for _ in range(2)]

    assert (too_much.status_code, "$500.00 a day" in too_much.text) == (409, True)
    assert 'value="1,250.50"' in too_much.text
    assert "Send $20.00?" in review.text
    assert [each.status_code for each in sent] == [303, 303]
    assert (len(wallet.done), wallet.balance_micros) == (1, 1_980 * USD)


def test_why_nothing_was_sent_is_a_sentence_or_two(wallet: Wallet, browser: FlaskClient) -> None:
    form = {
        "csrf_token": csrf_token(browser.get(PAGE).text),
        "to_email": "nobody@example.com",
        "amount": "20",
        "key": str(uuid4()),
    }

    refused = browser.post(PAGE, data=form)

    assert refused.status_code == 422
    assert "takes transfers. Nothing was sent." in refused.text


def test_a_lost_answer_keeps_the_form_and_its_key(wallet: Wallet, browser: FlaskClient) -> None:
    token = csrf_token(browser.get(PAGE).text)
    key = str(uuid4())
    form = {"csrf_token": token, "to_email": "c@example.com", "amount": "20", "key": key}
    wallet.fails_with = DeadlineExceeded("No answer in time.")
    lost = browser.post(PAGE, data=form)
    wallet.fails_with = None

    assert (lost.status_code, "it sends once" in lost.text) == (504, True)
    assert f'value="{key}"' in lost.text
    assert browser.post(PAGE, data=form).status_code == 303
    assert wallet.balance_micros == 980 * USD


@pytest.mark.parametrize(
    ("to", "amount", "said"),
    [
        ("nonsense", "20", "not an email address"),
        ("c@example.com", "12,50", "write dollars with a point"),
        ("c@example.com", "0", "enter more than $0"),
    ],
)
def test_what_was_typed_stays_beside_what_is_wrong_with_it(
    browser: FlaskClient, to: str, amount: str, said: str
) -> None:
    token = csrf_token(browser.get(PAGE).text)

    typed = {"csrf_token": token, "to_email": to, "amount": amount}
    answer = browser.post(f"{PAGE}/review", data=typed)

    assert answer.status_code == 422
    assert said in answer.text
    assert [f'value="{each}"' in answer.text for each in (to, amount)] == [True, True]
