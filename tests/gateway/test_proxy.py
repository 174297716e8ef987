"""The proxy of docker-compose.yml, with its own configuration, before two replicas."""

import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests

from deploy.local.child import Child
from deploy.local.processes import ROOT
from deploy.local.startup import free_port
from tests.gateway.conftest import Front
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually

REPLICAS = ("127.0.0.2", "127.0.0.3")
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"


@pytest.fixture
def name_server() -> Iterator[str]:
    """Answers every question with the replicas' addresses, as Docker's does for a service."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            query, asker = server.recvfrom(512)
            if not query:
                return
            server.sendto(answer_to(query), asker)

    serving = threading.Thread(target=serve)
    serving.start()
    host, port = server.getsockname()
    yield f"{host}:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
        stop.sendto(b"", (host, port))
    serving.join()
    server.close()


def answer_to(query: bytes) -> bytes:
    question_end = query.index(b"\0", 12) + 5
    header = query[:2] + struct.pack(">5H", 0x8180, 1, len(REPLICAS), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(address)
        for address in REPLICAS
    )
    return header + query[12:question_end] + records


@pytest.fixture
def replicas(start_front: Callable[..., Front]) -> list[Front]:
    port = free_port()
    settings = {"TRUSTED_PROXIES": "1", "GATEWAY_WORKERS": "1"}
    return [start_front(host, port, **settings) for host in REPLICAS]


@pytest.fixture
def proxy(replicas: list[Front], name_server: str, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "LISTEN": f"127.0.0.1:{port}",
        "GATEWAY": f"gateway:{replicas[0].port}",
        "NAMESERVER": name_server,
    }
    argv = [HAPROXY, "-f", str(ROOT / "deploy/compose/haproxy.cfg")]
    child = Child("proxy", argv, environment, tmp_path / "proxy.log")
    child.start()
    url = f"http://127.0.0.1:{port}"
    for front in replicas:
        eventually(
            lambda front=front: status(url) == 200 and asked(front) > 0, within_s=START_PATIENCE_S
        )
    yield url
    child.kill()


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
