"""Corrections: refunds and reversals of earlier transactions, leg by leg, never more than those."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from contracts.errors import BadRequest, Conflict, NotFound
from contracts.wallet import Refund, Reverse, TransactionKind
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.originals import Original, OriginalLeg
from services.wallet.book.postings import Effect, Leg, Movement, Side
from services.wallet.models import HOUSE_ACCOUNT_IDS
from services.wallet.rules.payments import require_available, require_open

_HOUSE_ACCOUNTS = {account_id: house for house, account_id in HOUSE_ACCOUNT_IDS.items()}


def refund(book: Book, command: Refund) -> Effect:
    """Raises ``NotFound``, ``Conflict``, and what a debit raises where a wallet gives back."""
    account = book.account(command.user_id)
    original = _original(book, account, command.transaction_id)
    amount_micros = command.amount_micros or original.left_micros
    if amount_micros > original.left_micros or amount_micros == 0:
        raise Conflict(
            "So much of this transaction is not left to refund.", str(original.left_micros)
        )
    movement = Movement(
        kind=TransactionKind.REFUND,
        description=command.description,
        metadata=command.metadata,
        effective_at=command.effective_at,
        corrects=original.transaction_id,
        correction="refund",
    )
    return _send_back(book, account, original, amount_micros, movement)


def reverse(book: Book, command: Reverse) -> Effect:
    """Raises ``NotFound``, ``Conflict``, and what a debit raises where a wallet gives back."""
    account = book.account(command.user_id)
    original = _original(book, account, command.transaction_id)
    if original.left_micros < original.amount_micros:
        raise Conflict("This transaction was refunded or reversed before.")
    movement = Movement(
        kind=TransactionKind.ADJUSTMENT,
        description=f"Reversal: {original.description}"[:200],
        metadata={**command.metadata, "reason": command.reason, "actor": command.actor},
        effective_at=command.effective_at,
        corrects=original.transaction_id,
        correction="reversal",
    )
    return _send_back(book, account, original, original.amount_micros, movement)


def _original(book: Book, account: Account, transaction_id: UUID) -> Original:
    original = book.originals.get(transaction_id)
    if original is None or account.user_id not in original.user_ids:
        raise NotFound("This wallet has no such transaction.")
    if original.correction is not None:
        raise BadRequest("transaction_id: it is a correction itself.", "transaction_id")
    return original


def apportion(amount_micros: int, left_micros: Sequence[int]) -> list[int]:
    """Divide an amount over what is left of each leg, in proportion to that.

    Each part is rounded down. The micro-dollars left over go one by one to the largest remainders,
    of equal ones to the earlier leg: so no part is larger than what is left.
    """
    whole = sum(left_micros)
    parts = [amount_micros * left // whole for left in left_micros]
    remainders = [amount_micros * left % whole for left in left_micros]
    by_remainder = sorted(range(len(parts)), key=remainders.__getitem__, reverse=True)
    for place in by_remainder[: amount_micros - sum(parts)]:
        parts[place] += 1
    return parts


def _send_back(
    book: Book, account: Account, original: Original, amount_micros: int, movement: Movement
) -> Effect:
    legs = []
    corrected = []
    for sign, sides in ((1, original.givers), (-1, original.receivers)):
        parts = apportion(amount_micros, [leg.left_micros for leg in sides])
        for leg, part_micros in zip(sides, parts, strict=True):
            if part_micros:
                legs.append(Leg(_side(book, leg), sign * part_micros))
                corrected.append((leg, part_micros))
    if not any(leg.side is account for leg in legs):
        raise BadRequest(
            "amount_micros: of so little, nothing is this wallet's. Ask for more.", "amount_micros"
        )
    _require_given(book, legs, is_refund=movement.correction == "refund")
    posted = book.post(legs, movement)
    for leg, part_micros in corrected:
        leg.corrected_micros += part_micros
    return posted.effect(account)


def _require_given(book: Book, legs: Sequence[Leg], *, is_refund: bool) -> None:
    """Raises what refuses a wallet that gives back more than it gets."""
    gives_micros: Counter[UUID] = Counter()
    for side, amount_micros, _ in legs:
        if isinstance(side, Account):
            gives_micros[side.user_id] -= amount_micros
    for user_id, amount_micros in gives_micros.items():
        if amount_micros > 0:
            giver = book.accounts[user_id]
            if is_refund:
                require_open(giver)
            require_available(giver, amount_micros)


def _side(book: Book, leg: OriginalLeg) -> Side:
    return _HOUSE_ACCOUNTS[leg.account_id] if leg.user_id is None else book.accounts[leg.user_id]
