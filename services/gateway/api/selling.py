"""What a seller does: products and the profile. What was sold is in
:mod:`services.gateway.api.sales`, what is paid out in :mod:`~services.gateway.api.payouts`.

A token needs the scope ``sell``, and its owner the role and a second step of logging in at the
moment of each call. What is done stands in the audit log as what is done on the pages does.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Self
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from contracts.catalog import (
    BillingPeriod,
    Category,
    ChangeProduct,
    CreateProduct,
    FieldKey,
    FieldKind,
    GetPriceHistory,
    ListProducts,
    PastPrice,
    Product,
    RetireProduct,
    SetProvider,
    SortOrder,
)
from contracts.errors import NotFound
from services.gateway.api.endpoint import endpoint, validated
from services.gateway.api.products import ProductReply
from services.gateway.api.purchases import MeterBody
from services.gateway.api.scopes import SELLERS
from services.gateway.api.shapes import (
    ApiBody,
    ApiReply,
    CursorText,
    Limit,
    PlainText,
    PositiveUsd,
    Usd,
)
from services.gateway.backend import ask, call, settings
from services.gateway.staff import products
from services.gateway.staff.guard import Staff

blueprint = Blueprint("api_selling", __name__)

WHY = "By the seller, through the API"

Line = Annotated[PlainText, StringConstraints(min_length=1, max_length=200)]
Units = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]


class SpecificationBody(ApiBody):
    """A line of the data sheet. The catalog filters by vCPU or CPU, Memory and Disk."""

    label: Annotated[PlainText, StringConstraints(max_length=200)]
    value: Annotated[PlainText, StringConstraints(max_length=500)]


class FieldBody(ApiBody):
    """What a buyer is asked for: a ``choice`` is one of ``choices``."""

    key: FieldKey
    label: Line
    kind: FieldKind
    is_required: bool = False
    choices: Annotated[list[Line], Field(max_length=50)] = Field(default_factory=list)
    help: Annotated[PlainText, StringConstraints(max_length=300)] = ""
    length_max: Annotated[int, Field(strict=True, ge=1, le=500)] = 100


Specification = Annotated[list[SpecificationBody], Field(max_length=50)]
Fields = Annotated[list[FieldBody], Field(max_length=20)]
Meters = Annotated[list[MeterBody], Field(max_length=20)]
Family = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
Summary = Annotated[PlainText, StringConstraints(min_length=1, max_length=500)]
Description = Annotated[PlainText, StringConstraints(max_length=10_000)]


class NewProductBody(ApiBody):
    """Texts are plain. Without a ``stock`` there is no end to it. ``fields`` are what a buyer is
    asked for, ``meters`` what is charged by use beside the price. What you sell every month under
    one ``family``, without an end to it, are sizes of the same thing, and buyers change between
    them."""

    name: Line
    category: Category
    summary: Summary
    description: Description = ""
    location: Line | None = None
    price_micros: PositiveUsd = Field(alias="price_usd")
    billing_period: BillingPeriod
    specification: Specification = Field(default_factory=list)
    stock: Units | None = None
    fields: Fields = Field(default_factory=list)
    meters: Meters = Field(default_factory=list)
    family: Family | None = None


class ProductChangeBody(ApiBody):
    """What is given is changed, lists as a whole, and the rest stays.

    ``price_usd`` is for new purchases at once; who rents it is told, and pays a dearer one after
    the notice. ``stock_change`` adds units or takes some; ``stock`` gives an end to what has none,
    ``is_endless`` takes it away: one of the three. ``reason`` stays in the price history.
    """

    name: Line | None = None
    summary: Summary | None = None
    description: Description | None = None
    location: Line | None = None
    price_micros: PositiveUsd | None = Field(default=None, alias="price_usd")
    specification: Specification | None = None
    fields: Fields | None = None
    meters: Meters | None = None
    family: Family | None = None
    stock_change: Annotated[int, Field(strict=True, ge=-1_000_000, le=1_000_000)] = 0
    stock: Units | None = None
    is_endless: bool = False
    reason: Line = WHY

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_dump(exclude={"reason"}, exclude_defaults=True):
            raise ValueError("Say what is to be changed.")
        return self


class OwnProductsQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 50


class OwnProductReply(ProductReply):
    """``units_sold`` were bought in all, ``rented`` are paid for every month now; null where that
    cannot be told now."""

    units_sold: int | None
    rented: int | None


class OwnProductReplies(ApiReply):
    """The newest first, those too that are sold no more; ``next_cursor`` asks for older ones."""

    products: list[OwnProductReply]
    next_cursor: str | None
    total: int


class PastPriceReply(ApiReply):
    price_micros: Usd = Field(serialization_alias="price_usd")
    since: AwareDatetime
    reason: str


class OwnProductFile(OwnProductReply):
    """``prices`` are the newest first. Who rents it since before the last of them pays that one for
    months that begin at ``renters_pay_it_from`` or after it; null where nobody pays it so."""

    prices: list[PastPriceReply]
    renters_pay_it_from: AwareDatetime | None


class ProfileBody(ApiBody):
    """Who sells, as buyers see it. ``support_url`` begins with ``https://``."""

    name: Annotated[PlainText, StringConstraints(min_length=2, max_length=80)]
    about: Annotated[PlainText, StringConstraints(max_length=500)] = ""
    support_email: Annotated[PlainText, StringConstraints(max_length=200)] = ""
    support_url: Annotated[PlainText, StringConstraints(max_length=300)] = ""


class ProfileReply(ApiReply):
    """What is empty was not said."""

    name: str
    about: str
    support_email: str
    support_url: str


@endpoint(
    blueprint,
    "GET",
    "/api/selling/products",
    query=OwnProductsQuery,
    reply=OwnProductReplies,
    roles=SELLERS,
)
def list_own_products(staff: Staff, query: OwnProductsQuery) -> OwnProductReplies:
    """List what you sell."""
    seller_id = staff.user.user_id
    page = call(
        ListProducts(
            provider_id=seller_id,
            with_retired=True,
            sort=SortOrder.NEWEST,
            cursor=query.cursor,
            limit=query.limit,
        )
    )
    used = products.uses(seller_id, page.products)
    shown = [
        OwnProductReply.of(
            each,
            units_sold=used[each.product_id].units if used else None,
            rented=used[each.product_id].rented if used else None,
        )
        for each in page.products
    ]
    return OwnProductReplies.of(page, products=shown)


@endpoint(
    blueprint,
    "POST",
    "/api/selling/products",
    body=NewProductBody,
    reply=OwnProductFile,
    status=201,
    command=True,
    roles=SELLERS,
)
def put_up_product(staff: Staff, body: NewProductBody, key: str) -> OwnProductFile:
    """Put something up for sale. 409: you have no profile yet, or as many products as may be, or
    somebody else sells under this family."""
    seller_id = staff.user.user_id
    command = validated(
        CreateProduct,
        {
            **body.model_dump(exclude_none=True),
            "idempotency_key": key,
            # The key may be any text.
            "slug": products.slug_of(body.name, sha256(key.encode()).hexdigest()[:8]),
            "provider_id": seller_id,
            "reason": WHY,
            "actor": str(seller_id),
        },
    )
    return _file(seller_id, products.create(staff.actor(), command, WHY))


@endpoint(
    blueprint,
    "GET",
    "/api/selling/products/<uuid:product_id>",
    reply=OwnProductFile,
    roles=SELLERS,
)
def show_own_product(staff: Staff, product_id: UUID) -> OwnProductFile:
    """Show one of your products, with its prices and how much of it is rented."""
    seller_id = staff.user.user_id
    return _file(seller_id, products.own(seller_id, product_id))


@endpoint(
    blueprint,
    "PATCH",
    "/api/selling/products/<uuid:product_id>",
    body=ProductChangeBody,
    reply=OwnProductFile,
    command=True,
    roles=SELLERS,
)
def change_own_product(
    staff: Staff, product_id: UUID, body: ProductChangeBody, key: str
) -> OwnProductFile:
    """Change what it says, its price or its stock. 409: so many units are not left, it has an end
    to its stock already, or it had its prices of this day."""
    seller_id = staff.user.user_id
    product = products.own(seller_id, product_id)
    command = validated(
        ChangeProduct,
        {
            **body.model_dump(exclude_none=True),
            "idempotency_key": key,
            "product_id": product_id,
            "provider_id": seller_id,
            "actor": str(seller_id),
        },
    )
    return _file(seller_id, products.change(staff.actor(), product, command, WHY))


@endpoint(
    blueprint,
    "POST",
    "/api/selling/products/<uuid:product_id>/retire",
    reply=OwnProductFile,
    command=True,
    roles=SELLERS,
)
def retire_own_product(staff: Staff, product_id: UUID, key: str) -> OwnProductFile:
    """Sell it no more, for good. Who has it goes on, and you earn by each month."""
    seller_id = staff.user.user_id
    product = products.own(seller_id, product_id)
    command = RetireProduct(
        idempotency_key=key,
        product_id=product_id,
        provider_id=seller_id,
        reason=WHY,
        actor=str(seller_id),
    )
    return _file(seller_id, products.change(staff.actor(), product, command, WHY))


@endpoint(blueprint, "GET", "/api/selling/profile", reply=ProfileReply, roles=SELLERS)
def show_profile(staff: Staff) -> ProfileReply:
    """Show who sells, as buyers see it. 404: you have not said it yet."""
    profile = products.profile(staff.user.user_id)
    if profile is None:
        raise NotFound("You have no profile yet.")
    return ProfileReply.of(profile)


@endpoint(
    blueprint,
    "PUT",
    "/api/selling/profile",
    body=ProfileBody,
    reply=ProfileReply,
    command=True,
    roles=SELLERS,
)
def put_profile(staff: Staff, body: ProfileBody, key: str) -> ProfileReply:
    """Say who sells. Your products show a new name at once. 409: somebody else sells under it."""
    seller_id = staff.user.user_id
    command = validated(
        SetProvider,
        {
            **body.model_dump(),
            "idempotency_key": key,
            "provider_id": seller_id,
            "reason": WHY,
            "actor": str(seller_id),
        },
    )
    return ProfileReply.of(products.write_profile(staff.actor(), command, WHY))


def _file(seller_id: UUID, product: Product) -> OwnProductFile:
    """What was done is done, whether or not the rest can be told now."""
    history = ask(GetPriceHistory(product_id=product.product_id, provider_id=seller_id))
    use = products.uses(seller_id, [product]).get(product.product_id)
    prices = history.prices if history else []
    return OwnProductFile.of(
        product,
        units_sold=use.units if use else None,
        rented=use.rented if use else None,
        prices=prices,
        renters_pay_it_from=_renters_pay_from(product, prices),
    )


def _renters_pay_from(product: Product, prices: list[PastPrice]) -> datetime | None:
    if product.billing_period is BillingPeriod.ONCE or len(prices) < 2:
        return None
    new, old = prices[:2]
    if new.price_micros <= old.price_micros:
        return new.since
    return new.since + timedelta(seconds=settings().price_notice_s)
