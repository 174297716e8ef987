"""The documentation: complete, true to the settings, searchable, and its links lead somewhere."""

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import MethodNotAllowed, NotFound

from chassis.terms import PurchaseTerms, TopupTerms
from deploy.local.processes import ROOT
from services.gateway.app import create_app
from services.gateway.handbook import CONTENTS, NAMES, REFERENCES, TEXTS, handbook, span
from tests.gateway.conftest import DOCUMENT, gateway_settings

NOWHERE = "postgresql+psycopg2://nobody@127.0.0.1:1/none"


@pytest.fixture(scope="module")
def app() -> Iterator[Flask]:
    app = create_app(gateway_settings(NOWHERE, support_email="help@example.com"))
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    return app.test_client()


def address(slug: str) -> str:
    return "/docs" if slug == "index" else f"/docs/{slug}"


def test_every_text_is_in_the_contents_and_the_other_way_round() -> None:
    written = {path.stem for path in TEXTS.glob("[!_]*.md")}

    assert written == set(NAMES) - REFERENCES
    assert len(NAMES) == sum(map(len, CONTENTS.values()))


@pytest.mark.parametrize("slug", NAMES)
def test_every_link_of_a_page_leads_to_something_that_is_there(
    app: Flask, browser: FlaskClient, slug: str
) -> None:
    page = browser.get(address(slug)).get_data(as_text=True)
    lost = []
    for link in set(re.findall(r'href="([/#][^"]*)"', page)):
        parts = urlsplit(link)
        if parts.path.startswith("/static/"):
            continue
        path = parts.path or address(slug)
        try:
            app.url_map.bind("").match(path)
        except (NotFound, MethodNotAllowed):
            lost.append(link)
            continue
        if path.startswith("/docs") and parts.fragment:
            there = browser.get(path).get_data(as_text=True)
            if f'id="{parts.fragment}"' not in there:
                lost.append(link)

    assert page.count("<h1") == 1
    assert 'aria-current="page"' in page
    assert lost == []


def test_what_a_page_promises_is_what_the_settings_say() -> None:
    usual = handbook(gateway_settings(NOWHERE)).pages
    other = handbook(
        gateway_settings(
            NOWHERE, grace_s=5 * 86_400, return_window_s=0, topup_max_micros=750_000_000
        )
    ).pages

    assert "3 days of grace" in usual["billing"].html
    assert "You change your mind within 1 day" in usual["billing"].html
    assert "5 days of grace" in other["billing"].html
    assert "You change your mind" not in other["billing"].html
    assert "to $2,000.00" in usual["credits"].html
    assert "to $750.00" in other["credits"].html
    assert [span(s) for s in (1, 90, 900, 7_200, 86_400)] == [
        "1 second",
        "90 seconds",
        "15 minutes",
        "2 hours",
        "1 day",
    ]


def test_containers_hand_the_same_terms_to_who_keeps_them_and_to_who_tells_them() -> None:
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    terms = {name.upper() for one in (PurchaseTerms, TopupTerms) for name in one.model_fields}

    for service in ("billing", "topup", "gateway"):
        given = composed["services"][service]["environment"]
        assert terms <= {name for name, value in given.items() if value is None}, service


def test_who_helps_and_who_sells_comes_from_the_settings(browser: FlaskClient) -> None:
    nobody = handbook(gateway_settings(NOWHERE, seller_name="<b>Shop</b>")).pages

    assert 'href="mailto:help@example.com"' in browser.get("/docs/support").get_data(as_text=True)
    assert "has not been set up" in nobody["support"].html
    assert "&lt;b&gt;Shop&lt;/b&gt;" in nobody["terms"].html


def test_the_search_finds_sections_by_the_beginnings_of_words(browser: FlaskClient) -> None:
    page = browser.get("/docs/search?q=suspend+grace").get_data(as_text=True)

    assert '/docs/billing#a-month-that-is-not-paid"' in page
    assert "<mark>Suspended</mark>" in page
    # The words are to stand in one section together.
    assert "/docs/concepts#" not in page


@pytest.mark.parametrize("typed", ['"', "a OR", "NEAR(", "*", "<b>", "ünï", "x" * 5_000, "'); --"])
def test_the_search_takes_whatever_is_typed(browser: FlaskClient, typed: str) -> None:
    answer = browser.get("/docs/search", query_string={"q": typed})

    assert answer.status_code == 200
    assert "<b>" not in answer.get_data(as_text=True)


def test_where_the_points_were_explained_credits_are(browser: FlaskClient) -> None:
    answer = browser.get("/docs/tfp")

    assert (answer.status_code, answer.location) == (301, "/docs/credits")
    assert [path.name for path in TEXTS.iterdir() if "TFP" in path.read_text()] == ["credits.md"]


def test_the_page_of_the_api_shows_every_operation_and_every_body(browser: FlaskClient) -> None:
    page = browser.get("/docs/api").get_data(as_text=True)
    operations = [
        one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()
    ]

    assert [name for name in operations if f'id="{name}"' not in page] == []
    assert [
        name for name in DOCUMENT["components"]["schemas"] if f'id="schema-{name}"' not in page
    ] == []


def test_the_page_of_messaging_shows_every_call_and_every_event(browser: FlaskClient) -> None:
    page = browser.get("/docs/messaging").get_data(as_text=True)
    told = json.loads(browser.get("/docs/asyncapi.json").data)

    assert [name for name in told["operations"] if f'id="{name}"' not in page] == []


def test_the_status_page_names_what_is_away(browser: FlaskClient) -> None:
    page = browser.get("/status").get_data(as_text=True)

    assert "A part of the site does not answer" in page
    assert page.count("Does not answer") == 5


def test_the_pieces_of_the_design_are_shown_on_a_machine_of_one_s_own_only(
    browser: FlaskClient,
) -> None:
    public = create_app(gateway_settings(NOWHERE, public_url="https://example.com"))
    page = browser.get("/docs/design").get_data(as_text=True)

    assert all(f"swatch-{name}" in page for name in ("spruce", "amber-fill", "danger-text"))
    assert page.count("#flame") == 1
    assert public.test_client().get("/docs/design").status_code == 404


def test_what_is_not_there_offers_a_search(browser: FlaskClient) -> None:
    answer = browser.get("/docs/none")

    assert answer.status_code == 404
    assert 'role="search"' in answer.get_data(as_text=True)
