"""/metrics: what the website counts, over all of its workers."""

from collections.abc import Callable

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.conftest import Api, Front
from tests.patience import eventually

ASKED = 12


def samples(base_url: str) -> dict[tuple[str, ...], float]:
    """The value of each sample, by its name and the values of its labels."""
    answer = requests.get(f"{base_url}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_are_counted_over_all_workers(start_front: Callable[..., Front]) -> None:
    front = start_front()
    for _ in range(ASKED):
        # A connection for each, so that both workers get some.
        requests.get(f"{front.base_url}/login", timeout=10)

    counted = samples(front.base_url)

    assert counted["mycelium_gateway_requests_total", "GET", "200"] >= ASKED
    assert counted["mycelium_gateway_request_seconds_count", "accounts.login_form"] == ASKED


def test_a_worker_that_was_replaced_keeps_what_it_had_counted(
    start_front: Callable[..., Front],
) -> None:
    front = start_front(GATEWAY_WORKERS="1")
    requests.get(f"{front.base_url}/login", timeout=10)
    [worker] = front.workers()
    worker.kill()
    worker.wait(30)
    eventually(front.answers)

    counted = samples(front.base_url)

    assert counted["mycelium_gateway_request_seconds_count", "accounts.login_form"] == 1


def test_what_a_client_makes_up_is_not_a_label(site: Api) -> None:
    # No digits, which any number of the answer may hold by chance.
    for path in ("/no-such-page-madeup", "/login"):
        requests.request("MADEUP", site.base_url + path, timeout=10)
    answer = requests.get(f"{site.base_url}/metrics", timeout=10).text

    assert 'method="other"' in answer
    assert "madeup" not in answer.lower()


def test_probes_fill_no_log(start_front: Callable[..., Front]) -> None:
    front = start_front()
    for path in ("/healthz", "/readyz", "/metrics", "/login"):
        requests.get(front.base_url + path, timeout=10)

    logged = eventually(lambda: front.child.tail(100), lambda log: '"/login"' in log)

    assert '"/healthz"' not in logged
    assert '"/readyz"' not in logged
    assert '"/metrics"' not in logged
