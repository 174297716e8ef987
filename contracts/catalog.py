"""The catalog: products and who changes them, prices, quotes."""

import re
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from contracts.messages import (
    Command,
    Cursor,
    Event,
    Moment,
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

    label: Annotated[str, StringConstraints(max_length=200), Storable]
    value: Annotated[str, StringConstraints(max_length=500), Storable]


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


QUANTITY_MAX = 1_000_000_000_000
"""More units than one record of usage, or a tier, ever counts."""


class MeterTier(Value):
    """What units cost that go above so many in a month, until the next tier begins."""

    above_units: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX)]
    price_micros: PriceMicros


class Meter(Value):
    """Something that is measured and paid by how much was used of it, in whole ``unit`` s.

    In each month of a deployment the first ``included_units`` cost nothing; what goes above them
    costs ``price_micros`` for ``per_units`` units, and in a tier that tier's price for as many.
    Tiers count all units of the month, the included ones too, and lie above those.
    """

    key: FieldKey
    label: ShortText
    unit: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20), Storable
    ]
    price_micros: PriceMicros
    per_units: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)] = 1
    included_units: Annotated[int, Field(strict=True, ge=0, le=QUANTITY_MAX)] = 0
    tiers: Annotated[list[MeterTier], Field(max_length=20)] = Field(default_factory=list)


class Product(Reply):
    """A thing for sale. ``stock`` is what can be bought now, None where there is no end to it. Not
    in it are ``held`` ones, set aside for purchases that are not paid: the first of them comes
    back at ``held_until``, unless it is paid.

    ``fields`` are what is asked of its buyer, ``meters`` what is charged by how much was used of
    it, beside its price. Those of one ``family`` are sizes of the same thing.
    What is retired is sold no more, and stays for who has it.
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
    meters: list[Meter] = Field(default_factory=list)
    family: str | None = None
    is_retired: bool = False
    held: int = 0
    held_until: Moment | None = None

    @property
    def available(self) -> bool:
        return not self.is_retired and (self.stock is None or self.stock > 0)


class ProductPage(Reply):
    """``total`` counts every match, before paging."""

    products: list[Product]
    next_cursor: Cursor | None = None
    total: int


Filter = Annotated[str, StringConstraints(min_length=1, max_length=200), Storable]
Amount = Annotated[int, Field(ge=1, le=1_000_000_000)]


class ProductFilters(Value):
    """What a product has to be. ``provider_name`` and ``location`` are as they are written.

    The least of what its data sheet says under "vCPU" or "CPU", "Memory" and "Disk" or "Capacity";
    1 TB is 1,000 GB. What is retired is found ``with_retired`` alone.
    """

    category: Category | None = None
    q: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), Storable] = ""
    max_price_micros: PriceMicros | None = None
    family: Annotated[str, StringConstraints(max_length=100), Storable] | None = None
    provider_name: Filter | None = None
    location: Filter | None = None
    billing_period: BillingPeriod | None = None
    min_vcpu: Amount | None = None
    min_memory_gb: Amount | None = None
    min_disk_gb: Amount | None = None
    provider_id: UUID | None = None
    with_retired: bool = False


class ListProducts(ProductFilters, Request[ProductPage], service=SERVICE, method="list_products"):
    sort: SortOrder = SortOrder.FEATURED
    cursor: Cursor | None = None
    limit: PageLimit = 24


class Facet(Value):
    """How many products have this value."""

    value: str
    count: int


class Facets(Reply):
    """What there is to choose from, the most frequent first, at most 100 of each.

    Each is counted with every other filter, and without its own: what choosing another value
    would find.
    """

    categories: list[Facet]
    provider_names: list[Facet]
    locations: list[Facet]
    billing_periods: list[Facet]


class CountProducts(ProductFilters, Request[Facets], service=SERVICE, method="count_products"):
    """How many products there are of each kind, for the filters of a list."""


class GetProduct(Request[Product], service=SERVICE, method="get_product"):
    """``product_id`` is the id, or the slug that stands in the page's address.

    What is retired is found as well, and says so.
    """

    product_id: Annotated[str, StringConstraints(min_length=1, max_length=100), Storable]


def _slug(text: str) -> str:
    try:
        UUID(text)
    except ValueError:
        return text
    raise ValueError("it reads as an id; choose words")


def _declared(fields: list[ProductField]) -> list[ProductField]:
    keys = [field.key for field in fields]
    if len(set(keys)) != len(keys):
        raise ValueError("each field has a key of its own")
    for field in fields:
        if field.kind is FieldKind.CHOICE and not field.choices:
            raise ValueError(f"{field.key}: say which choices there are")
    return fields


def _metered(meters: list[Meter]) -> list[Meter]:
    keys = [meter.key for meter in meters]
    if len(set(keys)) != len(keys):
        raise ValueError("each meter has a key of its own")
    for meter in meters:
        begins = [meter.included_units, *(tier.above_units for tier in meter.tiers)]
        if any(earlier >= later for earlier, later in pairwise(begins)):
            raise ValueError(
                f"{meter.key}: each tier begins above the one before, and above what is included"
            )
    return meters


Slug = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100),
    AfterValidator(_slug),
]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), Storable
]
Summary = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), Storable
]
Description = Annotated[str, StringConstraints(max_length=10_000), Storable]
Specification = Annotated[list[SpecificationItem], Field(max_length=50)]
Fields = Annotated[list[ProductField], Field(max_length=20), AfterValidator(_declared)]
Meters = Annotated[list[Meter], Field(max_length=20), AfterValidator(_metered)]
Units = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
FEATURED_LAST = 1_000_000
"""The place of what nobody features."""


class CreateProduct(Command[Product], service=SERVICE, method="create_product"):
    """Put something up for sale. ``Conflict`` for a slug that is taken.

    Errors of each command of who sells: ``IdempotencyConflict``. ``actor`` is who wants it, and
    ``reason`` why; both stay in the history.

    Without a ``provider_name`` it is what the provider wants: the name is that of the profile
    (``Conflict`` where there is none), no place among what is featured can be had, a family is of
    that provider alone (``Conflict`` for one in which others sell), and there are limits
    (``LimitExceeded``).
    """

    slug: Slug
    name: Name
    category: Category
    summary: Summary
    description: Description = ""
    provider_name: Name | None = None
    provider_id: UUID | None = None
    location: Name | None = None
    price_micros: PriceMicros
    billing_period: BillingPeriod
    specification: Specification = Field(default_factory=list)
    stock: Units | None = None
    fields: Fields = Field(default_factory=list)
    meters: Meters = Field(default_factory=list)
    family: Slug | None = None
    featured_rank: Annotated[int, Field(strict=True, ge=0, le=FEATURED_LAST)] = FEATURED_LAST
    reason: ShortText
    actor: ShortText

    @model_validator(mode="after")
    def _of_a_provider(self) -> Self:
        if self.provider_name is None:
            if self.provider_id is None:
                raise ValueError("say who provides it: provider_name, or provider_id")
            if self.featured_rank != FEATURED_LAST:
                raise ValueError("a provider chooses nothing that is featured")
        return self


class ChangeProduct(Command[Product], service=SERVICE, method="change_product"):
    """Change what is given of a product, and leave the rest. Errors: ``NotFound``, ``Conflict``.

    A price is for purchases from now on; who has the product pays the old one until a notice has
    passed. ``meters`` are replaced as a whole, and are for purchases from now on: who has the
    product keeps those that it was bought with. ``stock_change`` adds units to the stock, or takes
    some of those that are left; only a product with an end to its stock has one. ``stock`` gives
    it one (``Conflict`` if it has one), ``is_endless`` takes it away.

    With a ``provider_id`` it is what that provider wants: a product of anybody else is
    ``NotFound``, the ``provider_name`` stays as operators decided, a family is theirs alone
    (``Conflict``), and prices do not follow each other too fast (``LimitExceeded``).
    """

    product_id: UUID
    name: Name | None = None
    summary: Summary | None = None
    description: Description | None = None
    provider_name: Name | None = None
    location: Name | None = None
    price_micros: PriceMicros | None = None
    specification: Specification | None = None
    fields: Fields | None = None
    meters: Meters | None = None
    family: Slug | None = None
    stock_change: Annotated[int, Field(strict=True, ge=-1_000_000, le=1_000_000)] = 0
    reason: ShortText
    actor: ShortText
    provider_id: UUID | None = None
    stock: Units | None = None
    is_endless: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if sum((self.stock_change != 0, self.stock is not None, self.is_endless)) > 1:
            raise ValueError("say one thing about the stock")
        if self.provider_id is not None and self.provider_name is not None:
            raise ValueError("a provider does not change the provider's name here")
        return self


class RetireProduct(Command[Product], service=SERVICE, method="retire_product"):
    """Sell something no more. What was sold of it goes on. ``NotFound``.

    With a ``provider_id`` it is what that provider wants, as with ``change_product``.
    """

    product_id: UUID
    reason: ShortText
    actor: ShortText
    provider_id: UUID | None = None


class PastPrice(Value):
    """A price, with what its meters cost, and from when it was asked."""

    price_micros: PriceMicros
    meters: list[Meter] = Field(default_factory=list)
    since: Moment
    reason: str
    actor: str


class PriceHistory(Reply):
    """Newest first; the first is today's."""

    prices: list[PastPrice]


class GetPriceHistory(Request[PriceHistory], service=SERVICE, method="get_price_history"):
    """What a product cost, the last 200 prices of it. ``NotFound``, also for a product of somebody
    else than the ``provider_id`` that is given."""

    product_id: UUID
    provider_id: UUID | None = None


def _address(text: str) -> str:
    if text and not _ADDRESS.fullmatch(text):
        raise ValueError("write an address like help@example.com")
    return text


def _page(text: str) -> str:
    if text and not _PAGE.fullmatch(text):
        raise ValueError("write a page's address that begins with https://")
    return text


_ADDRESS = re.compile(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
"""No character in it means anything in a ``mailto:`` link."""
_PAGE = re.compile(r"https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]{1,5})?(/[!#-;=?-~]*)?")
"""Without a user's name before the host, which would show another host than the one it leads to."""

ProviderName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=2, max_length=80), Storable
]
About = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500), Storable]
SupportEmail = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=200),
    AfterValidator(_address),
    Field(json_schema_extra={"format": "email"}),
]
SupportUrl = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=300),
    AfterValidator(_page),
    Field(json_schema_extra={"format": "uri"}),
]


class Provider(Reply):
    """Who sells, as buyers see them. What is empty was not said."""

    provider_id: UUID
    name: str
    about: str = ""
    support_email: str = ""
    support_url: str = ""


class GetProvider(Request[Provider], service=SERVICE, method="get_provider"):
    """The profile of a provider, by the id, by the name that products show, or by both.
    ``NotFound`` for who has none."""

    provider_id: UUID | None = None
    name: Filter | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.provider_id is None and self.name is None:
            raise ValueError("ask by the id or by the name")
        return self


class SetProvider(Command[Provider], service=SERVICE, method="set_provider"):
    """Write a provider's profile. Their products show the name from then on; what was written down
    before, such as receipts, stays as it is. ``Conflict`` for a name that somebody else sells
    under, whatever its case and accents."""

    provider_id: UUID
    name: ProviderName
    about: About = ""
    support_email: SupportEmail = ""
    support_url: SupportUrl = ""
    reason: ShortText
    actor: ShortText


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


class HoldStock(Request[Reservation], service=SERVICE, method="hold_stock"):
    """What a reservation took is not paid, and set aside ``until`` then; or it is sold (None).

    That is only told apart: what was taken stays taken, and a reservation that is not there or was
    released is none.
    """

    reservation_id: UUID
    until: Moment | None


class ReturnStock(Request[Reservation], service=SERVICE, method="return_stock"):
    """Put back what was sold and is given back, once per ``return_id``, which is no reservation's.

    Of what has no end by now, and of what is in the catalog no more, nothing.
    """

    return_id: UUID
    lines: Annotated[list[QuoteLine], Field(min_length=1, max_length=50)]


class ReleaseStock(Request[Reservation], service=SERVICE, method="release_stock"):
    """Put back what a reservation took; once, and also before it was made, which then never is."""

    reservation_id: UUID


class ProductChanged(Event, source=SERVICE, type="product_changed", needs_listener=False):
    """It was put up for sale, or something about it is otherwise now."""

    product_id: UUID
    slug: str
    name: str


class ProductPriceChanged(Event, source=SERVICE, type="price_changed"):
    """It is sold at another price from ``occurred_at`` on."""

    product_id: UUID
    old_price_micros: PriceMicros
    price_micros: PriceMicros


class ProductRetired(Event, source=SERVICE, type="product_retired", needs_listener=False):
    """It is sold no more."""

    product_id: UUID
