"""Fixtures for all tests: real servers, the product's own, on free ports in a temporary place.

``postgres`` and ``broker`` are the servers, ``databases`` a migrated database for each service,
``service_stack`` starts some processes of the product for the tests of a file, ``lasting_stack``
for those of many, ``system`` is all of them.

Whoever runs pytest many times over registers a plugin ``running_servers``, which has a
``postgres`` and a ``broker`` that outlive the run, as `make mutants` does.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from deploy.local import startup
from deploy.local.broker import Node, start_node
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from deploy.parts import PROCESSES
from tests.system import MigratedDatabases, System

# A busy machine is slow; no example fails for that, nor does the making of examples.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

StackFactory = Callable[..., System]
LastingStack = Callable[..., AbstractContextManager[System]]

_SYSTEMS = pytest.StashKey[list[System]]()
_PLACES = pytest.StashKey[dict[pytest.Item, int]]()
_LAST_USES = pytest.StashKey[dict[pytest.FixtureDef[Any], int]]()


def pytest_configure() -> None:
    """Let no two workers choose the same port: a server listens seconds after its port was free.
    Sets have one order in all of them, another one in each run, so that all collect the same tests.
    """
    os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        own = int(worker.removeprefix("gw"))
        startup.FREE_PORTS = startup.FREE_PORTS[own :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for the servers' data, removed at the end."""
    # Not pytest's own: PostgreSQL runs as another user when we are root, and must get in there.
    directory = Path(tempfile.mkdtemp(prefix="mycelium-test-"))
    directory.chmod(0o711)
    yield directory
    if "MYCELIUM_KEEP_TEST_DATA" not in os.environ:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def running_servers(pytestconfig: pytest.Config) -> Any:
    return pytestconfig.pluginmanager.get_plugin("running_servers")


@pytest.fixture(scope="session")
def postgres(scratch: Path, running_servers: Any) -> Iterator[Postgres]:
    if running_servers is not None:
        yield running_servers.postgres
        return
    server = start_postgres(scratch / "postgres", is_durable=False)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def broker(scratch: Path, running_servers: Any) -> Iterator[Node]:
    if running_servers is not None:
        yield running_servers.broker
        return
    node = start_node(scratch / "rabbitmq")
    yield node
    node.kill()


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> MigratedDatabases:
    """Service name → URL of a database with that service's tables, migrated on first use.

    Shared by the whole session: a test uses identifiers of its own, or removes what it made.
    """
    return MigratedDatabases(postgres)


@pytest.fixture(scope="session")
def new_system(
    postgres: Postgres, broker: Node, scratch: Path, request: pytest.FixtureRequest
) -> StackFactory:
    """These processes, and only these, on a virtual host and databases of their own."""
    systems = request.config.stash.setdefault(_SYSTEMS, [])

    def make(
        *names: str,
        settings: Mapping[str, str] | None = None,
        databases: Mapping[str, str] | None = None,
    ) -> System:
        directory = Path(tempfile.mkdtemp(prefix="system-", dir=scratch))
        stack = System(postgres, broker, directory, names, settings, databases=databases)
        systems.append(stack)
        return stack

    return make


@contextmanager
def _until_the_end(new_system: StackFactory, running_servers: Any) -> Iterator[StackFactory]:
    """Makes systems that end with the block."""
    systems: list[System] = []

    def make(*names: str, **wanted: Mapping[str, str]) -> System:
        stack = new_system(*names, **wanted)
        systems.append(stack)
        stack.start_all()
        return stack

    try:
        yield make
    finally:
        for stack in systems:
            if running_servers is not None:
                stack.close()
            else:
                # Their databases and virtual hosts go with the servers.
                stack.end_processes()


@pytest.fixture(scope="module")
def service_stack(new_system: StackFactory, running_servers: Any) -> Iterator[StackFactory]:
    """``service_stack("wallet", "billing", settings={…})``: these processes, and only these.

    Each call makes a virtual host and databases of its own. It is ended with the tests of the
    file, whose neighbours it would cost processor time, or earlier by its ``close()``.
    """
    with _until_the_end(new_system, running_servers) as make:
        yield make


@pytest.fixture(scope="session")
def lasting_stack(new_system: StackFactory, running_servers: Any) -> LastingStack:
    """``with lasting_stack("wallet") as stack`` in a fixture of the session, for the tests of many
    files. The fixture ends with the last test that asks for it: see ``pytest_runtest_teardown``."""

    @contextmanager
    def make(*names: str, **wanted: Mapping[str, str]) -> Iterator[System]:
        with _until_the_end(new_system, running_servers) as start:
            yield start(*names, **wanted)

    return make


@pytest.fixture(scope="session")
def system(lasting_stack: LastingStack) -> Iterator[System]:
    """The product as real processes, with the catalog's example products.

    Nobody counts: what does is started where it is tested.
    """
    with lasting_stack(*(name for name in PROCESSES if name != "analytics")) as stack:
        yield stack


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which test is the last one that asks for what a ``lasting_stack`` is for."""
    last_uses: dict[pytest.FixtureDef[Any], int] = {}
    for place, item in enumerate(session.items):
        fixtures = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        for *_, fixture in fixtures.values():
            if "lasting_stack" in fixture.argnames:
                last_uses[fixture] = place
    session.stash[_LAST_USES] = last_uses
    session.stash[_PLACES] = {item: place for place, item in enumerate(session.items)}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Function, nextitem: pytest.Item | None) -> None:
    """End the processes that no test from the next one on asks for: a product that nobody uses
    takes a tenth of a processor, in each worker, until the end.

    A worker takes files in the order in which they were collected. Should one come after all, it
    gets another product.
    """
    if nextitem is None:
        return
    place = item.session.stash[_PLACES][nextitem]
    for fixture, last_use in item.session.stash[_LAST_USES].items():
        if last_use < place:
            fixture.finish(item._request)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the end of what the processes wrote."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for stack in item.config.stash.get(_SYSTEMS, []):
            report.sections.append(("output of the processes", stack.logs()))
