"""The way from a click to a commit, over HTTP: the product, an earlier commit of it, and a shop on
stock nameko, in turns.

``BASELINE`` names the commit. ``SITE_PEER`` is a clone of nameko's example application
(github.com/nameko/nameko-examples), which is not ours to keep, with ``redis-server`` installed
and a virtual environment for it in ``.venv``: ``pip install nameko==3.0.0rc11 marshmallow==2.19.2
redis==3.2.1 nameko-sqlalchemy==1.5.0 'sqlalchemy<1.4' alembic==1.4.3 psycopg2-binary``. Without it
a pair of services on stock nameko does the same work (``benchmarks/site/stock_shop.py``).

Rates are what two busy processors leave; processor time for a request is steadier.
"""

import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
import requests

from benchmarks.conftest import Record
from benchmarks.site.load import Answers, Ask, put_load
from benchmarks.site.processor import used_at_rest_s
from benchmarks.site.stands import Peer, Product, Stand, tree_of
from chassis.identifiers import new_id
from deploy.local.processes import ROOT

BASELINE = os.environ.get("BASELINE", "07b763b")
SITE_PEER = os.environ.get("SITE_PEER")
ROUNDS = int(os.environ.get("SITE_ROUNDS", "3"))
SECONDS = float(os.environ.get("SITE_SECONDS", "5"))
WARM_UP_S = 1.0
ERRORS_MAX = 0.01
ANSWERS_MIN = 20
SHORT_OF_FUNDS = 40
NOTICES_AFTER_S = 1.0
"""Longer than a purchase takes: the card processor tells of a charge when that was answered."""

READ, BUY, INFO = "read a product", "buy, enough funds", "GET /api/wallet/info"
PAGES = {
    "page /": "/",
    "page marketplace": "/marketplace",
    "page dashboard": "/dashboard",
    "page wallet": "/dashboard/wallet",
    "page transactions": "/dashboard/wallet/transactions",
}
LOADS = [(what, connections) for what in (READ, BUY) for connections in (10, 40)]
LOADS += [(INFO, 10), (INFO, 50), (READ, 50), *((page, 50) for page in PAGES)]
PEER_LOADS = LOADS[:4]
PROCESSOR_MS_MAX = {BUY: 11.5, INFO: 2.8} | dict.fromkeys(PAGES, 7)


@dataclass
class Measured:
    """All rounds of one load on one stand."""

    answers: list[Answers] = field(default_factory=list)
    processor_ms: list[dict[str, float]] = field(default_factory=list)

    def median(self, of: Callable[[Answers], float]) -> float:
        return median(of(answers) for answers in self.answers)

    @property
    def per_s(self) -> float:
        return self.median(lambda answers: answers.per_s)

    @property
    def p95_ms(self) -> float:
        return self.median(lambda answers: answers.p95_ms)

    def shown(self) -> str:
        percentiles = (lambda one: one.p50_ms), (lambda one: one.p95_ms), (lambda one: one.p99_ms)
        return f"{self.per_s:.0f} a second, " + "/".join(
            f"{self.median(of):.0f}" for of in percentiles
        )

    def by_process_ms(self) -> dict[str, float]:
        names = self.processor_ms[0]
        return {name: median(round_ms[name] for round_ms in self.processor_ms) for name in names}

    def sum_ms(self) -> float:
        return median(sum(round_ms.values()) for round_ms in self.processor_ms)


Found = dict[tuple[str, str, int], Measured]


@pytest.fixture(scope="module")
def stands() -> Iterator[tuple[Stand, Stand, Stand]]:
    """Ours, the earlier commit's, and the peer's."""
    ours = Product("ours", ROOT, SHORT_OF_FUNDS)
    baseline = Product(BASELINE, tree_of(BASELINE), SHORT_OF_FUNDS)
    peer = Peer(Path(SITE_PEER) if SITE_PEER else None)
    try:
        yield ours.ready(), baseline.ready(), peer.ready()
    finally:
        for stand in (ours, baseline, peer):
            stand.stop()


def measure_the_site_from_click_to_commit(
    stands: tuple[Stand, Stand, Stand], record: Record
) -> None:
    ours, baseline, peer = stands
    found: Found = defaultdict(Measured)
    for turn, (what, connections) in itertools.product(range(ROUNDS), LOADS):
        for stand in stands:
            if stand is peer and (what, connections) not in PEER_LOADS:
                continue
            if turn == 0:
                put_load(stand.base_url, asked(stand, what), connections, WARM_UP_S)
            load_once(stand, what, connections, found[stand.title, what, connections])
    record_against_peer(record, found, stands)
    record_against_baseline(record, found, ours, baseline)
    record_processor_time(record, found, stands)
    record_short_of_funds(record, ours, baseline)


def asked(stand: Stand, what: str) -> Ask:
    """The request behind a word, in the words of this stand."""
    people = stand.people
    if "order" in people:
        return Ask("/orders", body=people["order"]) if what == BUY else Ask(people["product"])
    if what == READ:
        return Ask(f"/api/products/{people['product_id']}")
    if what == BUY:
        body = json.dumps({"product_id": people["product_id"]})
        return Ask("/api/wallet/instant-purchase", bearers(people["buyers"]), body)
    if what == INFO:
        tokens = [visitor["token"] for visitor in people["visitors"]]
        return Ask("/api/wallet/info", bearers(tokens))
    return Ask(PAGES[what], [f"Cookie: {visitor['cookies']}" for visitor in people["visitors"]])


def bearers(tokens: list[str]) -> list[str]:
    return [f"Authorization: Bearer {token}" for token in tokens]


def load_once(stand: Stand, what: str, connections: int, measured: Measured) -> None:
    before = used_at_rest_s(stand.processes)
    answers = put_load(stand.base_url, asked(stand, what), connections, SECONDS)
    after = used_at_rest_s(stand.processes)
    assert answers.requests >= ANSWERS_MIN, f"{stand.title}, {what}: {answers}"
    assert answers.errors <= ERRORS_MAX * answers.requests, f"{stand.title}, {what}: {answers}"
    # At the end one more is under way on each connection; it is carried out, and nobody hears.
    carried_out = answers.requests + connections
    measured.answers.append(answers)
    measured.processor_ms.append(
        {name: 1_000 * (after[name] - before[name]) / carried_out for name in before}
    )


def record_against_peer(record: Record, found: Found, stands: tuple[Stand, Stand, Stand]) -> None:
    ours, _, peer = stands
    # The pair writes an order and tells of it once: what there is to buying is not its business.
    aims = (3.0, 3.0, None, 1.5 if SITE_PEER else None)
    for (what, connections), at_least in zip(PEER_LOADS, aims, strict=True):
        mine, theirs = found[ours.title, what, connections], found[peer.title, what, connections]
        record(
            f"HTTP, {what}: ours ÷ {peer.title}, {connections} connections",
            mine.per_s / theirs.per_s,
            at_least=at_least,
            detail=f"{mine.shown()} ms (p50/p95/p99) against {theirs.shown()} ms;"
            f" {theirs.sum_ms():.1f} ms of processor for each of theirs",
        )


def record_against_baseline(record: Record, found: Found, ours: Stand, baseline: Stand) -> None:
    for what, connections in LOADS:
        mine, theirs = (
            found[ours.title, what, connections],
            found[baseline.title, what, connections],
        )
        record(
            f"HTTP, {what}, {connections} connections: p95 ÷ that of {BASELINE}",
            mine.p95_ms / theirs.p95_ms,
            at_most=0.35 if connections == 50 else None,
            detail=f"{mine.shown()} ms (p50/p95/p99) against {theirs.shown()} ms",
        )


def record_processor_time(record: Record, found: Found, stands: tuple[Stand, Stand, Stand]) -> None:
    """Of the load on the most connections: more of what happens at once is done at once."""
    for what in (BUY, INFO, READ, *PAGES):
        connections = max(number for name, number in LOADS if name == what)
        for stand in stands[:2]:
            measured = found[stand.title, what, connections]
            record(
                f"{what}, {stand.title}",
                f"{measured.sum_ms():.1f}",
                at_most=PROCESSOR_MS_MAX.get(what) if stand is stands[0] else None,
                detail="",
                processor_ms=measured.by_process_ms(),
            )


def record_short_of_funds(record: Record, ours: Stand, baseline: Stand) -> None:
    """What the card processor's sandbox takes for such a charge is taken out, of each its own. Each
    begins when neither has anything left to do."""
    for stand in (ours, baseline):
        have_notices_come_later(stand)
    took_ms: dict[str, list[float]] = {ours.title: [], baseline.title: []}
    charged_ms: dict[str, list[float]] = {ours.title: [], baseline.title: []}
    for number in range(SHORT_OF_FUNDS):
        for stand in (ours, baseline):
            time.sleep(NOTICES_AFTER_S)
            for each in (ours, baseline):
                used_at_rest_s(each.processes)
            took_ms[stand.title].append(buy_short_of_funds(stand, number))
            charged_ms[stand.title].append(charge_at_the_sandbox(stand))
    processor_ms = {title: median(took) for title, took in charged_ms.items()}
    own_ms = {
        title: [each - processor_ms[title] for each in took_ms[title][5:]] for title in took_ms
    }
    p95 = {title: quantiles(own, n=20)[-1] for title, own in own_ms.items()}
    p50 = {title: median(own) for title, own in own_ms.items()}
    record(
        f"HTTP, Buy Now short of funds, to completed: p95 ÷ that of {BASELINE}",
        p95[ours.title] / p95[baseline.title],
        at_most=0.6,
        detail=f"p50 {p50[ours.title]:.0f}, p95 {p95[ours.title]:.0f} ms against"
        f" {p50[baseline.title]:.0f} and {p95[baseline.title]:.0f} ms;"
        f" {processor_ms[ours.title]:.0f} and {processor_ms[baseline.title]:.0f} ms of the"
        " processor's sandbox taken out;"
        f" {SHORT_OF_FUNDS - 5} purchases one after the other",
    )


def have_notices_come_later(stand: Stand) -> None:
    switch = {"kind": "webhook_delay", "seconds": NOTICES_AFTER_S, "times": None}
    url = f"{stand.people['sandbox_url']}/_sandbox/switches"
    answer = requests.post(url, json=switch, timeout=30)
    assert answer.ok, answer.text


def buy_short_of_funds(stand: Stand, number: int) -> float:
    """How long one takes that waits for its top-up and answers when it is completed, in ms."""
    token = stand.people["short_of_funds"][number]
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(new_id())}
    body = {"product_id": stand.people["product_id"]}
    url = f"{stand.base_url}/api/wallet/purchase-with-topup"
    begun = time.perf_counter()
    answer = requests.post(url, json=body, headers=headers, timeout=30)
    took_ms = (time.perf_counter() - begun) * 1_000
    assert answer.status_code == 200, answer.text
    return took_ms


def charge_at_the_sandbox(stand: Stand) -> float:
    """How long the sandbox takes for a charge as the product makes it, in ms."""
    url, headers = stand.people["sandbox_url"], {"Authorization": "Bearer sk_test_of_the_benchmark"}
    (customer,) = _read(f"{url}/v1/customers?limit=1", headers)["data"]
    cards = _read(f"{url}/v1/customers/{customer['id']}/payment_methods", headers)["data"]
    charge = {
        "amount": "2500",
        "currency": "usd",
        "customer": customer["id"],
        "payment_method": cards[0]["id"],
        "confirm": "true",
        "off_session": "true",
        "error_on_requires_action": "true",
        "expand[]": ["latest_charge", "payment_method"],
    }
    begun = time.perf_counter()
    answer = requests.post(f"{url}/v1/payment_intents", data=charge, headers=headers, timeout=30)
    took_ms = (time.perf_counter() - begun) * 1_000
    assert answer.ok, answer.text
    return took_ms


def _read(url: str, headers: dict[str, str]) -> Any:
    answer = requests.get(url, headers=headers, timeout=30)
    assert answer.ok, answer.text
    return answer.json()
