"""The whole product between wires, on servers and clocks of its own, to be disturbed at will."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from deploy.local.broker import Node, VirtualHost
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.processes import Process
from deploy.local.startup import free_port
from deploy.parts import LISTENERS, PROCESSES
from tests.faults.chaos.wire import Wire
from tests.patience import eventually
from tests.system import System, is_ready
from tests.topup.conftest import Sandbox

PATIENCE_S = 240.0
"""Of a whole product that was just disturbed, on a machine that does other things too."""

STOCKED = "3node-memory-kit"
STOCK = 1_000_000
DISK_BYTES = 900_000_000
"""What the database's disk holds, so that a test can fill it. It lies in memory."""

SETTINGS = {
    "CALL_TIMEOUT_S": "2",
    "TIMERS_FASTER": "3",
    "RETRY_DELAYS_S": "1,2,4,8,16,32,64",
    "AUTO_TOPUP_COOL_DOWN_S": "2",
    "AUTO_TOPUP_DECLINE_DELAY_S": "3",
    "JANITOR_LOOKS_S": "2,5,10,20,40,80,160,320",
    "STALE_AFTER_S": "20",
    "STRIPE_READ_TIMEOUT_S": "3",
    "STRIPE_NETWORK_RETRIES": "1",
    "USER_CHARGES_PER_HOUR_MAX": "10000",
    "RATE_LIMIT_TRANSFER": "10000 per hour",
    "TRANSFER_DAILY_LIMIT_MICROS": "100000000000",
    "TRANSFER_UNCHECKED_MICROS": "100000000000",
}
"""Short waits, so that a run of minutes sees what takes hours; and no limits but the cards'."""


class Wired:
    """A virtual host whose services come to it by a wire."""

    def __init__(self, host: VirtualHost, port: int, wire: Wire) -> None:
        self._host, self._ports = host, (f":{port}/", f":{wire.port}/")
        self.name, self.admin_uri, self.stop = host.name, host.admin_uri, host.stop

    def uri(self, service: str) -> str:
        return self._host.uri(service).replace(*self._ports)


class Product(System):
    """``wires`` lead to the broker, the database and the card processor."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = directory / "disk"
        self._mounts_disk()
        self.postgres = Postgres(self.disk, free_port())
        self.postgres._options = ["-c", "max_wal_size=160MB", "-c", "min_wal_size=48MB"]
        self.node = Node(directory / "rabbitmq", free_port())
        try:
            self.postgres.start()
            self.node.begin()
            self._waits_for_broker()
        except BaseException:
            self._ends_servers()
            raise
        super().__init__(self.postgres, self.node, directory, PROCESSES, SETTINGS)
        self.wires = {
            "broker": Wire(self.node.port),
            "database": Wire(self.postgres.port),
            "processor": Wire(self._ports.sandbox),
        }
        self.vhost: Any = Wired(self.vhost, self.node.port, self.wires["broker"])
        self.ahead = timedelta()
        self.engines: dict[str, Engine] = {}
        for name in LISTENERS:
            self.sets_clock(name, timedelta())

    def _mounts_disk(self) -> None:
        self.disk.mkdir(parents=True)
        self.has_own_disk = (
            os.geteuid() == 0
            and not subprocess.run(
                [
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    f"size={DISK_BYTES},mode=711",
                    "chaos",
                    str(self.disk),
                ],
                check=False,
                capture_output=True,
            ).returncode
        )

    def _waits_for_broker(self) -> None:
        """Longer than the product does, which is alone on its machine."""
        eventually(self.node._accepts, interval_s=0.2, within_s=PATIENCE_S)

    def database_url(self, service: str) -> str:
        straight = super().database_url(service)
        return straight.replace(f":{self.postgres.port}/", f":{self.wires['database'].port}/")

    def straight_url(self, service: str) -> str:
        """Of the service's database, by no wire."""
        return self._urls[service]

    def asks(self, service: str, statement: str, **values: object) -> list[Any]:
        """Straight from the database, by no wire."""
        if service not in self.engines:
            self.engines[service] = create_engine(self.straight_url(service), pool_pre_ping=True)
        with self.engines[service].begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    @cached_property
    def _processes(self) -> dict[str, Process]:
        return {name: self._wired(process) for name, process in super()._processes.items()}

    def _wired(self, process: Process) -> Process:
        environment = dict(process.environment)
        if "STRIPE_API_BASE" in environment:
            environment["STRIPE_API_BASE"] = f"http://127.0.0.1:{self.wires['processor'].port}"
        if process.name not in LISTENERS:
            return replace(process, environment=environment)
        environment["CLOCK_FILE"] = str(self._clock(process.name))
        argv = [sys.executable, "-W", "ignore", "-m", "tests.faults.living_ahead"]
        return replace(process, argv=[*argv, *process.argv[2:]], environment=environment)

    def start_all(self) -> None:
        super().start_all()
        self.asks("catalog", "UPDATE products SET stock = :stock WHERE slug = :slug",
                  stock=STOCK, slug=STOCKED)  # fmt: skip

    # Clocks.

    def _clock(self, name: str) -> Path:
        return self.directory / f"clock-{name}"

    def sets_clock(self, name: str, ahead: timedelta) -> None:
        """One process lives so far ahead of the world, or behind it."""
        draft = self._clock(name).with_suffix(".new")
        draft.write_text(str(ahead.total_seconds()))
        draft.replace(self._clock(name))

    def passes(self, by: timedelta) -> None:
        """Time passes for everybody, the card processor too."""
        self.ahead += by
        self.sandbox.post("clock", offset_s=int(self.ahead.total_seconds()))
        for name in LISTENERS:
            self.sets_clock(name, self.ahead)

    @cached_property
    def sandbox(self) -> Sandbox:
        """By no wire: this is the test's hand."""
        return Sandbox(self.sandbox_url)

    # What is done to processes.

    def processes_of(self, name: str) -> list[psutil.Process]:
        """A process of the product, or a server, with all its children."""
        roots = {"database": self.postgres.children, "broker": self.node.children}
        found = []
        for child in roots.get(name, [self._children[name]] if name in self._children else []):
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(child.pid)
                found += [root, *root.children(recursive=True)]
        return found

    def kills(self, name: str) -> None:
        for process in self.processes_of(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for child in self._all(name):
            child.kill()

    def freezes(self, name: str) -> list[psutil.Process]:
        """Stop its work without ending it; the processes, to be resumed."""
        frozen = self.processes_of(name)
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        return frozen

    def _all(self, name: str) -> Iterable[Child]:
        servers = {"database": self.postgres.children, "broker": self.node.children}
        return servers.get(name) or [self._children[name]]

    def repairs(self) -> list[str]:
        """What a supervisor does: start whatever does not run. Who that was."""
        started = []
        if not self.postgres._is_running():
            self.postgres._run_server()
            started.append("database")
        if not self.node._is_running():
            self.node._stop_server()
            self.node._run_server()
            self._waits_for_broker()
            started.append("broker")
        for name in self._wanted:
            if not self.is_running(name):
                self._launch(name)
                started.append(name)
        if "sandbox" in started:
            # It has forgotten what time it is.
            self.wait_ready("sandbox")
            self.passes(timedelta())
        return started

    def is_ready(self) -> bool:
        return all(is_ready(self.process(name).ready_url) for name in self._wanted)

    def comes_to_be_ready(self) -> None:
        eventually(self.is_ready, interval_s=0.2, within_s=PATIENCE_S)

    def close(self) -> None:
        self.end_processes()
        for engine in self.engines.values():
            engine.dispose()
        for wire in self.wires.values():
            wire.close()
        self._ends_servers()

    def _ends_servers(self) -> None:
        self.node.kill()
        self.postgres.stop()
        if self.has_own_disk:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)
