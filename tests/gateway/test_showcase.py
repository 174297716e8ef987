"""The catalog as it is shown: a second old at most, and told by its tag to who has it."""

import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from flask import Flask
from sqlalchemy import create_engine, text

from contracts.catalog import (
    BillingPeriod,
    Category,
    CreateProduct,
    GetProduct,
    ListProducts,
    RetireProduct,
)
from contracts.errors import Unavailable
from services.gateway import showcase
from services.gateway.app import create_app
from services.gateway.backend import CATALOG_AGE_S, CATALOG_MAX, backend_of
from services.gateway.recent import Recent
from tests.gateway.conftest import Api, error_of, gateway_settings, read
from tests.patience import PATIENCE_S, eventually


@pytest.fixture
def app() -> Flask:
    """The website in this process, which does not ask anew because a second is over."""
    made = create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    backend_of(made).catalog = Recent(3_600.0, CATALOG_MAX)
    return made


def test_a_page_does_not_ask_the_catalog_what_another_one_was_told(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(showcase, "call", lambda question: asked.append(question) or "told")
    one, other = GetProduct(product_id="vm-1"), GetProduct(product_id="vm-2")

    for question in (one, other, one):
        with app.test_request_context():
            assert showcase.show(question) == "told"

    assert asked == [one, other]


def test_that_the_catalog_is_away_is_not_kept(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    question = ListProducts(limit=3)
    with app.test_request_context():
        monkeypatch.setattr(showcase, "ask", lambda _: None)
        assert showcase.show_if_it_answers(question) is None

        monkeypatch.setattr(showcase, "ask", lambda _: "told")
        assert showcase.show_if_it_answers(question) == "told"


def test_that_something_is_not_there_is_an_error_each_time(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(showcase, "call", fail)
    for _ in range(2):
        with app.test_request_context(), pytest.raises(Unavailable):
            showcase.show(GetProduct(product_id="vm-1"))


@pytest.fixture
def summarise(system: Any, product: dict[str, Any]) -> Iterator[Any]:
    """Changes what the catalog says of the product, until the test is over."""
    engine = create_engine(system.database_url("catalog"))

    def change(summary: str) -> None:
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE products SET summary = :summary WHERE product_id = :id"),
                {"summary": summary, "id": UUID(product["product_id"])},
            )

    yield change
    change(product["summary"])
    engine.dispose()


def test_what_changes_in_the_catalog_is_shown_after_a_second(
    visitor: Api, product: dict[str, Any], summarise: Any
) -> None:
    address = f"/api/products/{product['product_id']}"
    visitor.get(address)
    summarise("Changed meanwhile")
    changed_s = time.monotonic()

    eventually(lambda: time.monotonic() - changed_s > CATALOG_AGE_S)

    assert read(visitor.get(address))["summary"] == "Changed meanwhile"


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_who_has_a_product_is_told_so_until_it_changes(
    visitor: Api, product: dict[str, Any], summarise: Any, encoding: str
) -> None:
    address = f"{visitor.base_url}/api/products/{product['product_id']}"
    headers = {"Accept-Encoding": encoding}

    def ask() -> requests.Response:
        return requests.get(address, headers=headers, timeout=PATIENCE_S)

    summarise(f"As it was, {encoding}")
    known = eventually(ask, lambda answer: f"As it was, {encoding}" in answer.text)
    headers["If-None-Match"] = tag = known.headers["ETag"]
    # Another worker may know for a second more what the product was before.
    same = eventually(ask, lambda answer: answer.status_code == 304)
    summarise(f"Changed, {encoding}")
    changed = eventually(ask, lambda answer: f"Changed, {encoding}" in answer.text)

    assert (same.content, same.headers["ETag"]) == (b"", tag)
    assert same.headers["Cache-Control"] == "no-cache"
    assert changed.json()["summary"] == f"Changed, {encoding}"


def test_two_questions_about_products_have_two_answers(visitor: Api) -> None:
    answers = [read(visitor.get(f"/api/products?limit={limit}")) for limit in (1, 2)]

    assert [len(answer["products"]) for answer in answers] == [1, 2]


def test_the_cards_of_who_is_logged_in_are_not_a_visitor_s(api: Api, visitor: Api) -> None:
    """They open the dialog of Buy Now in the page, for which one has to be logged in."""
    pages = [who.get("/marketplace").text for who in (api, visitor, api)]

    assert ['hx-target="#dialog"' in page for page in pages] == [True, False, True]


def test_filters_offer_what_there_is_and_keep_what_was_chosen(visitor: Api) -> None:
    found = visitor.get("/marketplace?category=compute&vcpu=4&location=Ghent%2C+Belgium").text
    nothing = visitor.get("/marketplace?provider=Nobody+at+all").text

    assert 'id="product-vm-memory"' in found
    assert 'id="product-vm-production"' not in found
    assert re.search(r'value="Ghent, Belgium" selected>Ghent, Belgium \(\d+\)<', found)
    assert re.search(r'<option value="4" selected>4 or more<', found)
    assert "More filters (2)" in found
    # What nobody sells stays chosen, and can be taken away.
    assert '<option value="Nobody at all" selected>Nobody at all (0)' in nothing
    assert "Nothing fits that" in nothing
    for odd in ("vcpu=0", "vcpu=x", "memory=1e3", "period=daily", "disk=" + "9" * 18):
        assert visitor.get(f"/marketplace?{odd}").status_code == 422, odd
    listed = read(visitor.get("/api/products?min_vcpu=4&location=Ghent%2C+Belgium"))
    assert "vm-memory" in {one["slug"] for one in listed["products"]}


def test_products_are_compared_side_by_side(visitor: Api) -> None:
    wanted = ("vm-starter", "vm-production", "vm-starter", "vm-memory")
    page = visitor.get("/compare?" + "&".join(f"slug={slug}" for slug in wanted)).text

    assert re.findall(r'<th scope="col"><a href="/marketplace/([a-z-]+)"', page) == [
        "vm-starter",
        "vm-production",
        "vm-memory",
    ]
    assert page.count('<th scope="row">Memory</th>') == 1
    assert "Choose two to four products" in visitor.get("/compare?slug=vm-starter").text
    assert visitor.get("/compare?slug=nothing&slug=vm-starter").status_code == 404
    # Its sizes lead there.
    assert "/compare?slug=vm-starter" in visitor.get("/marketplace/vm-starter").text


def test_what_is_retired_says_so_on_its_page_and_is_not_bought(system: Any, api: Api) -> None:
    slug = f"retired-{uuid4().hex[:12]}"
    made = system.rpc.call(
        CreateProduct(
            idempotency_key=slug,
            slug=slug,
            name="Old machine",
            category=Category.COMPUTE,
            summary="A machine",
            provider_name="Example Provider",
            price_micros=0,
            billing_period=BillingPeriod.MONTH,
            reason="A test",
            actor="a test",
        )
    )
    system.rpc.call(
        RetireProduct(
            idempotency_key=f"{slug}:retire",
            product_id=made.product_id,
            reason="A test",
            actor="a test",
        )
    )

    page = requests.get(f"{api.base_url}/marketplace/{slug}", timeout=PATIENCE_S).text
    shown = read(api.get(f"/api/products/{slug}"))
    body = {"product_id": str(made.product_id)}
    bought = api.command("/api/wallet/instant-purchase", body)

    assert "No longer sold" in page
    assert "Buy Now" not in page
    assert (shown["is_retired"], shown["available"]) == (True, False)
    assert error_of(bought) == (404, "not_found")
