"""What somebody brings from the old system into the pools, and what goes back with them.

A holding is ``{"coin": "TFP", "units": 112500000, "is_staked": true}``. What was in the old wallet
is none: it became dollars. Accounts are opened in the transaction that writes down that the person
was moved, once for each attempt, and closed in the one that writes down the way back.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.locks import for_update
from contracts.errors import Conflict
from services.legacy.models import MoveRow, PoolAccountRow, PoolEntryRow, PoolTransactionRow
from services.legacy.pools import book
from services.legacy.pools.book import Place

BROUGHT = ("opening", "closing")
Holdings = Sequence[Mapping[str, Any]]


def open_accounts(session: Session, now: datetime, people: Mapping[UUID, Holdings]) -> None:
    """Give people what they held."""
    _post(session, now, "opening", people, 1)


def close_accounts(session: Session, now: datetime, people: Mapping[UUID, Holdings]) -> None:
    """Take it back from people who did nothing with it."""
    _post(session, now, "closing", people, -1)


def _post(
    session: Session, now: datetime, kind: str, people: Mapping[UUID, Holdings], sign: int
) -> None:
    origins = [Place("old_system", coin) for coin in book.COINS]
    moves = {user_id: _moves(people[user_id], sign) for user_id in sorted(people)}
    moves = {user_id: of_user for user_id, of_user in moves.items() if of_user}
    if not moves:
        return
    # All origins are held, whatever is brought: two batches wait for each other in turn.
    held = book.lock_all(session, {user_id: [*origins, *moves[user_id]] for user_id in moves})
    book.post_all(
        session,
        now,
        [
            (book.new_transaction(user_id, kind), held[user_id], of_user)
            for user_id, of_user in moves.items()
        ],
    )


def _moves(holdings: Holdings, sign: int) -> Counter[Place]:
    moves: Counter[Place] = Counter()
    for holding in holdings:
        moves[_place(holding)] += sign * holding["units"]
        moves[Place("old_system", holding["coin"])] -= sign * holding["units"]
    return moves


def _place(holding: Mapping[str, Any]) -> Place:
    return book.STAKE if holding["is_staked"] else book.of_user(holding["coin"])


def opened(session: Session, user_ids: Iterable[UUID]) -> dict[UUID, dict[tuple[str, bool], int]]:
    """What people brought and did not take back: units, by the coin and whether it is staked."""
    found = session.execute(
        select(
            PoolTransactionRow.user_id,
            PoolAccountRow.coin,
            (PoolAccountRow.holder == book.STAKE.holder).label("is_staked"),
            func.sum(PoolEntryRow.amount_units).label("units"),
        )
        .join(PoolEntryRow, PoolEntryRow.transaction_id == PoolTransactionRow.transaction_id)
        .join(PoolAccountRow, PoolAccountRow.account_id == PoolEntryRow.account_id)
        .where(
            PoolTransactionRow.user_id.in_(list(user_ids)),
            PoolTransactionRow.kind.in_(BROUGHT),
            PoolAccountRow.user_id.is_not(None),
        )
        .group_by(PoolTransactionRow.user_id, PoolAccountRow.coin, PoolAccountRow.holder)
        .having(func.sum(PoolEntryRow.amount_units) != 0)
    )
    brought: dict[UUID, dict[tuple[str, bool], int]] = {}
    for row in found:
        brought.setdefault(row.user_id, {})[row.coin, row.is_staked] = int(row.units)
    return brought


def as_opened(holdings: Holdings) -> dict[tuple[str, bool], int]:
    """Holdings in the form of :func:`opened`."""
    return {(each["coin"], each["is_staked"]): each["units"] for each in holdings}


def used(session: Session, user_ids: Iterable[UUID]) -> set[UUID]:
    """Who of them did anything in the pools."""
    done = select(PoolTransactionRow.user_id).where(
        PoolTransactionRow.user_id.in_(list(user_ids)), PoolTransactionRow.kind.not_in(BROUGHT)
    )
    return set(session.scalars(done.distinct()))


def require_to_stay(session: Session, user_id: UUID) -> None:
    """Raises ``Conflict`` for who is being moved back. Who moves people back waits here, and sees
    then what was done."""
    moved = for_update(select(MoveRow.status).where(MoveRow.user_id == user_id), read=True)
    if session.scalar(moved) == "reverting":
        raise Conflict("Your account is being moved back to the old system.")
