"""What `mycelium buy`, `cart checkout` and `deployment start` say before they ask, and after a lost
answer."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
import simplejson
from click.testing import CliRunner, Result

from deploy.local.processes import ROOT
from mycelium_cli import main, site

SCHEMAS = json.loads((ROOT / "docs/openapi.json").read_text())["components"]["schemas"]


def shaped(schema: str, **given: Any) -> dict[str, Any]:
    """Some of an answer, by the names that the document has."""
    assert given.keys() <= SCHEMAS[schema]["properties"].keys()
    return given


CHARGE = shaped("PlannedChargeReply", amount=25, card_last4="4242")
AUTOMATIC = shaped("ForecastReply", charges=[CHARGE], more_follow=True, in_flight=10)
SHORT = shaped("ShortfallInfo", shortfall=5, would_auto_topup=False)
COVERED = shaped("AffordabilityReply", available=20, shortfall_info=None, auto_topup=AUTOMATIC)
BUY = ("buy", "vm", "--yes")
DEPLOYMENT_ID = "019ad000-0000-7000-8000-000000000001"
STOPPED = f"/api/deployments/{DEPLOYMENT_ID}"
START = ("deployment", DEPLOYMENT_ID, "start", "--yes")


class Shop(BaseHTTPRequestHandler):
    """A site with one product for $5.00, of which answers to purchases may be lost."""

    price: str | None = "5.00"
    is_lost, affordable, started = False, dict[str, Any](), dict[str, Any]()
    bodies: list[dict[str, Any]]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        product = {"product_id": "p", "name": "VM", "billing_period": "month", "meters": []}
        self._tell(
            {
                "/api/products/vm": {**product, "price_usd": Decimal(self.price or 0)},
                "/api/cart": {"lines": [product], "total_usd": 5, "shortfall_usd": 0},
                "/api/wallet/check-affordability": self.affordable,
                STOPPED: {"start_usd": self.price and Decimal(self.price), **self.started},
            }[path]
        )

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        lines = [{"quantity": 1, "product_name": "VM"}]
        bought = {"purchase_id": "1", "status": "completed", "status_reason": "", "lines": lines}
        self._tell({**bought, "total_usd": 5, "deployment_ids": []}, 503 if self.is_lost else 200)

    def _tell(self, reply: Any, status: int = 200) -> None:
        body = simplejson.dumps(reply, use_decimal=True).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Shop]]:
    class Mine(Shop):
        bodies: list[dict[str, Any]] = []  # noqa: RUF012 - a class for each test

    monkeypatch.setattr(site, "PAUSES_S", ())
    with HTTPServer(("127.0.0.1", 0), Mine) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("MYCELIUM_SITE", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MYCELIUM_TOKEN", "myc_1")
        yield Mine
        server.shutdown()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("words", [BUY, ("cart", "checkout", "--yes")], ids=["buy", "cart"])
def test_every_charge_is_told_before_it_is_asked_also_where_the_credits_cover_it(
    shop: type[Shop], words: tuple[str, ...]
) -> None:
    shop.affordable = COVERED
    covered = run(*words)
    shop.affordable = {"available": 0, "shortfall_info": SHORT, "auto_topup": None}
    short = run(*words)

    assert (covered.exit_code, short.exit_code) == (0, 0), covered.output + short.output
    assert "Credits: $20; after it: $15" in covered.stderr
    assert "Auto top-up charges $25 to your card ending in 4242." in covered.stderr
    assert "A payment of $10 is under way." in covered.stderr
    assert "More charges follow." in covered.stderr
    assert "Credits: $0; $5 are lacking." in short.stderr
    assert "Whether auto top-up charges a card because of it is not known now." in short.stderr
    assert "The purchase is kept, and completes when credits come." in short.stderr


def test_a_lost_purchase_is_repeated_at_the_price_that_was_shown(shop: type[Shop]) -> None:
    shop.affordable = COVERED
    shop.is_lost = True
    lost = run(*BUY, "--max-price", "5")
    shop.is_lost, shop.price = False, "6.00"
    [same] = [part for part in lost.stderr.split(", and it is done once") if "--key" in part]
    words = same.partition("repeat the command with ")[2].split()
    again = run(*BUY, "--max-price", "5", *words)
    dear = run(*BUY, "--max-price", "5", *words[:2])

    assert (lost.exit_code, again.exit_code, dear.exit_code) == (7, 0, 5), again.output
    assert shop.bodies[0] == shop.bodies[1]
    assert len(shop.bodies) == 2
    assert "Nothing was bought now." in dear.stderr


@pytest.mark.parametrize(
    ("price", "told", "sent"),
    [
        ("5.00", "$5.00 is charged now.", [{"amount_usd": 5.0}]),
        ("0", "Nothing is charged now.", [{"amount_usd": 0}]),
        # The site says why.
        (None, "Nothing is charged now.", [{}]),
    ],
)
def test_a_start_that_is_not_asked_about_takes_what_it_tells_or_nothing(
    shop: type[Shop], price: str | None, told: str, sent: list[dict[str, Any]]
) -> None:
    shop.price, shop.is_lost = price, True

    lost = run(*START)

    assert told in lost.stderr
    assert shop.bodies == sent


@pytest.mark.parametrize(
    ("started", "says"),
    [
        ({}, "$5.00 is charged now."),
        ({"start_usage_usd": 0}, "$5.00 is charged now."),
        (
            {"start_usage_usd": Decimal("2.00")},
            "$5.00 is charged now, $2.00 of it for what was used and is not paid.",
        ),
    ],
)
def test_a_start_says_what_of_it_is_for_what_was_used(
    shop: type[Shop], started: dict[str, Any], says: str
) -> None:
    """A site of a version before does not tell it."""
    shop.started = started

    assert says in run(*START).stderr.splitlines()


@pytest.mark.parametrize("price", ["5.00", "0.00"])
def test_a_lost_start_is_repeated_at_the_amount_that_was_shown(
    shop: type[Shop], price: str
) -> None:
    shop.price, shop.is_lost = price, True
    lost = run(*START)
    shop.price = "6.00"
    [same] = [part for part in lost.stderr.split(", and it is done once") if "--key" in part]

    run(*START, *same.partition("repeat the command with ")[2].split())

    assert shop.bodies[0] == shop.bodies[1]
