"""Products that are put up for sale, changed and retired, and what they cost when."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import Connected
from contracts.catalog import (
    BillingPeriod,
    Category,
    ChangeProduct,
    CreateProduct,
    FieldKind,
    GetPriceHistory,
    ListProducts,
    Meter,
    Product,
    ProductField,
    QuoteLine,
    ReserveStock,
    RetireProduct,
)
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, NotFound
from services.catalog import products, quotes, selling, stock
from tests.catalog.conftest import NOW, RULES
from tests.locks import done_after

HOUR = timedelta(hours=1)


def creation(**changes: Any) -> CreateProduct:
    values: dict[str, Any] = {
        "idempotency_key": f"{uuid4()}",
        "slug": f"vm-{uuid4().hex[:20]}",
        "name": "VM-New",
        "category": Category.COMPUTE,
        "summary": "A machine.",
        "provider_name": "Example Provider",
        "price_micros": 5_000_000,
        "billing_period": BillingPeriod.MONTH,
        "reason": "A new size",
        "actor": "ann",
    }
    return CreateProduct(**{**values, **changes})


@pytest.fixture
def create(database: Connected) -> Callable[..., Product]:
    def make(**changes: Any) -> Product:
        with database.begin() as session:
            return selling.create(session, lambda: NOW, creation(**changes), RULES)

    return make


def change(
    database: Connected, product_id: UUID, after: timedelta = HOUR, **changes: Any
) -> Product:
    values = {"idempotency_key": f"{uuid4()}", "reason": "It is so", "actor": "bob", **changes}
    with database.begin() as session:
        command = ChangeProduct(product_id=product_id, **values)
        return selling.change(session, lambda: NOW + after, command, RULES)


def retire(database: Connected, product_id: UUID, key: str | None = None) -> Product:
    command = RetireProduct(
        idempotency_key=key or f"{uuid4()}",
        product_id=product_id,
        reason="It is old",
        actor="ann",
    )
    with database.begin() as session:
        return selling.retire(session, lambda: NOW, command)


def told(database: Connected) -> list[tuple[str, dict[str, Any]]]:
    with database.read() as session:
        rows = session.execute(text("SELECT type, payload FROM outbox ORDER BY id"))
        return [(row.type, row.payload) for row in rows]


def prices(database: Connected, product_id: UUID) -> list[tuple[int, str, str]]:
    with database.read() as session:
        found = selling.price_history(session, GetPriceHistory(product_id=product_id)).prices
    return [(each.price_micros, each.actor, each.reason) for each in found]


def listed(database: Connected, **filters: Any) -> list[str]:
    with database.read() as session:
        return [p.name for p in products.list_products(session, ListProducts(**filters)).products]


def test_what_is_created_is_found_listed_and_told(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create(
        slug="vm-new",
        stock=3,
        location="Ghent",
        provider_id=uuid4(),
        family="vms",
        specification=[{"label": "vCPU", "value": "2"}],
        fields=[ProductField(key="host", label="Host", kind=FieldKind.TEXT)],
    )

    with database.read() as session:
        assert products.get_product(session, "vm-new") == made
    assert listed(database) == ["VM-New"]
    assert prices(database, made.product_id) == [(5_000_000, "ann", "A new size")]
    assert [name for name, _ in told(database)] == ["product_changed"]
    assert (made.stock, made.family, made.fields[0].key) == (3, "vms", "host")


def test_the_same_command_again_makes_one_product(
    database: Connected, create: Callable[..., Product]
) -> None:
    first = create(idempotency_key="a", slug="one")

    assert create(idempotency_key="a", slug="one") == first
    assert len(told(database)) == 1
    with pytest.raises(IdempotencyConflict):
        create(idempotency_key="a", slug="two")


def test_a_slug_that_is_taken_is_refused(
    database: Connected, create: Callable[..., Product]
) -> None:
    create(slug="one")

    with pytest.raises(Conflict, match="Choose another slug"):
        create(slug="one")
    assert len(listed(database)) == 1


def test_who_asks_with_the_same_key_at_the_same_moment_gets_the_same(database: Connected) -> None:
    command = creation()

    def ask() -> Product:
        with database.begin() as session:
            return selling.create(session, lambda: NOW, command, RULES)

    def asks_first(session: Session) -> None:
        selling.create(session, lambda: NOW, command, RULES)

    made = done_after(database, asks_first, ask)

    assert listed(database) == ["VM-New"]
    assert made.slug == command.slug


def test_two_changes_of_one_product_follow_each_other(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create(stock=3)

    def take(session: Session) -> None:
        command = ChangeProduct(
            idempotency_key="a", product_id=made.product_id, stock_change=-2, reason="a", actor="b"
        )
        selling.change(session, lambda: NOW, command, RULES)

    changed = done_after(database, take, lambda: change(database, made.product_id, stock_change=2))

    assert changed.stock == 3


def test_of_two_prices_the_one_that_waited_is_the_newer(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create()
    now = [NOW]

    def costs(session: Session, price_micros: int) -> None:
        command = ChangeProduct(
            idempotency_key=f"{price_micros}",
            product_id=made.product_id,
            price_micros=price_micros,
            reason="It is so",
            actor="bob",
        )
        selling.change(session, lambda: now[-1], command, RULES)

    def hold(session: Session) -> None:
        now.append(NOW + 2 * HOUR)
        costs(session, 2_000_000)
        now.append(NOW + HOUR)

    def wait() -> None:
        with database.begin() as session:
            costs(session, 3_000_000)

    done_after(database, hold, wait, lambda: now.append(NOW + 3 * HOUR))

    newest, before, _ = prices(database, made.product_id)
    assert (newest[0], before[0]) == (3_000_000, 2_000_000)


def test_a_change_leaves_what_it_does_not_name(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create(stock=3, location="Ghent", family="vms")

    changed = change(database, made.product_id, name="VM-Newer", family="machines")

    assert changed == made.model_copy(update={"name": "VM-Newer", "family": "machines"})
    assert [name for name, _ in told(database)] == ["product_changed", "product_changed"]


def test_a_price_has_a_history_and_is_told_with_the_one_before(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create()
    other = create()

    change(database, made.product_id, price_micros=7_000_000, reason="Power costs more")
    change(database, made.product_id, 2 * HOUR, price_micros=7_000_000)

    assert prices(database, made.product_id) == [
        (7_000_000, "bob", "Power costs more"),
        (5_000_000, "ann", "A new size"),
    ]
    assert len(prices(database, other.product_id)) == 1
    (event,) = [payload for name, payload in told(database) if name == "price_changed"]
    assert (event["old_price_micros"], event["price_micros"]) == (5_000_000, 7_000_000)
    assert event["product_id"] == str(made.product_id)


def test_a_price_that_is_repeated_is_changed_once(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create()

    for after in (HOUR, 2 * HOUR):
        change(database, made.product_id, after, idempotency_key="a", price_micros=1)

    assert len(prices(database, made.product_id)) == 2


def test_meters_have_a_history_and_are_for_who_buys_from_then_on(
    database: Connected, create: Callable[..., Product]
) -> None:
    old = Meter(key="traffic", label="Traffic", unit="GB", price_micros=20_000)
    new = old.model_copy(update={"price_micros": 10_000, "included_units": 100})
    made = create(meters=[old])

    change(database, made.product_id, meters=[new])
    change(database, made.product_id, 2 * HOUR, meters=[new])
    changed = change(database, made.product_id, 3 * HOUR, name="Renamed")

    assert (made.meters, changed.meters) == ([old], [new])
    with database.read() as session:
        history = selling.price_history(session, GetPriceHistory(product_id=made.product_id))
    assert [each.meters for each in history.prices] == [[new], [old]]
    assert [name for name, _ in told(database)].count("price_changed") == 0


def test_stock_is_added_and_taken_and_never_less_than_nothing(
    database: Connected, create: Callable[..., Product]
) -> None:
    made, endless = create(stock=3), create()

    assert change(database, made.product_id, stock_change=2).stock == 5
    assert change(database, made.product_id, stock_change=-5).stock == 0
    with pytest.raises(Conflict, match="only 0"):
        change(database, made.product_id, stock_change=-1)
    with pytest.raises(BadRequest, match="no end"):
        change(database, endless.product_id, stock_change=1)


def test_what_is_retired_is_neither_listed_nor_quoted_nor_set_aside_but_found(
    database: Connected, create: Callable[..., Product]
) -> None:
    made, kept = create(name="Old", stock=3), create(name="Kept", stock=3)
    lines = [QuoteLine(product_id=made.product_id)]

    retire(database, made.product_id)

    assert listed(database) == ["Kept"]
    with database.begin() as session:
        found = products.get_product(session, made.slug)
        with pytest.raises(NotFound, match="no longer sold"):
            quotes.quote(session, lines)
        with pytest.raises(NotFound, match="no longer sold"):
            stock.reserve(session, NOW, ReserveStock(reservation_id=uuid4(), lines=lines))
        assert products.get_product(session, kept.slug).available
    assert (found.is_retired, found.available) == (True, False)


def test_it_is_retired_once_and_told_once(
    database: Connected, create: Callable[..., Product]
) -> None:
    made = create()

    for key in ("a", "a", "b"):
        assert retire(database, made.product_id, key).is_retired

    assert [name for name, _ in told(database)].count("product_retired") == 1


@pytest.mark.parametrize(
    "act",
    [
        lambda database: change(database, uuid4(), name="Any"),
        lambda database: retire(database, uuid4()),
        lambda database: prices(database, uuid4()),
    ],
)
def test_a_product_that_does_not_exist_is_missing(
    database: Connected, act: Callable[[Connected], object]
) -> None:
    with pytest.raises(NotFound):
        act(database)


def test_a_family_is_listed_by_itself(database: Connected, create: Callable[..., Product]) -> None:
    create(name="Small", family="vms")
    create(name="Other", family="nodes")
    create(name="Alone")

    assert listed(database, family="vms") == ["Small"]


METER = {"key": "traffic", "label": "Traffic", "unit": "GB", "price_micros": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"slug": "Two Words"},
        {"slug": "6d5d2b549e0c5a5e8f571f6f2a6d9c11"},
        {"name": " "},
        {"name": "x" * 201},
        {"price_micros": -1},
        {"price_micros": 10**18},
        {"stock": -1},
        {"reason": ""},
        {"fields": [{"key": "a", "label": "A", "kind": "choice"}]},
        {"fields": [{"key": "a", "label": "A", "kind": "text"}] * 2},
        {"fields": [{"key": "A", "label": "A", "kind": "text"}]},
        {"meters": [METER, METER]},
        {"meters": [{**METER, "per_units": 0}]},
        {"meters": [{**METER, "tiers": [{"above_units": 5, "price_micros": 1}] * 2}]},
        {
            "meters": [
                {**METER, "included_units": 5, "tiers": [{"above_units": 5, "price_micros": 1}]}
            ]
        },
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        creation(**changes)
