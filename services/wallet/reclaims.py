"""Money that the card processor took back: a refund to the card, or a dispute."""

from typing import TYPE_CHECKING
from uuid import UUID

from contracts.messages import AmountMicros, Command, Metadata, ShortText
from contracts.wallet import HouseAccount, Transaction, TransactionKind
from services.wallet import accounts
from services.wallet.postings import Effect, Movement

if TYPE_CHECKING:
    from services.wallet.book import Book

ACTOR = "card processor"


class TakeBack(Command[Transaction], service="wallet", method="take_back"):
    """The wallet's own command, for what is gone already: it may take an account below zero."""

    user_id: UUID
    amount_micros: AmountMicros
    is_dispute: bool
    description: ShortText
    metadata: Metadata


def take_back(book: "Book", command: TakeBack) -> Effect:
    """Take a reversed top-up out of the wallet, whatever is in it.

    A dispute freezes the account, and so does any debt that this makes. Raises ``NotFound``.
    """
    account = book.account(command.user_id)
    kind = TransactionKind.CHARGEBACK if command.is_dispute else TransactionKind.REFUND
    in_debt = account.available_micros < command.amount_micros
    movement = Movement(kind, command.description, command.metadata, says_balance_low=False)
    posted = book.move(account, HouseAccount.CARD_RECEIPTS, command.amount_micros, movement)
    if (command.is_dispute or in_debt) and not account.is_frozen:
        accounts.set_frozen(book, account, command.description, ACTOR)
    return Effect(posted.seen_by(account), account.account_id, transaction_id=posted.transaction_id)
