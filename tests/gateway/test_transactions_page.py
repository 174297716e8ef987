"""/dashboard/wallet/transactions: the days of a filter are those of who reads."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from chassis.database import Connected
from contracts.errors import Unavailable
from contracts.messages import Request
from contracts.wallet import GetWallet, Statement, StatementPage
from services.gateway.backend import Backend
from services.gateway.people import time_zones
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_site import logged_in


class Wallet:
    def __init__(self) -> None:
        self.asked: list[Statement] = []

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if not isinstance(request, Statement):
            raise Unavailable("It is away.")
        self.asked.append(request)
        return lambda: StatementPage(transactions=[], next_cursor=None)


@pytest.mark.parametrize(
    ("zone", "since", "until", "asked"),
    [
        ("UTC", "2026-11-01", "2026-11-01", ["2026-11-01T00:00", "2026-11-02T00:00"]),
        # West of Greenwich a day begins later; summer time ends on this one, which has 25 hours.
        ("America/New_York", "2026-11-01", "2026-11-01", ["2026-11-01T04:00", "2026-11-02T05:00"]),
        ("Asia/Tokyo", "2026-11-01", "2026-11-02", ["2026-10-31T15:00", "2026-11-02T15:00"]),
        ("Asia/Tokyo", "0001-01-01", "9999-12-31", [None, None]),
        ("America/New_York", "9999-12-31", "9999-12-30", ["9999-12-31T05:00", "9999-12-31T05:00"]),
    ],
)
def test_a_day_begins_and_ends_where_its_reader_lives(
    alone: Flask,
    database: Connected,
    monkeypatch: pytest.MonkeyPatch,
    zone: str,
    since: str,
    until: str,
    asked: list[str | None],
) -> None:
    wallet = Wallet()
    answers_with(monkeypatch, wallet)
    user = add_user(database, has_wallet=True)
    with database.begin() as session:
        time_zones.choose(session, user.user_id, zone)

    page = logged_in(alone, user).get(f"/dashboard/wallet/transactions?since={since}&until={until}")

    [statement] = wallet.asked
    moments = (statement.since, statement.until)
    assert page.status_code == 200
    assert [at and at.isoformat(timespec="minutes")[:16] for at in moments] == asked
    assert f"Days are those of {zone}" in page.text


def test_the_menu_is_asked_for_before_the_statement_is_waited_for(
    alone: Flask, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []

    class Slow(Wallet):
        def begin(self, backend: Backend, request: Request[Any], timeout_s: float) -> Any:
            noted.append(f"asked {request.method}")
            answer = super().begin(backend, request, timeout_s)
            return lambda: (noted.append(f"awaited {request.method}"), answer())[1]

    answers_with(monkeypatch, Slow())
    client = logged_in(alone, add_user(database, has_wallet=True))
    noted.clear()

    assert client.get("/dashboard/wallet/transactions").status_code == 200

    assert noted.index(f"asked {GetWallet.method}") < noted.index(f"awaited {Statement.method}")
