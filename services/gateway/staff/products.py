"""What sellers have the catalog do with what they sell, each with its rows in the audit log: for
pages and the API alike.

Whose a product is the catalog decides: each command says which provider wants it.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from uuid import UUID

from contracts.billing import GetProductUses, ProductUse
from contracts.catalog import (
    ChangeProduct,
    CreateProduct,
    GetProduct,
    GetProvider,
    Product,
    Provider,
    RetireProduct,
    SetProvider,
)
from contracts.errors import NotFound
from contracts.messages import Command, ReplyT
from services.gateway.backend import ask, call
from services.gateway.security import throttle
from services.gateway.staff.acts import Actor, Known
from services.gateway.staff.elsewhere import carry_out


def own(seller_id: UUID, product_id: UUID) -> Product:
    """A product of a seller. Raises ``NotFound`` for anybody else's."""
    product = call(GetProduct(product_id=str(product_id)))
    if product.provider_id != seller_id:
        raise NotFound("There is no such product among yours.")
    return product


def profile(seller_id: UUID) -> Provider | None:
    try:
        return call(GetProvider(provider_id=seller_id))
    except NotFound:
        return None


def uses(seller_id: UUID, products: Sequence[Product]) -> dict[UUID, ProductUse]:
    """What was sold of each; nothing where that cannot be told now."""
    if not products:
        return {}
    ids = [each.product_id for each in products]
    found = ask(GetProductUses(user_id=seller_id, product_ids=ids))
    return {each.product_id: each for each in found.products} if found else {}


def slug_of(name: str, ending: str) -> str:
    """The product's address: its name in plain letters, and what no other product has."""
    return f"{words_of(name) or 'product'}-{ending}"


def words_of(name: str) -> str:
    """A name in plain small letters and digits, with hyphens between its words."""
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:60].strip("-")


def create(actor: Actor, command: CreateProduct, reason: str) -> Product:
    """Put something up for sale."""
    said = {"name": command.name, "price_micros": command.price_micros}
    return _carry_out(actor, "product.create", command.slug, reason, said, command, _known)


def change(
    actor: Actor, product: Product, command: ChangeProduct | RetireProduct, reason: str
) -> Product:
    """Change a product as it was seen, or retire it."""
    said = {"price_micros": product.price_micros, "stock": recorded(product.stock)}
    subject = str(product.product_id)
    return _carry_out(actor, _action(command), subject, reason, said, command, _known)


def write_profile(actor: Actor, command: SetProvider, reason: str) -> Provider:
    """Say who sells."""
    return _carry_out(
        actor,
        "seller.profile",
        str(command.provider_id),
        reason,
        {},
        command,
        lambda saved: {"name": saved.name},
    )


def _carry_out(
    actor: Actor,
    action: str,
    subject: str,
    reason: str,
    before: Known,
    request: Command[ReplyT],
    known: Callable[[ReplyT], Known],
) -> ReplyT:
    """As often as one sells by hand or keeps a stock up to date: the log is never deleted, and
    whatever a role does waits for its turn to be written there. Raises a 429, too."""
    throttle("selling", str(actor.user_id))
    return carry_out(actor, action, subject, reason, before, request, known)


def recorded(stock: int | None) -> int | str:
    return "no limit" if stock is None else stock


def _action(command: ChangeProduct | RetireProduct) -> str:
    if isinstance(command, RetireProduct):
        return "product.retire"
    return "product.price" if command.price_micros is not None else "product.change"


def _known(made: Product) -> Known:
    return {
        "product_id": str(made.product_id),
        "price_micros": made.price_micros,
        "stock": recorded(made.stock),
    }
