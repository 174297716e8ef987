"""What somebody is collecting, kept on the server, so that it is there on every device.

A visitor's cart belongs to a secret in the cookie; after the login it becomes part of the user's.
Whoever changes a cart locks its row first, so that two tabs change it one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.identifiers import new_id
from chassis.locks import for_update
from contracts.errors import LimitExceeded, NotFound
from services.gateway.models import Cart, CartLine
from services.gateway.people.bearer_secrets import fingerprint

LINES_MAX = 50
UNITS_MAX = 100
"""As much as one purchase holds."""
KEYS_MAX = 50


@dataclass(frozen=True)
class Owner:
    """A user; or a visitor, by the secret in the cookie."""

    user_id: UUID | None = None
    secret: str = ""

    @property
    def owns(self) -> ColumnElement[bool]:
        if self.user_id is not None:
            return Cart.user_id == self.user_id
        return Cart.secret_sha256 == fingerprint(self.secret)


@dataclass(frozen=True)
class Item:
    """So much of a product. ``price_micros`` is what its owner saw that one costs."""

    product_id: UUID
    product_name: str
    price_micros: int
    quantity: int = 1
    name: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)


def lines_of(session: Session, owner: Owner) -> Sequence[CartLine]:
    """In the order in which they were added."""
    return session.scalars(
        select(CartLine)
        .join(Cart, Cart.cart_id == CartLine.cart_id)
        .where(owner.owns)
        .order_by(CartLine.line_id)
    ).all()


_COUNTS = Bulk(
    "SELECT new.secret_sha256, sum(quantity) AS units FROM {rows}"
    " JOIN carts USING (secret_sha256) JOIN cart_lines USING (cart_id) GROUP BY 1",
    secret_sha256="bytea",  # noqa: S106 - the name of a type
)


def counts(session: Session, secrets: Sequence[str]) -> list[int | Exception]:
    """How many units each of these visitors has in it; those of users: pages/glance.py."""
    asked = [fingerprint(secret) for secret in secrets]
    rows = _COUNTS.execute(session, [(each,) for each in set(asked)])
    found = {bytes(row.secret_sha256): row.units for row in rows}
    return [found.get(each, 0) for each in asked]


def add(session: Session, now: datetime, owner: Owner, item: Item, key: str) -> None:
    """Put something in; the same key again changes nothing.

    Raises ``LimitExceeded`` for more than one purchase holds.
    """
    cart = lock(session, now, owner)
    if key in cart.added_keys:
        return
    cart.added_keys = [*cart.added_keys[1 - KEYS_MAX :], key]
    put(session, cart, [item])
    _refuse_too_much(session, cart)


def change(
    session: Session,
    now: datetime,
    owner: Owner,
    line_id: UUID,
    *,
    quantity: int | None = None,
    name: str | None = None,
    choices: Mapping[str, str] | None = None,
    price_micros: int | None = None,
) -> None:
    """Change what is given. Raises ``NotFound`` and ``LimitExceeded``."""
    cart = lock(session, now, owner)
    line = _line(session, cart, line_id)
    line.quantity = line.quantity if quantity is None else quantity
    line.name = line.name if name is None else name
    line.choices = line.choices if choices is None else dict(choices)
    line.seen_price_micros = line.seen_price_micros if price_micros is None else price_micros
    session.flush()
    _refuse_too_much(session, cart)


def remove(session: Session, now: datetime, owner: Owner, line_id: UUID) -> CartLine:
    """Take a line out. Raises ``NotFound``."""
    cart = lock(session, now, owner)
    line = _line(session, cart, line_id)
    session.delete(line)
    return line


def adopt(session: Session, now: datetime, secret: str, user_id: UUID) -> list[str]:
    """Make a visitor's cart part of a user's; the names of what came.

    What does not fit into one purchase stays with the rest all the same: the user takes some out.
    """
    visitors = session.scalar(for_update(select(Cart).where(Owner(secret=secret).owns), of=Cart))
    if visitors is None:
        return []
    came = session.scalars(
        select(CartLine).where(CartLine.cart_id == visitors.cart_id).order_by(CartLine.line_id)
    ).all()
    if came:
        put(session, lock(session, now, Owner(user_id)), [item_of(line) for line in came])
    session.execute(delete(Cart).where(Cart.cart_id == visitors.cart_id))
    return [line.product_name for line in came]


def lock(session: Session, now: datetime, owner: Owner) -> Cart:
    """The cart, made where there is none, locked to the end of the transaction."""
    secret_sha256 = None if owner.user_id else fingerprint(owner.secret)
    return session.scalars(
        insert(Cart)
        .values(
            cart_id=new_id(),
            user_id=owner.user_id,
            secret_sha256=secret_sha256,
            added_keys=[],
            changed_at=now,
        )
        .on_conflict_do_update(
            index_elements=[Cart.user_id if owner.user_id else Cart.secret_sha256],
            set_={"changed_at": now},
        )
        .returning(Cart)
        .execution_options(populate_existing=True)
    ).one()


def put(session: Session, cart: Cart, items: Iterable[Item]) -> None:
    """Add to a locked cart: more of a line that is there for the same, or a line of its own."""
    lines = list(session.scalars(select(CartLine).where(CartLine.cart_id == cart.cart_id)))
    for item in items:
        line = next((line for line in lines if _is_same(line, item)), None)
        if line is None:
            line = CartLine(
                line_id=new_id(),
                cart_id=cart.cart_id,
                product_id=item.product_id,
                product_name=item.product_name,
                name=item.name,
                quantity=item.quantity,
                choices=dict(item.choices),
                seen_price_micros=item.price_micros,
            )
            session.add(line)
            lines.append(line)
        else:
            line.quantity = min(line.quantity + item.quantity, UNITS_MAX)
    session.flush()


def item_of(line: CartLine) -> Item:
    return Item(
        product_id=line.product_id,
        product_name=line.product_name,
        price_micros=line.seen_price_micros,
        quantity=line.quantity,
        name=line.name,
        choices=line.choices,
    )


def _is_same(line: CartLine, item: Item) -> bool:
    """What was named or chosen for one is not for the other."""
    return (line.product_id, line.name, line.choices) == (
        item.product_id,
        item.name,
        dict(item.choices),
    )


def _line(session: Session, cart: Cart, line_id: UUID) -> CartLine:
    line = session.get(CartLine, line_id)
    if line is None or line.cart_id != cart.cart_id:
        raise NotFound("This is not in your cart any more.")
    return line


def _refuse_too_much(session: Session, cart: Cart) -> None:
    lines, units = session.execute(
        select(func.count(), func.coalesce(func.sum(CartLine.quantity), 0)).where(
            CartLine.cart_id == cart.cart_id
        )
    ).one()
    if lines > LINES_MAX or units > UNITS_MAX:
        raise LimitExceeded(
            f"A cart holds at most {UNITS_MAX} items in {LINES_MAX} lines. Nothing was added:"
            " check out first, or take something out."
        )
