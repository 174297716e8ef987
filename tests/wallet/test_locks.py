"""Every lock of the ledger: what somebody else holds is waited for, and what they did counts."""

from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import Conflict
from contracts.wallet import Refund
from services.wallet import chain, ledger, verification
from services.wallet.book import accounts, holds
from services.wallet.rules import alerts
from tests.locks import done_after
from tests.wallet.conftest import USD, Ledger, debit, wallet_held
from tests.wallet.test_holds import capturing, place, voiding
from tests.wallet.test_refusals import begin_transaction


def test_a_level_is_armed_by_the_balance_after_what_is_spent_at_the_same_moment(book: Ledger):
    user_id = book.user(25 * USD)

    def arm() -> None:
        with book.database.begin() as session:
            alerts.arm_auto_topup(session, book.now, user_id, 10 * USD, 1)

    done_after(
        book.database,
        lambda other: ledger.post(other, book.now, [debit(user_id, 20 * USD)]),
        arm,
    )
    book.do(debit(user_id, USD))

    assert book.events(user_id, "balance_low") == []


def test_two_debits_at_the_same_moment_take_no_more_than_there_is(book: Ledger):
    user_id = book.user(25 * USD)

    (outcome,) = done_after(
        book.database,
        lambda other: ledger.post(other, book.now, [debit(user_id, 20 * USD)]),
        lambda: book.post(debit(user_id, 20 * USD)),
    )

    assert outcome.code == "insufficient_funds"
    assert book.balance(user_id) == 5 * USD


def test_a_hold_that_is_captured_and_voided_at_the_same_moment_ends_once(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD)

    (outcome,) = done_after(
        book.database,
        lambda other: ledger.post(other, book.now, [capturing(placed)]),
        lambda: book.post(voiding(placed)),
    )

    assert isinstance(outcome, Conflict)
    assert (book.balance(user_id), book.wallet(user_id).held_micros) == (15 * USD, 0)


def refunding(user_id, transaction_id, key: str) -> Refund:
    return Refund(
        idempotency_key=f"{key}:{transaction_id}",
        user_id=user_id,
        transaction_id=transaction_id,
        description="Sorry",
    )


def test_two_refunds_of_one_purchase_at_the_same_moment_are_one(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 5 * USD)).transaction_id

    (outcome,) = done_after(
        book.database,
        lambda other: ledger.post(other, book.now, [refunding(user_id, bought, "one")]),
        lambda: book.post(refunding(user_id, bought, "two")),
    )

    assert isinstance(outcome, Conflict)
    assert book.balance(user_id) == 25 * USD


def test_the_database_itself_lets_one_correction_of_a_transaction_through_at_a_time(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 5 * USD)).transaction_id

    def refund_again() -> None:
        with book.database.begin() as session:
            begin_transaction(session, kind="refund", amount_micros=USD, refunds=bought)

    with pytest.raises(IntegrityError, match="exceed it"):
        done_after(
            book.database,
            lambda other: ledger.post(other, book.now, [refunding(user_id, bought, "all")]),
            refund_again,
        )


def test_nothing_is_sealed_while_a_transaction_before_it_is_on_its_way(own_book: Ledger):
    first, second = own_book.user(25 * USD), own_book.user(25 * USD)
    chain.seal(own_book.database)

    with own_book.database.begin() as other:
        ledger.post(other, own_book.now, [debit(first, USD)])
        own_book.do(debit(second, USD))
        sealed_meanwhile = chain.seal(own_book.database)
    sealed = chain.seal(own_book.database)

    assert (sealed_meanwhile, sealed) == (0, 2)
    assert verification.verify(own_book.database).first_difference is None


def test_writers_do_not_wait_for_each_other_at_the_ledger_as_a_whole(book: Ledger):
    first, second = book.user(25 * USD), book.user(25 * USD)

    with book.database.begin() as other:
        ledger.post(other, book.now, [debit(first, USD)])
        book.do(debit(second, USD))

    assert (book.balance(first), book.balance(second)) == (24 * USD, 24 * USD)


def test_who_asks_which_wallets_are_held_locks_the_others(book: Ledger):
    held, free = book.user(), book.user()

    def ask_and_keep(other: Session) -> None:
        assert accounts.held_by_others(other, [held, free]) == {held}

    with wallet_held(book, held), book.database.begin() as other:
        ask_and_keep(other)
        with book.database.begin() as session:
            assert accounts.held_by_others(session, [free]) == {free}


def test_one_replica_at_a_time_may_release_what_is_due(book: Ledger):
    placed = place(book, book.user(25 * USD), 10 * USD, expires_in_s=60)
    later = book.now + timedelta(minutes=2)

    def due(session: Session) -> list[object]:
        due = holds.due(session, later, 10_000)
        return [hold_id for _, hold_id in due if hold_id == placed.hold_id]

    with book.database.begin() as other:
        assert due(other) == [placed.hold_id]
        with book.database.begin() as session:
            assert due(session) == []
    with book.database.begin() as session:
        assert due(session) == [placed.hold_id]
