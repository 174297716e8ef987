"""What finance reads of the ledger: a trial balance, a journal, verifications that are kept."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chassis.metrics import database_exposition
from contracts.errors import BadRequest, Conflict
from contracts.wallet import (
    AskVerification,
    Books,
    GetJournal,
    HouseAccount,
    JournalLine,
    TransactionKind,
    Verification,
)
from services.wallet import chain
from services.wallet.finance import books, verifying
from tests.locks import done_after
from tests.wallet.conftest import NOON, USD, Ledger, debit, transfer
from tests.wallet.test_card_refunds import Buyer

CLERK = uuid4()
NIGHT = datetime(2026, 3, 2, 3, tzinfo=UTC)


def look(book: Ledger) -> Books:
    with book.database.snapshot() as session:
        return books.books(session, book.now)


def ask(book: Ledger, key: str = "") -> Verification:
    command = AskVerification(idempotency_key=key or f"v:{uuid4()}", asked_by=CLERK)
    with book.database.begin() as session:
        return verifying.ask(session, book.now, command)


def tick(book: Ledger) -> None:
    verifying.tick(book.database, lambda: book.now)


def told(book: Ledger) -> dict[str, float]:
    """What a monitoring is told of verifications."""
    shown = database_exposition(book.database, {"wallet": verifying.GAUGES}).decode()
    lines = [line.split() for line in shown.splitlines() if line.startswith("wallet_")]
    return {name.removeprefix("wallet_ledger_"): float(value) for name, value in lines}


def house(found: Books) -> dict[HouseAccount, int]:
    return {each.account: each.balance_micros // USD for each in found.house if each.balance_micros}


def test_the_house_and_all_wallets_come_to_zero_before_and_after_a_verification(
    own_book: Ledger,
) -> None:
    book = own_book
    ann, bob = book.user(20 * USD), book.user(5 * USD)
    book.do(debit(ann, 7 * USD))
    first = look(book)
    chain.seal(book.database)
    book.do(transfer(bob, ann, 3 * USD))
    ask(book)
    tick(book)
    book.do(debit(bob, 2 * USD))
    second = look(book)

    assert house(first) == {HouseAccount.CARD_RECEIPTS: -25, HouseAccount.MARKETPLACE_REVENUE: 7}
    assert house(second) == {HouseAccount.CARD_RECEIPTS: -25, HouseAccount.MARKETPLACE_REVENUE: 9}
    assert [each.wallets_micros // USD for each in (first, second)] == [18, 16]
    assert [each.difference_micros for each in (first, second)] == [0, 0]
    assert (second.wallet_count, second.negative) == (2, [])


def test_a_trial_balance_that_is_off_says_by_how_much(own_book: Ledger) -> None:
    book = own_book
    book.user(20 * USD)
    with book.session() as session:
        session.execute(text("ALTER TABLE entries DISABLE TRIGGER USER"))
        session.execute(text("UPDATE entries SET amount_micros = -1 WHERE account_id = 1"))
        session.commit()

    assert look(book).difference_micros == 20 * USD - 1


def test_wallets_below_zero_are_listed_the_deepest_first_and_no_others(own_book: Ledger) -> None:
    buyers = [Buyer(own_book) for _ in range(3)]
    for buyer, dollars in zip(buyers, (5, 0, 9), strict=True):
        topup_id = buyer.buys_credits(10)
        if dollars:
            buyer.spends(dollars)
        if dollars:
            buyer.gives_back(topup_id, 10)

    assert [(each.user_id, each.balance_micros // USD) for each in look(own_book).negative] == [
        (buyers[2].user_id, -9),
        (buyers[0].user_id, -5),
    ]


def test_the_journal_has_a_line_for_each_day_account_and_kind(own_book: Ledger) -> None:
    book = own_book
    user = book.user(20 * USD)
    for dollars in (2, 3):
        book.do(debit(user, dollars * USD))
    book.now = datetime(2026, 3, 2, tzinfo=UTC)
    book.do(debit(user, 4 * USD))

    def lines(since: int, until: int) -> list[JournalLine]:
        asked = GetJournal(since=date(2026, 3, since), until=date(2026, 3, until))
        with book.database.snapshot() as session:
            return books.journal(session, asked).lines

    revenue, purchase = HouseAccount.MARKETPLACE_REVENUE, TransactionKind.PURCHASE
    assert [tuple(line.model_dump().values()) for line in lines(1, 2)] == [
        (date(2026, 3, 1), HouseAccount.CARD_RECEIPTS, TransactionKind.TOPUP, 1, 0, 20 * USD),
        (date(2026, 3, 1), revenue, purchase, 2, 5 * USD, 0),
    ]
    assert [(line.day.day, line.received_micros) for line in lines(2, 3)] == [(2, 4 * USD)]
    assert lines(3, 31) == []


@pytest.mark.parametrize(("days", "is_told"), [(0, False), (1, True), (31, True), (32, False)])
def test_a_journal_is_of_a_day_to_a_month(book: Ledger, days: int, is_told: bool) -> None:
    since = date(2020, 1, 1)
    asked = GetJournal(since=since, until=since + timedelta(days=days))
    with book.database.snapshot() as session:
        if is_told:
            assert books.journal(session, asked).lines == []
        else:
            with pytest.raises(BadRequest):
                books.journal(session, asked)


def test_what_is_asked_for_is_verified_once_and_kept(own_book: Ledger) -> None:
    book = own_book
    book.user(20 * USD)
    first = ask(book, "a")
    again, other = ask(book, "a"), ask(book, "b")
    tick(book)
    tick(book)

    (kept,) = look(book).verifications
    assert {first.verification_id, again.verification_id, other.verification_id} == {
        kept.verification_id
    }
    assert (first.ended_at, kept.clean, kept.transaction_count) == (None, True, 1)
    assert ask(book, "a") == kept


def test_a_wrong_ledger_is_kept_with_its_first_difference(own_book: Ledger) -> None:
    book = own_book
    user = book.user(20 * USD)
    with book.session() as session:
        session.execute(text("ALTER TABLE balances DISABLE TRIGGER USER"))
        session.execute(text("UPDATE balances SET balance_micros = 1"))
        session.commit()
    ask(book)
    tick(book)

    (kept,) = look(book).verifications
    assert (kept.clean, str(book.wallet(user).account_id) in (kept.first_difference or "")) == (
        False,
        True,
    )


def test_a_monitoring_is_told_what_the_last_one_found_that_ended(own_book: Ledger) -> None:
    book = own_book
    book.user(20 * USD)
    ask(book)
    assert told(book) == {}

    tick(book)
    right_at = book.now.timestamp()
    assert told(book) == {"is_right": 1, "verified_timestamp_seconds": right_at}

    with book.session() as session:
        session.execute(text("ALTER TABLE balances DISABLE TRIGGER USER"))
        session.execute(text("UPDATE balances SET balance_micros = 1"))
        session.commit()
    book.now += timedelta(days=1)
    ask(book)
    assert told(book) == {"is_right": 1, "verified_timestamp_seconds": right_at}
    tick(book)
    assert told(book) == {"is_right": 0, "verified_timestamp_seconds": book.now.timestamp()}


@pytest.mark.parametrize(
    ("moment", "count"),
    [(NIGHT - timedelta(microseconds=1), 0), (NIGHT, 1)],
    ids=["before three", "at three"],
)
def test_each_night_has_one_verification(own_book: Ledger, moment: datetime, count: int) -> None:
    book = own_book
    book.user(20 * USD)
    book.now = moment
    for _ in range(2):
        tick(book)

    assert len(look(book).verifications) == count


def test_a_ledger_that_began_today_waits_for_its_first_night(own_book: Ledger) -> None:
    own_book.user(20 * USD)
    assert own_book.now == NOON

    tick(own_book)

    assert look(own_book).verifications == []


def test_what_a_crash_left_open_is_carried_out_by_the_next(
    own_book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(own_book)

    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(verifying.verification, "verdict", die)
        with pytest.raises(KeyboardInterrupt):
            tick(own_book)
    tick(own_book)

    (kept,) = look(own_book).verifications
    assert (kept.verification_id, kept.clean) == (asked.verification_id, True)


def test_one_that_fails_is_tried_again_later_and_later_unless_somebody_asks(
    own_book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, tries = own_book, []
    first = ask(book)

    def fail(*_: Any) -> Any:
        tries.append(book.now - NOON)
        raise RuntimeError("no memory")

    def tries_until(minutes: int) -> list[float]:
        tries.clear()
        while book.now < NOON + timedelta(minutes=minutes):
            with suppress(RuntimeError):
                tick(book)
            book.now += timedelta(seconds=30)
        return [each / timedelta(minutes=1) for each in tries]

    with monkeypatch.context() as patched:
        patched.setattr(verifying.verification, "verdict", fail)
        by_itself = tries_until(240)
        again = ask(book, "again")
        asked = tries_until(242)
    book.now += timedelta(hours=1)
    tick(book)

    assert by_itself == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert (again.verification_id, asked) == (first.verification_id, [240])
    (kept,) = look(book).verifications
    assert (kept.verification_id, kept.clean) == (first.verification_id, True)


def test_while_somebody_verifies_nobody_else_does(own_book: Ledger) -> None:
    ask(own_book)
    with own_book.database.exclusively("wallet.verification") as is_ours:
        assert is_ours
        tick(own_book)
        with pytest.raises(Conflict):
            verifying.now_and_here(own_book.database, lambda: own_book.now)

    assert [each.ended_at for each in look(own_book).verifications] == [None]


def test_two_who_ask_at_once_ask_for_one(own_book: Ledger) -> None:
    def asking(key: str) -> Callable[[Any], Verification]:
        command = AskVerification(idempotency_key=key, asked_by=CLERK)
        return lambda session: verifying.ask(session, own_book.now, command)

    first: list[Verification] = []
    second = done_after(
        own_book.database,
        lambda session: first.append(asking("a")(session)),
        lambda: ask(own_book, "b"),
    )

    assert first == [second]


def test_the_database_refuses_half_a_result(own_book: Ledger) -> None:
    ask(own_book)
    for wrong in ("clean = true", "ended_at = now(), clean = true", "position = 1"):
        with own_book.session() as session, pytest.raises(IntegrityError):
            session.execute(text(f"UPDATE verifications SET {wrong}"))  # noqa: S608
