"""What is known of a command by its key, beside its effect."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from chassis.identifiers import new_id
from contracts.errors import BadRequest
from contracts.messages import Command
from contracts.wallet import (
    CloseKey,
    Freeze,
    Hold,
    KeyOutcome,
    KeyState,
    OpenAccount,
    PlaceHold,
    SetLevel,
    Unfreeze,
    VoidHold,
)
from services.wallet.book import keys
from tests.wallet.conftest import NOON, USD, Ledger, debit

WHO = {"reason": "Ordered by a court", "actor": "operator-7"}
YESTERDAY = NOON - timedelta(days=1)

Make = Callable[..., Command[Any]]


def open_account(book: Ledger, **fields: Any) -> Command[Any]:
    return OpenAccount(idempotency_key=f"open:{new_id()}", user_id=new_id(), **fields)


def hold(book: Ledger, user_id: UUID | None = None, **fields: Any) -> Command[Any]:
    return PlaceHold(
        idempotency_key=f"hold:{new_id()}",
        user_id=user_id or book.user(10 * USD),
        amount_micros=USD,
        description="Reservation",
        **fields,
    )


def void(book: Ledger, **fields: Any) -> Command[Any]:
    user_id = book.user(10 * USD)
    held = book.do(hold(book, user_id))
    assert isinstance(held, Hold)
    key = f"void:{new_id()}"
    return VoidHold(idempotency_key=key, user_id=user_id, hold_id=held.hold_id, **fields)


def freeze(book: Ledger, **fields: Any) -> Command[Any]:
    return Freeze(idempotency_key=f"freeze:{new_id()}", user_id=book.user(), **WHO, **fields)


def unfreeze(book: Ledger, **fields: Any) -> Command[Any]:
    frozen = freeze(book)
    book.do(frozen)
    user_id = book.users[-1]
    return Unfreeze(idempotency_key=f"unfreeze:{new_id()}", user_id=user_id, **WHO, **fields)


def set_level(book: Ledger, **fields: Any) -> Command[Any]:
    return SetLevel(
        idempotency_key=f"alert:{new_id()}", user_id=book.user(), threshold_micros=USD, **fields
    )


def close_key(book: Ledger, **fields: Any) -> Command[Any]:
    return CloseKey(idempotency_key=f"closed:{new_id()}", **fields)


def a_debit(book: Ledger, **fields: Any) -> Command[Any]:
    return debit(book.user(10 * USD), USD, **fields)


EVERY_KIND = pytest.mark.parametrize(
    "make", [open_account, hold, void, freeze, unfreeze, set_level, close_key, a_debit]
)


def outcome(book: Ledger, command: Command[Any]) -> KeyOutcome:
    with book.database.read() as session:
        return keys.get_by_key(session, command.idempotency_key)


@EVERY_KIND
def test_metadata_and_effective_date_are_kept(book: Ledger, make: Make):
    command = make(book, metadata={"ticket": "T-7"}, effective_at=YESTERDAY)

    book.do(command)

    found = outcome(book, command)
    assert (found.metadata, found.effective_at) == ({"ticket": "T-7"}, YESTERDAY)
    assert found.recorded_at == book.now


@EVERY_KIND
def test_without_a_date_a_command_takes_effect_when_it_is_recorded(book: Ledger, make: Make):
    command = make(book)

    book.do(command)

    found = outcome(book, command)
    assert (found.metadata, found.effective_at) == ({}, found.recorded_at)


@EVERY_KIND
def test_an_effective_date_in_the_future_is_refused_and_leaves_the_key_unused(
    book: Ledger, make: Make
):
    command = make(book, effective_at=book.now + timedelta(seconds=1))

    with pytest.raises(BadRequest, match="effective_at: it lies in the future"):
        book.do(command)

    assert outcome(book, command).state is KeyState.UNUSED


@EVERY_KIND
def test_a_repetition_that_says_something_else_does_not_change_it(book: Ledger, make: Make):
    command = make(book, metadata={"ticket": "T-7"})
    book.do(command)

    book.post(command.model_copy(update={"metadata": {"ticket": "T-8"}}))

    assert outcome(book, command).metadata == {"ticket": "T-7"}
