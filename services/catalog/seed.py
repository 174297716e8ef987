"""Example products for a fresh marketplace: ``python -m services.catalog.seed``.

Every id is derived from the slug, so that a second run finds the same rows. It brings
texts up to date and leaves prices, meters and stock alone: what was sold stays sold, and who sells
has the last word about what it costs.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.database import connect
from chassis.money import parse_usd
from contracts.catalog import BillingPeriod, Category
from services.catalog.example_products import EXAMPLE_PRODUCTS, ExampleProduct
from services.catalog.models import ProductPriceRow, ProductRow
from services.catalog.settings import get_settings

NAMESPACE = UUID("6d5d2b54-9e0c-5a5e-8f57-1f6f2a6d9c11")
FIRST_LISTED_AT = datetime(2025, 1, 6, 9, 0, tzinfo=UTC)
"""The products are listed a day apart from here on, so that "newest first" has an order."""


class SeedResult(NamedTuple):
    added: int
    updated: int


def product_id_of(slug: str) -> UUID:
    """The fixed id of the example product with this slug."""
    return uuid5(NAMESPACE, f"product:{slug}")


def provider_id_of(provider_name: str) -> UUID:
    """The fixed id of an example provider."""
    return uuid5(NAMESPACE, f"provider:{provider_name}")


def seed(session: Session) -> SeedResult:
    """Write the example products; run again, it adds nothing."""
    added = 0
    for rank, product in enumerate(EXAMPLE_PRODUCTS, start=1):
        values = _row(product, rank)
        kept = {"product_id", "stock", "created_at", "price_micros", "meters"}
        statement = insert(ProductRow).values(values)
        statement = statement.on_conflict_do_update(
            index_elements=["product_id"],
            set_={name: statement.excluded[name] for name in values if name not in kept},
        )
        known = session.get(ProductRow, values["product_id"])
        session.execute(statement)
        if known is None:
            added += 1
            session.add(_first_price(values))
    return SeedResult(added=added, updated=len(EXAMPLE_PRODUCTS) - added)


def _first_price(values: dict[str, Any]) -> ProductPriceRow:
    return ProductPriceRow(
        product_id=values["product_id"],
        since=values["created_at"],
        price_micros=values["price_micros"],
        meters=values["meters"],
        actor="catalog",
        reason="An example product",
    )


def _row(product: ExampleProduct, rank: int) -> dict[str, Any]:
    return {
        "product_id": product_id_of(product.slug),
        "slug": product.slug,
        "name": product.name,
        "category": Category(product.category).value,
        "summary": product.summary,
        "description": product.description,
        "provider_name": product.provider,
        "provider_id": provider_id_of(product.provider),
        "location": product.location,
        "price_micros": parse_usd(product.price_usd),
        "billing_period": BillingPeriod(product.period).value,
        "specification": [
            {"label": label, "value": value} for label, value in product.specification.items()
        ],
        "stock": product.stock,
        "family": product.family,
        "fields": [field.model_dump(mode="json") for field in product.fields],
        "meters": [meter.model_dump(mode="json") for meter in product.meters],
        "featured_rank": rank * 10,
        "created_at": FIRST_LISTED_AT + timedelta(days=rank * 17 % len(EXAMPLE_PRODUCTS)),
    }


def main() -> None:
    with connect(get_settings().database_url).begin() as session:
        result = seed(session)
    print(f"Catalog: {result.added} products added, {result.updated} brought up to date.")


if __name__ == "__main__":
    main()
