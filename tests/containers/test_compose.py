"""docker-compose.yml on a real engine: built, started, bought from, broken, scaled, stopped.

`make test-containers` runs it. Each test goes on with the containers of the one before.
"""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import pytest

from deploy.local.processes import ROOT
from deploy.local.startup import free_port, wait_for
from deploy.parts import DATABASES, UPGRADED
from tests.cluster.shoppers import WITHOUT_TOPUPS, Town, pause_of
from tests.gateway.conftest import PASSWORD, Api, granted
from tests.gateway.test_main_job import buy_credits
from tests.patience import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

PROJECT = f"mycelium-test-{os.getpid()}"
COMPOSE = ("docker", "compose", "--project-name", PROJECT, "--env-file", ".env.example")
HEALTHY_WITHIN_S = 600
PEOPLE = 3


class Containers:
    """The product as one project of Compose."""

    def __init__(self, website: int, sandbox: int) -> None:
        self.base_url = f"http://127.0.0.1:{website}"
        self._settings = {
            "GATEWAY_PORT": str(website),
            "SANDBOX_PORT": str(sandbox),
            "PUBLIC_URL": self.base_url,
            "SANDBOX_PUBLIC_URL": f"http://127.0.0.1:{sandbox}",
        }

    def compose(self, *arguments: str) -> str:
        return self.runs(*COMPOSE, *arguments)

    def runs(self, *command: str, **settings: str) -> str:
        """What a command prints that knows the settings of the project."""
        ran = subprocess.run(
            command,
            env={**os.environ, **self._settings, **settings},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{' '.join(command)}:\n{ran.stderr[-4000:]}"
        return ran.stdout

    def up(self, *arguments: str) -> None:
        """Start what is not running, and wait until all of it is healthy."""
        self.compose("up", "--detach", "--wait", f"--wait-timeout={HEALTHY_WITHIN_S}", *arguments)

    def states(self) -> dict[str, dict[str, Any]]:
        """Each container, by its own name."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {found["Name"]: found for found in map(json.loads, lines)}

    def running(self) -> Counter[str]:
        """How many of each service run, and are healthy where they can tell."""
        return Counter(
            found["Service"]
            for found in self.states().values()
            if found["State"] == "running" and found["Health"] in ("healthy", "")
        )

    def names(self, service: str) -> list[str]:
        """The containers of a service."""
        return [name for name, found in self.states().items() if found["Service"] == service]

    def ask(self, service: str, address: str) -> str:
        """What an address answers to another container of the network."""
        fetch = "import sys, urllib.request as web; print(web.urlopen(sys.argv[1]).read().decode())"
        return self.compose("exec", "-T", service, "python", "-c", fetch, address)


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    project = Containers(free_port(), free_port())
    try:
        project.up("--build")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout=60")


@pytest.fixture(scope="module")
def buyer(containers: Containers) -> Api:
    """Somebody who registered at the website."""
    api = Api(containers.base_url)
    credentials = {"email": f"{uuid4()}@example.com", "password": PASSWORD}
    granted(api.post("/api/auth/register", credentials))
    api.token = granted(api.post("/api/auth/login", credentials))["token"]
    return api


def docker(*arguments: str) -> str:
    """What the command prints on either stream."""
    return subprocess.check_output(["docker", *arguments], stderr=subprocess.STDOUT, text=True)


def buy(api: Api) -> dict[str, Any]:
    """A $5.00 machine, bought and running."""
    found = granted(api.get("/api/products?category=compute&sort=price&limit=200"))["products"]
    product = next(item for item in found if item["price_usd"] == 5)
    order = granted(
        api.command("/api/wallet/instant-purchase", {"product_id": product["product_id"]})
    )
    return eventually(
        lambda: granted(api.get(f"/api/purchases/{order['purchase_id']}")),
        lambda seen: seen["status"] == "completed",
    )


def test_all_are_healthy_with_two_of_each_service_that_is_asked_all_day(
    containers: Containers,
) -> None:
    twice = dict.fromkeys(DATABASES, 2)
    once = dict.fromkeys(
        ("postgres", "rabbitmq", "legacy", "analytics", "notifier", "sandbox", "proxy"), 1
    )

    assert containers.running() == {**twice, **once}


@pytest.mark.parametrize("service", DATABASES)
def test_health_and_metrics_are_reached_from_another_container(
    containers: Containers, service: str
) -> None:
    assert json.loads(containers.ask("notifier", f"http://{service}:8080/readyz"))["status"] == "ok"
    containers.ask("notifier", f"http://{service}:8080/metrics")


@pytest.mark.parametrize("path", ["/metrics", "/%6Detrics"])
def test_the_proxy_keeps_metrics_inside(containers: Containers, path: str) -> None:
    # A client of HTTP's own: requests sends the second one as the first.
    connection = HTTPConnection(containers.base_url.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


def test_databases_are_in_utf8_with_postgresqls_own_collation(containers: Containers) -> None:
    query = (
        "SELECT DISTINCT pg_encoding_to_char(encoding), datlocprovider, datlocale"
        " FROM pg_database WHERE datname <> 'postgres' AND NOT datistemplate"
    )
    found = containers.compose(
        "exec", "-T", "postgres", "psql", "-U", "postgres", "-tA", "-c", query
    )

    assert found.split() == ["UTF8|b|C.UTF-8"]


def test_somebody_registers_pays_and_buys(containers: Containers, buyer: Api) -> None:
    buy_credits(buyer, 50)

    assert buy(buyer)["status"] == "completed"
    assert granted(buyer.get("/api/wallet/info"))["balance"] == 45


@pytest.mark.parametrize("way", [[], ["back"]], ids=["to the next", "back"])
def test_each_part_is_replaced_by_another_beside_it_and_nobody_is_refused(
    containers: Containers, way: list[str]
) -> None:
    running = containers.running()
    before = {name: containers.names(name) for name in UPGRADED}
    # What the proxy itself would say is no JSON.
    town = Town(containers.base_url, PEOPLE, is_documented=False)
    town.open()

    def upgrades() -> None:
        of_project = {"COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_ENV_FILES": ".env.example"}
        containers.runs("deploy/compose/rolled.sh", *way, **of_project)

    pause = pause_of(town, "upgrade with Compose", upgrades)

    print("", pause, sep="\n")
    # On a busy machine the top-up service takes more than a second; a forecast is asked for again.
    assert pause.refused.keys() <= {WITHOUT_TOPUPS}
    town.settles()
    assert containers.running() == running
    for name, old in before.items():
        assert not set(old) & set(containers.names(name))


def test_after_the_broker_was_killed_it_comes_back_and_buying_goes_on(
    containers: Containers, buyer: Api
) -> None:
    before = containers.running()
    # The process itself: an engine does not start again what is killed by its own command.
    containers.compose("exec", "-T", "rabbitmq", "sh", "-c", "kill -KILL $(pidof beam.smp)")

    [broker] = containers.names("rabbitmq")
    eventually(
        lambda: docker("inspect", "--format", "{{.RestartCount}}", broker).strip(),
        lambda restarts: restarts == "1",
    )
    assert wait_for(lambda: containers.running() == before, HEALTHY_WITHIN_S)
    assert buy(buyer)["status"] == "completed"


def test_scaled_to_three_all_gateways_get_requests(containers: Containers, buyer: Api) -> None:
    containers.up("--scale", "wallet=3", "--scale", "gateway=3", "--no-recreate")

    def asked() -> list[bool]:
        buyer.get("/api/wallet/info")
        return ["/api/wallet/info" in docker("logs", name) for name in containers.names("gateway")]

    assert eventually(asked, lambda each: len(each) == 3 and all(each), interval_s=0.5)
    assert (containers.running()["wallet"], containers.running()["gateway"]) == (3, 3)
    assert buy(buyer)["status"] == "completed"


def test_a_stopped_product_ends_without_being_killed_and_keeps_its_data(
    containers: Containers, buyer: Api
) -> None:
    containers.compose("stop")
    ended = {
        found["Name"]: found["ExitCode"]
        for found in containers.states().values()
        if found["ExitCode"] == 137
    }
    assert ended == {}

    containers.up()

    assert granted(buyer.get("/api/wallet/info"))["balance"] == 35
