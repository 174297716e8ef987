"""Refunds and reversals, freezing and opening again."""

import pytest

from chassis.identifiers import new_id
from contracts.errors import AccountFrozen, BadRequest, Conflict, InsufficientFunds, NotFound
from contracts.wallet import AccountStatus, Freeze, Refund, Reverse, StatusChange, Unfreeze
from tests.wallet.conftest import USD, Ledger, credit, debit, transfer


def refunding(user_id, transaction, amount_micros=None):
    return Refund(
        idempotency_key=f"refund:{new_id()}",
        user_id=user_id,
        transaction_id=transaction.transaction_id,
        amount_micros=amount_micros,
        description="Refund",
    )


def reversing(user_id, transaction):
    return Reverse(
        idempotency_key=f"reverse:{new_id()}",
        user_id=user_id,
        transaction_id=transaction.transaction_id,
        reason="Charged by mistake",
        actor="operator-7",
    )


def test_a_refund_gives_all_of_it_back(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 10 * USD))

    refund = book.transaction(refunding(user_id, bought))

    assert (refund.kind, refund.amount_micros) == ("refund", 10 * USD)
    assert refund.corrects_transaction_id == bought.transaction_id
    assert book.balance(user_id) == 25 * USD


def test_refunds_in_parts_never_exceed_the_whole(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 10 * USD))
    book.do(refunding(user_id, bought, 4 * USD))

    with pytest.raises(Conflict) as refusal:
        book.do(refunding(user_id, bought, 7 * USD))

    assert refusal.value.details == (str(6 * USD),)


def test_a_refund_without_an_amount_gives_what_is_left(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 10 * USD))
    book.do(refunding(user_id, bought, 4 * USD))

    assert book.transaction(refunding(user_id, bought)).amount_micros == 6 * USD


def test_two_refunds_of_the_whole_in_one_batch_are_one(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 10 * USD))

    _, second = book.post(refunding(user_id, bought), refunding(user_id, bought))

    assert isinstance(second, Conflict)
    assert book.balance(user_id) == 25 * USD


def test_a_refund_of_a_transfer_takes_it_from_the_receiver(book: Ledger):
    sender, receiver = book.user(25 * USD), book.user()
    sent = book.transaction(transfer(sender, receiver, 10 * USD))

    book.do(refunding(sender, sent, 4 * USD))

    assert (book.balance(sender), book.balance(receiver)) == (19 * USD, 6 * USD)


def test_a_transfer_that_was_spent_cannot_be_refunded(book: Ledger):
    sender, receiver = book.user(25 * USD), book.user()
    sent = book.transaction(transfer(sender, receiver, 10 * USD))
    book.do(debit(receiver, 8 * USD))

    with pytest.raises(InsufficientFunds):
        book.do(refunding(sender, sent))


def test_a_refund_cannot_be_refunded(book: Ledger):
    user_id = book.user(25 * USD)
    refund = book.transaction(refunding(user_id, book.transaction(debit(user_id, USD))))

    with pytest.raises(BadRequest):
        book.do(refunding(user_id, refund))


def test_somebody_elses_transaction_cannot_be_refunded(book: Ledger):
    user_id, other = book.user(25 * USD), book.user()
    bought = book.transaction(debit(user_id, USD))

    with pytest.raises(NotFound):
        book.do(refunding(other, bought))


def test_a_reversal_undoes_a_mistake_and_says_who_and_why(book: Ledger):
    user_id = book.user(25 * USD)
    mistake = book.transaction(debit(user_id, 10 * USD))

    reversal = book.transaction(reversing(user_id, mistake))

    assert (reversal.kind, reversal.amount_micros) == ("adjustment", 10 * USD)
    assert reversal.metadata == {"reason": "Charged by mistake", "actor": "operator-7"}
    assert book.balance(user_id) == 25 * USD


def test_a_reversal_of_a_credit_takes_it_back(book: Ledger):
    user_id = book.user()
    mistake = book.transaction(credit(user_id, 10 * USD))

    book.do(reversing(user_id, mistake))

    assert book.balance(user_id) == 0


def test_what_was_refunded_cannot_be_reversed(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 10 * USD))
    book.do(refunding(user_id, bought, USD))

    with pytest.raises(Conflict):
        book.do(reversing(user_id, bought))


def test_what_was_reversed_cannot_be_refunded(book: Ledger):
    user_id = book.user(25 * USD)
    bought = book.transaction(debit(user_id, 10 * USD))
    book.do(reversing(user_id, bought))

    with pytest.raises(Conflict):
        book.do(refunding(user_id, bought))


def freezing(user_id, command_class=Freeze):
    return command_class(
        idempotency_key=f"{command_class.method}:{new_id()}",
        user_id=user_id,
        reason="Under review",
        actor="operator-7",
    )


def test_a_frozen_wallet_can_be_opened_again(book: Ledger):
    user_id = book.user(25 * USD)
    book.do(freezing(user_id))
    with pytest.raises(AccountFrozen):
        book.do(debit(user_id, USD))

    change = book.do(freezing(user_id, Unfreeze))

    assert isinstance(change, StatusChange)
    assert change.status is AccountStatus.OPEN
    assert book.transaction(debit(user_id, USD)).balance_after_micros == 24 * USD


def test_freezing_twice_is_a_conflict_and_the_same_command_again_is_not(book: Ledger):
    user_id = book.user()
    command = freezing(user_id)
    first = book.do(command)
    assert isinstance(first, StatusChange)

    assert book.do(command) == first.model_copy(update={"replayed": True})
    with pytest.raises(Conflict):
        book.do(freezing(user_id))


def test_a_wallet_frozen_and_opened_in_one_batch_is_open(book: Ledger):
    user_id = book.user(25 * USD)

    book.post(freezing(user_id), freezing(user_id, Unfreeze), debit(user_id, 25 * USD))

    assert (book.wallet(user_id).status, book.balance(user_id)) == ("open", 0)
