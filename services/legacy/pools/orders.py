"""Orders: what somebody wants done, once for each key, and for each user one after the other.

::

    requested ─▶ capturing ─▶ done       dollars given: set aside, then the exchange, then taken
        │  └───▶ releasing ─▶ refused    … the rate had moved: released
        └─▶ declined                     the wallet had not got them
    paying ─▶ done                       dollars got: the exchange, then paid into the wallet
    done                                 no dollars

What is going to be asked of the wallet stands here before it hears of it; see
:mod:`.carrying_out`. While an order is under way its user begins no other, so that what was got for
dollars that are not taken yet stays where it is.
"""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from contracts.errors import Conflict, IdempotencyConflict, ServiceError
from contracts.legacy import OrderKind, OrderStatus, PoolOrder, Stake, TakeQuote, Unstake
from services.legacy.models import PoolOrderRow, PoolTransactionRow
from services.legacy.pools import book, opening, quotes
from services.legacy.pools.curve import Change

LEASE = timedelta(seconds=60)
"""Whoever writes an order carries it out at once; when they do not come to it, somebody else does
after so long."""

CARRIED_OUT_WITHIN = timedelta(minutes=15)
"""Dollars that are set aside later than this after the order are released: its rate was long
ago."""

STAKED_FOR = timedelta(days=30)
"""How long after the last staking nothing is unstaked: it cannot be for one purchase alone."""

_BPS = 10_000

TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.REQUESTED: frozenset(
        {OrderStatus.CAPTURING, OrderStatus.RELEASING, OrderStatus.DECLINED}
    ),
    OrderStatus.CAPTURING: frozenset({OrderStatus.DONE}),
    OrderStatus.RELEASING: frozenset({OrderStatus.REFUSED}),
    OrderStatus.PAYING: frozenset({OrderStatus.DONE}),
    OrderStatus.DONE: frozenset(),
    OrderStatus.REFUSED: frozenset(),
    OrderStatus.DECLINED: frozenset(),
}

UNDER_WAY = frozenset(status for status, following in TRANSITIONS.items() if following)


def move(row: PoolOrderRow, now: datetime, to: OrderStatus) -> None:
    """Change a locked order's status. Raises ``Conflict`` for a move that the table lacks."""
    status = OrderStatus(row.status)
    if to not in TRANSITIONS[status]:
        raise Conflict(f"This order is {status}: it cannot become {to}.")
    row.status, row.changed_at = to, now
    row.due_at = now + LEASE if to in UNDER_WAY else None


def take_quote(session: Session, now: datetime, command: TakeQuote) -> PoolOrderRow:
    """Do what was quoted, or write it down where dollars are to be set aside first; the first
    answer for a key that comes again.

    Raises ``NotFound``, ``Conflict``, ``IdempotencyConflict``; nothing is written then.
    """
    known = _known(session, command)
    if known is not None:
        return known
    quote = quotes.to_take(session, now, command.user_id, command.quote_id)
    taken = select(PoolOrderRow.order_id).where(PoolOrderRow.quote_id == quote.quote_id)
    if session.scalar(taken) is not None:
        raise Conflict("This quote was taken before: ask for a new one.")

    def least(units: int) -> int:
        return max(-(-units * (_BPS - command.slippage_bps) // _BPS), 1) if units > 0 else 0

    row = _new(
        now,
        command,
        kind=quote.kind,
        pool=quote.pool,
        quote_id=quote.quote_id,
        wish_base_units=quote.wish_base_units,
        wish_other_units=quote.wish_other_units,
        wish_share_units=quote.wish_share_units,
        least_base_units=least(quote.base_units),
        least_other_units=least(quote.other_units),
        least_share_units=least(quote.share_units),
    )
    if dollars_given(row):
        # Whether it can be done is looked at now as well: nothing is set aside for what cannot.
        _prepare(session, row)
        row.status, row.due_at = OrderStatus.REQUESTED, now + LEASE
    else:
        carry_out(session, now, row)
        is_paid = dollars_got(row) > 0
        row.status = OrderStatus.PAYING if is_paid else OrderStatus.DONE
        row.due_at = now + LEASE if is_paid else None
    session.add(row)
    session.flush()
    return row


def stake(session: Session, now: datetime, command: Stake) -> PoolOrderRow:
    """Set some of the old coin aside. Raises ``Conflict``, ``IdempotencyConflict``."""
    return _restake(session, now, command, OrderKind.STAKE, -command.units)


def unstake(session: Session, now: datetime, command: Unstake) -> PoolOrderRow:
    """Have some of it free again. Raises ``Conflict``, ``IdempotencyConflict``."""
    return _restake(session, now, command, OrderKind.UNSTAKE, command.units)


def _restake(
    session: Session, now: datetime, command: Stake | Unstake, kind: OrderKind, units: int
) -> PoolOrderRow:
    """``units`` are what the user has more, or less, of what is free."""
    known = _known(session, command)
    if known is not None:
        return known
    free_at = unstaked_from(session, command.user_id)
    if kind is OrderKind.UNSTAKE and free_at is not None and now < free_at:
        raise Conflict(f"What is staked stays so until {free_at:%d %b %Y, %H:%M} UTC.")
    row = _new(now, command, kind=kind, wish_base_units=abs(units))
    row.base_units = units
    moves = {book.of_user(book.TFP): units, book.STAKE: -units}
    accounts = book.lock(session, row.user_id, moves)
    book.post(session, now, _transaction(row), accounts, moves)
    row.status = OrderStatus.DONE
    session.add(row)
    session.flush()
    return row


def unstaked_from(session: Session, user_id: UUID) -> datetime | None:
    """When something may be unstaked; None for who never staked here. What came staked from the
    old system was so for long enough."""
    last = session.scalar(
        select(func.max(PoolOrderRow.created_at)).where(
            PoolOrderRow.user_id == user_id, PoolOrderRow.kind == OrderKind.STAKE.value
        )
    )
    return last + STAKED_FOR if last else None


def _known(session: Session, command: TakeQuote | Stake | Unstake) -> PoolOrderRow | None:
    """The order under this key; None where it is a new one, and may begin.

    Raises ``IdempotencyConflict``, and ``Conflict`` while another is under way, or the user is
    being moved back.
    """
    lock_until_commit(session, f"pools:{command.user_id}")
    known = session.scalar(
        select(PoolOrderRow).where(
            PoolOrderRow.user_id == command.user_id,
            PoolOrderRow.idempotency_key == command.idempotency_key,
        )
    )
    if known is not None:
        if known.body_hash != request_hash(command).hex():
            raise IdempotencyConflict("This key was used for another order. Use a new one.")
        return known
    if under_way(session, command.user_id) is not None:
        raise Conflict("Your last order is still under way. Try again in a moment.")
    opening.require_to_stay(session, command.user_id)
    return None


def under_way(session: Session, user_id: UUID) -> PoolOrderRow | None:
    """The order of a user that has not ended."""
    query = select(PoolOrderRow).where(
        PoolOrderRow.user_id == user_id, PoolOrderRow.due_at.is_not(None)
    )
    return session.scalar(query)


def _new(
    now: datetime, command: TakeQuote | Stake | Unstake, *, kind: str, **given: object
) -> PoolOrderRow:
    nothing = {
        f"{about}{what}_units": 0
        for about in ("wish_", "least_", "")
        for what in ("base", "other", "share")
    }
    return PoolOrderRow(
        order_id=new_id(),
        user_id=command.user_id,
        idempotency_key=command.idempotency_key,
        body_hash=request_hash(command).hex(),
        kind=kind,
        status_code="",
        reason="",
        created_at=now,
        changed_at=now,
        **{"pool": "", "fee_units": 0, **nothing, **given},
    )


def _transaction(row: PoolOrderRow) -> PoolTransactionRow:
    return book.new_transaction(row.user_id, row.kind, pool=row.pool, order_id=row.order_id)


def dollars_given(row: PoolOrderRow) -> int:
    """What is to be set aside in the wallet for an order, in micro-dollars."""
    return row.wish_other_units if book.POOLS.get(row.pool) == book.USD else 0


def dollars_got(row: PoolOrderRow) -> int:
    """What an order that was carried out came to in dollars, in micro-dollars: below zero where
    they were given."""
    return row.other_units if book.POOLS.get(row.pool) == book.USD else 0


def carry_out(session: Session, now: datetime, row: PoolOrderRow) -> None:
    """Do in the pool what an order wants, as far as its rate is still good.

    Raises ``Conflict``; nothing is written then.
    """
    accounts, change = _prepare(session, row)
    book.post(session, now, _transaction(row), accounts, book.moves_of(row.pool, change))
    row.base_units, row.other_units = change.base, change.other
    row.share_units, row.fee_units = change.shares, change.fee


def _prepare(session: Session, row: PoolOrderRow) -> tuple[book.Accounts, Change]:
    """The accounts, held, and what the order comes to with them. Raises ``Conflict``."""
    coins = (book.TFP, book.POOLS[row.pool], row.pool)
    own = [book.of_user(coin) for coin in coins]
    accounts = book.lock(session, row.user_id, [*book.places_of(row.pool), *own])
    change = quotes.comes_to(row, book.reserves(accounts, row.pool))
    least = (row.least_base_units, row.least_other_units, row.least_share_units)
    got = (change.base, change.other, change.shares)
    if any(each > 0 and each > amount for each, amount in zip(least, got, strict=True)):
        raise Conflict("The rate has moved by more than you allow. Nothing was exchanged.")
    book.require_room(accounts, book.moves_of(row.pool, change))
    return accounts, change


def release(row: PoolOrderRow, now: datetime, refusal: ServiceError) -> None:
    """An order whose dollars are set aside is not carried out."""
    row.status_code, row.reason = refusal.code, str(refusal)
    move(row, now, OrderStatus.RELEASING)


def as_order(row: PoolOrderRow) -> PoolOrder:
    """The contract's view of a row."""
    return PoolOrder(
        order_id=row.order_id,
        user_id=row.user_id,
        kind=OrderKind(row.kind),
        pool=row.pool,
        status=OrderStatus(row.status),
        change=quotes.as_change(row),
        fee_units=row.fee_units,
        reason=row.reason,
        created_at=row.created_at,
    )
