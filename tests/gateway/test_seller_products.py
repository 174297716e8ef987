"""The pages for sellers: what they ask of the services, and what they say."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import GetProductUses, ProductUse, ProductUses
from contracts.catalog import (
    BillingPeriod,
    Category,
    ChangeProduct,
    CreateProduct,
    GetPriceHistory,
    GetProduct,
    GetProvider,
    ListProducts,
    Meter,
    MeterTier,
    PastPrice,
    PriceHistory,
    Product,
    ProductPage,
    Provider,
    RetireProduct,
    SetProvider,
    SpecificationItem,
)
from contracts.errors import DeadlineExceeded, LimitExceeded, NotFound, ServiceError, Unavailable
from contracts.messages import Command
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.pages.formats import day
from tests.gateway.conftest import answers_with
from tests.gateway.test_roles import Desk, last_acts
from tests.gateway.test_support import clerk

PRODUCTS = "/dashboard/selling/products"
FORM = {
    "category": "compute",
    "name": "Hill-VM",
    "summary": "A <i>machine</i>.",
    "price": "12.50",
    "period": "month",
    "sheet.vCPU": "4",
    "more": "View: south: far",
    "ssh_key": "yes",
}


TRAFFIC = Meter(
    key="traffic_out",
    label="Traffic out",
    unit="GB",
    price_micros=20_000,
    included_units=100,
    tiers=[MeterTier(above_units=1_000, price_micros=10_000)],
)
CALLS = Meter(key="calls", label="Calls", unit="calls", price_micros=1_500, per_units=1_000)
METERED = {
    "meter.0.label": "Traffic  out",
    "meter.0.unit": "GB",
    "meter.0.price": "0.02",
    "meter.0.included_units": "100",
    "meter.0.tiers": "1000: $0.01\r\n",
    "meter.1.label": " ",
    "meter.4.label": "Calls",
    "meter.4.unit": "calls",
    "meter.4.price": "0.0015",
    "meter.4.per_units": "1000",
    "meter.4.key": "calls",
}


class Services:
    """A catalog with one product of the seller's and one of somebody else's."""

    def __init__(self, seller_id: UUID) -> None:
        self.seller_id = seller_id
        self.mine, self.others = product(seller_id), product(uuid4())
        self.profile: Provider | None = Provider(provider_id=seller_id, name="Hilltop")
        self.of_family: list[Product] = []
        self.rented = 3
        self.fails: ServiceError | None = None
        self.asked: list[Any] = []

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        self.asked.append(request)
        if self.fails and isinstance(request, Command):
            raise self.fails
        answer = self.answer(request)
        if answer is None:
            raise NotFound("There is none.")
        return lambda: answer

    def answer(self, request: Any) -> Any:
        match request:
            case GetProduct(product_id=wanted):
                both = {str(each.product_id): each for each in (self.mine, self.others)}
                return both.get(wanted)
            case ListProducts(family=str()):
                return ProductPage(products=self.of_family, total=len(self.of_family))
            case ListProducts():
                return ProductPage(products=[self.mine], total=1)
            case GetProvider():
                return self.profile
            case SetProvider():
                return Provider(provider_id=request.provider_id, name=request.name)
            case CreateProduct() | ChangeProduct() | RetireProduct():
                return self.mine
            case GetPriceHistory():
                price = PastPrice(price_micros=1, since=utc_now(), reason="Old", actor="a")
                return PriceHistory(prices=[price])
            case GetProductUses():
                used = [
                    ProductUse(product_id=each, units=9, rented=self.rented)
                    for each in request.product_ids
                ]
                return ProductUses(products=used)
            case _:
                raise Unavailable("It is away.")

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.asked if isinstance(each, kind)]


def product(provider_id: UUID, **changes: Any) -> Product:
    values: dict[str, Any] = {
        "product_id": uuid4(),
        "slug": "hill-vm",
        "name": "Hill-VM",
        "category": Category.COMPUTE,
        "summary": "A machine.",
        "description": "",
        "provider_name": "Hilltop",
        "provider_id": provider_id,
        "price_micros": 10_000_000,
        "billing_period": BillingPeriod.MONTH,
        "specification": [
            SpecificationItem(label="vCPU", value="2"),
            SpecificationItem(label="View", value="north"),
        ],
        "stock": 5,
    }
    return Product(**{**values, **changes})


@pytest.fixture
def seller(alone: Flask, database: Connected) -> Desk:
    return clerk(alone, database, Role.SELLER)


@pytest.fixture
def services(seller: Desk, database: Connected, monkeypatch: pytest.MonkeyPatch) -> Services:
    [became] = last_acts(database, 1)
    stand_in = Services(UUID(became.subject))
    answers_with(monkeypatch, stand_in)
    return stand_in


def key_in(page: str) -> str:
    found = re.search(r'name="key" value="([^"]+)"', page)
    assert found
    return found[1]


def fields_in(page: str, prefix: str) -> dict[str, str]:
    """What the fields of a page's forms hold whose names begin so."""
    inputs = re.findall(r'<input[^>]*? name="([^"]+)"[^>]*? value="([^"]*)"', page)
    areas = re.findall(r'<textarea[^>]*? name="([^"]+)"[^>]*>([^<]*)<', page)
    found = {name: text for name, text in [*inputs, *areas] if name.startswith(prefix)}
    return {name: text for name, text in found.items() if not name.endswith(".remove")}


def test_a_seller_lists_their_own_with_what_was_sold(seller: Desk, services: Services) -> None:
    page = seller.get(PRODUCTS).text

    [asked] = services.of(ListProducts)
    [uses] = services.of(GetProductUses)
    assert (asked.provider_id, asked.with_retired) == (services.seller_id, True)
    assert (uses.user_id, uses.product_ids) == (services.seller_id, [services.mine.product_id])
    assert "$10.00" in page


def test_a_preview_publishes_nothing_and_escapes_what_was_typed(
    seller: Desk, services: Services
) -> None:
    page = seller.post(f"{PRODUCTS}/preview", **FORM)

    assert (page.status_code, services.of(CreateProduct)) == (200, [])
    assert "A &lt;i&gt;machine&lt;/i&gt;." in page.text
    assert "<i>machine" not in page.text
    assert "south: far" in page.text


def test_what_is_published_is_the_seller_s_and_once(
    database: Connected, seller: Desk, services: Services
) -> None:
    key = str(uuid4())

    answers = [seller.post(PRODUCTS, **FORM, key=key).status_code for _ in range(2)]

    first, again = services.of(CreateProduct)
    assert answers == [303, 303]
    assert first == again
    assert (first.provider_id, first.provider_name) == (services.seller_id, None)
    assert first.idempotency_key.startswith(f"{services.seller_id}:")
    assert (first.slug, first.price_micros, first.stock) == (
        f"hill-vm-{key[-6:]}",
        12_500_000,
        None,
    )
    assert [(item.label, item.value) for item in first.specification] == [
        ("vCPU", "4"),
        ("View", "south: far"),
    ]
    assert [field.key for field in first.fields] == ["ssh_key"]
    begun, done = last_acts(database, 2)
    assert (begun.action, done.completes, done.after["outcome"]) == (
        "product.create", begun.position, "done",
    )  # fmt: skip


def test_nobody_chooses_whose_it_is(seller: Desk, services: Services) -> None:
    someone = {"provider_id": str(uuid4()), "provider_name": "Bank"}

    seller.post(PRODUCTS, **FORM, **someone)

    [made] = services.of(CreateProduct)
    assert (made.provider_id, made.provider_name) == (services.seller_id, None)


def test_what_use_costs_and_the_family_are_sent_as_they_were_typed(
    seller: Desk, services: Services
) -> None:
    preview = seller.post(f"{PRODUCTS}/preview", **FORM, **METERED, family=" hill-vm ")
    seller.post(PRODUCTS, **FORM, **METERED, family="hill-vm")

    [made] = services.of(CreateProduct)
    assert (made.family, made.meters) == ("hill-vm", [TRAFFIC, CALLS])
    assert "100 GB free, then $0.02 per GB; above 1,000 GB $0.01 per GB" in preview.text
    assert "the other sizes of hill-vm" in preview.text


def test_what_is_sold_is_shown_in_its_form_as_it_was_typed(
    seller: Desk, services: Services
) -> None:
    services.mine = product(services.seller_id, meters=[TRAFFIC, CALLS], family="hill-vm")
    path = f"{PRODUCTS}/{services.mine.product_id}"

    page = seller.get(path).text
    seller.post(path, **fields_in(page, "meter."), act="meters")

    assert 'value="hill-vm"' in page
    [sent] = services.of(ChangeProduct)
    assert (sent.meters, sent.provider_id) == (services.mine.meters, services.seller_id)


def test_what_use_costs_is_reviewed_beside_what_it_cost(seller: Desk, services: Services) -> None:
    services.mine = product(services.seller_id, meters=[TRAFFIC, CALLS])
    path = f"{PRODUCTS}/{services.mine.product_id}"
    form = {**METERED, "meter.0.price": "$0.03", "meter.0.tiers": "", "meter.4.remove": "yes"}

    review = seller.post(f"{path}/review", **form, act="meters").text
    asked = services.of(ChangeProduct)
    seller.post(path, **form, act="meters", key=key_in(review))

    assert "<dt>Traffic out, then</dt><dd>100 GB free, then $0.03 per GB, each month" in review
    assert "<dt>Calls, now</dt><dd>$0.0015 per 1,000 calls, each month</dd>" in review
    assert "<dt>Calls, then</dt><dd>–</dd>" in review
    assert asked == []
    [sent] = services.of(ChangeProduct)
    assert sent.meters == [TRAFFIC.model_copy(update={"price_micros": 30_000, "tiers": []})]


@pytest.mark.parametrize(
    ("stock", "billing_period", "sentence"),
    [
        ("", "month", "Who has it can change to the other sizes of hill-vm"),
        ("3", "month", "nobody can change to it or from it"),
        ("", "once", "nobody can change to it or from it"),
    ],
)
def test_a_size_to_which_nobody_can_change_is_said_to_be_one(
    seller: Desk, services: Services, stock: str, billing_period: str, sentence: str
) -> None:
    form = {**FORM, "family": "hill-vm", "stock": stock, "period": billing_period}

    assert sentence in seller.post(f"{PRODUCTS}/preview", **form).text


def test_a_limit_to_the_stock_of_a_size_says_what_it_costs(
    seller: Desk, services: Services
) -> None:
    services.mine = product(services.seller_id, family="hill-vm", stock=None)
    path = f"{PRODUCTS}/{services.mine.product_id}/review"

    limited = seller.post(path, act="stock", seen="", stock="3").text

    assert "nobody can change to it or from it" in limited


def test_a_family_of_somebody_else_is_refused_before_anything_is_published(
    seller: Desk, services: Services
) -> None:
    mine = f"{PRODUCTS}/{services.mine.product_id}/review"
    services.of_family = [services.others]

    answers = [
        seller.post(f"{PRODUCTS}/preview", **FORM, family="vms"),
        seller.post(mine, **FORM, family="vms", act="texts"),
    ]

    assert [answer.status_code for answer in answers] == [422, 422]
    for answer in answers:
        assert "Somebody else sells sizes as vms." in answer.text
        assert 'value="vms"' in answer.text


def test_a_family_is_changed_and_not_left(seller: Desk, services: Services) -> None:
    services.mine = product(services.seller_id, family="hill-vm")
    path = f"{PRODUCTS}/{services.mine.product_id}"

    left = seller.post(path, **FORM, family="", act="texts")
    seller.post(path, **FORM, family="hills", act="texts")

    assert (left.status_code, "Enter a different family" in left.text) == (422, True)
    assert [sent.family for sent in services.of(ChangeProduct)] == ["hills"]


def test_sizes_stand_beside_each_other_in_the_preview(seller: Desk, services: Services) -> None:
    small = product(services.seller_id, slug="small", name="Hill-S", price_micros=1_000_000)
    services.of_family = [small]

    page = seller.post(f"{PRODUCTS}/preview", **FORM, family="hill-vm").text

    assert re.search(r"Hill-S</th>.*Hill-VM <span[^>]*>\(this one\)", page, re.DOTALL)
    assert "Compare them" not in page


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"name": " "}, "Enter a name."),
        ({"summary": ""}, "Enter a summary."),
        ({"name": "x" * 201}, "Write 200 characters at most."),
        ({"summary": "x" * 501}, "Write 500 characters at most."),
        ({"description": "x" * 10_001}, "Write 10000 characters at most."),
        ({"price": "12,50"}, "with a point before the cents"),
        ({"price": ""}, "enter an amount"),
        ({"stock": "-1"}, "from 0 to 1,000,000"),
        ({"stock": "1000001"}, "from 0 to 1,000,000"),
        ({"more": "no colon"}, "a label, a colon and a value"),
        ({"more": "a: b\n" * 50}, "50 lines at most"),
        ({"family": "Hill VM"}, "small letters and digits, with hyphens"),
        ({"family": "0fffffff-0000-4000-8000-000000000000"}, "It reads as an id"),
        ({**METERED, "meter.0.label": ""}, "Enter a label."),
        ({**METERED, "meter.0.unit": ""}, "Enter a unit."),
        ({**METERED, "meter.0.unit": "x" * 21}, "Write 20 characters at most."),
        ({**METERED, "meter.0.price": ""}, "a number of dollars"),
        ({**METERED, "meter.0.price": "0,02"}, "a number of dollars"),
        ({**METERED, "meter.0.price": "0.0000001"}, "at most 6 decimals"),
        ({**METERED, "meter.0.per_units": "0"}, "a whole number from 1 to"),
        ({**METERED, "meter.0.included_units": "some"}, "a whole number from 0 to"),
        ({**METERED, "meter.0.tiers": "1000 0.01"}, "as units, a colon and a price"),
        ({**METERED, "meter.0.tiers": "0: 0.01"}, "a whole number from 1 to"),
        ({**METERED, "meter.0.tiers": "7: x"}, "a number of dollars"),
        ({**METERED, "meter.0.tiers": "100: 0.01"}, "each tier begins above"),
        ({**METERED, "meter.0.tiers": "1000: 0.01\n" * 21}, "20 tiers at most"),
        ({**METERED, "meter.0.key": "Calls"}, "small letters, digits and _"),
        ({**METERED, "meter.0.key": "calls"}, "Each meter has a key of its own."),
        ({f"meter.{n}.label": "x" for n in range(21)}, "20 meters at most"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_at_its_field_and_what_was_typed_stays(
    seller: Desk, services: Services, typed: dict[str, str], sentence: str
) -> None:
    for path in (PRODUCTS, f"{PRODUCTS}/preview"):
        answer = seller.post(path, **{**FORM, **typed})

        assert (answer.status_code, sentence in answer.text) == (422, True)
        assert 'value="Hill-VM"' in answer.text or "name" in typed
    assert services.of(CreateProduct) == []


@pytest.mark.parametrize("typed", [{"stock": "1000000"}, {"name": "x" * 200}], ids=str)
def test_what_is_just_not_too_much_is_taken(
    seller: Desk, services: Services, typed: dict[str, str]
) -> None:
    assert seller.post(PRODUCTS, **{**FORM, **typed}).status_code == 303


@pytest.mark.parametrize("tail", ["", "/review"])
@pytest.mark.parametrize("act", ["texts", "meters", "price", "stock", "retire"])
def test_a_product_of_somebody_else_is_not_there(
    seller: Desk, services: Services, act: str, tail: str
) -> None:
    other = f"{PRODUCTS}/{services.others.product_id}"

    answer = seller.post(other + tail, **FORM, act=act)

    assert (answer.status_code, seller.get(other).status_code) == (404, 404)
    assert [each for each in services.asked if isinstance(each, Command)] == []


def test_a_dearer_price_says_whom_it_concerns_and_from_when(
    seller: Desk, services: Services
) -> None:
    path = f"{PRODUCTS}/{services.mine.product_id}"
    before = utc_now()

    dearer = seller.post(f"{path}/review", act="price", price="12").text
    cheaper = seller.post(f"{path}/review", act="price", price="8").text
    asked = services.of(ChangeProduct)
    done = seller.post(path, act="price", price="12", why="Power", key=key_in(dearer))

    assert "<dt>Rented now</dt><dd>3</dd>" in dearer
    # It may be midnight.
    months = {f"before {day(now + timedelta(days=30))}" for now in (before, utc_now())}
    assert any(month in dearer for month in months)
    assert "from their next month" in cheaper
    assert (asked, done.status_code) == ([], 303)
    [sent] = services.of(ChangeProduct)
    assert (sent.provider_id, sent.price_micros, sent.reason) == (
        services.seller_id, 12_000_000, "Power",
    )  # fmt: skip


def test_what_was_sold_since_the_page_was_shown_stays_sold(
    seller: Desk, services: Services
) -> None:
    path = f"{PRODUCTS}/{services.mine.product_id}"
    form = {"act": "stock", "seen": "5", "stock": "8", "key": str(uuid4())}
    services.mine = services.mine.model_copy(update={"stock": 4})

    review = seller.post(f"{path}/review", **form).text
    seller.post(path, **form)

    assert "<dd>4 left</dd><dt>Then</dt><dd>7 left</dd>" in review
    [sent] = services.of(ChangeProduct)
    assert (sent.stock_change, sent.stock, sent.is_endless) == (3, None, False)


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        ({"seen": "", "stock": "8"}, (0, 8, False)),
        ({"seen": "5", "stock": "8", "endless": "yes"}, (0, None, True)),
        ({"seen": "5", "stock": "0"}, (-5, None, False)),
    ],
    ids=str,
)
def test_a_stock_gets_an_end_loses_it_and_runs_out(
    seller: Desk, services: Services, form: dict[str, str], sent: tuple[int, int | None, bool]
) -> None:
    seller.post(f"{PRODUCTS}/{services.mine.product_id}", act="stock", **form)

    [asked] = services.of(ChangeProduct)
    assert (asked.stock_change, asked.stock, asked.is_endless) == sent


def test_the_last_step_of_selling_says_that_customers_go_on(
    seller: Desk, services: Services
) -> None:
    path = f"{PRODUCTS}/{services.mine.product_id}"

    review = seller.post(f"{path}/review", act="retire").text
    seller.post(path, act="retire", key=key_in(review))

    assert "Existing customers go on (3 rented now)" in review
    [sent] = services.of(RetireProduct)
    assert (sent.provider_id, sent.product_id) == (services.seller_id, services.mine.product_id)


@pytest.mark.parametrize("act", ["texts", "meters", "price", "stock", "retire"])
def test_after_a_lost_answer_the_same_command_is_sent_again(
    database: Connected, seller: Desk, services: Services, act: str
) -> None:
    path = f"{PRODUCTS}/{services.mine.product_id}"
    form = {**FORM, "act": act, "seen": "5", "stock": "8", "key": str(uuid4())}
    services.fails = DeadlineExceeded("No answer.")

    lost = seller.post(path, **form)
    [begun] = last_acts(database, 1)
    # It was done, and the page's answer alone was lost.
    changed = {"stock": 8, "price_micros": 12_500_000, "is_retired": act == "retire"}
    services.mine = services.mine.model_copy(update=changed)
    services.fails = None
    again = seller.post(path, **{**form, "key": key_in(lost.text)})

    assert (lost.status_code, "Pressing again is safe" in lost.text) == (504, True)
    assert (begun.completes, again.status_code) == (None, 303)
    first, second = [each for each in services.asked if isinstance(each, Command)]
    assert first == second


def test_a_lost_answer_of_a_new_product_keeps_its_key(seller: Desk, services: Services) -> None:
    services.fails = DeadlineExceeded("No answer.")
    key = str(uuid4())

    lost = seller.post(PRODUCTS, **FORM, key=key)

    assert (lost.status_code, key_in(lost.text)) == (504, key)


def test_what_the_catalog_refuses_is_said_with_what_was_typed(
    seller: Desk, services: Services
) -> None:
    services.fails = LimitExceeded("You have 100 products for sale.")

    answer = seller.post(PRODUCTS, **FORM)

    assert (answer.status_code, "You have 100 products" in answer.text) == (409, True)
    assert "View: south: far" in answer.text


def test_without_a_profile_a_seller_says_first_who_they_are(
    seller: Desk, services: Services
) -> None:
    services.profile = None

    answer = seller.get(f"{PRODUCTS}/new")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/dashboard/selling/profile")


PROFILE = {"name": "Hill & Co", "about": "", "support_email": "", "support_url": ""}


def test_a_profile_is_reviewed_and_then_written_once(seller: Desk, services: Services) -> None:
    path = "/dashboard/selling/profile"

    review = seller.post(f"{path}/review", **PROFILE).text
    asked = services.of(SetProvider)
    done = [seller.post(path, **PROFILE, key=key_in(review)).status_code for _ in range(2)]

    assert "no longer as Hilltop" in review
    assert (asked, done) == ([], [303, 303])
    first, again = services.of(SetProvider)
    assert (first, first.provider_id) == (again, services.seller_id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x"},
        {"about": "x" * 501},
        {"support_email": "nobody"},
        {"support_url": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_a_profile_that_is_none_is_refused(
    seller: Desk, services: Services, wrong: dict[str, str]
) -> None:
    for path in ("/dashboard/selling/profile/review", "/dashboard/selling/profile"):
        answer = seller.post(path, **{**PROFILE, **wrong})
        assert (answer.status_code, 'class="field-error"' in answer.text) == (422, True)
    assert services.of(SetProvider) == []


def test_a_lost_answer_about_a_profile_keeps_its_key(seller: Desk, services: Services) -> None:
    services.fails = DeadlineExceeded("No answer.")
    key = str(uuid4())

    lost = seller.post("/dashboard/selling/profile", **PROFILE, key=key)

    assert (lost.status_code, key_in(lost.text)) == (504, key)


ABOUT = {
    "about": "Two <b>racks</b>.\nOn a hill.",
    "support_email": "help@hill.example",
    "support_url": "https://hill.example/help?a=1&b=2",
}


def test_a_seller_s_page_says_what_they_say_as_plain_text(seller: Desk, services: Services) -> None:
    services.profile = Provider(provider_id=services.seller_id, name="Hill 1", **ABOUT)

    page = seller.get("/marketplace?provider=Hill+1").text

    assert [asked.name for asked in services.of(GetProvider)] == ["Hill 1"]
    assert "Two &lt;b&gt;racks&lt;/b&gt;." in page
    assert 'href="mailto:help@hill.example"' in page
    assert 'href="https://hill.example/help?a=1&amp;b=2" rel="nofollow ugc' in page


def test_a_seller_without_a_profile_has_a_page_as_well(seller: Desk, services: Services) -> None:
    services.profile = None

    page = seller.get("/marketplace?provider=Hill+2")

    assert (page.status_code, "About Hill 2" in page.text) == (200, False)
    assert services.of(GetProvider) != []


def test_other_lists_ask_for_no_profile(seller: Desk, services: Services) -> None:
    assert seller.get("/marketplace?q=hill").status_code == 200
    assert services.of(GetProvider) == []
