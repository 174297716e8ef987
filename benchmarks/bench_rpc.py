"""What a call costs: our echo, stock nameko's, and aio-pika's RPC pattern."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.conftest import Record, median_ratio
from benchmarks.load import NamekoCallers, aio_pika_calls
from deploy.local.broker import Node, VirtualHost
from deploy.local.child import Child
from deploy.local.processes import ROOT
from deploy.local.startup import wait_for

CLIENTS = 40
ROUNDS = 5
SECONDS = 4.0
READY_TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def vhost(broker: Node) -> Iterator[VirtualHost]:
    vhost = broker.vhost("bench-rpc")
    yield vhost
    vhost.stop()


@pytest.fixture(scope="module")
def echoes(vhost: VirtualHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualHost]:
    """All three echo services, running and answering."""
    directory: Path = tmp_path_factory.mktemp("echoes")
    stock = directory / "stock.yaml"
    stock.write_text(f"AMQP_URI: {vhost.admin_uri}\nmax_workers: 10\n")
    nameko = [sys.executable, "-m", "nameko", "run", "--config"]
    commands = {
        "stock": [*nameko, str(stock), "benchmarks.echoes.stock"],
        "ours": [*nameko, "chassis/nameko.yaml", "benchmarks.echoes.ours"],
        "aio": [sys.executable, "-m", "benchmarks.echoes.aio"],
    }
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "AMQP_URI": vhost.admin_uri,
        "DATABASE_URL": "postgresql+psycopg2://unused",
    }
    children = [
        Child(name, argv, environment, directory / f"{name}.log", directory=ROOT)
        for name, argv in commands.items()
    ]
    for child in children:
        child.start()
    for name in ("stock", "ours"):
        assert wait_for(lambda name=name: _answers(vhost, name), READY_TIMEOUT_S), name
    yield vhost
    for child in children:
        child.stop()


def _answers(vhost: VirtualHost, name: str) -> bool:
    callers = NamekoCallers(vhost.admin_uri, f"{name}.echo", lambda: {"n": 1})
    try:
        return asyncio.run(asyncio.wait_for(callers.run_async(1, 0.1), 2)).calls_per_s > 0
    except (TimeoutError, ConnectionError):
        return False


def measure_our_echo_against_stock_nameko_and_aio_pika(echoes: VirtualHost, record: Record) -> None:
    uri = echoes.admin_uri
    rates: dict[str, list[float]] = {"stock": [], "ours": [], "aio": []}
    for _ in range(ROUNDS):
        for name in ("stock", "ours"):
            callers = NamekoCallers(uri, f"{name}.echo", lambda: {"n": 1})
            rates[name].append(callers.run(CLIENTS, SECONDS).calls_per_s)
        rates["aio"].append(aio_pika_calls(uri, "aio", CLIENTS, SECONDS).calls_per_s)

    for other, title, at_least in (
        ("stock", "our echo RPC ÷ stock nameko's", 1.3),
        ("aio", "our echo RPC ÷ aio-pika's RPC pattern", 1.0),
    ):
        record(
            f"{title}, {CLIENTS} clients",
            median_ratio(rates["ours"], rates[other]),
            at_least=at_least,
            detail=f"{max(rates['ours']):.0f} against {max(rates[other]):.0f} calls a second",
        )
