"""The cart: the same one as on the website, on every device."""

from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import Field

from chassis.clock import utc_now
from contracts.billing import LINE_NAME_LENGTH_MAX
from contracts.catalog import FieldKey, GetProduct
from contracts.errors import OutOfStock
from contracts.wallet import CheckAffordability
from services.gateway.api.endpoint import Answer, endpoint
from services.gateway.api.purchases import ChosenText, PurchaseReply, answer
from services.gateway.api.shapes import AnyText, ApiBody, ApiReply, Quantity, Usd, UsdOrZero
from services.gateway.backend import ask, database
from services.gateway.cart import checkout, storage
from services.gateway.cart.contents import Contents, Line, chosen, contents_of
from services.gateway.cart.storage import Item, Owner
from services.gateway.errors import Problem
from services.gateway.people.users import CurrentUser
from services.gateway.showcase import show

blueprint = Blueprint("api_cart", __name__)

LineName = Annotated[AnyText, Field(max_length=LINE_NAME_LENGTH_MAX)]
SaidChoices = Annotated[dict[FieldKey, ChosenText], Field(max_length=20)]


class CartBody(ApiBody):
    """``name`` is what its deployments are called; without one they are named after the product.
    ``choices`` are said in the product's ``fields``, by their keys."""

    product_id: UUID
    quantity: Quantity = 1
    name: LineName = ""
    choices: SaidChoices = Field(default_factory=dict)


class CartLineBody(ApiBody):
    """What is given is changed, and the rest left."""

    quantity: Quantity | None = None
    name: LineName | None = None
    choices: SaidChoices | None = None


class CheckoutBody(ApiBody):
    """``total_usd`` is what the person saw: 409 ``price_changed`` where it is another one now."""

    total_micros: UsdOrZero | None = Field(default=None, alias="total_usd")


class CartLineReply(ApiReply):
    """``unit_price_usd`` is today's, of which a staking discount takes ``unit_discount_usd``;
    ``amount_usd`` is what is charged for all of them. ``old_price_usd`` is what one cost when it
    was added, null where that is the same. ``problem`` says why it cannot be bought, and is empty
    where it can; ``needs`` are the labels of its fields that have to be filled in before."""

    line_id: UUID
    product_id: UUID
    product_name: str
    name: str
    quantity: int
    unit_price_micros: Usd = Field(serialization_alias="unit_price_usd")
    old_price_micros: Usd | None = Field(serialization_alias="old_price_usd")
    unit_discount_micros: Usd = Field(serialization_alias="unit_discount_usd")
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    choices: dict[str, str]
    problem: str
    needs: list[str]


class CartReply(ApiReply):
    """``shortfall_usd`` is what the wallet lacks for all of it, null while that is unknown.
    ``is_being_checked``: it is not known yet what became of the last checkout, whose lines are
    not among these and come back if it bought nothing; ``purchase_id`` is the purchase that it
    turned out to be, told once."""

    lines: list[CartLineReply]
    total_micros: Usd = Field(serialization_alias="total_usd")
    shortfall_micros: Usd | None = Field(serialization_alias="shortfall_usd")
    is_being_checked: bool = False
    purchase_id: UUID | None = None


@endpoint(blueprint, "GET", "/api/cart", reply=CartReply)
def get_cart(user: CurrentUser) -> CartReply:
    """What is in the cart, at the prices of now."""
    under_way, purchase = checkout.look_after(user.user_id)
    return _cart(
        user,
        is_being_checked=under_way is not None and purchase is None,
        purchase_id=purchase.purchase_id if purchase else None,
    )


@endpoint(blueprint, "POST", "/api/cart", body=CartBody, reply=CartReply, command=True)
def add_to_cart(user: CurrentUser, body: CartBody, key: str) -> CartReply:
    """Put something in. The same for the same choices and name is one line."""
    product = show(GetProduct(product_id=str(body.product_id)))
    if not product.available:
        raise OutOfStock(f"{product.name} is not for sale at the moment.", str(product.product_id))
    item = Item(
        product_id=product.product_id,
        product_name=product.name,
        price_micros=product.price_micros,
        quantity=body.quantity,
        name=body.name.strip(),
        choices=chosen(product, body.choices),
    )
    with database().begin() as session:
        storage.add(session, utc_now(), Owner(user.user_id), item, key)
    return _cart(user)


@endpoint(blueprint, "PATCH", "/api/cart/<uuid:line_id>", body=CartLineBody, reply=CartReply)
def change_cart_line(user: CurrentUser, line_id: UUID, body: CartLineBody) -> CartReply:
    """Another quantity, name or choice."""
    owner = Owner(user.user_id)
    found = [line for line in contents_of(owner).lines if line.row.line_id == line_id]
    product = found[0].product if found else None
    with database().begin() as session:
        storage.change(
            session,
            utc_now(),
            owner,
            line_id,
            quantity=body.quantity,
            name=None if body.name is None else body.name.strip(),
            choices=chosen(product, body.choices)
            if product is not None and body.choices is not None
            else None,
            price_micros=product.price_micros if product else None,
        )
    return _cart(user)


@endpoint(blueprint, "DELETE", "/api/cart/<uuid:line_id>", reply=CartReply)
def remove_cart_line(user: CurrentUser, line_id: UUID) -> CartReply:
    """Take a line out."""
    with database().begin() as session:
        storage.remove(session, utc_now(), Owner(user.user_id), line_id)
    return _cart(user)


@endpoint(
    blueprint,
    "POST",
    "/api/cart/checkout",
    body=CheckoutBody,
    is_body_optional=True,
    reply=PurchaseReply,
    also=(202,),
    command=True,
)
def check_out_cart(user: CurrentUser, body: CheckoutBody, key: str) -> Answer:
    """Buy all of it, or nothing, as one purchase. 200: it is settled. 202: it waits for funds, and
    completes by itself when they come. After an answer that was lost send the same key again."""
    if checkout.known(user.user_id, key) is not None:
        return answer(checkout.again(user.user_id, key))
    contents = contents_of(Owner(user.user_id))
    if body.total_micros is not None and body.total_micros != contents.total_micros:
        raise Problem(
            409,
            "price_changed",
            "The cart costs something else by now, or was changed. Nothing was bought: look at it"
            " and check out again.",
        )
    return answer(checkout.check_out(user.user_id, key, contents))


def _cart(user: CurrentUser, **checked: object) -> CartReply:
    contents = contents_of(Owner(user.user_id))
    return CartReply(
        lines=[_line(line) for line in contents.lines],
        total_micros=contents.total_micros,
        shortfall_micros=_shortfall_micros(user, contents),
        **checked,
    )


def _line(line: Line) -> CartLineReply:
    row = line.row
    return CartLineReply(
        line_id=row.line_id,
        product_id=row.product_id,
        product_name=row.product_name,
        name=row.name,
        quantity=row.quantity,
        unit_price_micros=line.unit_price_micros,
        old_price_micros=line.old_price_micros,
        unit_discount_micros=line.unit_discount_micros,
        amount_micros=line.amount_micros - line.discount_micros,
        choices=row.choices,
        problem=line.problem,
        needs=line.needs,
    )


def _shortfall_micros(user: CurrentUser, contents: Contents) -> int | None:
    if contents.total_micros == 0:
        return 0
    cover = ask(CheckAffordability(user_id=user.user_id, amount_micros=contents.total_micros))
    return cover.shortfall_micros if cover else None
