"""What the old system's service may do: bring what people had, take that back, exchange dollars in
its pools, and nothing else.

Its login may call ``post_batch``, and the broker, which looks at the name of a call, does not see
what is in one.
"""

from typing import Any

from contracts import legacy
from contracts.errors import BadRequest
from contracts.messages import Command
from contracts.wallet import (
    Capture,
    Credit,
    HouseAccount,
    OpenAccount,
    PlaceHold,
    Reverse,
    TransactionKind,
    VoidHold,
)
from services.wallet.book.book import Book

_EXCHANGE = (TransactionKind.EXCHANGE, HouseAccount.POOLS)


def require_a_move(book: Book, command: Command[Any]) -> None:
    """Raises ``BadRequest`` for what that service asks and has no business to."""
    if book.call.caller == legacy.SERVICE and not _is_a_move(book, command):
        raise BadRequest(
            "Whoever comes from the old system gets a wallet, gets what was there as"
            f" {TransactionKind.MIGRATION.value} out of {HouseAccount.MIGRATION.value}, and has"
            f" that reversed; an {TransactionKind.EXCHANGE.value} is set aside, and comes from"
            f" or goes to {HouseAccount.POOLS.value}: this is none of these.",
            "method",
        )


def _is_a_move(book: Book, command: Command[Any]) -> bool:
    match command:
        case OpenAccount():
            return True
        case PlaceHold() | VoidHold():
            return True
        case Credit():
            return (command.kind, command.origin) in (
                (TransactionKind.MIGRATION, HouseAccount.MIGRATION),
                _EXCHANGE,
            )
        case Capture():
            return (command.kind, command.destination) == _EXCHANGE and not command.shares
        case Reverse():
            original = book.originals.get(command.transaction_id)
            # One that is not there is refused by its own rule.
            return original is None or original.kind == TransactionKind.MIGRATION
    return False
