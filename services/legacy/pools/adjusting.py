"""Correcting by hand what somebody has of a coin: with a reason, by an operator."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from contracts.errors import BadRequest
from services.legacy.pools import book, opening
from services.legacy.pools.book import Place


def adjust(
    session: Session, now: datetime, user_id: UUID, coin: str, units: int, note: str
) -> None:
    """Give a user so many units more of a coin, or take them.

    Raises ``BadRequest`` for a coin that nobody has here, ``Conflict`` where it is not there.
    """
    if coin not in book.COINS:
        raise BadRequest(f"Coins are {', '.join(book.COINS)}; dollars are in the wallet.")
    opening.require_to_stay(session, user_id)
    moves = {book.of_user(coin): units, Place("adjustments", coin): -units}
    accounts = book.lock(session, user_id, moves)
    transaction = book.new_transaction(user_id, "adjustment", note=note)
    book.post(session, now, transaction, accounts, moves)
