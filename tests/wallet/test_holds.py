"""Holds: placed, captured, voided, expired."""

from datetime import timedelta

import pytest

from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, InsufficientFunds, NotFound
from contracts.wallet import (
    Capture,
    CloseKey,
    Hold,
    HoldStatus,
    PlaceHold,
    TransactionKind,
    VoidHold,
)
from services.wallet import expiry
from services.wallet.rules.holding import ExpireHold
from tests.wallet.conftest import USD, Ledger, debit, wallet_held


def placing(user_id, amount_micros, **fields):
    return PlaceHold(
        idempotency_key=f"hold:{new_id()}",
        user_id=user_id,
        amount_micros=amount_micros,
        description="Reservation",
        **fields,
    )


def capturing(hold: Hold, amount_micros=None, **fields):
    return Capture(
        idempotency_key=f"capture:{new_id()}",
        user_id=hold.user_id,
        hold_id=hold.hold_id,
        amount_micros=amount_micros,
        **fields,
    )


def voiding(hold: Hold):
    return VoidHold(idempotency_key=f"void:{new_id()}", user_id=hold.user_id, hold_id=hold.hold_id)


def place(book: Ledger, user_id, amount_micros, **fields) -> Hold:
    placed = book.do(placing(user_id, amount_micros, **fields))
    assert isinstance(placed, Hold)
    return placed


def money(book: Ledger, user_id):
    wallet = book.wallet(user_id)
    return (
        wallet.balance_micros // USD,
        wallet.held_micros // USD,
        wallet.available_micros // USD,
    )


def test_held_money_stays_in_the_balance_and_is_not_available(book: Ledger):
    user_id = book.user(25 * USD)

    place(book, user_id, 10 * USD)

    assert money(book, user_id) == (25, 10, 15)


@pytest.mark.parametrize("kind", ["chargeback", "adjustment"])
def test_a_capture_has_no_kind_that_belongs_to_somebody_else(book: Ledger, kind):
    hold = place(book, book.user(25 * USD), 10 * USD)

    with pytest.raises(BadRequest, match="not for this method"):
        book.do(capturing(hold).model_copy(update={"kind": TransactionKind(kind)}))


def test_a_hold_that_cannot_be_released_does_not_keep_the_sweep(own_book: Ledger, monkeypatch):
    monkeypatch.setattr(expiry, "BATCH_SIZE", 1)
    hold = place(own_book, own_book.user(25 * USD), 10 * USD, expires_in_s=60)
    own_book.do(CloseKey(idempotency_key=f"expire:{hold.hold_id}"))

    assert expiry.sweep(own_book.database, own_book.now + timedelta(days=1)) == 0


def test_holds_of_a_wallet_that_somebody_holds_keep_no_other_from_expiring(
    own_book: Ledger, monkeypatch
):
    monkeypatch.setattr(expiry, "BATCH_SIZE", 2)
    locked, free = own_book.user(25 * USD), own_book.user(25 * USD)
    for _ in range(3):
        place(own_book, locked, USD, expires_in_s=60)
    place(own_book, free, USD, expires_in_s=60)

    with wallet_held(own_book, locked):
        released = expiry.sweep(own_book.database, own_book.now + timedelta(days=1))

    assert (released, money(own_book, locked), money(own_book, free)) == (
        1,
        (25, 3, 22),
        (25, 0, 25),
    )


def test_what_is_held_cannot_be_spent_or_held_again(book: Ledger):
    user_id = book.user(25 * USD)
    place(book, user_id, 20 * USD)

    for command in (debit(user_id, 10 * USD), placing(user_id, 10 * USD)):
        with pytest.raises(InsufficientFunds):
            book.do(command)


def test_a_capture_takes_all_that_was_held(book: Ledger):
    user_id = book.user(25 * USD)

    transaction = book.transaction(capturing(place(book, user_id, 10 * USD)))

    assert transaction.amount_micros == -10 * USD
    assert money(book, user_id) == (15, 0, 15)


def test_a_capture_of_a_part_releases_the_rest(book: Ledger):
    user_id = book.user(25 * USD)

    book.do(capturing(place(book, user_id, 10 * USD), 4 * USD))

    assert money(book, user_id) == (21, 0, 21)


def test_a_capture_of_more_than_was_held_is_refused(book: Ledger):
    user_id = book.user(25 * USD)

    with pytest.raises(BadRequest):
        book.do(capturing(place(book, user_id, 10 * USD), 11 * USD))

    assert money(book, user_id) == (25, 10, 15)


def test_a_hold_of_the_whole_balance_can_be_captured(book: Ledger):
    user_id = book.user(25 * USD)

    book.do(capturing(place(book, user_id, 25 * USD)))

    assert money(book, user_id) == (0, 0, 0)


def test_a_void_releases_the_money(book: Ledger):
    user_id = book.user(25 * USD)

    ended = book.do(voiding(place(book, user_id, 10 * USD)))

    assert isinstance(ended, Hold)
    assert ended.status is HoldStatus.VOIDED
    assert money(book, user_id) == (25, 0, 25)


@pytest.mark.parametrize("first", [capturing, voiding])
@pytest.mark.parametrize("second", [capturing, voiding])
def test_a_hold_ends_once(book: Ledger, first, second):
    placed = place(book, book.user(25 * USD), 10 * USD)
    book.do(first(placed))

    with pytest.raises(Conflict):
        book.do(second(placed))


def test_somebody_elses_hold_is_not_found(book: Ledger):
    placed = place(book, book.user(25 * USD), 10 * USD)
    other = book.user()

    with pytest.raises(NotFound):
        book.do(voiding(placed.model_copy(update={"user_id": other})))


def test_a_hold_is_released_when_its_time_is_over(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD, expires_in_s=60)
    book.later(seconds=61)

    expiry.sweep(book.database, book.now)

    assert money(book, user_id) == (25, 0, 25)
    with pytest.raises(Conflict, match="expired"):
        book.do(capturing(placed))


def test_a_hold_whose_time_is_over_cannot_be_captured_before_it_is_swept(book: Ledger):
    placed = place(book, book.user(25 * USD), 10 * USD, expires_in_s=60)
    book.later(seconds=61)

    with pytest.raises(Conflict):
        book.do(capturing(placed))


INSTANT = timedelta(microseconds=1)


def test_a_hold_can_be_captured_until_the_instant_of_its_expiry_and_not_in_it(book: Ledger):
    user_id = book.user(25 * USD)
    placed, other = (place(book, user_id, 10 * USD, expires_in_s=60) for _ in range(2))

    book.now = placed.expires_at - INSTANT
    book.do(capturing(other))
    book.now = placed.expires_at
    with pytest.raises(Conflict, match="expired"):
        book.do(capturing(placed))

    assert money(book, user_id) == (15, 10, 5)


def test_a_hold_is_released_from_the_instant_of_its_expiry_on_and_not_before(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD, expires_in_s=60)
    release = ExpireHold(
        idempotency_key=f"expire:{placed.hold_id}", user_id=user_id, hold_id=placed.hold_id
    )

    expiry.sweep(book.database, placed.expires_at - INSTANT)
    book.now = placed.expires_at - INSTANT
    with pytest.raises(Conflict, match="not expired"):
        book.do(release)
    held = money(book, user_id)
    expiry.sweep(book.database, placed.expires_at)

    assert (held, money(book, user_id)) == ((25, 10, 15), (25, 0, 25))


def test_the_wallets_own_command_releases_a_hold_in_the_instant_of_its_expiry(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD, expires_in_s=60)
    book.now = placed.expires_at

    ended = book.do(
        ExpireHold(
            idempotency_key=f"expire:{placed.hold_id}", user_id=user_id, hold_id=placed.hold_id
        )
    )

    assert isinstance(ended, Hold)
    assert ended.status is HoldStatus.EXPIRED


def test_all_that_is_available_can_be_held_and_not_a_micro_dollar_more(book: Ledger):
    user_id = book.user(25 * USD)
    place(book, user_id, 10 * USD)

    with pytest.raises(InsufficientFunds) as refused:
        place(book, user_id, 15 * USD + 1)
    place(book, user_id, 15 * USD)

    assert refused.value.details == (str(15 * USD), "1", "1")
    assert money(book, user_id) == (25, 25, 0)


@pytest.mark.parametrize("end", [capturing, voiding])
def test_a_hold_of_who_came_before_or_after_is_not_found(book: Ledger, end):
    earlier, user_id, later = (book.user(25 * USD) for _ in range(3))
    mine, *others = (place(book, somebody, USD) for somebody in (user_id, earlier, later))

    for placed in others:
        with pytest.raises(NotFound):
            book.do(end(placed.model_copy(update={"user_id": user_id})))
    book.do(end(mine))

    assert [money(book, somebody)[1] for somebody in (earlier, user_id, later)] == [1, 0, 1]


@pytest.mark.parametrize("end", [capturing, voiding])
def test_a_hold_whose_owner_is_in_the_same_batch_is_not_found_either(book: Ledger, end):
    user_id, other = book.user(25 * USD), book.user(25 * USD)
    placed = place(book, user_id, USD)

    refused, ended = book.post(end(placed.model_copy(update={"user_id": other})), voiding(placed))

    assert isinstance(refused, NotFound)
    assert isinstance(ended, Hold)
    assert [money(book, somebody) for somebody in (user_id, other)] == [(25, 0, 25)] * 2


def test_a_hold_is_not_released_early(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD, expires_in_s=60)

    expiry.sweep(book.database, book.now + timedelta(seconds=59))

    assert money(book, user_id) == (25, 10, 15)
    assert placed.expires_at == book.now + timedelta(seconds=60)


def test_a_replay_of_a_hold_gives_the_first_answer_even_after_its_capture(book: Ledger):
    user_id = book.user(25 * USD)
    command = placing(user_id, 10 * USD)
    first = book.do(command)
    assert isinstance(first, Hold)
    book.do(capturing(first))

    again = book.do(command)

    assert again == first.model_copy(update={"replayed": True})


def test_a_hold_can_be_placed_and_captured_in_one_batch(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 5 * USD)

    outcomes = book.post(
        placing(user_id, 15 * USD), capturing(placed), debit(user_id, 5 * USD), voiding(placed)
    )

    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Hold",
        "Transaction",
        "Transaction",
        "Conflict",
    ]
    assert money(book, user_id) == (15, 15, 0)


def test_a_refused_capture_leaves_the_hold_as_it_was(book: Ledger):
    user_id = book.user(25 * USD)
    placed = place(book, user_id, 10 * USD)
    tomorrow = {"effective_at": book.now + timedelta(days=1)}

    with pytest.raises(BadRequest):
        book.do(capturing(placed).model_copy(update=tomorrow))

    assert money(book, user_id) == (25, 10, 15)
