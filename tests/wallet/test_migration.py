"""The old system's service moves people's money in and back out, and can do nothing else."""

from typing import Any
from uuid import UUID

import pytest

from chassis.context import CallContext
from chassis.identifiers import new_id
from contracts.errors import BadRequest
from contracts.messages import Command
from contracts.wallet import (
    Adjust,
    Capture,
    CloseKey,
    Credit,
    Freeze,
    HouseAccount,
    OpenAccount,
    PlaceHold,
    Reverse,
    Share,
    TransactionKind,
    VoidHold,
)
from services.wallet import ledger
from tests.wallet.conftest import USD, Ledger, credit, debit, transfer

EXCHANGE = {"kind": TransactionKind.EXCHANGE, "origin": HouseAccount.POOLS}
MOVE = {"kind": TransactionKind.MIGRATION, "origin": HouseAccount.MIGRATION}


def new_key() -> str:
    return f"legacy:{new_id()}"


def brought(user_id: UUID, **other: Any) -> Credit:
    return credit(user_id, 5 * USD).model_copy(update={**MOVE, **other})


def as_legacy(book: Ledger, command: Command[Any]) -> Any:
    with book.database.begin() as session:
        (outcome,) = ledger.post(session, book.now, [command], [CallContext(caller="legacy")])
    return outcome


def reverse(user_id: UUID, transaction_id: UUID) -> Reverse:
    return Reverse(
        idempotency_key=new_key(),
        user_id=user_id,
        transaction_id=transaction_id,
        reason="moved back",
        actor="an operator",
    )


def test_it_brings_a_balance_and_takes_it_back(book: Ledger) -> None:
    user_id = book.user()
    made = as_legacy(book, brought(user_id))
    assert book.balance(user_id) == 5 * USD

    as_legacy(book, reverse(user_id, made.transaction_id))

    assert book.balance(user_id) == 0


def test_it_opens_a_wallet_for_who_brings_nothing(book: Ledger) -> None:
    opened = as_legacy(book, OpenAccount(idempotency_key=new_key(), user_id=book.user()))

    assert not isinstance(opened, BadRequest)


@pytest.mark.parametrize(
    "other",
    [
        {"kind": TransactionKind.TOPUP},
        {"origin": HouseAccount.CARD_RECEIPTS},
        {"origin": HouseAccount.ADJUSTMENTS},
        {"origin": HouseAccount.POOLS},
        {"kind": TransactionKind.EXCHANGE},
    ],
    ids=["kind", "cards", "adjustments", "pools", "exchange"],
)
def test_it_makes_no_other_money(book: Ledger, other: dict[str, Any]) -> None:
    user_id = book.user()

    assert isinstance(as_legacy(book, brought(user_id, **other)), BadRequest)
    assert book.balance(user_id) == 0


def test_it_takes_back_nothing_that_it_did_not_bring(book: Ledger) -> None:
    user_id = book.user()
    bought = book.transaction(credit(user_id, 5 * USD))

    assert isinstance(as_legacy(book, reverse(user_id, bought.transaction_id)), BadRequest)
    assert book.balance(user_id) == 5 * USD


def test_it_exchanges_dollars_in_its_pools_and_holds_them_first(book: Ledger) -> None:
    user_id = book.user()
    as_legacy(book, brought(user_id, **EXCHANGE))
    held = as_legacy(book, hold(user_id, 3 * USD))

    taken = as_legacy(book, capture(user_id, held.hold_id, amount_micros=USD))
    again = as_legacy(book, hold(user_id, 3 * USD))
    as_legacy(book, VoidHold(idempotency_key=new_key(), user_id=user_id, hold_id=again.hold_id))

    assert taken.amount_micros == -USD
    assert book.balance(user_id) == 4 * USD


@pytest.mark.parametrize(
    "other",
    [
        {"kind": TransactionKind.PURCHASE},
        {"destination": HouseAccount.FEES},
        {"shares": [Share(destination=HouseAccount.POOLS, amount_micros=3 * USD)]},
    ],
    ids=["kind", "fees", "shares"],
)
def test_it_takes_what_it_holds_for_nothing_else(book: Ledger, other: dict[str, Any]) -> None:
    user_id = book.user()
    as_legacy(book, brought(user_id))
    held = as_legacy(book, hold(user_id, 3 * USD))

    assert isinstance(as_legacy(book, capture(user_id, held.hold_id, **other)), BadRequest)
    assert book.balance(user_id) == 5 * USD


def hold(user_id: UUID, amount_micros: int) -> PlaceHold:
    return PlaceHold(
        idempotency_key=new_key(),
        user_id=user_id,
        amount_micros=amount_micros,
        description="Pool exchange",
    )


def capture(user_id: UUID, hold_id: UUID, **other: Any) -> Capture:
    given = {"kind": TransactionKind.EXCHANGE, "destination": HouseAccount.POOLS, **other}
    return Capture(idempotency_key=new_key(), user_id=user_id, hold_id=hold_id, **given)


def test_it_does_nothing_else_with_a_wallet(book: Ledger) -> None:
    user_id, other_id = book.user(), book.user()
    book.transaction(credit(user_id, 5 * USD))
    book.transaction(credit(other_id, 5 * USD))
    hand = {"idempotency_key": new_key(), "user_id": user_id, "reason": "why", "actor": "me"}

    for command in (
        debit(user_id, USD),
        transfer(user_id, other_id, USD),
        Adjust(**hand, amount_micros=-USD),
        Freeze(**hand),
    ):
        assert isinstance(as_legacy(book, command), BadRequest), command.method
    assert book.balance(user_id) == 5 * USD


def test_it_may_close_a_key_of_its_own(book: Ledger) -> None:
    assert as_legacy(book, CloseKey(idempotency_key=new_key())).closed


def test_others_are_not_held_to_that(book: Ledger) -> None:
    user_id = book.user()

    book.transaction(credit(user_id, USD))

    assert book.balance(user_id) == USD
