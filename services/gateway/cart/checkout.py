"""From a cart to one purchase for all of its lines, at most once.

::

    begin      the lines leave the cart and stand in a checkout (one transaction)
    carry_out  ask billing to buy them, under the checkout's id as key
               bought ─▶ ended, with the purchase · refused ─▶ the lines are back in the cart

A crash between any two lines, or an answer that is lost, leaves the checkout under way. The cart
cannot be sent again meanwhile. :func:`look_after` asks billing what became of it, which buys
nothing; the person may send it again at once, under the same key. What was certainly not bought
goes back into the cart.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.identifiers import new_id
from contracts.billing import FindPurchase, Purchase, PurchaseLine, PurchaseWay, StartPurchase
from contracts.errors import (
    AccountFrozen,
    BadRequest,
    Conflict,
    LimitExceeded,
    NotFound,
    OutOfStock,
    PriceChanged,
    ServiceError,
)
from services.gateway.backend import call, database
from services.gateway.cart import storage
from services.gateway.cart.contents import Contents, Line
from services.gateway.cart.storage import Item, Owner
from services.gateway.idempotency import scoped_key
from services.gateway.models import CartCheckout, CartLine

REFUSALS = (AccountFrozen, BadRequest, LimitExceeded, NotFound, OutOfStock, PriceChanged)
"""Answers that say that nothing was bought. After any other one something may have been."""

GIVEN_BACK_AFTER = timedelta(minutes=10)
"""A command that nobody has carried out by then is carried out no more: it had seconds."""


def known(user_id: UUID, key: str) -> CartCheckout | None:
    """The checkout that was begun under this key."""
    with database().read() as session:
        return session.get(CartCheckout, (user_id, key))


def check_out(user_id: UUID, key: str, contents: Contents) -> Purchase:
    """Buy what was shown, once for each key. Raises ``Conflict`` where the cart is empty, has
    changed, cannot be bought as it is, or another checkout is under way, and what
    :class:`StartPurchase` raises."""
    with database().begin() as session:
        checkout = begin(session, utc_now(), user_id, key, contents)
    return carry_out(checkout)


def again(user_id: UUID, key: str) -> Purchase:
    """Carry out what was begun under this key. Raises ``Conflict`` where it has bought nothing and
    is no more."""
    with database().begin() as session:
        storage.lock(session, utc_now(), Owner(user_id))
        checkout = session.get(CartCheckout, (user_id, key))
        if checkout is None:
            raise Conflict("This checkout bought nothing: everything is back in your cart.")
        checkout.tried_at = utc_now()
    return carry_out(checkout)


def begin(
    session: Session, now: datetime, user_id: UUID, key: str, contents: Contents
) -> CartCheckout:
    """Take the lines out of the cart, for good if they are bought. A key that is known gives what
    was begun under it."""
    cart = storage.lock(session, now, Owner(user_id))
    checkout = session.get(CartCheckout, (user_id, key))
    if checkout is not None:
        checkout.tried_at = now
        return checkout
    if under_way(session, user_id) is not None:
        raise Conflict(
            "Your last checkout is still being checked, so nothing more was bought. Open your cart"
            " to see what became of it."
        )
    rows = storage.lines_of(session, Owner(user_id))
    if not rows:
        raise Conflict("Your cart is empty.")
    if [_as_bought(row) for row in rows] != [_as_bought(line.row) for line in contents.lines]:
        raise Conflict("Your cart was changed in another window. Nothing was bought; look again.")
    if contents.problem:
        raise Conflict(contents.problem)
    checkout = CartCheckout(
        user_id=user_id,
        key=key,
        checkout_id=new_id(),
        lines=[_kept(line) for line in contents.lines],
        begun_at=now,
        tried_at=now,
    )
    session.add(checkout)
    session.execute(delete(CartLine).where(CartLine.cart_id == cart.cart_id))
    session.flush()
    return checkout


def carry_out(checkout: CartCheckout) -> Purchase:
    """Buy, or learn that it was bought. Raises what :class:`StartPurchase` raises; where that says
    that nothing was bought, the lines are back."""
    try:
        purchase = call(_command(checkout))
    except REFUSALS:
        with database().begin() as session:
            give_back(session, utc_now(), checkout.user_id, checkout.key, checkout.tried_at)
        raise
    with database().begin() as session:
        end(session, utc_now(), checkout, purchase.purchase_id)
    return purchase


def look_after(user_id: UUID) -> tuple[CartCheckout | None, Purchase | None]:
    """The checkout that is under way, if there is one, and the purchase that it turned out to be.

    What turned out to be none for long enough is back in the cart.
    """
    with database().read() as session:
        checkout = under_way(session, user_id)
    if checkout is None:
        return None, None
    try:
        purchase = call(FindPurchase(user_id=user_id, idempotency_key=_key(checkout)))
    except NotFound:
        now = utc_now()
        if now - checkout.tried_at < GIVEN_BACK_AFTER:
            return checkout, None
        with database().begin() as session:
            give_back(session, now, user_id, checkout.key, checkout.tried_at)
        return None, None
    except ServiceError:
        return checkout, None
    with database().begin() as session:
        end(session, utc_now(), checkout, purchase.purchase_id)
    return checkout, purchase


def under_way(session: Session, user_id: UUID) -> CartCheckout | None:
    return session.scalar(
        select(CartCheckout).where(CartCheckout.user_id == user_id, CartCheckout.ended_at.is_(None))
    )


def end(session: Session, now: datetime, checkout: CartCheckout, purchase_id: UUID) -> None:
    """It is bought; saying so again changes nothing."""
    storage.lock(session, now, Owner(checkout.user_id))
    row = session.get(CartCheckout, (checkout.user_id, checkout.key), populate_existing=True)
    if row is not None and row.ended_at is None:
        row.purchase_id, row.ended_at = purchase_id, now


def give_back(session: Session, now: datetime, user_id: UUID, key: str, tried_at: datetime) -> None:
    """Nothing was bought: back into the cart with it, unless it was tried again meanwhile."""
    cart = storage.lock(session, now, Owner(user_id))
    checkout = session.get(CartCheckout, (user_id, key), populate_existing=True)
    if checkout is None or checkout.ended_at is not None or checkout.tried_at != tried_at:
        return
    storage.put(session, cart, [_item(line) for line in checkout.lines])
    session.delete(checkout)


def put_back(session: Session, now: datetime, user_id: UUID, purchase_id: UUID) -> bool:
    """A purchase that came of a cart was cancelled: what it was to buy is in the cart again, once.
    Whether it came of a cart. The checkout stays, without the purchase: its key buys nothing anew.
    """
    its_own = select(CartCheckout).where(
        CartCheckout.user_id == user_id, CartCheckout.purchase_id == purchase_id
    )
    if session.scalar(its_own) is None:
        return False
    # The cart first, as everywhere else: nobody who holds one of them waits for the other.
    cart = storage.lock(session, now, Owner(user_id))
    checkout = session.scalar(its_own.execution_options(populate_existing=True))
    if checkout is None:
        return False
    storage.put(session, cart, [_item(line) for line in checkout.lines])
    checkout.purchase_id = None
    return True


def _command(checkout: CartCheckout) -> StartPurchase:
    lines = [PurchaseLine.model_validate(line["order"]) for line in checkout.lines]
    return StartPurchase(
        idempotency_key=_key(checkout),
        user_id=checkout.user_id,
        lines=lines,
        way=PurchaseWay.CART,
    )


def _key(checkout: CartCheckout) -> str:
    return scoped_key(checkout.user_id, f"cart:{checkout.checkout_id}")


def _kept(line: Line) -> dict[str, object]:
    """A line of a checkout: what is asked of billing, and what it was in the cart."""
    return {
        "order": line.order.model_dump(mode="json"),
        "product_name": line.row.product_name,
        "seen_price_micros": line.row.seen_price_micros,
    }


def _item(line: dict[str, object]) -> Item:
    order = PurchaseLine.model_validate(line["order"])
    return Item(
        product_id=order.product_id,
        product_name=str(line["product_name"]),
        price_micros=int(str(line["seen_price_micros"])),
        quantity=order.quantity,
        name=order.name,
        choices=order.choices,
    )


def _as_bought(row: CartLine) -> Sequence[object]:
    return row.line_id, row.quantity, row.name, row.choices
