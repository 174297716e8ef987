"""What a call costs: our echo, stock nameko's, and aio-pika's RPC pattern."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
import pytest

from benchmarks.conftest import Record, median_ratio
from benchmarks.load import NamekoCallers, aio_pika_calls
from deploy.local.broker import Node, VirtualHost
from deploy.local.child import Child
from deploy.local.processes import ROOT
from deploy.local.startup import wait_for
from deploy.local.traces import Spans, serving

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


def measure_what_traces_cost_an_echo(broker: Node, tmp_path: Path, record: Record) -> None:
    """Two processes of the same echo, in turns: one records every call and sends it."""
    spans = Spans(tmp_path / "spans.jsonl")
    server = serving(spans, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "off": {},
        "on": {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        },
    }
    vhosts = {name: broker.vhost(f"bench-traces-{name}") for name in settings}
    children = {}
    for name, own in settings.items():
        children[name] = Child(
            name,
            [
                sys.executable, "-m", "nameko", "run",
                "--config", "chassis/nameko.yaml", "benchmarks.echoes.ours",
            ],
            {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "AMQP_URI": vhosts[name].admin_uri,
                "DATABASE_URL": "postgresql+psycopg2://unused",
                **own,
            },
            tmp_path / f"{name}.log",
            directory=ROOT,
        )  # fmt: skip
        children[name].start()
        assert wait_for(lambda name=name: _answers(vhosts[name], "ours"), READY_TIMEOUT_S), name
    cost_us: dict[str, list[float]] = {"off": [], "on": []}
    for _ in range(ROUNDS):
        for name, child in children.items():
            before_s = sum(psutil.Process(child.pid).cpu_times()[:2])
            callers = NamekoCallers(vhosts[name].admin_uri, "ours.echo", lambda: {"n": 1})
            load = callers.run(CLIENTS, SECONDS)
            spent_s = sum(psutil.Process(child.pid).cpu_times()[:2]) - before_s
            cost_us[name].append(spent_s / len(load.latencies_s) * 1e6)
    for child in children.values():
        child.stop()
    for vhost in vhosts.values():
        vhost.stop()
    server.shutdown()
    server.server_close()
    record(
        "processor time of our echo, every call traced ÷ none",
        median_ratio(cost_us["on"], cost_us["off"]),
        detail=f"{median(cost_us['on']):.0f} against {median(cost_us['off']):.0f} µs a call",
    )


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
