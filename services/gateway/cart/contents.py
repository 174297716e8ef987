"""A cart as it is now: its lines with the catalog's prices of this moment, and what stands in the
way of buying them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from chassis.money import bps_of
from contracts.billing import CHOICE_LENGTH_MAX, GetDiscounts, PurchaseLine
from contracts.catalog import FieldKind, GetProduct, Product
from contracts.errors import BadRequest, NotFound
from services.gateway.backend import ask, database
from services.gateway.cart import storage
from services.gateway.cart.storage import UNITS_MAX, Owner
from services.gateway.models import CartLine
from services.gateway.showcase import show


@dataclass(frozen=True)
class Line:
    """``product`` is None where the catalog has it no more. ``problem`` keeps the cart from being
    bought; ``needs`` are the labels of required fields that are empty, which do so as well."""

    row: CartLine
    product: Product | None
    problem: str = ""
    discount_bps: int = 0

    @property
    def unit_price_micros(self) -> int:
        return self.product.price_micros if self.product else self.row.seen_price_micros

    @property
    def amount_micros(self) -> int:
        """By the catalog; 0 for what cannot be bought."""
        return 0 if self.is_gone else self.unit_price_micros * self.row.quantity

    @property
    def unit_discount_micros(self) -> int:
        """What staking takes off each."""
        return bps_of(self.unit_price_micros, self.discount_bps)

    @property
    def discount_micros(self) -> int:
        return 0 if self.is_gone else self.unit_discount_micros * self.row.quantity

    @property
    def is_gone(self) -> bool:
        """Whether it is sold no more, or sold out."""
        return self.product is None or not self.product.available

    @property
    def old_price_micros(self) -> int | None:
        """What one cost when it was added, where that is another price."""
        is_other = not self.is_gone and self.unit_price_micros != self.row.seen_price_micros
        return self.row.seen_price_micros if is_other else None

    @property
    def needs(self) -> list[str]:
        fields = self.product.fields if self.product else []
        return [
            field.label
            for field in fields
            if field.is_required and not self.row.choices.get(field.key, "").strip()
        ]

    @property
    def order(self) -> PurchaseLine:
        """What is bought of it, at the price and the meters that are shown."""
        return PurchaseLine(
            product_id=self.row.product_id,
            quantity=self.row.quantity,
            expected_unit_price_micros=self.unit_price_micros,
            expected_unit_discount_micros=self.unit_discount_micros,
            choices=self.row.choices,
            name=self.row.name,
            expected_meters=self.product.meters if self.product else None,
        )


@dataclass(frozen=True)
class Contents:
    lines: list[Line]

    @property
    def total_micros(self) -> int:
        """What is charged for all of it."""
        return sum(line.amount_micros for line in self.lines) - self.discount_micros

    @property
    def discount_micros(self) -> int:
        return sum(line.discount_micros for line in self.lines)

    @property
    def units(self) -> int:
        return sum(line.row.quantity for line in self.lines)

    @property
    def problem(self) -> str:
        """Why it cannot be bought as it is; empty where it can."""
        for line in self.lines:
            if line.problem:
                return f"{line.row.product_name}: {line.problem}"
            if line.needs:
                return f"{line.row.product_name} needs {', '.join(line.needs)}."
        if self.units > UNITS_MAX:
            return f"One purchase holds at most {UNITS_MAX} items. Take some out."
        return ""

    @property
    def version(self) -> str:
        """Changes with anything that a checkout would buy otherwise, or at another price."""
        shown = [(line.row.line_id, line.order.model_dump_json()) for line in self.lines]
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def contents_of(owner: Owner) -> Contents:
    """Read it. Raises ``Unavailable`` where the catalog does not answer."""
    with database().read() as session:
        rows = storage.lines_of(session, owner)
    lines = priced(rows)
    return Contents(_discounted(owner.user_id, lines) if owner.user_id else lines)


def _discounted(user_id: UUID, lines: Sequence[Line]) -> list[Line]:
    """The same with what staking takes off; at the catalog's prices where nobody can say."""
    providers = [line.product.provider_id for line in lines if line.product]
    wanted = list(dict.fromkeys(providers))
    found = ask(GetDiscounts(user_id=user_id, provider_ids=wanted)) if wanted else None
    if found is None:
        return list(lines)
    bps = dict(zip(wanted, found.discounts_bps, strict=True))
    return [
        replace(line, discount_bps=bps[line.product.provider_id]) if line.product else line
        for line in lines
    ]


def priced(rows: Sequence[CartLine]) -> list[Line]:
    products = {row.product_id: _product(row.product_id) for row in rows}
    wanted: Counter[UUID] = Counter()
    for row in rows:
        wanted[row.product_id] += row.quantity
    return [
        Line(row, product, _problem(product, wanted[row.product_id]))
        for row in rows
        for product in [products[row.product_id]]
    ]


def chosen(product: Product, said: Mapping[str, str]) -> dict[str, str]:
    """What was said in the product's fields, without those that were left empty.

    Raises ``BadRequest`` for what no field takes. Billing looks closer, and asks for what is
    missing, when it is bought. A private key that somebody pasted is not stored.
    """
    fields = {field.key: field for field in product.fields}
    given = {key: text.strip() for key, text in said.items() if text.strip()}
    for key, text in given.items():
        where = f"choices.{key}"
        field = fields.get(key)
        if field is None:
            known = ", ".join(fields) or "none"
            raise BadRequest(f"{product.name} has no field {key}. Its fields: {known}.", where)
        if "PRIVATE KEY" in text:
            raise BadRequest(f"{field.label}: this is a private key. Paste the public one.", where)
        if field.kind is FieldKind.CHOICE and text not in field.choices:
            raise BadRequest(f"{field.label}: choose one of {', '.join(field.choices)}.", where)
        limit = field.length_max if field.kind is FieldKind.TEXT else CHOICE_LENGTH_MAX
        if len(text) > limit:
            raise BadRequest(f"{field.label}: write at most {limit} characters.", where)
    return given


def _product(product_id: UUID) -> Product | None:
    try:
        return show(GetProduct(product_id=str(product_id)))
    except NotFound:
        return None


def _problem(product: Product | None, wanted: int) -> str:
    if product is None or product.is_retired:
        return "No longer sold. Remove it to go on."
    if product.stock == 0:
        return "Sold out. Remove it to go on."
    if product.stock is not None and product.stock < wanted:
        return f"Only {product.stock} left. Lower the quantity to go on."
    return ""
