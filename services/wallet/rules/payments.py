"""Payments: debits, credits, transfers, adjustments; what a wallet may be asked to give."""

from collections.abc import Sequence

from chassis.money import format_usd
from contracts.errors import AccountFrozen, BadRequest, InsufficientFunds
from contracts.wallet import (
    Adjust,
    Capture,
    Credit,
    Debit,
    HouseAccount,
    Noted,
    Share,
    TransactionKind,
    Transfer,
)
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.postings import Effect, Leg, Movement, between
from services.wallet.rules.promotional import require_paid

_SPECIAL_KINDS = {
    TransactionKind.ADJUSTMENT: "Use adjust, which asks for a reason and an actor.",
    TransactionKind.CHARGEBACK: "Chargebacks come from the card processor only.",
    TransactionKind.PROMOTION: "Use give_promotion, which asks for its end.",
}


def debit(book: Book, command: Debit) -> Effect:
    """Raises ``NotFound``, ``AccountFrozen``, ``InsufficientFunds``, ``BadRequest``."""
    account = book.account(command.user_id)
    require_ordinary(command.kind)
    require_open(account)
    require_available(account, command.amount_micros)
    legs = payment(book, account, command, command.amount_micros)
    return book.post(legs, _movement(command, command.kind)).effect(account)


def payment(
    book: Book, payer: Account, command: Debit | Capture, amount_micros: int
) -> Sequence[Leg]:
    """Who gives and who gets what in a payment. Raises ``BadRequest``."""
    if not command.shares:
        return between(payer, command.destination, amount_micros)
    shared_micros = sum(share.amount_micros for share in command.shares)
    if shared_micros != amount_micros:
        raise BadRequest(
            f"shares: they come to {shared_micros}, and {amount_micros} is taken.", "shares"
        )
    if len({share.destination for share in command.shares}) < len(command.shares):
        raise BadRequest("shares: one of them for each who gets something.", "shares")
    return [Leg(payer, -amount_micros), *(_receiving(book, share) for share in command.shares)]


def _receiving(book: Book, share: Share) -> Leg:
    if isinstance(share.destination, HouseAccount):
        return Leg(share.destination, share.amount_micros)
    # Who buys has no part in whether who sells has been here: the first earning opens the wallet.
    return Leg(book.open(share.destination), share.amount_micros, TransactionKind.EARNING)


def credit(book: Book, command: Credit) -> Effect:
    """Opens the account if there is none. Raises ``BadRequest``."""
    require_ordinary(command.kind)
    account = book.open(command.user_id)
    legs = between(command.origin, account, command.amount_micros)
    return book.post(legs, _movement(command, command.kind)).effect(account)


def transfer(book: Book, command: Transfer) -> Effect:
    """Raises what :func:`debit` raises; ``NotFound`` for either wallet."""
    if command.from_user_id == command.to_user_id:
        raise BadRequest("to_user_id: a transfer goes to somebody else.", "to_user_id")
    sender = book.account(command.from_user_id)
    receiver = book.account(command.to_user_id)
    require_open(sender)
    require_available(sender, command.amount_micros)
    require_paid(book, sender, command.amount_micros)
    movement = _movement(command, TransactionKind.TRANSFER)
    parties: dict[str, str] = {
        Noted.FROM_USER_ID: str(command.from_user_id),
        Noted.TO_USER_ID: str(command.to_user_id),
    }
    movement = movement._replace(metadata={**movement.metadata, **parties})
    legs = between(sender, receiver, command.amount_micros)
    return book.post(legs, movement).effect(sender)


def adjust(book: Book, command: Adjust) -> Effect:
    """Raises ``NotFound``, ``InsufficientFunds``, ``BadRequest`` for zero."""
    account = book.account(command.user_id)
    if command.amount_micros == 0:
        raise BadRequest("amount_micros: an adjustment is not zero.", "amount_micros")
    movement = Movement(
        kind=TransactionKind.ADJUSTMENT,
        description=command.reason,
        metadata={**command.metadata, "reason": command.reason, "actor": command.actor},
        effective_at=command.effective_at,
    )
    if command.amount_micros > 0:
        legs = between(HouseAccount.ADJUSTMENTS, account, command.amount_micros)
    else:
        require_available(account, -command.amount_micros)
        legs = between(account, HouseAccount.ADJUSTMENTS, -command.amount_micros)
    return book.post(legs, movement).effect(account)


def _movement(command: Debit | Credit | Transfer, kind: TransactionKind) -> Movement:
    return Movement(kind, command.description, command.metadata, command.effective_at)


def require_open(account: Account) -> None:
    """Raises ``AccountFrozen``."""
    if account.is_frozen:
        debt_micros = max(-account.available_micros, 0)
        debt = f" It is {format_usd(debt_micros)} below zero as well." if debt_micros else ""
        raise AccountFrozen(
            f"This wallet is frozen: nothing can be paid from it.{debt} Please contact support.",
            str(account.entry_count),
        )


def require_available(account: Account, amount_micros: int) -> None:
    """Raises ``InsufficientFunds`` with what is available and what is lacking."""
    shortfall_micros = amount_micros - account.available_micros
    if shortfall_micros > 0:
        raise InsufficientFunds(
            "The wallet's available balance is too small; nothing was taken.",
            str(account.available_micros),
            str(shortfall_micros),
            str(account.entry_count),
        )


def require_ordinary(kind: TransactionKind) -> None:
    """Raises ``BadRequest`` for a kind that no caller chooses."""
    advice = _SPECIAL_KINDS.get(kind)
    if advice is not None:
        raise BadRequest(f"kind: {kind.value} is not for this method. {advice}", "kind")
