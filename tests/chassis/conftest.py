"""The probe service as a real process, on the real broker and a real database."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from chassis.client import RpcClient
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from deploy.local.broker import Node, VirtualHost
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from deploy.local.startup import wait_for
from deploy.local.traces import Span, Spans, serving
from tests.chassis.probe.messages import CountNoted, Echo
from tests.patience import START_PATIENCE_S, eventually
from tests.system import PatientClient


class Probe:
    """The probe's process, and what a test needs to talk to it and to look inside."""

    def __init__(
        self,
        vhost: VirtualHost,
        database_url: str,
        directory: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.vhost = vhost
        self.database: Connected = connect(database_url)
        self.rpc: RpcClient = PatientClient(vhost.admin_uri, name="test")
        self._directory = directory
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "AMQP_URI": vhost.admin_uri,
            "DATABASE_URL": database_url,
            "RETRY_DELAYS_S": "1,1",
            **(settings or {}),
        }
        self.children: list[Child] = []

    def launch(self, health_port: int = 0) -> Child:
        """Start one more process of the probe."""
        number = len(self.children)
        child = Child(
            f"probe-{number}",
            [
                sys.executable, "-m", "nameko", "run",
                "--config", "chassis/nameko.yaml", "tests.chassis.probe.service",
            ],
            {**self._environment, "HEALTH_PORT": str(health_port)},
            self._directory / f"probe-{number}.log",
            directory=ROOT,
        )  # fmt: skip
        self.children.append(child)
        child.start()
        return child

    def start(self, health_port: int = 0) -> Child:
        """Start one more process of the probe and wait until it answers."""
        child = self.launch(health_port)
        assert wait_for(self.answers, START_PATIENCE_S), child.tail()
        return child

    def answers(self) -> bool:
        try:
            return self.rpc.call(Echo(n=1), timeout_s=1).n == 1
        except Exception:
            return False

    def noted(self, n: int) -> int:
        return self.rpc.call(CountNoted(n=n)).n

    def comes_to_note(self, n: int, times: int = 1) -> None:
        eventually(lambda: self.noted(n), lambda seen: seen >= times)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Its processes do nothing for the length of the block: what is sent them waits."""
        running = [psutil.Process(child.pid) for child in self.children if child.is_running]
        for process in running:
            process.suspend()
        try:
            yield
        finally:
            for process in running:
                process.resume()

    def log(self) -> str:
        return "\n".join(child.tail(200) for child in self.children)

    def close(self) -> None:
        self.rpc.close()
        for child in self.children:
            child.kill()
        self.database.engine.dispose()
        self.vhost.stop()


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[Connected]:
    """An empty database, one for each module of tests."""
    name = f"empty_{new_id().hex[-12:]}"
    database = connect(postgres.create_database(name))
    yield database
    database.engine.dispose()
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def make_probe(
    postgres: Postgres, broker: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Probe]]:
    """Probes with a virtual host and a database of their own, ended with the module."""
    probes: dict[str, Probe] = {}

    def make(settings: Callable[[VirtualHost], Mapping[str, str]] = lambda _: {}) -> Probe:
        directory = tmp_path_factory.mktemp("probe")
        name = directory.name.replace("-", "_")
        database_url = postgres.create_database(name)
        migrate("tests.chassis.probe", database_url)
        vhost = broker.vhost(f"test-{name}")
        probes[name] = Probe(vhost, database_url, directory, settings(vhost))
        probes[name].start()
        return probes[name]

    yield make
    for name, probe in probes.items():
        probe.close()
        postgres.drop_database(name)


@pytest.fixture(scope="module")
def probe(make_probe: Callable[..., Probe]) -> Probe:
    """A running probe, one for each module of tests."""
    return make_probe()


@dataclass(frozen=True)
class Collector:
    """Takes spans by OTLP at its address."""

    address: str
    spans: Spans

    def trace(self, trace_id: str, count: int) -> list[Span]:
        """The spans of a trace, once there are so many."""
        return eventually(
            lambda: self.spans.traces().get(trace_id, []), lambda found: len(found) >= count
        )


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    spans = Spans(tmp_path_factory.mktemp("traces") / "spans.jsonl")
    server = serving(spans, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Collector(f"http://127.0.0.1:{server.server_address[1]}", spans)
    server.shutdown()
    thread.join()
    server.server_close()
