"""What a top-up takes of processors: one that a purchase sets off, and one by hand.

What the processes use by themselves meanwhile is taken out. A busy machine makes each of these
dearer, and a purchase as well, which is told beside them.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import pytest
import requests

from benchmarks.conftest import Record
from benchmarks.site.processor import used_at_rest_s, used_s
from benchmarks.site.stands import Product, Stand
from chassis.identifiers import new_id
from deploy.local.processes import ROOT

ROUNDS = int(os.environ.get("SITE_ROUNDS", "3"))
OF_A_ROUND = 40
AT_ONCE = 20
IDLE_S = 10.0
SETTLES_S = 10.0
"""The card processor's last notices come a moment after what they tell of."""

SHORT, ENOUGH, BY_HAND = "short of funds", "enough funds", "by hand"


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    product = Product("ours", ROOT, OF_A_ROUND * ROUNDS)
    try:
        yield product.ready()
    finally:
        product.stop()


def measure_what_a_topup_takes_of_processors(stand: Stand, record: Record) -> None:
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for turn in range(ROUNDS):
        short = stand.people["short_of_funds"][turn * OF_A_ROUND : (turn + 1) * OF_A_ROUND]
        buyers = [stand.people["buyers"][number % 20] for number in range(OF_A_ROUND)]
        found[SHORT].append(
            _cost(stand, short, lambda who: _buy(stand, "purchase-with-topup", who))
        )
        found[ENOUGH].append(_cost(stand, buyers, lambda who: _buy(stand, "instant-purchase", who)))
        found[BY_HAND].append(_cost(stand, 3 * buyers, lambda who: _top_up(stand, who)))
        for token in short:
            _sees_it_completed(stand, token)
    of = {
        what: {name: median(each[name] for each in rounds) for name in stand.processes}
        for what, rounds in found.items()
    }
    bought_ms = sum(of[ENOUGH].values())
    automatic = {name: of[SHORT][name] - of[ENOUGH][name] for name in stand.processes}
    for title, costs in (
        ("an automatic top-up, beyond the purchase that sets it off", automatic),
        ("a top-up by hand, with its page", of[BY_HAND]),
    ):
        record(
            title,
            f"{sum(costs.values()):.1f}",
            detail=f"{AT_ONCE} at once, {ROUNDS} rounds; a purchase took {bought_ms:.1f}",
            processor_ms=costs,
        )


def _cost(stand: Stand, people: list[str], does: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds of each process for one of them, with all that follows from it."""
    idle = used_at_rest_s(stand.processes)
    idle_since = time.monotonic()
    time.sleep(IDLE_S)
    before, began = used_s(stand.processes), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(does, people))
    time.sleep(SETTLES_S)
    after = used_at_rest_s(stand.processes)
    as_long = (time.monotonic() - began) / (began - idle_since)
    return {
        name: 1_000 * (after[name] - used - as_long * (used - idle[name])) / len(people)
        for name, used in before.items()
    }


def _buy(stand: Stand, path: str, token: str) -> None:
    bought = _command(stand, token, path, {"product_id": stand.people["product_id"]})
    # On a busy machine it may be answered before it is completed.
    assert bought["status"] in ("completed", "awaiting_funds"), bought


def _sees_it_completed(stand: Stand, token: str) -> None:
    answer = requests.get(
        f"{stand.base_url}/api/purchases",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )
    assert [each["status"] for each in answer.json()["purchases"]] == ["completed"]


def _top_up(stand: Stand, token: str) -> None:
    page = _command(stand, token, "topups", {"amount": 25})["checkout_url"]
    form = {
        "number": "4242424242424242",
        "expiry": "12 / 34",
        "cvc": "123",
        "name": "Test Person",
        "email": "person@example.com",
    }
    paid = requests.post(page, data=form, timeout=30, allow_redirects=False)
    assert paid.status_code == 303, paid.text[:500]


def _command(stand: Stand, token: str, path: str, body: object) -> Any:
    answer = requests.post(
        f"{stand.base_url}/api/wallet/{path}",
        json=body,
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": str(new_id())},
        timeout=60,
    )
    assert answer.ok, answer.text
    return answer.json()
