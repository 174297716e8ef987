"""A real, empty catalog for each test of its rules."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chassis.database import Connected, connect
from services.catalog.models import ProductRow
from services.catalog.settings import CatalogSettings

RULES = CatalogSettings(amqp_uri="amqp://none", database_url="postgresql://none")
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def catalog_database(databases: dict[str, str]) -> Iterator[Connected]:
    database = connect(databases["catalog"], pool_size=12)
    yield database
    database.engine.dispose()


@pytest.fixture
def database(catalog_database: Connected) -> Connected:
    with catalog_database.begin() as session:
        session.execute(
            text(
                "TRUNCATE products, product_prices, product_changes, reservations,"
                " reservation_lines, provider_changes, providers, outbox, inbox"
            )
        )
    return catalog_database


@pytest.fixture
def add_product(database: Connected) -> Callable[..., UUID]:
    """Write a product that differs from a plain one in what is named; returns its id."""

    def add(**changes: Any) -> UUID:
        product_id = uuid4()
        values: dict[str, Any] = {
            "product_id": product_id,
            "slug": f"product-{product_id}",
            "name": "Plain product",
            "category": "compute",
            "summary": "A thing to buy.",
            "description": "A thing to buy, described.",
            "provider_name": "Example Provider",
            "provider_id": None,
            "location": None,
            "price_micros": 5_000_000,
            "billing_period": "month",
            "specification": [{"label": "vCPU", "value": "1"}],
            "stock": None,
            "featured_rank": 1,
            "created_at": NOW,
        } | changes
        with database.begin() as session:
            session.add(ProductRow(**values))
        return UUID(str(values["product_id"]))

    return add
