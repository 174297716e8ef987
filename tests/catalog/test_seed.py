from sqlalchemy import select, text, update

from chassis.database import Connected
from contracts.catalog import Category, GetPriceHistory
from services.catalog.models import ProductRow
from services.catalog.products import as_product
from services.catalog.seed import product_id_of, seed
from services.catalog.selling import price_history


def rows(database: Connected) -> list[ProductRow]:
    with database.read() as session:
        return list(session.scalars(select(ProductRow).order_by(ProductRow.featured_rank)))


def run_seed(database: Connected) -> tuple[int, int]:
    with database.begin() as session:
        return tuple(seed(session))  # type: ignore[return-value]


def test_the_seed_adds_nothing_the_second_time(database: Connected) -> None:
    added, _ = run_seed(database)

    assert run_seed(database) == (0, added)


def test_the_seed_leaves_stock_alone(database: Connected) -> None:
    run_seed(database)
    with database.begin() as session:
        session.execute(update(ProductRow).where(ProductRow.slug == "3node-rack").values(stock=1))

    run_seed(database)

    assert next(row.stock for row in rows(database) if row.slug == "3node-rack") == 1


def test_the_seed_brings_texts_up_to_date_and_leaves_prices_alone(database: Connected) -> None:
    run_seed(database)
    with database.begin() as session:
        session.execute(update(ProductRow).values(price_micros=1, summary="Old"))

    run_seed(database)

    assert {row.price_micros for row in rows(database)} == {1}
    assert all(row.summary != "Old" for row in rows(database))


def test_the_history_of_an_example_begins_with_its_price(database: Connected) -> None:
    run_seed(database)
    run_seed(database)

    with database.read() as session:
        histories = [
            price_history(session, GetPriceHistory(product_id=row.product_id)).prices
            for row in rows(database)
        ]

    assert [[price.price_micros for price in history] for history in histories] == [
        [row.price_micros] for row in rows(database)
    ]


def test_every_example_fits_the_contract_and_every_category_has_some(database: Connected) -> None:
    run_seed(database)

    products = [as_product(row) for row in rows(database)]

    assert {product.category for product in products} == set(Category)


def test_the_products_of_the_plan_have_their_prices(database: Connected) -> None:
    run_seed(database)
    wanted = {
        product_id_of("vm-starter"): 5_000_000,
        product_id_of("vm-production"): 15_000_000,
        product_id_of("gateway-eu"): 5_000_000,
        product_id_of("storage-backup"): 3_000_000,
    }

    prices = {row.product_id: row.price_micros for row in rows(database)}

    assert {product_id: prices[product_id] for product_id in wanted} == wanted


def test_some_examples_are_charged_by_use_and_the_meters_of_who_sells_stay(
    database: Connected,
) -> None:
    run_seed(database)
    seeded = {row.slug: row.meters for row in rows(database) if row.meters}
    with database.begin() as session:
        session.execute(text("UPDATE products SET meters = '[]' WHERE slug = 'gateway-asia'"))

    run_seed(database)

    with database.read() as session:
        history = price_history(
            session, GetPriceHistory(product_id=product_id_of("gateway-asia"))
        ).prices
    assert [meter.model_dump(mode="json") for meter in history[0].meters] == seeded["gateway-asia"]
    kept = {row.slug: row.meters for row in rows(database) if row.meters}
    assert kept == {slug: meters for slug, meters in seeded.items() if slug != "gateway-asia"}
    # Per unit, by an allowance, and in tiers.
    (meters,) = zip(*seeded.values(), strict=True)
    assert {bool(meter["included_units"]) for meter in meters} == {True, False}
    assert any(meter["tiers"] for meter in meters)
