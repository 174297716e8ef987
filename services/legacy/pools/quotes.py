"""What something in a pool would come to: told, and kept for a while, so that it can be taken."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Context, Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from contracts.errors import BadRequest, Conflict, NotFound
from contracts.legacy import (
    OrderKind,
    PoolChange,
    PoolQuote,
    QuoteAddition,
    QuoteExchange,
    QuoteWithdrawal,
)
from services.legacy.models import PoolOrderRow, PoolQuoteRow
from services.legacy.pools import book, curve
from services.legacy.pools.curve import Change, Reserves
from services.legacy.reading.amounts import plain

GOOD_FOR = timedelta(seconds=60)
KEPT_DAYS = 1
_SIX_DIGITS = Context(prec=6)

Wishes = PoolQuoteRow | PoolOrderRow


def for_exchange(session: Session, now: datetime, request: QuoteExchange) -> PoolQuote:
    """Raises ``NotFound``, ``BadRequest``, ``Conflict``."""
    other = book.require_pool(request.pool)
    if request.give not in (book.TFP, other):
        raise BadRequest(f"give: the pool {request.pool} has {book.TFP} and {other}.", "give")
    units = {"base": 0, "other": 0}
    units["base" if request.give == book.TFP else "other"] = request.give_units
    return _quote(session, now, request.user_id, OrderKind.EXCHANGE, request.pool, **units)


def for_addition(session: Session, now: datetime, request: QuoteAddition) -> PoolQuote:
    """Raises ``NotFound``, ``Conflict``."""
    return _quote(
        session,
        now,
        request.user_id,
        OrderKind.ADD,
        request.pool,
        base=request.base_units,
        other=request.other_units,
    )


def for_withdrawal(session: Session, now: datetime, request: QuoteWithdrawal) -> PoolQuote:
    """Raises ``NotFound``, ``Conflict``."""
    shares = request.share_units
    return _quote(session, now, request.user_id, OrderKind.WITHDRAW, request.pool, shares=shares)


def _quote(
    session: Session,
    now: datetime,
    user_id: UUID,
    kind: OrderKind,
    pool: str,
    *,
    base: int = 0,
    other: int = 0,
    shares: int = 0,
) -> PoolQuote:
    book.require_pool(pool)
    held = book.balances(session, user_id)
    _require_shares(held, pool, shares)
    base_in, other_in, issued = (held[place] for place in book.places_of(pool))
    reserves = Reserves(base_in, other_in, -issued)
    row = PoolQuoteRow(
        quote_id=new_id(),
        user_id=user_id,
        kind=kind,
        pool=pool,
        wish_base_units=base,
        wish_other_units=other,
        wish_share_units=shares,
        made_at=now,
    )
    change = comes_to(row, reserves)
    row.base_units, row.other_units = change.base, change.other
    row.share_units, row.fee_units = change.shares, change.fee
    session.add(row)
    is_exchange = kind is OrderKind.EXCHANGE
    return PoolQuote(
        quote_id=row.quote_id,
        user_id=user_id,
        kind=kind,
        pool=pool,
        change=as_change(row),
        fee_units=change.fee,
        rate=_rate(change) if is_exchange else "",
        impact_ppm=curve.impact_ppm(reserves, change) if is_exchange else 0,
        expires_at=now + GOOD_FOR,
    )


def _require_shares(held: dict[book.Place, int], pool: str, shares: int) -> None:
    own = held.get(book.of_user(pool), 0)
    if shares > own:
        raise Conflict(f"You have {book.written(own)} shares of this pool. Withdraw no more.")


def comes_to(wish: Wishes, reserves: Reserves) -> Change:
    """What a wish comes to with these reserves. Raises ``Conflict`` where it is nothing."""
    rules: dict[str, Callable[[], Change]] = {
        OrderKind.EXCHANGE: lambda: curve.exchange(
            reserves, wish.wish_base_units, wish.wish_other_units
        ),
        OrderKind.ADD: lambda: curve.add(reserves, wish.wish_base_units, wish.wish_other_units),
        OrderKind.WITHDRAW: lambda: curve.withdraw(reserves, wish.wish_share_units),
    }
    return rules[wish.kind]()


def as_change(row: Wishes) -> PoolChange:
    return PoolChange(
        base_units=row.base_units, other_units=row.other_units, share_units=row.share_units
    )


def to_take(session: Session, now: datetime, user_id: UUID, quote_id: UUID) -> PoolQuoteRow:
    """A user's quote that is still good. Raises ``NotFound``, ``Conflict``."""
    row = session.get(PoolQuoteRow, quote_id)
    if row is None or row.user_id != user_id:
        raise NotFound("There is no such quote: ask for a new one.")
    if now > row.made_at + GOOD_FOR:
        raise Conflict("This quote is too old. Nothing was changed: ask for a new one.")
    return row


def _rate(change: Change) -> str:
    given, taken = -min(change.base, change.other), max(change.base, change.other)
    return plain(_SIX_DIGITS.divide(Decimal(taken), Decimal(given)))
