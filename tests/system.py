"""The product as real processes, for tests: on its own databases and its own virtual host."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import requests

from chassis.client import RpcClient
from chassis.database import Connected
from chassis.migrate import migrate
from contracts.messages import ReplyT, Request
from deploy.local.broker import Node, VirtualHost
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT, Ports, Process, Secrets, processes
from deploy.local.startup import wait_for
from deploy.local.traces import Span, Spans
from deploy.parts import DATABASES, PROCESSES
from tests.patience import PATIENCE_S, START_PATIENCE_S, insist

# A developer's own settings must not change what a test sees.
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START")
# All users of a test run come from one address, which the website would stop soon.
ROOMY_LIMITS = {
    "RATE_LIMIT_LOGIN": "10000 per minute",
    "RATE_LIMIT_LOGIN_ACCOUNT": "10000 per minute",
    "RATE_LIMIT_CART": "10000 per minute",
    "RATE_LIMIT_REGISTER": "10000 per minute",
    "RATE_LIMIT_DEFAULT": "100000 per minute",
}

PATIENT = {
    # A machine that stalls for some seconds makes no purchase pending, and no charge unknown.
    "CALL_TIMEOUT_S": "10",
    "STRIPE_CONNECT_TIMEOUT_S": "30",
}

QUICK = {
    # No address of a test is a name. To import eventlet's resolver, which would look nothing up,
    # takes a seventh of a service's start.
    "EVENTLET_NO_GREENDNS": "yes",
}


class PatientClient(RpcClient):
    """Calls services from a machine that may stall: no call without a time of its own ends because
    a contract's few seconds were over, or because too many waited."""

    def call(self, request: Request[ReplyT], timeout_s: float | None = None) -> ReplyT:
        if timeout_s is not None:
            return super().call(request, timeout_s)
        patience_s = max(PATIENCE_S, request.answer_within_s)
        return insist(lambda: super(PatientClient, self).call(request, patience_s))


class System:
    """Some or all processes of the product. Made by the fixtures ``system`` and ``service_stack``.

    ``system.rpc`` calls services as an operator who may call everything; ``system.base_url`` is
    the website's address, ``system.sandbox_url`` the payment sandbox's.
    """

    def __init__(
        self,
        postgres: Postgres,
        broker: Node,
        directory: Path,
        names: Iterable[str] = PROCESSES,
        settings: Mapping[str, str] | None = None,
        databases: Mapping[str, str] | None = None,
        tree: Path = ROOT,
    ) -> None:
        """``settings`` are environment variables that every process gets besides its own,
        ``databases`` the URLs of those that are there already, ``tree`` where the code is."""
        # PostgreSQL's roles are the same for all databases: a name of its own for each system.
        self._prefix = f"s{uuid.uuid4().hex[:8]}"
        self._postgres = postgres
        self._directory, self._tree = directory, tree
        self._wanted = tuple(names)
        if unknown := set(self._wanted) - {*PROCESSES, "mailbox", "traces"}:
            raise ValueError(f"no such process: {', '.join(sorted(unknown))}")
        self._settings = dict(settings or {})
        self._urls = dict(databases or {})
        self._children: dict[str, Child] = {}
        self._ports = Ports.choose()
        self._is_closed = False
        self.secrets = Secrets()
        self.vhost: VirtualHost = broker.vhost(f"test-{self._prefix}")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.gateway}"

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.sandbox}"

    @property
    def mailbox_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.mailbox}"

    def traces(self) -> dict[str, list[Span]]:
        """What the process ``traces`` was sent by now, where the setting ``TRACES`` has it run."""
        return Spans(Path(self.process("traces").environment["TRACES_FILE"])).traces()

    @cached_property
    def rpc(self) -> RpcClient:
        """A client with an operator's rights."""
        return PatientClient(self.vhost.admin_uri, name="operator")

    def database_url(self, service: str) -> str:
        """The service's database, made and migrated when it is first asked for."""
        if service not in self._urls:
            url = self._postgres.create_database(f"{self._prefix}_{service}")
            migrate(f"services.{service}", url)
            self._urls[service] = url
        return self._urls[service]

    def process(self, name: str) -> Process:
        """The command and the settings of a process."""
        return self._processes[name]

    @cached_property
    def _processes(self) -> dict[str, Process]:
        databases = {
            "gateway" if name in ("gateway", "notifier") else name for name in self._wanted
        }
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        every = processes(
            database_url=lambda name: self.database_url(name) if name in databases else "",
            amqp_uri=self.vhost.uri,
            ports=self._ports,
            secret=self.secrets,
            sandbox_data=self._directory / "sandbox.sqlite",
            environment={**inherited, **ROOMY_LIMITS, **PATIENT, **QUICK, **self._settings},
        )
        return {process.name: process for process in every}

    @contextmanager
    def running(self) -> Iterator["System"]:
        """All its processes, until the end of the block."""
        try:
            self.start_all()
            yield self
        finally:
            self.end_processes()

    def start_all(self) -> None:
        """Start every process of this system and wait until all are ready."""
        if "catalog" in self._wanted:
            self._seed_catalog()
        for name in self._wanted:
            self._launch(name)
        self.wait_ready()

    def start(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Start a process that is stopped, and wait until it is ready.

        ``settings`` are environment variables for this one start.
        """
        self._launch(name, settings)
        self.wait_ready(name)

    def stop(self, name: str) -> None:
        """Stop a process as an operator would (SIGTERM), and wait for its end."""
        self._children[name].stop(PATIENCE_S)

    def move_to(self, broker: Node) -> None:
        """Have what is started from now on work there, on a new virtual host."""
        if "rpc" in self.__dict__:
            self.rpc.close()
            del self.rpc
        self.vhost = broker.vhost(f"moved-{self._prefix}")
        del self._processes

    def kill(self, name: str) -> None:
        """End a process as a crash would (SIGKILL)."""
        self._children[name].kill()

    def child(self, name: str) -> Child:
        """A process that was started."""
        return self._children[name]

    def is_running(self, name: str) -> bool:
        return name in self._children and self._children[name].is_running

    def wait_ready(self, *names: str) -> None:
        """Wait until the processes named, or all that were started, answer that they are ready."""
        for name in names or tuple(self._children):
            child, url = self._children[name], self._processes[name].ready_url

            def answered_or_ended(child: Child = child, url: str = url) -> bool:
                return not child.is_running or is_ready(url)

            if not wait_for(answered_or_ended, START_PATIENCE_S) or not child.is_running:
                state = "is not ready" if child.is_running else f"ended with {child.exit_code}"
                raise AssertionError(f"{name} {state}; its output ends with:\n{child.tail()}")

    def log(self, name: str) -> str:
        """The last lines that a process wrote."""
        child = self._children.get(name)
        return child.tail(60) if child else ""

    def logs(self) -> str:
        """The last lines of every process, for the report of a failed test."""
        return "\n".join(
            f"----- {name} -----\n{child.tail()}" for name, child in self._children.items()
        )

    def close(self) -> None:
        """End every process, and remove the databases and the virtual host."""
        if self._is_closed:
            return
        self.end_processes()
        self.vhost.stop()
        for service in self._urls:
            self._postgres.drop_database(f"{self._prefix}_{service}")

    def end_processes(self) -> None:
        """End every process at once, for good."""
        self._is_closed = True
        if "rpc" in self.__dict__:
            self.rpc.close()
        for child in self._children.values():
            # Nothing of theirs is kept, so that there is nothing to wait for.
            child.kill()

    def _seed_catalog(self) -> None:
        subprocess.run(
            [sys.executable, "-m", "services.catalog.seed"],
            env=dict(self._processes["catalog"].environment),
            cwd=self._tree,
            check=True,
        )

    def _launch(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        if self.is_running(name):
            return
        process = self._processes[name]
        if name not in self._children:
            self._children[name] = Child(
                name,
                process.argv,
                process.environment,
                self._directory / f"{name}.log",
                directory=self._tree,
            )
        self._children[name].environment = {**process.environment, **(settings or {})}
        self._children[name].start()


def run_command(
    database: Connected, module: str, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run an operator's command on a service's database; there is no broker."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "AMQP_URI": "amqp://nobody@127.0.0.1:1/away",
        **QUICK,
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_PATIENCE_S,
    )


class MigratedDatabases(Mapping[str, str]):
    """Service name → URL of its own database, migrated when it is first asked for."""

    def __init__(self, postgres: Postgres) -> None:
        self._create: Callable[[str], str] = postgres.create_database
        self._urls: dict[str, str] = {}

    def __getitem__(self, service: str) -> str:
        if service not in DATABASES:
            raise KeyError(service)
        if service not in self._urls:
            url = self._create(service)
            migrate(f"services.{service}", url)
            self._urls[service] = url
        return self._urls[service]

    def __iter__(self) -> Iterator[str]:
        return iter(DATABASES)

    def __len__(self) -> int:
        return len(DATABASES)


def is_ready(url: str) -> bool:
    try:
        return requests.get(url, timeout=PATIENCE_S).status_code == 200
    except requests.RequestException:
        return False
