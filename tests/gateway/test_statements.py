"""A month of the wallet on paper, and the list of what has a receipt."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.engine import Engine

from chassis.database import Connected
from contracts.wallet import Noted, Statement, StatementPage, Transaction, TransactionKind
from services.gateway.app import create_app
from services.gateway.models import User
from services.gateway.pages import statements
from services.gateway.pages.formats import titled
from services.gateway.people.users import describe
from tests.gateway.conftest import add_user, gateway_settings, token_for
from tests.gateway.test_site import logged_in
from tests.papers import texts_of

USD = 1_000_000
NOVEMBER = datetime(2025, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2025, 12, 1, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


@dataclass
class Wallet:
    """In place of the wallet service: transactions, oldest first, told two a page."""

    transactions: list[Transaction] = field(default_factory=list)
    asked: list[Statement] = field(default_factory=list)
    page_size: int = 2

    def move(
        self, dollars: int, at: datetime, kind: TransactionKind, **metadata: object
    ) -> Transaction:
        before = self.transactions[-1].balance_after_micros if self.transactions else 0
        moved = Transaction(
            transaction_id=uuid4(),
            kind=kind,
            amount_micros=dollars * USD,
            balance_after_micros=before + dollars * USD,
            description=f"{kind.value} of {dollars}",
            metadata={name: str(value) for name, value in metadata.items()},
            effective_at=at,
            recorded_at=at,
        )
        self.transactions.append(moved)
        return moved

    def call(self, request: Statement) -> StatementPage:
        self.asked.append(request)
        found = [
            each
            for each in self.transactions[::-1]
            if (not request.kinds or each.kind in request.kinds)
            and (request.since is None or each.recorded_at >= request.since)
            and (request.until is None or each.recorded_at < request.until)
        ]
        at = int(request.cursor or 0)
        end = at + min(self.page_size, request.limit)
        following = str(end) if end < len(found) else None
        return StatementPage(transactions=found[at:end], next_cursor=following)


@pytest.fixture
def wallet(monkeypatch: pytest.MonkeyPatch) -> Wallet:
    stand_in = Wallet()
    monkeypatch.setattr("services.gateway.pages.statements.call", stand_in.call)
    monkeypatch.setattr("services.gateway.api.receipts.call", stand_in.call)
    return stand_in


@pytest.fixture
def app(nobody_answers: None, databases: dict[str, str], wallet: Wallet) -> Iterator[Flask]:
    app = create_app(gateway_settings(databases["gateway"]))
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, has_wallet=True)


def test_a_statement_has_what_moved_in_its_month_between_two_balances(
    app: Flask, user: User, wallet: Wallet
) -> None:
    wallet.move(40, NOVEMBER - INSTANT, TransactionKind.TOPUP)
    wallet.move(25, NOVEMBER, TransactionKind.TOPUP)
    wallet.move(-5, NOVEMBER + timedelta(days=3), TransactionKind.PURCHASE)
    wallet.move(-7, DECEMBER - INSTANT, TransactionKind.RENEWAL)
    wallet.move(-11, DECEMBER, TransactionKind.RENEWAL)

    answer = logged_in(app, user).get("/dashboard/wallet/statement.pdf?month=2025-11")

    assert answer.headers["Content-Disposition"] == 'attachment; filename="statement-2025-11.pdf"'
    text = texts_of(answer.data)
    assert [line for line in text if line.startswith(("$", "−$"))] == [
        "$40.00",
        "$25.00",
        "−$5.00",
        "−$7.00",
        "$25.00",
        "−$12.00",
        "$53.00",
    ]
    assert "2025-11-30" in text
    assert {each.user_id for each in wallet.asked} == {user.user_id}


def test_a_month_without_movements_has_the_balance_of_before(
    app: Flask, user: User, wallet: Wallet
) -> None:
    wallet.move(40, NOVEMBER - INSTANT, TransactionKind.TOPUP)

    answer = logged_in(app, user).get("/dashboard/wallet/statement.pdf?month=2025-11")

    amounts = [line for line in texts_of(answer.data) if "$" in line]
    assert amounts == ["$40.00", "$0.00", "$0.00", "$40.00"]


@pytest.mark.parametrize("month", ["", "2025-13", "2025-1", "november"])
def test_what_is_no_month_is_not_found(app: Flask, user: User, month: str) -> None:
    browser = logged_in(app, user)

    answer = browser.get("/dashboard/wallet/statement.pdf", query_string={"month": month})

    assert answer.status_code == 404


def test_a_month_that_is_too_long_for_a_document_says_where_it_can_be_read(
    app: Flask, user: User, wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "LINES_MAX", 3)
    browser, address = logged_in(app, user), "/dashboard/wallet/statement.pdf?month=2025-11"
    for _ in range(3):
        wallet.move(1, NOVEMBER, TransactionKind.TOPUP)
    assert browser.get(address).status_code == 200
    wallet.move(1, NOVEMBER, TransactionKind.TOPUP)

    answer = browser.get(address)

    assert (answer.status_code, "/api/wallet/transactions" in answer.text) == (422, True)


def test_months_are_offered_since_the_account_was_made_and_two_years_at_most(user: User) -> None:
    def offered(made: datetime, now: datetime) -> list[str]:
        user.created_at = made
        return statements.months_offered(describe(user), now)

    assert offered(DECEMBER - INSTANT, DECEMBER) == ["2025-12", "2025-11"]
    assert offered(DECEMBER, DECEMBER) == ["2025-12"]
    long = offered(DECEMBER - timedelta(days=3_000), DECEMBER)
    assert (len(long), long[:2], long[-1]) == (24, ["2025-12", "2025-11"], "2024-01")


def test_receipts_are_listed_of_what_was_bought_renewed_and_topped_up_page_by_page(
    app: Flask, database: Connected, user: User, wallet: Wallet
) -> None:
    ids = [uuid4() for _ in range(4)]
    moved = [
        wallet.move(25, NOVEMBER, TransactionKind.TOPUP, **{Noted.TOPUP_ID: ids[0]}),
        wallet.move(-5, NOVEMBER, TransactionKind.PURCHASE, **{Noted.PURCHASE_ID: ids[1]}),
        wallet.move(-1, NOVEMBER, TransactionKind.USAGE, **{Noted.DEPLOYMENT_ID: ids[2]}),
        wallet.move(-5, NOVEMBER, TransactionKind.RENEWAL, **{Noted.DEPLOYMENT_ID: ids[2]}),
        wallet.move(9, NOVEMBER, TransactionKind.TOPUP),
    ]
    headers = {"Authorization": f"Bearer {token_for(database, user)}"}
    client = app.test_client(use_cookies=False)

    def page(query: str = "") -> Any:
        return client.get(f"/api/receipts{query}", headers=headers).json

    first = page()
    second = page(f"?cursor={first['next_cursor']}")

    renewed = moved[3].transaction_id
    assert [each["receipt_url"] for each in (*first["receipts"], *second["receipts"])] == [
        f"/dashboard/deployments/{ids[2]}/charges/{renewed}/receipt",
        f"/purchases/{ids[1]}/receipt",
        f"/topups/{ids[0]}/receipt",
    ]
    assert (first["receipts"][0]["amount_usd"], second["next_cursor"]) == (-5.0, None)
    assert UUID(second["receipts"][0]["transaction_id"]) == moved[1].transaction_id


def test_whom_transfers_went_to_is_asked_for_all_of_them_at_once(
    alone: Flask, database: Connected
) -> None:
    people, wallet = [add_user(database, has_wallet=True) for _ in range(3)], Wallet()
    for user in people:
        wallet.move(-1, NOVEMBER, TransactionKind.TRANSFER, **{Noted.TO_USER_ID: user.user_id})
    wallet.move(5, NOVEMBER, TransactionKind.TOPUP)
    asked: list[object] = []

    def note(*said: object) -> None:
        asked.append(said)

    event.listen(Engine, "after_cursor_execute", note)
    try:
        with alone.app_context():
            titles = [title for title, _ in titled(wallet.transactions)]
    finally:
        event.remove(Engine, "after_cursor_execute", note)

    assert titles == [*(f"Transfer to {user.email}" for user in people), "topup of 5"]
    assert len(asked) == 1
