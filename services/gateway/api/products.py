"""The marketplace's products."""

from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints

from contracts.catalog import (
    BillingPeriod,
    Category,
    FieldKind,
    GetProduct,
    ListProducts,
    SortOrder,
)
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import (
    ApiBody,
    ApiReply,
    CursorText,
    Least,
    Limit,
    PlainText,
    PositiveUsdText,
    Usd,
)
from services.gateway.backend import call

blueprint = Blueprint("api_products", __name__)


FilterText = Annotated[PlainText, StringConstraints(min_length=1, max_length=200)]


class ProductQuery(ApiBody):
    """``provider_name`` and ``location`` are as products have them. What is the least there is to
    be of processors, memory and disk is compared with the product's ``specification``."""

    category: Category | None = None
    q: Annotated[PlainText, StringConstraints(strip_whitespace=True, max_length=100)] = ""
    sort: SortOrder = SortOrder.FEATURED
    max_price_micros: PositiveUsdText | None = Field(default=None, alias="max_price_usd")
    provider_name: FilterText | None = None
    location: FilterText | None = None
    billing_period: BillingPeriod | None = None
    min_vcpu: Least | None = None
    min_memory_gb: Least | None = None
    min_disk_gb: Least | None = None
    cursor: CursorText | None = None
    limit: Limit = 24


class Specification(ApiReply):
    label: str
    value: str


class ProductFieldReply(ApiReply):
    """What a buyer says as ``choices``: text of up to ``length_max`` characters, one of the
    ``choices``, or an SSH public key."""

    key: str
    label: str
    kind: FieldKind
    is_required: bool
    choices: list[str]
    help: str
    length_max: int


class TierReply(ApiReply):
    """What ``per_units`` cost above so many units in a month."""

    above_units: int
    price_micros: Usd = Field(serialization_alias="price_usd")


class MeterReply(ApiReply):
    """What is charged by use: ``included_units`` of a month cost nothing, what goes above them
    ``price_usd`` for ``per_units``, and in a tier that tier's price for as many."""

    key: str
    label: str
    unit: str
    price_micros: Usd = Field(serialization_alias="price_usd")
    per_units: int
    included_units: int
    tiers: list[TierReply]


class ProductReply(ApiReply):
    """``stock`` can be bought now; null: there is no end to it. Not in it are ``held`` ones, set
    aside for purchases that are not paid; the first of them comes back at ``held_until``, unless
    it is paid. ``fields`` are what is asked of a buyer,
    ``meters`` what use costs beside the price. Those of one ``family`` are sizes of the same
    thing. What ``is_retired`` is sold no more."""

    product_id: UUID
    slug: str
    name: str
    category: Category
    summary: str
    description: str
    provider_name: str
    location: str | None
    price_micros: Usd = Field(serialization_alias="price_usd")
    billing_period: BillingPeriod
    specification: list[Specification]
    stock: int | None
    held: int
    held_until: AwareDatetime | None
    available: bool
    fields: list[ProductFieldReply]
    meters: list[MeterReply]
    family: str | None
    is_retired: bool


class ProductList(ApiReply):
    """``total`` counts every match; ``next_cursor`` asks for the next page, null at the end."""

    products: list[ProductReply]
    next_cursor: str | None
    total: int


@endpoint(blueprint, "GET", "/api/products", query=ProductQuery, reply=ProductList, of_catalog=True)
def list_products(query: ProductQuery) -> ProductList:
    """Search, filter and sort the products."""
    return ProductList.of(call(ListProducts.model_validate(query.model_dump(exclude_none=True))))


@endpoint(
    blueprint,
    "GET",
    "/api/products/<string(maxlength=100):product_id>",
    reply=ProductReply,
    of_catalog=True,
)
def get_product(product_id: str) -> ProductReply:
    """One product, by its id or by its slug."""
    return ProductReply.of(call(GetProduct(product_id=product_id)))
