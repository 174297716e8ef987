"""The proxy of docker-compose.yml, with its own configuration, before two replicas."""

import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from deploy.local.child import Child
from deploy.local.processes import ROOT
from deploy.local.startup import free_port
from tests.gateway.conftest import Front
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually

REPLICAS = ("127.0.0.2", "127.0.0.3")
IN_AN_UPGRADE = (*REPLICAS, "127.0.0.4", "127.0.0.5")
PEOPLE = 12
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"


@contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[str]:
    """Answers every question with these addresses, as Docker's does for a service."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            query, asker = server.recvfrom(512)
            if not query:
                return
            server.sendto(answer_to(query, addresses), asker)

    serving = threading.Thread(target=serve)
    serving.start()
    host, port = server.getsockname()
    yield f"{host}:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
        stop.sendto(b"", (host, port))
    serving.join()
    server.close()


def answer_to(query: bytes, addresses: Sequence[str]) -> bytes:
    question_end = query.index(b"\0", 12) + 5
    header = query[:2] + struct.pack(">5H", 0x8180, 1, len(addresses), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(address)
        for address in addresses
    )
    return header + query[12:question_end] + records


@pytest.fixture
def replicas(start_front: Callable[..., Front]) -> list[Front]:
    port = free_port()
    settings = {"TRUSTED_PROXIES": "1", "GATEWAY_WORKERS": "1"}
    return [start_front(host, port, **settings) for host in REPLICAS]


@contextmanager
def proxy_before(addresses: Sequence[str], port: int, directory: Path) -> Iterator[str]:
    listens = f"127.0.0.1:{free_port()}"
    with name_server(addresses) as server:
        environment = {
            "PATH": os.environ["PATH"],
            "LISTEN": listens,
            "GATEWAY": f"gateway:{port}",
            "NAMESERVER": server,
        }
        argv = [HAPROXY, "-f", str(ROOT / "deploy/compose/haproxy.cfg")]
        child = Child("proxy", argv, environment, directory / "proxy.log")
        child.start()
        try:
            yield f"http://{listens}"
        finally:
            child.kill()


@pytest.fixture
def proxy(replicas: list[Front], tmp_path: Path) -> Iterator[str]:
    with proxy_before(REPLICAS, replicas[0].port, tmp_path) as url:
        for front in replicas:
            eventually(
                lambda front=front: status(url) == 200 and asked(front) > 0,
                within_s=START_PATIENCE_S,
            )
        yield url


class Website(ThreadingHTTPServer):
    """Answers when it is told to, and counts whom it has in hand."""

    def __init__(self, address: str, port: int, may_answer: threading.Event) -> None:
        self.asked = 0
        self.may_answer = may_answer
        super().__init__((address, port), Visit)


class Visit(BaseHTTPRequestHandler):
    server: Website

    def do_GET(self) -> None:
        self.answers()

    def do_POST(self) -> None:
        self.server.asked += 1
        self.server.may_answer.wait(PATIENCE_S)
        self.answers()

    def answers(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: nobody reads it."""


@pytest.fixture
def may_answer() -> threading.Event:
    found = threading.Event()
    found.set()
    return found


@pytest.fixture
def websites(may_answer: threading.Event) -> Iterator[list[Website]]:
    port = free_port()
    made = [Website(address, port, may_answer) for address in IN_AN_UPGRADE]
    for website in made:
        threading.Thread(target=website.serve_forever, daemon=True).start()
    yield made
    may_answer.set()
    for website in made:
        website.shutdown()
        website.server_close()


def status(url: str) -> int:
    """What a new connection is answered; 0 when there is none."""
    try:
        return requests.get(f"{url}/login", timeout=PATIENCE_S).status_code
    except requests.RequestException:
        return 0


def asked(front: Front) -> int:
    """How many requests of users this replica has answered."""
    return front.child.tail(500).count('"/login"')


def test_requests_are_spread_and_a_killed_replica_is_left_out(
    proxy: str, replicas: list[Front]
) -> None:
    replicas[0].child.kill()

    assert [status(proxy) for _ in range(20)] == [200] * 20


def test_nobody_is_refused_while_two_of_four_websites_close_their_ports(
    websites: list[Website], may_answer: threading.Event, tmp_path: Path
) -> None:
    with proxy_before(IN_AN_UPGRADE, websites[0].server_port, tmp_path) as url:

        def bought() -> int:
            return requests.post(f"{url}/api/purchases", timeout=PATIENCE_S).status_code

        eventually(lambda: status(url) == 200)
        eventually(lambda: bought() and all(website.asked for website in websites))
        may_answer.clear()
        for website in websites[:2]:
            website.shutdown()
            website.server_close()
        asked_before = sum(website.asked for website in websites)
        with ThreadPoolExecutor(PEOPLE) as people:
            answers = [people.submit(bought) for _ in range(PEOPLE)]

            def arrived() -> int:
                is_told = [answer.done() for answer in answers]
                return sum(website.asked for website in websites) - asked_before + sum(is_told)

            # The other two are kept busy: those that are closed have the least to do.
            eventually(arrived, lambda count: count == PEOPLE)
            may_answer.set()

        assert [answer.result() for answer in answers] == [200] * PEOPLE


def test_metrics_stay_inside_however_their_path_is_encoded(proxy: str) -> None:
    def status_of(path: str) -> int:
        # requests would send the encoded path decoded.
        connection = HTTPConnection(proxy.removeprefix("http://"), timeout=PATIENCE_S)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    paths = ["/healthz", "/metrics", "/%6Detrics", "/%6detrics?x=1", "/m%65trics"]
    assert [status_of(path) for path in paths] == [200, 404, 404, 404, 404]


def test_only_the_proxy_s_word_on_the_client_s_address_counts(
    proxy: str, replicas: list[Front]
) -> None:
    forged = {"X-Forwarded-For": "9.9.9.9"}
    requests.get(f"{proxy}/docs/forged", headers=forged, timeout=PATIENCE_S)

    def lines() -> list[str]:
        text = "\n".join(front.child.tail(500) for front in replicas)
        return [line for line in text.splitlines() if "/docs/forged" in line]

    [line] = eventually(lines)
    assert '"address": "127.0.0.1"' in line
