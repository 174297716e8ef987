"""A user's own level: set, dropped, set in the middle of a batch, and repeated."""

from uuid import UUID

import pytest

from chassis.identifiers import new_id
from contracts.errors import IdempotencyConflict, NotFound
from contracts.wallet import Level, SetLevel
from services.wallet.statements import get_level
from tests.wallet.conftest import USD, Ledger, credit, debit


def alert(user_id: UUID, threshold_micros: int | None, key: str | None = None) -> SetLevel:
    return SetLevel(
        idempotency_key=key or f"alert:{new_id()}",
        user_id=user_id,
        threshold_micros=threshold_micros,
    )


def thresholds_told(book: Ledger, user_id: UUID) -> list[object]:
    return [event["threshold_micros"] for event in book.events(user_id, "balance_low")]


def test_the_level_is_told_once_below_it_and_again_after_it_was_above(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(alert(user_id, 20 * USD))

    for amount_micros in (6 * USD, USD):
        book.do(debit(user_id, amount_micros))
    book.do(credit(user_id, 10 * USD))
    book.do(debit(user_id, 10 * USD))

    assert thresholds_told(book, user_id) == [20 * USD, 20 * USD]


def restored(book: Ledger, user_id: UUID) -> list[tuple[object, object]]:
    told = book.events(user_id, "balance_restored")
    return [(event["threshold_micros"], event["available_micros"]) for event in told]


def test_that_it_is_back_is_told_once_after_each_dip_and_from_the_level_on(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(alert(user_id, 20 * USD))
    book.do(debit(user_id, 10 * USD))

    book.do(credit(user_id, 5 * USD - 1))
    below = restored(book, user_id)
    book.do(credit(user_id, 1))
    book.do(credit(user_id, USD))
    again = restored(book, user_id)
    book.do(debit(user_id, 2 * USD))
    book.do(credit(user_id, 2 * USD))

    assert (below, again) == ([], [(20 * USD, 20 * USD)])
    assert restored(book, user_id) == [(20 * USD, 20 * USD), (20 * USD, 21 * USD)]


def test_another_users_level_is_not_asked(book: Ledger):
    mine, others = book.user(25 * USD), book.user(25 * USD)
    book.do(alert(others, 20 * USD))

    with book.database.read() as session:
        assert get_level(session, mine).threshold_micros is None
        assert get_level(session, others).threshold_micros == 20 * USD
        with pytest.raises(NotFound):
            get_level(session, new_id())


def test_a_level_holds_for_what_follows_it_in_its_batch(book: Ledger):
    user_id = book.user(25 * USD)

    book.post(
        debit(user_id, USD),
        alert(user_id, 22 * USD),
        debit(user_id, 3 * USD),
        alert(user_id, 10 * USD),
        debit(user_id, USD),
    )
    book.do(debit(user_id, 11 * USD))

    assert thresholds_told(book, user_id) == [22 * USD, 10 * USD]


def test_a_wallet_that_is_below_a_new_level_is_told_at_the_next_dip(book: Ledger):
    user_id = book.user(5 * USD)
    book.do(alert(user_id, 20 * USD))

    book.do(debit(user_id, USD))
    assert thresholds_told(book, user_id) == []

    book.do(credit(user_id, 20 * USD))
    book.do(debit(user_id, 5 * USD))
    assert thresholds_told(book, user_id) == [20 * USD]


def test_a_dropped_level_is_silent(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(alert(user_id, 20 * USD))
    book.do(alert(user_id, None))

    book.do(debit(user_id, 20 * USD))

    assert thresholds_told(book, user_id) == []


def test_a_late_repetition_does_not_bring_an_older_level_back(book: Ledger):
    user_id = book.user(25 * USD)
    first = alert(user_id, 20 * USD)
    book.do(first)
    book.do(alert(user_id, 10 * USD))

    answer = book.do(first)

    assert answer == Level(user_id=user_id, level="alert", threshold_micros=10 * USD)
    book.do(debit(user_id, 10 * USD))
    assert thresholds_told(book, user_id) == []


def test_the_key_of_a_level_does_not_serve_another_one(book: Ledger):
    user_id, key = book.user(), f"alert:{new_id()}"
    book.do(alert(user_id, 20 * USD, key))

    with pytest.raises(IdempotencyConflict):
        book.do(alert(user_id, 10 * USD, key))


def test_a_level_of_nobody_is_not_found(book: Ledger):
    with pytest.raises(NotFound):
        book.do(alert(new_id(), USD))
