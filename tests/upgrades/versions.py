"""One installation whose parts run in the version before, in this one, or in both at once."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from deploy.definitions import access
from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT, Ports, Process
from deploy.local.startup import free_port
from deploy.parts import DATABASES, UPGRADED
from tests.gateway.test_proxy import HAPROXY
from tests.patience import eventually
from tests.system import System, is_ready

FROM = os.environ.get("UPGRADE_FROM") or "713b798"
"""The version before: any commit."""
STOPS_WITHIN_S = 45.0
"""What an operator gives a process to answer what it has in hand."""
KNOWN = """
import json, sys
from deploy import definitions, parts
access = definitions.access(sys.argv[1])
print(json.dumps({"databases": parts.DATABASES, "processes": parts.PROCESSES, "access": access}))
"""


def is_at_hand(commit: str) -> bool:
    """Whether this clone has a commit, which a shallow one or a copy without its history lacks."""
    asked = ["git", "cat-file", "-e", f"{commit}^{{tree}}"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0


def check_out(commit: str, place: Path) -> Path:
    """The files of a commit, in a directory of their own."""
    place.mkdir(parents=True)
    packed = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=ROOT, capture_output=True, check=False
    )
    assert packed.returncode == 0, f"FROM={commit}: {packed.stderr.decode()}"
    subprocess.run(["tar", "-x", "-C", str(place)], input=packed.stdout, check=True)
    return place


def run_in(tree: Path, *arguments: str, **settings: str) -> str:
    """What Python prints with the code of one version."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env={"PATH": os.environ["PATH"], **settings},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Version(System):
    """The product in one version; its website listens at ``host``, behind the proxy."""

    def __init__(
        self,
        postgres: Postgres,
        broker: Node,
        directory: Path,
        names: tuple[str, ...],
        databases: Mapping[str, str],
        *,
        tree: Path,
        host: str,
        ports: Ports,
    ) -> None:
        directory.mkdir()
        super().__init__(postgres, broker, directory, names, databases=databases, tree=tree)
        self.names, self._ports = names, ports
        self.website = f"{host}:{free_port()}"

    @cached_property
    def _processes(self) -> dict[str, Process]:
        found = super()._processes
        host, port = self.website.split(":")
        own = {"GATEWAY_HOST": host, "GATEWAY_PORT": port, "TRUSTED_PROXIES": "1"}
        found["gateway"] = replace(
            found["gateway"],
            environment={**found["gateway"].environment, **own},
            ready_url=f"http://{self.website}/readyz",
        )
        return found


class Installation:
    """``before`` and ``now`` share databases, a virtual host, secrets, the card processor and the
    proxy that is the way in to the websites of both."""

    def __init__(self, postgres: Postgres, broker: Node, directory: Path) -> None:
        directory.mkdir()
        self._broker, self._directory = broker, directory
        self._tree = check_out(FROM, directory / "tree")
        # The proxy's: what both tell people, and where the card processor's notices go.
        ports = Ports.choose()
        role = directory.name.replace("-", "_")
        self._urls = {name: postgres.create_database(f"{role}_{name}") for name in DATABASES}
        self.now = Version(
            postgres, broker, directory / "now", ("sandbox", *UPGRADED), self._urls,
            tree=ROOT, host="127.0.0.3", ports=ports,
        )  # fmt: skip
        self._known = json.loads(run_in(self._tree, "-c", KNOWN, self.now.vhost.name))
        self.before = Version(
            postgres, broker, directory / "before",
            tuple(name for name in UPGRADED if name in self._known["processes"]), self._urls,
            tree=self._tree, host="127.0.0.2", ports=replace(ports, health=Ports.choose().health),
        )  # fmt: skip
        self.before.vhost, self.before.secrets = self.now.vhost, self.now.secrets
        self._proxy: Child | None = None

    @property
    def versions(self) -> tuple[Version, Version]:
        return self.before, self.now

    def starts(self) -> None:
        """All of the version before, as its operator did."""
        self._broker.load(self._known["access"])
        self._migrates(self._tree, self._known["databases"])
        self.now.start("sandbox")
        self.before.start_all()
        self._starts_proxy()

    def allows(self) -> None:
        """The broker's definitions of this version."""
        self._broker.load(access(self.now.vhost.name))

    def migrates(self) -> None:
        """All databases, beside the traffic."""
        self._migrates(ROOT, DATABASES)
        self.now._seed_catalog()

    def _migrates(self, tree: Path, names: tuple[str, ...]) -> None:
        for name in names:
            settings = {"DATABASE_URL": self._urls[name], "AMQP_URI": self.now.vhost.uri("wallet")}
            run_in(tree, "-m", "chassis.migrate", f"services.{name}", **settings)

    def _starts_proxy(self) -> None:
        """That of docker-compose.yml, which finds the websites by their addresses."""
        servers = [
            f"    server {version.website} {version.website} check inter 500ms fall 2 rise 1"
            for version in self.versions
        ]
        file = self._directory / "haproxy.cfg"
        written = (ROOT / "deploy/compose/haproxy.cfg").read_text()
        file.write_text(re.sub(r" *server-template .*", "\n".join(servers), written))
        environment = {
            "PATH": os.environ["PATH"],
            "LISTEN": self.now.base_url.removeprefix("http://"),
            "NAMESERVER": "127.0.0.1:1",
        }
        argv = [HAPROXY, "-f", str(file)]
        self._proxy = Child("proxy", argv, environment, self._directory / "proxy.log")
        self._proxy.start()
        eventually(lambda: is_ready(f"{self.now.base_url}/healthz"))

    def takes_over(self, name: str, by: Version, of: Version, meanwhile) -> None:
        """One process comes beside that of the other version, which then ends."""
        if name in by.names:
            by.start(name)
        meanwhile()
        if of.is_running(name):
            of.child(name).stop(STOPS_WITHIN_S)
            assert of.child(name).exit_code == 0

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.kill()
        for version in self.versions:
            version.end_processes()
