"""Corrections: refunds and reversals of earlier transactions, leg by leg, never more than those."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from contracts.errors import BadRequest, Conflict, NotFound
from contracts.wallet import HouseAccount, Noted, Refund, Reverse, Share, TransactionKind
from services.wallet.book.accounts import Account
from services.wallet.book.book import Book
from services.wallet.book.originals import Original, OriginalLeg
from services.wallet.book.postings import Effect, Leg, Movement, Side
from services.wallet.models import HOUSE_ACCOUNT_IDS
from services.wallet.rules.payments import require_available, require_open
from services.wallet.rules.promotional import paid_micros, require_paid

_HOUSE_ACCOUNTS = {account_id: house for house, account_id in HOUSE_ACCOUNT_IDS.items()}


def refund(book: Book, command: Refund) -> Effect:
    """Raises ``NotFound``, ``Conflict``, ``BadRequest``, and what a debit raises where a wallet
    gives back."""
    account = book.account(command.user_id)
    original = _original(book, account, command.transaction_id)
    shared_micros = sum(share.amount_micros for share in command.shares)
    amount_micros = command.amount_micros or shared_micros or original.left_micros
    if amount_micros > original.left_micros or amount_micros == 0:
        raise Conflict(
            "So much of this transaction is not left to refund.", str(original.left_micros)
        )
    if command.shares and shared_micros != amount_micros:
        raise BadRequest(
            f"shares: they come to {shared_micros}, and {amount_micros} is given back.", "shares"
        )
    parts = _parts(original, amount_micros)
    if command.shares:
        parts = [part for part in parts if part.leg in original.givers]
        parts += _chosen(original, command.shares)
    advances = _advances(book, parts) if command.is_advanced else []
    metadata = command.metadata
    if advances:
        ((leg, advanced_micros),) = advances
        metadata = {
            **metadata,
            Noted.ADVANCED_MICROS: str(advanced_micros),
            Noted.ADVANCED_FOR: str(leg.user_id),
        }
    movement = Movement(
        kind=TransactionKind.REFUND,
        description=command.description,
        metadata=metadata,
        effective_at=command.effective_at,
        corrects=original.transaction_id,
        correction="chosen_refund" if command.shares or advances else "refund",
    )
    return _send_back(book, account, parts, movement, advances)


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
    return _send_back(book, account, _parts(original, original.amount_micros), movement)


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


class _Part(NamedTuple):
    """How much of a leg goes back."""

    leg: OriginalLeg
    micros: int


def _parts(original: Original, amount_micros: int) -> list[_Part]:
    """Each side of a correction in proportion to what is left of its legs."""
    return [
        _Part(leg, micros)
        for legs in (original.givers, original.receivers)
        for leg, micros in zip(
            legs, apportion(amount_micros, [leg.left_micros for leg in legs]), strict=True
        )
        if micros
    ]


def _chosen(original: Original, shares: Sequence[Share]) -> list[_Part]:
    """What those give back whom the caller names. Raises ``Conflict``, ``BadRequest``."""
    got = {_owner(leg): leg for leg in original.receivers}
    if len({share.destination for share in shares}) < len(shares):
        raise BadRequest("shares: one of them for each who gives something back.", "shares")
    parts = []
    for share in shares:
        leg = got.get(share.destination)
        left_micros = leg.left_micros if leg else 0
        if leg is None or share.amount_micros > left_micros:
            raise Conflict(
                f"So much of what {share.destination} got by this transaction is not left to"
                " refund.",
                str(left_micros),
            )
        parts.append(_Part(leg, share.amount_micros))
    return parts


def _advances(book: Book, parts: Sequence[_Part]) -> list[_Part]:
    """What of these parts a user has not got any more, who spent it or is frozen: one at most.

    Who gets as much as he gives needs nothing. Raises ``BadRequest`` for more than one, whose
    transaction could not tell what is owed by whom.
    """
    gives_micros = _given_by_users(parts)
    advances = []
    for part in parts:
        user_id = part.leg.user_id
        if user_id is None or part.leg.amount_micros < 0:
            continue
        giver = book.accounts[user_id]
        has_micros = 0 if giver.is_frozen else max(paid_micros(book, giver), 0)
        lacks_micros = min(max(gives_micros[user_id] - has_micros, 0), part.micros)
        if lacks_micros:
            advances.append(_Part(part.leg, lacks_micros))
    if len(advances) > 1:
        raise BadRequest(
            "is_advanced: more than one of them has not got his part. Refund them one after the"
            " other, with shares.",
            "is_advanced",
        )
    return advances


def _send_back(
    book: Book,
    account: Account,
    parts: Sequence[_Part],
    movement: Movement,
    advances: Sequence[_Part] = (),
) -> Effect:
    advanced_micros = {id(leg): micros for leg, micros in advances}
    parts = [_Part(leg, micros - advanced_micros.get(id(leg), 0)) for leg, micros in parts]
    parts = [part for part in parts if part.micros]
    if not any(part.leg.user_id == account.user_id for part in parts):
        raise BadRequest(
            "amount_micros: of so little, nothing is this wallet's. Ask for more.", "amount_micros"
        )
    _require_given(book, parts, movement)
    legs = [
        Leg(_side(book, leg), micros if leg.amount_micros < 0 else -micros) for leg, micros in parts
    ]
    if advances:
        legs.append(Leg(HouseAccount.ADVANCES, -sum(advanced_micros.values())))
    posted = book.post(legs, movement)
    for leg, micros in (*parts, *advances):
        leg.corrected_micros += micros
    return posted.effect(account)


def _given_by_users(parts: Sequence[_Part]) -> Counter[UUID]:
    """How much more each user gives than he gets."""
    gives_micros: Counter[UUID] = Counter()
    for leg, micros in parts:
        if leg.user_id is not None:
            gives_micros[leg.user_id] += micros if leg.amount_micros > 0 else -micros
    return gives_micros


def _require_given(book: Book, parts: Sequence[_Part], movement: Movement) -> None:
    """Raises what refuses a wallet that gives back more than it gets."""
    for user_id, amount_micros in _given_by_users(parts).items():
        if amount_micros > 0:
            giver = book.accounts[user_id]
            if movement.kind is TransactionKind.REFUND:
                require_open(giver)
            require_available(giver, amount_micros)
            require_paid(book, giver, amount_micros, movement.corrects)


def _owner(leg: OriginalLeg) -> UUID | HouseAccount:
    return leg.user_id or _HOUSE_ACCOUNTS[leg.account_id]


def _side(book: Book, leg: OriginalLeg) -> Side:
    return _HOUSE_ACCOUNTS[leg.account_id] if leg.user_id is None else book.accounts[leg.user_id]
