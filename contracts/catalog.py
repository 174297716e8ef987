"""The catalog: products, prices, quotes."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from contracts.messages import (
    Cursor,
    PageLimit,
    PriceMicros,
    Reply,
    Request,
    ShortText,
    Storable,
    Value,
)

SERVICE = "catalog"


class Category(StrEnum):
    COMPUTE = "compute"
    NODES = "3nodes"
    GATEWAYS = "gateways"
    APPLICATIONS = "applications"
    SERVICES = "services"


class BillingPeriod(StrEnum):
    """Whether a price is paid every month while the thing runs, or once."""

    MONTH = "month"
    ONCE = "once"


class SortOrder(StrEnum):
    FEATURED = "featured"
    NAME = "name"
    PRICE = "price"
    PRICE_DESCENDING = "-price"
    NEWEST = "newest"


class SpecificationItem(Value):
    """One line of a product's data sheet, such as ("vCPU", "2")."""

    label: str
    value: str


class FieldKind(StrEnum):
    """What a buyer writes into a field: a line of text, one of the choices, an SSH public key."""

    TEXT = "text"
    CHOICE = "choice"
    SSH_KEY = "ssh_key"


FieldKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class ProductField(Value):
    """What a buyer may say, or has to, about the thing: its image, its host name, an SSH key.

    A ``choice`` is one of ``choices``; a ``text`` has at most ``length_max`` characters.
    """

    key: FieldKey
    label: ShortText
    kind: FieldKind
    is_required: bool = False
    choices: Annotated[list[ShortText], Field(max_length=50)] = Field(default_factory=list)
    help: Annotated[str, StringConstraints(max_length=300), Storable] = ""
    length_max: Annotated[int, Field(ge=1, le=500)] = 100


class Product(Reply):
    """A thing for sale. ``stock`` is None where there is no end to it.

    ``fields`` are what is asked of its buyer.
    """

    product_id: UUID
    slug: str
    name: str
    category: Category
    summary: str
    description: str
    provider_name: str
    provider_id: UUID | None = None
    location: str | None = None
    price_micros: PriceMicros
    billing_period: BillingPeriod
    specification: list[SpecificationItem]
    stock: int | None = None
    fields: list[ProductField] = Field(default_factory=list)

    @property
    def available(self) -> bool:
        return self.stock is None or self.stock > 0


class ProductPage(Reply):
    """``total`` counts every match, before paging."""

    products: list[Product]
    next_cursor: Cursor | None = None
    total: int


class ListProducts(Request[ProductPage], service=SERVICE, method="list_products"):
    category: Category | None = None
    q: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), Storable] = ""
    max_price_micros: PriceMicros | None = None
    sort: SortOrder = SortOrder.FEATURED
    cursor: Cursor | None = None
    limit: PageLimit = 24


class GetProduct(Request[Product], service=SERVICE, method="get_product"):
    """``product_id`` is the id, or the slug that stands in the page's address."""

    product_id: Annotated[str, StringConstraints(min_length=1, max_length=100), Storable]


class QuoteLine(Value):
    product_id: UUID
    quantity: Annotated[int, Field(strict=True, ge=1, le=100)] = 1


class QuotedLine(Value):
    """A line with the price of now: ``amount_micros`` = ``unit_price_micros`` × ``quantity``."""

    product: Product
    quantity: int
    unit_price_micros: PriceMicros
    amount_micros: PriceMicros


class Quote(Reply):
    lines: list[QuotedLine]
    total_micros: PriceMicros


class GetQuote(Request[Quote], service=SERVICE, method="get_quote"):
    """Price lines as they stand now. Errors: ``NotFound``, ``OutOfStock``."""

    lines: Annotated[list[QuoteLine], Field(min_length=1, max_length=50)]


class Reservation(Reply):
    """Stock set aside for a purchase."""

    reservation_id: UUID


class ReserveStock(Request[Reservation], service=SERVICE, method="reserve_stock"):
    """Take lines out of stock for a purchase, once per ``reservation_id``.

    Errors: ``OutOfStock`` (nothing is taken then), ``NotFound``.
    """

    reservation_id: UUID
    lines: Annotated[list[QuoteLine], Field(min_length=1, max_length=50)]


class ReturnStock(Request[Reservation], service=SERVICE, method="return_stock"):
    """Put back what was sold and is given back, once per ``return_id``, which is no reservation's.

    Of what has no end by now, and of what is in the catalog no more, nothing.
    """

    return_id: UUID
    lines: Annotated[list[QuoteLine], Field(min_length=1, max_length=50)]


class ReleaseStock(Request[Reservation], service=SERVICE, method="release_stock"):
    """Put back what a reservation took; once, and also before it was made, which then never is."""

    reservation_id: UUID
