"""The cart: what is collected, where it lives, and that a checkout buys it once."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.billing import (
    Discounts,
    FindPurchase,
    GetDiscounts,
    Purchase,
    PurchaseEnded,
    PurchaseStatus,
    StartPurchase,
)
from contracts.catalog import BillingPeriod, Category, GetProduct, Product
from contracts.errors import (
    Conflict,
    DeadlineExceeded,
    LimitExceeded,
    NotFound,
    PriceChanged,
    ServiceError,
    Unavailable,
)
from contracts.topup import ConfigureAutoTopup
from services.gateway.app import create_app
from services.gateway.backend import Backend
from services.gateway.cart import checkout, storage
from services.gateway.cart.contents import Contents, Line, contents_of, priced
from services.gateway.cart.storage import Item, Owner
from services.gateway.models import CartCheckout, User
from services.gateway.notifier import NotifierService
from services.gateway.pages.glance import look
from services.gateway.people.bearer_secrets import new_secret
from tests.contracts.golden import examples
from tests.gateway.conftest import (
    PASSWORD,
    Api,
    Site,
    add_user,
    answers_with,
    error_of,
    gateway_settings,
    granted,
)
from tests.gateway.test_api import give
from tests.gateway.test_main_job import pay
from tests.gateway.test_site import csrf_token, log_in, logged_in
from tests.locks import done_after
from tests.patience import Browser, eventually

NOW = utc_now()


def product(price_micros: int = 5_000_000, **changes: Any) -> Product:
    given = {
        "product_id": uuid4(),
        "slug": "vm",
        "name": "VM",
        "category": Category.COMPUTE,
        "summary": "",
        "description": "",
        "provider_name": "Anybody",
        "price_micros": price_micros,
        "billing_period": BillingPeriod.MONTH,
        "specification": [],
        **changes,
    }
    return Product(**given)


def item(of: Product, **given: Any) -> Item:
    return Item(of.product_id, of.name, of.price_micros, **given)


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, has_wallet=True)


def add(database: Connected, owner: Owner, what: Item, key: str | None = None) -> None:
    with database.begin() as session:
        storage.add(session, NOW, owner, what, key or str(uuid4()))


def inside(database: Connected, owner: Owner) -> list[tuple[UUID, int]]:
    with database.read() as session:
        return [(row.product_id, row.quantity) for row in storage.lines_of(session, owner)]


# What is collected.


def test_the_same_again_is_more_of_one_line_and_a_name_or_choice_makes_another(
    database: Connected, user: User
) -> None:
    owner, vm = Owner(user.user_id), product()
    for given in ({}, {"quantity": 2}, {"name": "web"}, {"choices": {"image": "Debian 12"}}):
        add(database, owner, item(vm, **given))
    add(database, Owner(add_user(database, has_wallet=True).user_id), item(vm))

    assert [quantity for _, quantity in inside(database, owner)] == [3, 1, 1]


def test_an_addition_that_is_sent_twice_adds_once(database: Connected, user: User) -> None:
    owner, vm, other = Owner(user.user_id), product(), product()
    add(database, owner, item(vm), "first")
    add(database, owner, item(other), "second")
    add(database, owner, item(vm), "first")

    assert inside(database, owner) == [(vm.product_id, 1), (other.product_id, 1)]


@pytest.mark.parametrize(("quantity", "fits"), [(99, True), (100, False)])
def test_a_cart_holds_as_many_units_as_one_purchase(
    database: Connected, user: User, quantity: int, fits: bool
) -> None:
    owner, vm = Owner(user.user_id), product()
    add(database, owner, item(vm))
    if fits:
        add(database, owner, item(product(), quantity=quantity))
    else:
        with pytest.raises(LimitExceeded, match="at most 100 items"):
            add(database, owner, item(product(), quantity=quantity))

    assert database.answer(look, user.user_id).in_cart == (100 if fits else 1)


def test_several_are_told_at_once_how_much_each_has_in_the_cart(
    database: Connected, user: User
) -> None:
    owner, visitor, another = Owner(user.user_id), Owner(secret="mine"), Owner(secret="another's")
    for quantity, cart in ((2, owner), (1, owner), (4, visitor), (5, another)):
        add(database, cart, item(product(), quantity=quantity))

    with database.read() as session:
        visitors = storage.counts(session, ["mine", "none's", "another's", "mine"])
        users = look(session, [uuid4(), user.user_id, user.user_id])
    assert visitors == [4, 0, 5, 4]
    assert [each.in_cart for each in users] == [0, 3, 3]


def test_a_visitors_cart_becomes_part_of_the_users_once(database: Connected, user: User) -> None:
    owner, visitor, other = Owner(user.user_id), Owner(secret="mine"), Owner(secret="another's")
    vm, gateway = product(), product()
    add(database, owner, item(vm))
    add(database, visitor, item(vm, quantity=2))
    add(database, visitor, item(gateway))
    add(database, other, item(gateway))

    for names in (["VM", "VM"], []):
        with database.begin() as session:
            assert storage.adopt(session, NOW, "mine", user.user_id) == names

    assert inside(database, owner) == [(vm.product_id, 3), (gateway.product_id, 1)]
    assert (inside(database, visitor), len(inside(database, other))) == ([], 1)


def test_one_users_line_is_not_anothers(database: Connected, user: User) -> None:
    other = add_user(database, has_wallet=True)
    add(database, Owner(user.user_id), item(product()))
    with database.read() as session:
        (line,) = storage.lines_of(session, Owner(user.user_id))

    for owner in (Owner(other.user_id), Owner(secret="any")):
        with pytest.raises(NotFound), database.begin() as session:
            storage.change(session, NOW, owner, line.line_id, quantity=5)
        with pytest.raises(NotFound), database.begin() as session:
            storage.remove(session, NOW, owner, line.line_id)

    assert [quantity for _, quantity in inside(database, Owner(user.user_id))] == [1]


@pytest.mark.parametrize("path", ["/cart", f"/cart/lines/{UUID(int=1)}"])
def test_a_visitor_stores_no_more_than_a_person_would_and_a_user_may(
    serve: Callable[..., Site], user: User, path: str
) -> None:
    site = serve(rate_limit_cart="2 per day")
    browser = site.browser()
    token = csrf_token(browser.get(f"{site.base_url}/login").text)

    def press(who: requests.Session, token: str) -> int:
        form = {"csrf_token": token, "remove": "yes"}
        address = f"{site.base_url}{path}"
        return who.post(address, data=form, allow_redirects=False).status_code

    assert [press(browser, token) == 429 for _ in range(3)] == [False, False, True]
    assert press(*log_in(site, user)) != 429


# Services that answer as a test wants, behind the application.


class Shop:
    """A catalog and a billing service. ``purchases`` are by key; ``lose`` loses that many answers
    of billing, after or before they were carried out; ``refuse`` is what it says instead."""

    def __init__(self, *products: Product) -> None:
        self.products = {each.product_id: each for each in products}
        self.purchases: dict[str, StartPurchase] = {}
        self.answers: dict[str, Purchase] = {}
        self.lost_after = self.lost_before = 0
        self.status = PurchaseStatus.COMPLETED
        self.refuse: ServiceError | None = None

    def call(self, request: Any) -> Any:
        if isinstance(request, GetProduct):
            found = self.products.get(UUID(request.product_id))
            if found is None:
                raise NotFound("There is no such product.")
            return found
        if isinstance(request, FindPurchase):
            if request.idempotency_key not in self.answers:
                raise NotFound("Nothing was bought under this key.")
            return self.answers[request.idempotency_key]
        assert isinstance(request, StartPurchase)
        return self.buy(request)

    def buy(self, request: StartPurchase) -> Purchase:
        if self.lost_before:
            self.lost_before -= 1
            raise DeadlineExceeded("no answer")
        if self.refuse is not None:
            raise self.refuse
        key = request.idempotency_key
        if key not in self.purchases:
            self.purchases[key] = request
            self.answers[key] = Purchase(
                purchase_id=new_id(), user_id=request.user_id, status=self.status,
                total_micros=0, shortfall_micros=0, lines=[], deployment_ids=[], created_at=NOW,
                updated_at=NOW,
            )  # fmt: skip
        if self.lost_after:
            self.lost_after -= 1
            raise DeadlineExceeded("no answer")
        return self.answers[key]


VM, GATEWAY = product(), product(2_000_000, name="Gateway")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(VM, GATEWAY)
    monkeypatch.setattr("services.gateway.cart.checkout.call", shop.call)
    monkeypatch.setattr("services.gateway.cart.contents.show", shop.call)
    return shop


@pytest.fixture
def app(nobody_answers: None, databases: dict[str, str], shop: Shop) -> Iterator[Flask]:
    app = create_app(gateway_settings(databases["gateway"]))
    with app.app_context():
        yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def owner(app: Flask, database: Connected, user: User) -> Owner:
    """Somebody with two machines and a gateway in the cart."""
    owner = Owner(user.user_id)
    add(database, owner, item(VM, quantity=2, name="web"))
    add(database, owner, item(GATEWAY, choices={"region": "EU"}))
    return owner


FULL = [(VM.product_id, 2), (GATEWAY.product_id, 1)]


def seen(database: Connected, owner: Owner) -> Contents:
    with database.read() as session:
        return Contents(priced(storage.lines_of(session, owner)))


def buy(database: Connected, owner: Owner, key: str = "key") -> Purchase:
    assert owner.user_id is not None
    return checkout.check_out(owner.user_id, key, seen(database, owner))


def test_one_purchase_has_all_lines_at_the_prices_that_were_shown(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    buy(database, owner)

    (command,) = shop.purchases.values()
    assert [
        (line.product_id, line.quantity, line.expected_unit_price_micros, line.name, line.choices)
        for line in command.lines
    ] == [
        (VM.product_id, 2, 5_000_000, "web", {}),
        (GATEWAY.product_id, 1, 2_000_000, "", {"region": "EU"}),
    ]
    assert inside(database, owner) == []


def test_what_staking_takes_off_is_shown_and_agreed_on(
    database: Connected, shop: Shop, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owner.user_id is not None
    asked: list[GetDiscounts] = []
    told = [Discounts(discounts_bps=[bps]) for bps in (500, 200)]

    def answers(question: GetDiscounts) -> Discounts | None:
        asked.append(question)
        return told.pop() if told else None

    monkeypatch.setattr("services.gateway.cart.contents.ask", answers)
    less, least, unknown = (contents_of(owner) for _ in range(3))
    checkout.check_out(owner.user_id, "key", least)

    assert asked[0] == GetDiscounts(user_id=owner.user_id, provider_ids=[None])
    totals = [each.total_micros for each in (less, least, unknown)]
    assert totals == [11_760_000, 11_400_000, 12_000_000]
    assert least.discount_micros == 600_000
    assert len({each.version for each in (less, least, unknown)}) == 3
    (command,) = shop.purchases.values()
    told_micros = [line.expected_unit_discount_micros for line in command.lines]
    assert told_micros == [250_000, 100_000]


def test_a_visitor_has_no_discount_and_nobody_is_asked_for_one(
    app: Flask, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_question: object) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr("services.gateway.cart.contents.ask", fails)
    visitor = Owner(secret=new_secret())
    add(database, visitor, item(VM))

    assert contents_of(visitor).total_micros == 5_000_000


def test_what_a_cancelled_purchase_was_to_buy_is_in_the_cart_again_once(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    assert owner.user_id is not None
    purchase, other = buy(database, owner), add_user(database, has_wallet=True).user_id

    def put_back(user_id: UUID, purchase_id: UUID) -> bool:
        with database.begin() as session:
            return checkout.put_back(session, NOW, user_id, purchase_id)

    assert [put_back(owner.user_id, other), put_back(other, purchase.purchase_id)] == [False] * 2
    assert inside(database, owner) == []
    assert [put_back(owner.user_id, purchase.purchase_id) for _ in range(2)] == [True, False]
    assert inside(database, owner) == FULL


def test_who_heard_no_answer_to_cancelling_has_it_in_the_cart_again_too(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    assert owner.user_id is not None
    purchase = buy(database, owner)
    ended = PurchaseEnded(
        event_id=new_id(),
        occurred_at=NOW,
        user_id=owner.user_id,
        purchase_id=purchase.purchase_id,
        status=PurchaseStatus.CANCELLED,
        status_code="cancelled_by_buyer",
        reason="You cancelled this purchase.",
    )

    NotifierService.purchase_ended(
        SimpleNamespace(database=database), ended.model_dump(mode="json")
    )

    assert inside(database, owner) == FULL


def test_what_is_put_back_waits_for_the_cart_and_holds_nothing_meanwhile(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    assert owner.user_id is not None
    user_id, purchase = owner.user_id, buy(database, owner)

    def put_back() -> bool:
        with database.begin() as session:
            return checkout.put_back(session, NOW, user_id, purchase.purchase_id)

    def hold(session: Session) -> None:
        storage.lock(session, NOW, owner)

    def look() -> None:
        with database.begin() as session:
            session.scalars(select(CartCheckout).with_for_update(nowait=True)).one()

    assert done_after(database, hold, put_back, look)
    assert inside(database, owner) == FULL
    # The key of the checkout buys nothing anew.
    assert buy(database, owner) == purchase
    assert (inside(database, owner), len(shop.purchases)) == (FULL, 1)


def test_the_same_key_again_is_the_same_purchase_whatever_is_in_the_cart_by_then(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    first = buy(database, owner)
    add(database, owner, item(VM))
    again = buy(database, owner)

    assert (again.purchase_id, len(shop.purchases)) == (first.purchase_id, 1)
    assert inside(database, owner) == [(VM.product_id, 1)]


@pytest.mark.parametrize(
    "refusal", [PriceChanged("dearer", "1"), LimitExceeded("too many"), NotFound("gone")]
)
def test_a_refused_checkout_leaves_the_cart_as_it_was_and_may_be_sent_again(
    database: Connected, shop: Shop, owner: Owner, refusal: ServiceError
) -> None:
    shop.refuse = refusal
    with pytest.raises(type(refusal)):
        buy(database, owner)
    assert inside(database, owner) == FULL
    shop.refuse = None

    buy(database, owner)

    assert (len(shop.purchases), inside(database, owner)) == (1, [])


@pytest.mark.parametrize("lost", ["lost_after", "lost_before"])
def test_after_a_lost_answer_nothing_is_bought_twice_under_any_key(
    database: Connected, shop: Shop, owner: Owner, lost: str
) -> None:
    assert owner.user_id is not None
    setattr(shop, lost, 1)
    with pytest.raises(DeadlineExceeded):
        buy(database, owner)

    add(database, owner, item(VM))
    with pytest.raises(Conflict, match="still being checked"):
        buy(database, owner, "from another tab")
    purchase = checkout.again(owner.user_id, "key")

    assert [len(command.lines) for command in shop.purchases.values()] == [2]
    assert purchase.purchase_id == buy(database, owner).purchase_id
    assert inside(database, owner) == [(VM.product_id, 1)]


def test_a_checkout_without_a_known_end_is_shown_and_finished_from_the_cart(
    database: Connected, shop: Shop, owner: Owner, user: User, serve: Callable[..., Site]
) -> None:
    shop.lost_before = 1
    with pytest.raises(DeadlineExceeded):
        buy(database, owner)
    site = serve()
    browser, token = log_in(site, user)

    page = browser.get(f"{site.base_url}/cart").text
    form = {"csrf_token": token, "finish": "yes"}
    answer = browser.post(f"{site.base_url}/cart/checkout", data=form, allow_redirects=False)

    assert "Your last checkout is being checked" in page
    assert "VM × 2, Gateway. It is not known yet" in page
    (bought,) = shop.answers.values()
    assert answer.headers["Location"] == f"/purchases/{bought.purchase_id}"
    assert "Your cart is empty" in browser.get(f"{site.base_url}/cart").text


def test_what_fails_before_a_checkout_is_begun_bought_nothing_and_says_so(
    alone: Flask, database: Connected, shop: Shop, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(user.user_id)
    add(database, owner, item(VM))
    browser = logged_in(alone, user)
    form = {"csrf_token": csrf_token(browser.get("/cart").text), "key": str(uuid4())}

    def away(_: object) -> None:
        raise Unavailable("The catalog is away.")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("services.gateway.cart.contents.show", away)
        browser.post("/cart/checkout", data=form)
    page = browser.get("/cart").text

    assert "The catalog is away. Nothing was bought." in page
    assert "We are checking" not in page
    assert inside(database, owner) == [(VM.product_id, 1)]


class Topup:
    """It saves the terms of auto top-up, and its answer is lost."""

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if not isinstance(request, ConfigureAutoTopup):
            raise Unavailable("It is away.")
        if not request.dry_run:
            raise DeadlineExceeded("No answer.")
        told = {**examples("topup")["AutoTopupStatus"], "charges": []}
        return lambda: ConfigureAutoTopup.reply.model_validate(told)


def test_that_auto_topup_was_switched_on_is_not_known_after_a_lost_answer(
    alone: Flask, database: Connected, shop: Shop, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(user.user_id)
    add(database, owner, item(VM))
    browser, shop.status = logged_in(alone, user), PurchaseStatus.AWAITING_FUNDS
    page = browser.get("/cart").text
    with alone.app_context():
        shown = contents_of(owner).version
    form = {"csrf_token": csrf_token(page), "key": str(uuid4()), "shown": shown}
    terms = {"switch_on": "pm_1", "threshold": "10", "topup_amount": "25", "consent": "yes"}
    answers_with(monkeypatch, Topup())

    assert browser.post("/cart/checkout", data={**form, **terms}).location.startswith("/purchases/")
    page = browser.get("/cart").text
    assert "No answer. Whether auto top-up is on now is not known: its page says so." in page
    assert "was not switched on" not in page


def test_looking_finds_what_was_bought_and_buys_nothing(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    assert owner.user_id is not None
    shop.lost_before = 1
    with pytest.raises(DeadlineExceeded):
        buy(database, owner)
    assert checkout.look_after(owner.user_id)[1] is None
    assert shop.purchases == {}
    shop.lost_after = 1
    with pytest.raises(DeadlineExceeded):
        checkout.again(owner.user_id, "key")

    _, purchase = checkout.look_after(owner.user_id)

    assert purchase == next(iter(shop.answers.values()))
    assert checkout.look_after(owner.user_id) == (None, None)


@pytest.mark.parametrize(("age", "is_back"), [(-1, False), (0, True)])
def test_what_was_not_bought_is_back_when_nobody_can_buy_it_any_more(
    database: Connected, shop: Shop, owner: Owner, age: int, is_back: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert owner.user_id is not None
    monkeypatch.setattr("services.gateway.cart.checkout.utc_now", lambda: NOW)
    shop.lost_before = 1
    with pytest.raises(DeadlineExceeded):
        buy(database, owner)
    add(database, owner, item(VM, name="web"))
    later = NOW + checkout.GIVEN_BACK_AFTER + timedelta(microseconds=age)
    monkeypatch.setattr("services.gateway.cart.checkout.utc_now", lambda: later)

    under_way, _ = checkout.look_after(owner.user_id)

    assert (under_way is None) == is_back
    more = [(VM.product_id, 3), (GATEWAY.product_id, 1)]
    assert inside(database, owner) == (more if is_back else [(VM.product_id, 1)])


def test_a_cart_that_is_not_what_was_shown_is_not_bought(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    assert owner.user_id is not None
    shown = seen(database, owner)
    add(database, owner, item(VM, name="web"))

    with pytest.raises(Conflict, match="changed in another window"):
        checkout.check_out(owner.user_id, "key", shown)

    assert (shop.purchases, len(inside(database, owner))) == ({}, 2)


@pytest.mark.parametrize(
    ("changes", "problem", "total_micros"),
    [
        ({"is_retired": True}, "No longer sold", 2_000_000),
        ({"stock": 0}, "Sold out", 2_000_000),
        ({"stock": 1}, "Only 1 left", 12_000_000),
        ({"stock": 2}, "", 12_000_000),
        (None, "No longer sold", 2_000_000),
    ],
)
def test_a_line_says_what_keeps_it_from_being_bought(
    database: Connected, shop: Shop, owner: Owner, changes: dict[str, Any] | None, problem: str,
    total_micros: int,
) -> None:  # fmt: skip
    shop.products.pop(VM.product_id)
    if changes is not None:
        shop.products[VM.product_id] = VM.model_copy(update=changes)

    contents = seen(database, owner)

    assert contents.lines[0].problem.startswith(problem)
    assert bool(contents.problem) == bool(problem)
    assert contents.total_micros == total_micros
    if problem:
        with pytest.raises(Conflict, match=re.escape(problem)):
            buy(database, owner)
        assert shop.purchases == {}


def test_another_price_is_shown_beside_the_one_of_before_until_the_line_is_changed(
    database: Connected, shop: Shop, owner: Owner
) -> None:
    before = seen(database, owner)
    shop.products[VM.product_id] = VM.model_copy(update={"price_micros": 6_000_000})

    now = seen(database, owner)

    assert _prices(now) == [(6_000_000, 5_000_000), (2_000_000, None)]
    assert now.version != before.version
    with database.begin() as session:
        line_id = now.lines[0].row.line_id
        storage.change(session, NOW, owner, line_id, price_micros=6_000_000)
    assert _prices(seen(database, owner)) == [(6_000_000, None), (2_000_000, None)]


def _prices(contents: Contents) -> list[tuple[int, int | None]]:
    def of(line: Line) -> tuple[int, int | None]:
        return line.unit_price_micros, line.old_price_micros

    return [of(line) for line in contents.lines]


# The whole product.


def test_the_api_collects_changes_and_buys(system: Any, api: Api) -> None:
    give(system, api, 20)
    vm, gateway = (
        granted(api.get(f"/api/products/{slug}")) for slug in ("vm-starter", "gateway-eu")
    )
    key = str(uuid4())
    body = {"product_id": vm["product_id"], "quantity": 2, "name": "web"}
    for _ in range(2):
        cart = granted(api.command("/api/cart", body, key))
    assert (cart["total_usd"], cart["shortfall_usd"]) == (Decimal("10.00"), 0)
    line_id = cart["lines"][0]["line_id"]
    granted(api.command("/api/cart", {"product_id": gateway["product_id"]}))

    cart = granted(api.request("PATCH", f"/api/cart/{line_id}", json={"quantity": 5}))
    assert (cart["total_usd"], cart["shortfall_usd"]) == (Decimal("30.00"), Decimal("10.00"))
    assert error_of(api.command("/api/cart/checkout", {"total_usd": 10})) == (409, "price_changed")
    granted(api.request("PATCH", f"/api/cart/{line_id}", json={"quantity": 2}))
    purchase = granted(api.command("/api/cart/checkout", {"total_usd": 15}, key))
    again = granted(api.command("/api/cart/checkout", {"total_usd": 15}, key))

    assert (purchase["status"], purchase["total_usd"]) == ("completed", Decimal("15.00"))
    assert again["purchase_id"] == purchase["purchase_id"]
    names = {each["name"] for each in granted(api.get("/api/deployments"))["deployments"]}
    assert names == {"web 1", "web 2", gateway["name"]}
    assert granted(api.get("/api/cart"))["lines"] == []
    assert error_of(api.command("/api/cart/checkout", {})) == (409, "conflict")


def test_a_visitors_cart_is_there_after_the_login_and_is_bought_without_scripts(
    system: Any, api: Api
) -> None:
    give(system, api, 20)
    browser = Browser()

    def press(path: str, **fields: str) -> requests.Response:
        token = csrf_token(browser.get(f"{api.base_url}/login").text)
        return browser.post(f"{api.base_url}{path}", data={"csrf_token": token, **fields})

    listing = browser.get(f"{api.base_url}/marketplace").text
    answer = browser.post(
        f"{api.base_url}/cart",
        data={"csrf_token": csrf_token(listing), "product": "vm-starter", "stay": "yes"},
        headers={"Referer": f"{api.base_url}/marketplace?q=vm"},
    )
    assert answer.url == f"{api.base_url}/marketplace?q=vm#product-vm-starter"
    assert "Cart, 1 item" in answer.text

    answer = press("/login", email=api.email, password=PASSWORD, next="/cart")
    assert "from before you logged in: VM-Starter" in answer.text
    form = answer.text.partition('action="/cart/checkout"')[2]
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form))
    token = csrf_token(answer.text)
    for _ in range(2):
        answer = browser.post(f"{api.base_url}/cart/checkout", data={**fields, "csrf_token": token})
        assert "Purchase completed" in answer.text

    assert len(granted(api.get("/api/deployments"))["deployments"]) == 1


def test_a_saved_card_pays_for_a_cart_and_for_credits_once_each_in_however_many_tabs(
    system: Any, api: Api
) -> None:
    setup = granted(api.command("/api/wallet/payment-methods", {}))
    pay(setup["checkout_url"])
    cards = eventually(lambda: granted(api.get("/api/wallet/payment-methods"))["payment_methods"])
    vm = granted(api.get("/api/products/vm-starter"))
    granted(api.command("/api/cart", {"product_id": vm["product_id"]}))
    browser = Browser()

    def form_of(path: str, action: str) -> dict[str, str]:
        page = browser.get(f"{api.base_url}{path}").text
        form = page.partition(f'action="{action}"')[2].partition("</form>")[0]
        fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
        return {**dict(fields), "pay_with": cards[0]["payment_method_id"]}

    def press(path: str, form: dict[str, str], **fields: str) -> str:
        return browser.post(f"{api.base_url}{path}", data={**form, **fields}).text

    def paid() -> list[Decimal]:
        topups = granted(api.get("/api/wallet/transactions"))["transactions"]
        return [each["amount_usd"] for each in topups if each["kind"] == "topup"]

    log_in = {"email": api.email, "password": PASSWORD}
    press("/login", form_of("/login", "/login"), **log_in)
    tabs = [form_of("/cart", "/cart/checkout") for _ in range(2)]
    for _ in range(2):
        press("/cart/checkout", tabs[0], amount="5")
    assert "Your cart is empty" in press("/cart/checkout", tabs[1], amount="5")
    eventually(lambda: granted(api.get("/api/deployments"))["deployments"])
    assert paid() == [5]

    tabs = [form_of("/dashboard/wallet", "/topups") for _ in range(2)]
    for _ in range(2):
        press("/topups", tabs[0], amount="10")
    eventually(lambda: paid() == [10, 5])
    assert "Another payment was made" in press("/topups", tabs[1], amount="10")
    assert (paid(), granted(api.get("/api/wallet/info"))["balance"]) == ([10, 5], 10)
