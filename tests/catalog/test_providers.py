"""What providers do by themselves: their own products, within limits, and their profile."""

from collections.abc import Callable
from datetime import datetime, timedelta
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
    GetPriceHistory,
    GetProvider,
    ListProducts,
    Product,
    Provider,
    RetireProduct,
    SetProvider,
)
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, LimitExceeded, NotFound
from services.catalog import products, providers, selling
from tests.catalog.conftest import NOW, RULES
from tests.locks import done_after

ANN, BOB = uuid4(), uuid4()
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def profile(**changes: Any) -> SetProvider:
    values = {"idempotency_key": f"{uuid4()}", "provider_id": ANN, "name": "Ann's Machines"}
    return SetProvider(**{**values, "reason": "So", "actor": "ann", **changes})


def own(**changes: Any) -> CreateProduct:
    values: dict[str, Any] = {
        "idempotency_key": f"{uuid4()}",
        "slug": f"vm-{uuid4().hex[:20]}",
        "name": "VM-New",
        "category": Category.COMPUTE,
        "summary": "A machine.",
        "provider_id": ANN,
        "price_micros": 5_000_000,
        "billing_period": BillingPeriod.MONTH,
        "reason": "So",
        "actor": "ann",
    }
    return CreateProduct(**{**values, **changes})


def changing(product_id: UUID, **changes: Any) -> ChangeProduct:
    values = {"idempotency_key": f"{uuid4()}", "provider_id": ANN, "reason": "So", "actor": "ann"}
    return ChangeProduct(**{**values, "product_id": product_id, **changes})


def write(database: Connected, command: SetProvider, at: datetime = NOW) -> Provider:
    with database.begin() as session:
        return providers.set_provider(session, lambda: at, command)


def offer(database: Connected, command: CreateProduct, at: datetime = NOW, **rules: int) -> Product:
    with database.begin() as session:
        return selling.create(session, lambda: at, command, RULES.model_copy(update=rules))


def change(
    database: Connected, command: ChangeProduct, at: datetime = NOW + HOUR, **rules: int
) -> Product:
    with database.begin() as session:
        return selling.change(session, lambda: at, command, RULES.model_copy(update=rules))


def names_of(database: Connected, **filters: Any) -> list[tuple[str, str]]:
    with database.read() as session:
        page = products.list_products(session, ListProducts(**filters))
    assert page.total == len(page.products)
    return [(each.name, each.provider_name) for each in page.products]


@pytest.fixture
def ann(database: Connected) -> Connected:
    """A catalog with the profiles of Ann and Bob."""
    write(database, profile(provider_id=BOB, name="Bob"))
    write(database, profile())
    return database


def test_a_product_bears_the_name_of_its_provider_s_profile(ann: Connected) -> None:
    command = own()
    made = offer(ann, command)

    assert (made.provider_id, made.provider_name) == (ANN, "Ann's Machines")
    assert offer(ann, command) == made


def test_without_a_profile_nothing_is_put_up(ann: Connected) -> None:
    with pytest.raises(Conflict, match="your profile"):
        offer(ann, own(provider_id=uuid4()))


@pytest.mark.parametrize(
    "changes",
    [{"featured_rank": 1}, {"provider_id": None}],
    ids=str,
)
def test_a_provider_chooses_nothing_that_operators_decide(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        own(**changes)


def test_a_provider_changes_nothing_that_operators_decide() -> None:
    with pytest.raises(ValidationError):
        changing(uuid4(), provider_name="Bob")


def test_a_provider_sells_sizes_of_one_thing(ann: Connected) -> None:
    small, large = offer(ann, own(family="hill-vms")), offer(ann, own())

    changed = change(ann, changing(large.product_id, family="hill-vms"))

    assert (small.family, changed.family) == ("hill-vms", "hill-vms")


@pytest.mark.parametrize("whose", [BOB, None], ids=["another's", "the marketplace's"])
def test_a_family_in_which_somebody_else_sells_is_not_theirs(
    ann: Connected, whose: UUID | None
) -> None:
    offer(ann, own(provider_id=whose, provider_name="Somebody", family="vms"))
    made = offer(ann, own())

    with pytest.raises(Conflict, match="another family"):
        offer(ann, own(family="vms"))
    with pytest.raises(Conflict, match="another family"):
        change(ann, changing(made.product_id, family="vms"))
    offer(ann, own(family="vms-of-ann"))


def test_of_two_who_want_a_family_at_once_one_has_it(ann: Connected) -> None:
    write(ann, profile(provider_id=BOB, name="Bob's Machines"))

    def take(session: Session) -> None:
        selling.create(session, lambda: NOW, own(family="new-vms"), RULES)

    def want() -> str:
        try:
            return offer(ann, own(provider_id=BOB, family="new-vms")).provider_name
        except Conflict as error:
            return str(error)

    assert "another family" in done_after(ann, take, want)


@pytest.mark.parametrize(
    "act",
    [
        lambda session, of: selling.change(session, lambda: NOW, changing(of, name="Mine"), RULES),
        lambda session, of: selling.change(
            session, lambda: NOW, changing(of, price_micros=1), RULES
        ),
        lambda session, of: selling.retire(
            session,
            lambda: NOW,
            RetireProduct(
                idempotency_key="a", product_id=of, provider_id=ANN, reason="So", actor="ann"
            ),
        ),
        lambda session, of: selling.price_history(
            session, GetPriceHistory(product_id=of, provider_id=ANN)
        ),
    ],
    ids=["change", "price", "retire", "history"],
)
@pytest.mark.parametrize("whose", [BOB, None], ids=["another's", "nobody's"])
def test_a_product_of_somebody_else_is_not_there(
    ann: Connected, act: Callable[[Session, UUID], object], whose: UUID | None
) -> None:
    made = offer(ann, own(provider_id=whose, provider_name="Somebody"))

    with ann.begin() as session, pytest.raises(NotFound):
        act(session, made.product_id)

    with ann.read() as session:
        assert products.get_product(session, made.slug) == made


def test_an_operator_changes_and_retires_whoever_sells_it(ann: Connected) -> None:
    made = offer(ann, own())

    changed = change(ann, changing(made.product_id, provider_id=None, family="vms"))

    assert changed.family == "vms"


def test_the_key_of_somebody_else_s_command_is_no_way_to_their_product(ann: Connected) -> None:
    made = offer(ann, own())
    change(ann, changing(made.product_id, idempotency_key="a", name="Hers"))

    with pytest.raises(IdempotencyConflict):
        change(ann, changing(made.product_id, provider_id=BOB, idempotency_key="a", name="Hers"))


def test_a_provider_s_list_has_their_own_and_what_is_retired(ann: Connected) -> None:
    old = offer(ann, own(name="Old"))
    offer(ann, own(name="Bob's", provider_id=BOB))
    offer(ann, own(name="New"), NOW + HOUR)
    with ann.begin() as session:
        selling.retire(
            session,
            lambda: NOW,
            RetireProduct(
                idempotency_key="a",
                product_id=old.product_id,
                provider_id=ANN,
                reason="So",
                actor="ann",
            ),
        )

    def listed(**filters: Any) -> set[str]:
        return {name for name, _ in names_of(ann, **filters)}

    assert listed(provider_id=ANN, with_retired=True) == {"Old", "New"}
    assert listed(provider_id=ANN) == {"New"}
    assert listed() == {"New", "Bob's"}


def test_a_provider_has_so_many_for_sale_and_no_more(ann: Connected) -> None:
    offer(ann, own(provider_id=BOB), seller_products_max=2)
    first = offer(ann, own(), seller_products_max=2)
    offer(ann, own(), seller_products_max=2)

    with pytest.raises(LimitExceeded, match="2 products"):
        offer(ann, own(), seller_products_max=2)
    with ann.begin() as session:
        selling.retire(
            session,
            lambda: NOW,
            RetireProduct(
                idempotency_key="a", product_id=first.product_id, reason="So", actor="ann"
            ),
        )
    offer(ann, own(), seller_products_max=2)
    offer(ann, own(provider_name="Set by an operator"), seller_products_max=2)


def test_a_day_after_so_many_new_ones_there_may_be_more(ann: Connected) -> None:
    offer(ann, own(), seller_new_products_per_day=1)

    with pytest.raises(LimitExceeded, match="within a day"):
        offer(ann, own(), NOW + DAY - timedelta(microseconds=1), seller_new_products_per_day=1)
    offer(ann, own(), NOW + DAY, seller_new_products_per_day=1)


def test_of_two_at_the_same_moment_the_second_is_counted_after_the_first(ann: Connected) -> None:
    rules = RULES.model_copy(update={"seller_products_max": 1})

    def put_up(session: Session) -> None:
        selling.create(session, lambda: NOW, own(), rules)

    def refused() -> bool:
        with pytest.raises(LimitExceeded):
            offer(ann, own(), seller_products_max=1)
        return True

    assert done_after(ann, put_up, refused)


def test_renters_are_not_told_of_more_than_so_many_prices_a_day(ann: Connected) -> None:
    made = offer(ann, own())

    def price(micros: int, at: datetime) -> int:
        command = changing(made.product_id, price_micros=micros)
        return change(ann, command, at, seller_prices_per_day=2).price_micros

    price(6_000_000, NOW + HOUR)
    with pytest.raises(LimitExceeded, match="2 prices"):
        price(7_000_000, NOW + DAY - timedelta(microseconds=1))
    assert price(6_000_000, NOW + 2 * HOUR) == 6_000_000
    assert price(7_000_000, NOW + DAY) == 7_000_000


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "A <b>bold</b> name"}, "name"),
        ({"name": "Two\nlines"}, "name"),
        ({"summary": "turned \u202e around"}, "summary"),
        ({"description": "fine\n<script>"}, "description"),
        ({"description": "<!-- hidden"}, "description"),
        ({"specification": [{"label": "vCPU", "value": "</dd>"}]}, "specification"),
        ({"fields": [{"key": "a", "label": "<i>", "kind": "text"}]}, "fields"),
    ],
    ids=str,
)
def test_what_a_provider_writes_is_plain_text(
    ann: Connected, changes: dict[str, Any], field: str
) -> None:
    made = offer(ann, own(description="1 < 2\r\n\r\nand 3 > 2"))

    for act in (
        lambda: offer(ann, own(**changes)),
        lambda: change(ann, changing(made.product_id, **changes)),
    ):
        with pytest.raises(BadRequest) as refused:
            act()
        assert refused.value.field == field


def test_a_stock_gets_an_end_and_loses_it(ann: Connected) -> None:
    made = offer(ann, own())

    assert change(ann, changing(made.product_id, stock=4)).stock == 4
    with pytest.raises(Conflict, match="4 of VM-New left"):
        change(ann, changing(made.product_id, stock=9))
    assert change(ann, changing(made.product_id, stock_change=-4)).stock == 0
    assert change(ann, changing(made.product_id, is_endless=True)).stock is None
    assert change(ann, changing(made.product_id, stock=0)).stock == 0


def test_one_thing_is_said_about_the_stock() -> None:
    with pytest.raises(ValidationError):
        changing(uuid4(), stock=1, is_endless=True)


def test_a_profile_is_found_by_id_and_by_name(ann: Connected) -> None:
    with ann.read() as session:
        found = [
            providers.get_provider(session, GetProvider(provider_id=ANN)),
            providers.get_provider(session, GetProvider(name="Ann's Machines")),
        ]
        with pytest.raises(NotFound):
            providers.get_provider(session, GetProvider(name="ann's machines"))

    assert [each.provider_id for each in found] == [ANN, ANN]


def test_a_new_name_is_shown_at_all_products_of_that_provider_and_no_others(
    ann: Connected,
) -> None:
    offer(ann, own(name="Hers"))
    offer(ann, own(name="His", provider_id=BOB))

    write(ann, profile(name="  Ann   & Co "))

    assert set(names_of(ann)) == {("Hers", "Ann & Co"), ("His", "Bob")}
    assert names_of(ann, provider_name="Ann's Machines") == []


@pytest.mark.parametrize("name", ["Bob", "BÓB", "House Hosting"], ids=str)
def test_nobody_sells_under_the_name_of_somebody_else(ann: Connected, name: str) -> None:
    offer(ann, own(provider_id=None, provider_name="House  Hosting".replace("  ", " ")))

    with pytest.raises(Conflict, match="Somebody else"):
        write(ann, profile(name=name))
    assert write(ann, profile(name="ann's machines")).name == "ann's machines"


def test_of_two_who_want_a_name_at_the_same_moment_one_gets_it(ann: Connected) -> None:
    def take(session: Session) -> None:
        providers.set_provider(session, lambda: NOW, profile(name="Cloud"))

    def refused() -> bool:
        with pytest.raises(Conflict):
            write(ann, profile(provider_id=BOB, name="Cloud"))
        return True

    assert done_after(ann, take, refused)


def test_a_late_copy_of_an_earlier_profile_changes_nothing(ann: Connected) -> None:
    earlier = profile(name="Earlier")
    write(ann, earlier)
    write(ann, profile(name="Later"))

    assert write(ann, earlier).name == "Later"
    with pytest.raises(IdempotencyConflict):
        write(ann, profile(name="Other", idempotency_key=earlier.idempotency_key))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x"},
        {"name": "x" * 81},
        {"about": "x" * 501},
        {"support_email": "a@b"},
        {"support_email": "a?bcc=b@example.com"},
        {"support_url": "javascript:alert(1)"},
        {"support_url": "http://example.com"},
        {"support_url": "https://bank.example@evil.example"},
        {"support_url": 'https://example.com/"x'},
    ],
    ids=str,
)
def test_what_is_no_name_or_no_address_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        profile(**changes)


def test_addresses_as_people_have_them_are_taken() -> None:
    said = profile(
        support_email="help+vm@mail.example.com",
        support_url="https://example.com:8443/help/?topic=vm&x=1#first",
    )

    assert said.support_url.endswith("#first")


def test_what_somebody_sold_is_retired_when_they_delete_the_account_and_others_go_on(
    database: Connected,
) -> None:
    reached = {"support_email": "help@example.com", "about": "On a hill", "support_url": ""}
    with database.begin() as session:
        providers.set_provider(session, lambda: NOW, profile(**reached))
        others = {"provider_id": BOB, "name": "Bob's Machines"}
        providers.set_provider(session, lambda: NOW, profile(**others, **reached))
        mine = [selling.create(session, lambda: NOW, own(), RULES).product_id for _ in range(2)]
        theirs = selling.create(session, lambda: NOW, own(provider_id=BOB), RULES).product_id
        house = selling.create(
            session, lambda: NOW, own(provider_id=None, provider_name="The house"), RULES
        ).product_id

    for later in (HOUR, DAY):
        with database.begin() as session:
            selling.leave(session, lambda now=NOW + later: now, ANN)
            selling.leave(session, lambda now=NOW + later: now, uuid4())

    with database.read() as session:
        shown = [products.get_product(session, str(each)) for each in (*mine, theirs, house)]
        left, stays = (
            providers.get_provider(session, GetProvider(provider_id=each)) for each in (ANN, BOB)
        )
        retired = session.scalars(
            text("SELECT payload ->> 'product_id' FROM outbox WHERE type = 'product_retired'")
        ).all()
    assert [each.is_retired for each in shown] == [True, True, False, False]
    assert sorted(retired) == sorted(map(str, mine))
    assert (left.name, left.about, left.support_email) == ("Ann's Machines", "", "")
    assert (stays.about, stays.support_email) == ("On a hill", "help@example.com")
