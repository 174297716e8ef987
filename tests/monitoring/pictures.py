"""The pictures of the dashboards: ``make pictures`` writes them to docs/images/dashboards.

People use the whole product while a Prometheus watches it; then each panel of the files for Grafana
gets what Prometheus answers to its queries, and a browser draws it. A line for each panel that
stayed empty, and for each alert that fired, is printed.

The name keeps it out of an ordinary run: a picture is taken on purpose.
"""

import io
import json
import math
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser

from chassis.clock import utc_now
from chassis.identifiers import new_id
from chassis.money import MICROS_PER_USD
from contracts.analytics import GetKpis, GetNumbers
from contracts.errors import Conflict
from contracts.legacy import PoolQuote, QuoteAddition, QuoteExchange, TakeQuote
from contracts.messages import Request
from contracts.wallet import Credit, Verify
from deploy.grafana.dashboards import dashboards
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from deploy.local.startup import free_port
from deploy.parts import PROCESSES
from tests.e2e.conftest import browser  # noqa: F401 - a fixture
from tests.faults.test_backups import operate
from tests.monitoring.watched import DEPLOYED, SCRAPED_EVERY_S, WatchedNode, Watcher
from tests.people.person import WAYS, Person
from tests.people.test_people import AT_ONCE, Town
from tests.system import System
from tests.tidy.test_monitoring import metrics_in
from tests.topup.conftest import Sandbox

GRAFANA = ROOT / "deploy/grafana"
IMAGES = ROOT / "docs/images/dashboards"
DRAWING = Path(__file__).with_name("drawing.html")
UPLOT = ROOT / "node_modules/uplot/dist"
MINUTES = float(os.environ.get("PICTURES_MINUTES") or 6)
RATE_INTERVAL = f"{4 * SCRAPED_EVERY_S}s"
"""As Grafana reckons it."""
WEEK = timedelta(days=7)
COLOURS = 128
EXPORTER_OF = {
    metric: exporter
    for exporter, metric in (
        line.split()
        for line in (DEPLOYED / "foreign_metrics.txt").read_text().splitlines()
        if not line.startswith("#")
    )
}
ABROAD = {*EXPORTER_OF.values()} - {"prometheus", "rabbitmq_prometheus"}
"""Exporters that neither the product nor its broker brings."""
SETTINGS = {
    "JANITOR_LOOKS_S": "15,30,60",
    "SYSTEM_CHARGES_PER_HOUR_MAX": "10000",
}

pytestmark = pytest.mark.timeout(3_600)


@pytest.fixture(scope="module")
def node(scratch: Path) -> Iterator[WatchedNode]:
    made = WatchedNode(scratch / "watched-broker", free_port())
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def product(postgres: Postgres, node: WatchedNode, scratch: Path) -> Iterator[System]:
    directory = scratch / "product"
    directory.mkdir()
    with System(postgres, node, directory, (*PROCESSES, "mailbox"), SETTINGS).running() as made:
        yield made


@pytest.fixture(scope="module")
def watcher(
    product: System, node: WatchedNode, postgres: Postgres, scratch: Path
) -> Iterator[Watcher]:
    directory = scratch / "watcher"
    directory.mkdir()
    made = Watcher(directory, product, node, postgres)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_take_the_pictures(product: System, watcher: Watcher, browser: Browser) -> None:  # noqa: F811
    began_at = int(time.time())
    # As each night.
    product.rpc.call(Verify())
    live(product, began_at + MINUTES * 60)
    moments = range(began_at, int(time.time()), SCRAPED_EVERY_S)

    IMAGES.mkdir(exist_ok=True)
    for name in dashboards():
        drawn = answered(json.loads((GRAFANA / f"{name}.json").read_text()), watcher, moments)
        (IMAGES / f"{name}.png").write_bytes(picture(browser, drawn))
        for panel in drawn["panels"]:
            if not panel["series"]:
                print(f"{name}: {panel['title']}: {panel['silence']}")
    for labels, _ in watcher.answers('ALERTS{alertstate="firing"}', moments):
        print(f"fired: {labels}")


class Trader:
    """Somebody from the old system, who exchanges dollars for its coin in a pool."""

    POOL = "TFP-USD"

    def __init__(self, product: System) -> None:
        self._rpc, self._user_id = product.rpc, new_id()
        self._rpc.call(
            Credit(
                idempotency_key=str(new_id()),
                user_id=self._user_id,
                amount_micros=1_000 * MICROS_PER_USD,
                description="From the old system",
            )
        )
        given = ("adjust", str(self._user_id), "TFP", "900", "--by", "a test", "--reason", "-")
        done = operate(product, "legacy", "services.legacy.pool_book", *given, settings={})
        assert done[0] == 0, done[1]
        parts = {"base_units": 900 * MICROS_PER_USD, "other_units": 450 * MICROS_PER_USD}
        self._takes(QuoteAddition(user_id=self._user_id, pool=self.POOL, **parts))

    def exchanges(self) -> None:
        part = {"give": "USD", "give_units": MICROS_PER_USD}
        # Another order of theirs may be under way.
        with suppress(Conflict):
            self._takes(QuoteExchange(user_id=self._user_id, pool=self.POOL, **part))

    def _takes(self, wish: Request[PoolQuote]) -> None:
        self._rpc.call(
            TakeQuote(
                user_id=self._user_id,
                quote_id=self._rpc.call(wish).quote_id,
                slippage_bps=500,
                idempotency_key=str(new_id()),
            )
        )


def live(product: System, until: float) -> None:
    """People come, on each of their ways as often as ever, and somebody looks at the figures.
    Half of the time has passed when the card processor answers some automatic charges with 500."""
    chance = random.Random(17)
    ways = [way for way, count in WAYS.items() for _ in range(count) if way is not Person.hesitates]
    town, trader = Town(product), Trader(product)
    trouble_at = (time.time() + until) / 2
    while time.time() < until:
        come = chance.choices(ways, k=AT_ONCE)
        if time.time() > trouble_at:
            trouble_at = math.inf
            charge = {"method": "POST", "path": "/v1/payment_intents"}
            Sandbox(product.sandbox_url).switch("error_after", match=charge, times=4)
            come = [Person.is_topped_up] * AT_ONCE
        trader.exchanges()
        now = utc_now()
        product.rpc.call(GetKpis(since=now - WEEK, until=now))
        product.rpc.call(GetNumbers(since=now - WEEK, until=now))
        town.lives(come)
    town.leaves()


def answered(dashboard: dict[str, Any], watcher: Watcher, moments: range) -> dict[str, Any]:
    """A dashboard with what Prometheus answers to it, for draw() of drawing.html."""
    return {
        "title": dashboard["title"],
        "times": list(moments),
        "panels": [
            {
                "title": panel["title"],
                "meaning": panel["description"],
                "grid": panel["gridPos"],
                "unit": panel["fieldConfig"]["defaults"]["unit"],
                "bound": panel["fieldConfig"]["defaults"].get("custom", {}).get("axisSoftMax"),
                "series": [
                    {"label": legend(target["legendFormat"], labels), "values": values}
                    for target in panel["targets"]
                    for labels, values in series(target["expr"], watcher, moments)
                ],
                "silence": silence(panel, watcher),
            }
            for panel in dashboard["panels"]
        ],
    }


def series(
    query: str, watcher: Watcher, moments: range
) -> Iterator[tuple[dict[str, str], list[float | None]]]:
    """What a query has at each of these moments. A quantile of nothing is no number."""
    asked = query.replace("$__rate_interval", RATE_INTERVAL)
    for labels, values in watcher.answers(asked, moments):
        yield labels, [value if math.isfinite(value) else None for value in values]


def legend(pattern: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda label: labels.get(label[1], ""), pattern)


def silence(panel: dict[str, Any], watcher: Watcher) -> str:
    """Why a panel may have nothing to show."""
    asked = metrics_in(" ".join(target["expr"] for target in panel["targets"]))
    away = {metric for metric in asked if EXPORTER_OF.get(metric) in ABROAD - {*watcher.exporters}}
    if asked - away:
        return "Nothing of it happened meanwhile."
    exporters = " or ".join(sorted({EXPORTER_OF[metric] for metric in away}))
    return f"It asks {exporters}, which did not run here."


def picture(chromium: Browser, drawn: dict[str, Any]) -> bytes:
    """As a small PNG."""
    page = chromium.new_page(viewport={"width": 1440, "height": 600})
    page.goto(DRAWING.as_uri())
    page.add_style_tag(path=UPLOT / "uPlot.min.css")
    page.add_script_tag(path=UPLOT / "uPlot.iife.min.js")
    page.evaluate("draw", drawn)
    taken = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    page.close()
    small = io.BytesIO()
    taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()
