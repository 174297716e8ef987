"""/metrics: what the website counts, over all of its workers."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.assets import ENDPOINTS
from services.gateway.server.connections import HEAD_BYTES_MAX
from tests.gateway.conftest import Api, Front
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually
from tests.system import System

ASKED = 12
BUSY, WAITING, THREADS = (
    (f"mycelium_gateway_{name}",) for name in ("threads_busy", "requests_waiting", "threads_limit")
)
LOGIN_FORMS = ("mycelium_gateway_request_seconds_count", "accounts.login_form")
TURNED_AWAY = "mycelium_gateway_connections_turned_away_total"


def samples(base_url: str) -> dict[tuple[str, ...], float]:
    """The value of each sample, by its name and the values of its labels."""
    answer = requests.get(f"{base_url}/metrics", timeout=PATIENCE_S)
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
        requests.get(f"{front.base_url}/login", timeout=PATIENCE_S)

    counted = eventually(
        lambda: samples(front.base_url), lambda seen: seen.get(LOGIN_FORMS, 0) >= ASKED
    )

    assert counted["mycelium_gateway_requests_total", "GET", "200"] >= ASKED
    assert counted[LOGIN_FORMS] == ASKED


def test_of_a_worker_that_was_replaced_what_it_had_counted_is_kept_and_its_threads_are_not(
    start_front: Callable[..., Front],
) -> None:
    front = start_front(GATEWAY_WORKERS="1")
    requests.get(f"{front.base_url}/login", timeout=PATIENCE_S)
    eventually(lambda: samples(front.base_url).get(LOGIN_FORMS) == 1)
    [worker] = front.workers()
    worker.kill()
    worker.wait(PATIENCE_S)
    eventually(front.answers, within_s=START_PATIENCE_S)

    # Its own two threads are gone with it.
    eventually(
        lambda: [samples(front.base_url).get(name) for name in (LOGIN_FORMS, THREADS)],
        lambda seen: seen == [1, 2],
    )


def test_threads_that_are_busy_and_requests_that_wait_for_one_are_shown(system: System) -> None:
    def shown() -> list[float]:
        found = samples(system.base_url)
        return [found[name] for name in (BUSY, WAITING, THREADS)]

    is_seen = threading.Event()

    def asks(number: int) -> set[int]:
        """Again and again: nobody waits long for a service that left others without an answer."""
        # Each another page: nobody is shown what somebody else was told.
        url = f"{system.base_url}/api/products?limit={1 + number}"
        statuses = set()
        while not is_seen.is_set():
            statuses.add(requests.get(url, timeout=120).status_code)
        return statuses

    threads = shown()[2]
    asking = int(threads) + ASKED
    catalog = psutil.Process(system.child("catalog").pid)
    with ThreadPoolExecutor(asking) as people:
        catalog.suspend()
        try:
            answers = [people.submit(asks, number) for number in range(asking)]
            seen = eventually(shown, lambda now: now[0] == threads and now[1] > 0)
        finally:
            is_seen.set()
            catalog.resume()
        answered = set().union(*(each.result() for each in answers))

    assert threads == 32
    assert seen[0] + seen[1] <= asking
    assert answered <= {200, 503}
    assert eventually(shown, lambda now: now[0] == 0) == [0, 0, threads]


def test_connections_that_are_turned_away_are_counted_by_why(
    start_front: Callable[..., Front],
) -> None:
    front = start_front(GATEWAY_CONNECTIONS="10", GATEWAY_REQUEST_TIMEOUT_S="10")

    def counted() -> dict[str, float]:
        found = samples(front.base_url)
        return {key[1]: value for key, value in found.items() if key[0] == TURNED_AWAY}

    before = counted()
    front.connect().sendall(b"This is no HTTP\r\n\r\n")
    front.connect().sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * HEAD_BYTES_MAX)
    # Before others take their places.
    eventually(counted, lambda now: now["malformed_request"] and now["headers_too_large"])
    for _ in range(40):
        front.connect()

    assert set(before.values()) == {0}
    seen = eventually(counted, lambda now: now["no_place"] + now["request_timeout"] >= 40)
    assert seen["no_place"] >= 20 > seen["request_timeout"] > 0
    assert {code for code, times in seen.items() if not times} == {"answer_not_read"}


def test_probes_and_static_files_are_not_among_what_people_wait_for(site: Api) -> None:
    page = requests.get(f"{site.base_url}/login", timeout=PATIENCE_S).text
    [file, *_] = re.findall(r'"(/static/[^"]+)"', page)
    for path in ("/healthz", "/readyz", "/metrics", file, "/static/of-before/favicon.svg"):
        requests.get(site.base_url + path, timeout=PATIENCE_S)

    views = {
        key[1]
        for key in samples(site.base_url)
        if key[0] == "mycelium_gateway_request_seconds_count"
    }

    assert "accounts.login_form" in views
    assert {view.split(".")[0] for view in views}.isdisjoint({"health", "metrics", *ENDPOINTS})


def test_what_a_client_makes_up_is_not_a_label(site: Api) -> None:
    # No digits, which any number of the answer may hold by chance.
    for path in ("/no-such-page-madeup", "/login"):
        requests.request("MADEUP", site.base_url + path, timeout=PATIENCE_S)
    answer = requests.get(f"{site.base_url}/metrics", timeout=PATIENCE_S).text

    assert 'method="other"' in answer
    assert "madeup" not in answer.lower()


def test_probes_fill_no_log(start_front: Callable[..., Front]) -> None:
    front = start_front()
    for path in ("/healthz", "/readyz", "/metrics", "/login"):
        requests.get(front.base_url + path, timeout=PATIENCE_S)

    logged = eventually(lambda: front.child.tail(100), lambda log: '"/login"' in log)

    assert '"/healthz"' not in logged
    assert '"/readyz"' not in logged
    assert '"/metrics"' not in logged
