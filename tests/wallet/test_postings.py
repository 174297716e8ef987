"""Debits, credits, transfers and adjustments."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from chassis.identifiers import new_id
from contracts.errors import (
    AccountFrozen,
    BadRequest,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    KeyClosed,
    NotFound,
    ServiceError,
)
from contracts.wallet import (
    Adjust,
    ClosedKey,
    CloseKey,
    Freeze,
    OpenAccount,
    SetLevel,
    Transaction,
    TransactionKind,
    Wallet,
)
from services.wallet import ledger
from services.wallet.book import accounts
from tests.patience import eventually, insist
from tests.wallet.conftest import NOON, USD, Ledger, credit, debit, transfer


def test_a_new_wallet_is_empty_and_open(book: Ledger):
    user_id = new_id()

    wallet = book.do(OpenAccount(idempotency_key=f"open:{user_id}", user_id=user_id))

    assert isinstance(wallet, Wallet)
    assert (wallet.balance_micros, wallet.held_micros, wallet.status) == (0, 0, "open")


def test_opening_a_wallet_twice_returns_the_same_one(book: Ledger):
    user_id = book.user()

    again = book.do(OpenAccount(idempotency_key="another key " + str(user_id), user_id=user_id))

    assert isinstance(again, Wallet)
    assert again.account_id == book.wallet(user_id).account_id


def test_a_credit_opens_the_wallet_of_a_user_who_has_none(book: Ledger):
    user_id = new_id()

    transaction = book.transaction(credit(user_id, 25 * USD))

    assert (transaction.amount_micros, transaction.balance_after_micros) == (25 * USD, 25 * USD)


def test_a_debit_takes_money_and_shows_the_balance_after_it(book: Ledger):
    user_id = book.user(25 * USD)

    transaction = book.transaction(debit(user_id, 5 * USD))

    assert (transaction.amount_micros, transaction.balance_after_micros) == (-5 * USD, 20 * USD)
    assert book.balance(user_id) == 20 * USD


def test_a_debit_of_an_unknown_user_is_refused(book: Ledger):
    with pytest.raises(NotFound):
        book.do(debit(new_id(), USD))


def test_a_debit_that_is_short_of_funds_says_what_is_lacking(book: Ledger):
    user_id = book.user(2 * USD)

    with pytest.raises(InsufficientFunds) as refusal:
        book.do(debit(user_id, 5 * USD))

    assert refusal.value.details == (str(2 * USD), str(3 * USD), "1")
    assert book.balance(user_id) == 2 * USD


def test_a_debit_that_was_short_succeeds_under_the_same_key_once_the_money_is_there(book: Ledger):
    user_id = book.user()
    command = debit(user_id, 5 * USD)
    with pytest.raises(InsufficientFunds):
        book.do(command)
    book.do(credit(user_id, 25 * USD))

    transaction = book.transaction(command)

    assert (transaction.replayed, book.balance(user_id)) == (False, 20 * USD)


def test_a_debit_twice_with_the_same_key_charges_once_and_says_so(book: Ledger):
    user_id = book.user(25 * USD)
    command = debit(user_id, 5 * USD)
    first = book.transaction(command)

    again = book.transaction(command)

    assert again == first.model_copy(update={"replayed": True})
    assert book.balance(user_id) == 20 * USD


def test_a_debit_twice_in_one_batch_charges_once(book: Ledger):
    user_id = book.user(25 * USD)
    command = debit(user_id, 5 * USD)

    first, again = book.post(command, command)

    assert isinstance(first, Transaction)
    assert again == first.model_copy(update={"replayed": True})
    assert book.balance(user_id) == 20 * USD


def test_the_same_key_with_another_amount_is_a_conflict(book: Ledger):
    user_id = book.user(25 * USD)
    key = f"debit:{new_id()}"
    book.do(debit(user_id, 5 * USD, key))

    with pytest.raises(IdempotencyConflict):
        book.do(debit(user_id, 6 * USD, key))


def test_the_order_of_metadata_does_not_make_another_request(book: Ledger):
    user_id = book.user(25 * USD)
    key = f"debit:{new_id()}"
    book.do(debit(user_id, USD, key, metadata={"a": "1", "b": "2"}))

    again = book.transaction(debit(user_id, USD, key, metadata={"b": "2", "a": "1"}))

    assert again.replayed is True


def test_a_closed_key_stops_a_late_debit(book: Ledger):
    user_id = book.user(25 * USD)
    key = f"purchase:{new_id()}"
    book.do(CloseKey(idempotency_key=key))

    with pytest.raises(KeyClosed):
        book.do(debit(user_id, 5 * USD, key))


def test_closing_a_used_key_returns_what_was_made_under_it(book: Ledger):
    user_id = book.user(25 * USD)
    key = f"purchase:{new_id()}"
    made = book.transaction(debit(user_id, 5 * USD, key))

    answer = book.do(CloseKey(idempotency_key=key))

    assert answer == ClosedKey(idempotency_key=key, closed=False, transaction=made)


def test_closing_a_key_twice_is_the_same_as_once(book: Ledger):
    key = f"purchase:{new_id()}"
    book.do(CloseKey(idempotency_key=key))

    answer = book.do(CloseKey(idempotency_key=key))

    assert answer == ClosedKey(idempotency_key=key, closed=True)


def test_a_refused_command_disturbs_no_other_in_its_batch(book: Ledger):
    rich, poor = book.user(25 * USD), book.user(USD)

    first, short, unknown, last = book.post(
        debit(rich, 5 * USD), debit(poor, 5 * USD), debit(new_id(), USD), debit(rich, 5 * USD)
    )

    assert isinstance(short, InsufficientFunds)
    assert isinstance(unknown, NotFound)
    assert (first.balance_after_micros, last.balance_after_micros) == (20 * USD, 15 * USD)
    assert (book.balance(rich), book.balance(poor)) == (15 * USD, USD)


def test_a_batch_spends_what_an_earlier_command_of_it_brought_in(book: Ledger):
    user_id = book.user()

    outcomes = book.post(credit(user_id, 5 * USD), debit(user_id, 5 * USD))

    assert not any(isinstance(outcome, ServiceError) for outcome in outcomes)
    assert book.balance(user_id) == 0


def test_a_transfer_moves_money_between_two_users(book: Ledger):
    sender, receiver = book.user(25 * USD), book.user()

    transaction = book.transaction(transfer(sender, receiver, 10 * USD))

    assert (transaction.kind, transaction.amount_micros) == (TransactionKind.TRANSFER, -10 * USD)
    assert transaction.metadata["to_user_id"] == str(receiver)
    assert (book.balance(sender), book.balance(receiver)) == (15 * USD, 10 * USD)


def test_a_transfer_to_oneself_is_refused(book: Ledger):
    user_id = book.user(25 * USD)

    with pytest.raises(BadRequest):
        book.do(transfer(user_id, user_id, USD))


def test_a_transfer_to_a_user_without_a_wallet_is_refused(book: Ledger):
    sender = book.user(25 * USD)

    with pytest.raises(NotFound):
        book.do(transfer(sender, new_id(), USD))


def test_an_adjustment_keeps_its_reason_and_actor(book: Ledger):
    user_id = book.user(25 * USD)

    transaction = book.transaction(
        Adjust(
            idempotency_key=f"adjust:{new_id()}",
            user_id=user_id,
            amount_micros=-5 * USD,
            reason="Credited twice",
            actor="operator-7",
        )
    )

    assert transaction.metadata == {"reason": "Credited twice", "actor": "operator-7"}
    assert book.balance(user_id) == 20 * USD


def test_an_adjustment_cannot_hide_behind_a_debit(book: Ledger):
    user_id = book.user(25 * USD)

    with pytest.raises(BadRequest):
        book.do(debit(user_id, USD, kind=TransactionKind.ADJUSTMENT))


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00+14:00", "1999-12-31T23:59:59Z"])
def test_an_effective_date_before_our_time_is_refused(book: Ledger, date):
    with pytest.raises(ValidationError, match="effective_at"):
        debit(book.user(USD), USD, effective_at=date)


def test_the_same_moment_in_another_zone_is_the_same_command(book: Ledger):
    user_id = book.user(5 * USD)
    here = debit(user_id, USD, "zones", effective_at="2026-01-01T16:00:00+16:00")
    there = debit(user_id, USD, "zones", effective_at="2026-01-01T00:00:00Z")

    assert book.transaction(here).transaction_id == book.transaction(there).transaction_id


@pytest.mark.parametrize("topup_id", ["0123456789abcdef0123456789abcde-f", "not an id", ""])
def test_a_topup_id_is_told_where_it_is_one(book: Ledger, topup_id):
    user_id = book.user()
    command = credit(user_id, USD).model_copy(update={"metadata": {"topup_id": topup_id}})

    book.do(command)

    (event,) = book.events(user_id, "wallet_credited")
    assert event["topup_id"] in (None, "01234567-89ab-cdef-0123-456789abcdef")


def test_an_effective_date_in_the_future_is_refused(book: Ledger):
    user_id = book.user(25 * USD)

    with pytest.raises(BadRequest):
        book.do(debit(user_id, USD, effective_at=book.now + timedelta(days=1)))


def test_a_clock_that_runs_behind_does_not_turn_the_statement_around(book: Ledger):
    user_id = book.user(25 * USD)
    earlier = book.transaction(debit(user_id, USD))
    book.later(seconds=-30)

    transaction = book.transaction(debit(user_id, USD))

    assert transaction.recorded_at == earlier.recorded_at


def test_money_in_is_announced_with_the_new_balance(book: Ledger):
    user_id = book.user()

    made = book.transaction(credit(user_id, 25 * USD))

    (event,) = book.events(user_id, "wallet_credited")
    assert event["transaction_id"] == str(made.transaction_id)
    assert event["available_micros"] == 25 * USD


def test_a_transfer_is_announced_to_who_gets_it_with_who_sent_it(book: Ledger):
    sender, receiver = book.user(25 * USD), book.user()

    book.do(transfer(sender, receiver, 10 * USD))

    (event,) = book.events(receiver, "wallet_credited")
    assert (event["from_user_id"], event["amount_micros"]) == (str(sender), 10 * USD)
    assert [each["from_user_id"] for each in book.events(sender, "wallet_credited")] == [None]


def test_a_refusal_tells_whether_it_came_before_money_or_after(book: Ledger):
    """By how many entries the wallet has, whichever replica's clock is ahead."""
    user_id = book.user(2 * USD)

    def entries() -> int:
        with pytest.raises((InsufficientFunds, AccountFrozen)) as refusal:
            book.do(debit(user_id, 50 * USD))
        return int(refusal.value.details[-1])

    before = entries()
    book.later(seconds=-30)
    book.do(credit(user_id, USD))
    after = entries()
    who = {"reason": "A dispute", "actor": "a test"}
    book.do(Freeze(idempotency_key=f"freeze:{user_id}", user_id=user_id, **who))

    came = book.events(user_id, "wallet_credited")[-1]["entry_number"]
    assert before < came <= after == entries()


def test_a_micro_dollar_that_comes_in_is_announced(book: Ledger):
    user_id = book.user()

    book.do(credit(user_id, 1))

    (event,) = book.events(user_id, "wallet_credited")
    assert event["balance_micros"] == 1


def test_a_wallet_holds_as_much_as_it_can_and_not_a_micro_dollar_more():
    account = accounts.new(1000, new_id(), NOON)
    account.balance_micros = 2**62 - 2

    accounts.require_room(account, 2)
    with pytest.raises(Conflict):
        accounts.require_room(account, 3)


def test_an_ordinary_debit_announces_nothing(book: Ledger):
    user_id = book.user(25 * USD)

    book.do(debit(user_id, USD))

    assert book.events(user_id, "balance_low") == []


def test_a_refused_credit_opens_no_wallet(book: Ledger):
    user_id = new_id()
    command = credit(user_id, USD)
    with pytest.raises(BadRequest):
        book.do(command.model_copy(update={"effective_at": book.now + timedelta(days=1)}))

    with pytest.raises(NotFound):
        book.wallet(user_id)


def test_a_text_that_the_database_cannot_hold_is_refused_at_the_door():
    with pytest.raises(ValueError, match="NUL"):
        debit(new_id(), USD, description="a\0b")


def test_a_transfer_with_all_the_metadata_there_can_be_is_accepted(book: Ledger):
    sender, receiver = book.user(25 * USD), book.user()
    many = {f"name {number}": "x" for number in range(50)}

    made = book.transaction(transfer(sender, receiver, USD).model_copy(update={"metadata": many}))

    assert len(made.metadata) == 52


def test_a_batch_that_waited_for_a_wallet_sees_what_was_committed_meanwhile(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(SetLevel(user_id=user_id, threshold_micros=20 * USD))
    first, second = debit(user_id, 6 * USD), debit(user_id, USD)

    def is_waiting() -> bool:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        with book.database.read() as session:
            return bool(session.scalar(query))

    with ThreadPoolExecutor(1) as other:
        with book.database.begin() as session:
            ledger.post(session, book.now, [first])
            waiting = other.submit(insist, lambda: book.post(first, second))
            eventually(is_waiting)
        repeated, taken = waiting.result()

    assert isinstance(repeated, Transaction)
    assert isinstance(taken, Transaction)
    assert (repeated.replayed, taken.balance_after_micros) == (True, 18 * USD)
    assert len(book.events(user_id, "balance_low")) == 1
