"""Money that the card processor took back: a refund to the card, or a dispute."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from contracts.messages import AmountMicros, Command, Metadata, ShortText
from contracts.wallet import HoldStatus, HouseAccount, Transaction, TransactionKind
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.holds import OpenHold
from services.wallet.book.postings import Effect, Movement, between
from services.wallet.rules import freezing, holding

ACTOR = "card processor"


class TakeBack(Command[Transaction], service="wallet", method="take_back"):
    """The wallet's own command, for what is gone already: it may take an account below zero."""

    user_id: UUID
    amount_micros: AmountMicros
    is_dispute: bool
    description: ShortText
    metadata: Metadata
    hold_id: UUID | None = None
    """What was set aside for it."""


_MAY_OPEN = text(
    "SELECT b.balance_micros >= b.held_micros AND last.actor = :actor AND NOT EXISTS ("
    "  SELECT FROM entries AS e"
    "  WHERE e.account_id = a.account_id AND e.kind = 'chargeback' AND NOT EXISTS ("
    "   SELECT FROM transactions AS t WHERE t.corrects_transaction_id = e.transaction_id)"
    "  AND NOT EXISTS ("
    "   SELECT FROM status_changes AS opened WHERE opened.account_id = a.account_id"
    "   AND opened.status = 'open' AND opened.changed_at > e.recorded_at))"
    " FROM accounts AS a JOIN balances AS b USING (account_id)"
    " JOIN status_changes AS last ON last.account_id = a.account_id"
    "  AND last.change_number = b.status_change_count"
    " WHERE a.user_id = :user_id AND b.status = 'frozen'"
)


def may_open(session: Session, user_id: UUID) -> bool:
    """Whether a wallet is frozen only for what the card processor took, and that is settled.

    No dispute is left that was not won, but for those after which support opened the wallet all the
    same; nothing is owed, and support has not frozen it.
    """
    return bool(session.scalar(_MAY_OPEN, {"user_id": user_id, "actor": ACTOR}))


def take_back(book: Book, command: TakeBack) -> Effect:
    """Take a reversed top-up out of the wallet, whatever is in it.

    A dispute freezes the account, and so does any debt that this makes. Raises ``NotFound``.
    """
    account = book.account(command.user_id)
    kind = TransactionKind.CHARGEBACK if command.is_dispute else TransactionKind.REFUND
    metadata, hold = command.metadata, _set_aside(book, account, command)
    if hold is not None:
        metadata = {**metadata, "hold_id": str(hold.hold_id)}
        holding.end(book, account, hold, HoldStatus.CAPTURED)
    in_debt = account.available_micros < command.amount_micros
    movement = Movement(kind, command.description, metadata, says_balance_low=False)
    legs = between(account, HouseAccount.CARD_RECEIPTS, command.amount_micros)
    posted = book.post(legs, movement)
    if hold is not None:
        hold.captured_micros = command.amount_micros
        hold.transaction_id = posted.transaction_id
    if (command.is_dispute or in_debt) and not account.is_frozen:
        freezing.set_frozen(book, account, command.description, ACTOR)
    return posted.effect(account)


def _set_aside(book: Book, account: Account, command: TakeBack) -> OpenHold | None:
    """The hold that this captures; None where it has ended, for the money is gone all the same."""
    hold = book.holds.get(command.hold_id) if command.hold_id else None
    if hold is None or hold.account_id != account.account_id:
        return None
    is_open = hold.status is HoldStatus.HELD and hold.amount_micros >= command.amount_micros
    return hold if is_open else None
