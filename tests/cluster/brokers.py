"""Three RabbitMQ nodes that are one broker, each on a machine of its own."""

import json
import os
import secrets
import subprocess
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy import definitions
from deploy.definitions import ADMIN, CLUSTER_SETTINGS, VHOST
from deploy.local.broker import SCRIPTS, login_problem
from deploy.local.child import Child
from deploy.local.startup import wait_for
from deploy.parts import LOGINS
from tests.cluster.network import Machine
from tests.patience import START_PATIENCE_S, eventually

PORT = 5672
COOKIE = secrets.token_hex(16)
_ROOT = os.environ.get("BROKERS_ROOT")
INSIDE = ("chroot", _ROOT) if _ROOT else ()
"""How to run a command where RabbitMQ is installed: here, or in the tree of another Debian."""


class BrokerNode:
    """One of the nodes. What it keeps on disk is there when it starts again."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.name = f"mycelium@{machine.name}"
        self._directory = directory / machine.name
        self._child: Child | None = None

    def prepare(self, nodes: "list[BrokerNode]", loaded: Path) -> None:
        """Write what it reads at its start."""
        directory = self._directory
        directory.mkdir(parents=True)
        settings = {
            "listeners.tcp.1": f"{self.machine.address}:{PORT}",
            "cluster_formation.peer_discovery_backend": "classic_config",
            **{
                f"cluster_formation.classic_config.nodes.{number}": node.name
                for number, node in enumerate(nodes, 1)
            },
            "load_definitions": str(loaded),
            "loopback_users": "none",
            "log.console": "true",
            "log.file": "false",
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (directory / "rabbitmq.conf").write_text(lines + CLUSTER_SETTINGS)
        # There is no name server: a file names the machines.
        hosts = [("127.0.0.1", "localhost"), *((n.machine.address, n.machine.name) for n in nodes)]
        entries = "".join(
            f'{{host, {{{address.replace(".", ",")}}}, ["{name}"]}}.\n' for address, name in hosts
        )
        (directory / "inetrc").write_text("{lookup, [file]}.\n" + entries)
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq-env.conf").write_text("")
        cookie = directory / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)

    def start(self) -> None:
        """Start it, and its epmd; it takes some seconds to be ready."""
        environment = self._environment()
        log = self._directory / "server.log"
        server = str(SCRIPTS / "rabbitmq-server")
        # As a daemon epmd would stay behind: the shell and all that it starts end together.
        both = [*INSIDE, "sh", "-c", 'epmd & exec "$0"', server]
        self._child = Child(self.name, self.machine.command(both), environment, log)
        self._child.start()

    def kill(self) -> None:
        """End it at once, as a crash of its machine would."""
        if self._child is not None:
            self._child.kill()

    def run(self, *arguments: str) -> str:
        """``rabbitmqctl``, which takes seconds."""
        ran = subprocess.run(
            self.machine.command([*INSIDE, str(SCRIPTS / "rabbitmqctl"), "--quiet", *arguments]),
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def log(self) -> str:
        return self._child.tail(40) if self._child is not None else ""

    def _environment(self) -> dict[str, str]:
        directory = self._directory
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "HOSTNAME": self.machine.name,
            "ERL_INETRC": str(directory / "inetrc"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
            "RUNNING_UNDER_SYSTEMD": "true",
        }


class Brokers:
    """The cluster, in the place of the one node that :class:`tests.system.System` knows."""

    def __init__(self, machines: list[Machine], directory: Path) -> None:
        self.nodes = [BrokerNode(machine, directory) for machine in machines]
        self._directory = directory
        self._passwords = {user: secrets.token_urlsafe(24) for user in (ADMIN, *LOGINS)}
        self._has_khepri = False

    def start(self) -> None:
        """Make the cluster and wait until all of it can be used."""
        self._directory.mkdir()
        loaded = self._directory / "definitions.json"
        access = definitions.replicated(definitions.definitions(self._passwords))
        loaded.write_text(json.dumps(access))
        for node in self.nodes:
            node.prepare(self.nodes, loaded)
        # Up to 3 a node that joins one which is just starting gives up. From 4 on each new node
        # waits until all of the list have started.
        self._has_khepri = int(self.version().partition(".")[0]) >= 4
        for node in self.nodes:
            node.start()
            if not self._has_khepri:
                self.wait_for(node)
        for node in self.nodes:
            self.wait_for(node)
        if self._has_khepri:
            self.nodes[0].run("enable_feature_flag", "--opt-in", "khepri_db")

    def wait_for(self, node: BrokerNode) -> None:
        """Wait until a client may log in there."""
        assert self.comes_back(node, START_PATIENCE_S), self.logs()

    def comes_back(self, node: BrokerNode, within_s: float = 120.0) -> bool:
        """Whether a client may log in there again in that time."""
        uri = self._uri(node, ADMIN, VHOST)
        return wait_for(lambda: login_problem(uri) is None, within_s, 0.5)

    def is_parted(self, node: BrokerNode) -> bool:
        """Whether a node that is on the network again keeps what it knows of queues to itself, as
        it may without Khepri."""
        if self._has_khepri:
            return False
        everybody = {each.name for each in self.nodes}

        def seen() -> dict[str, Any]:
            return json.loads(node.run("cluster_status", "--formatter", "json"))

        eventually(seen, lambda found: set(found["running_nodes"]) == everybody, 1.0)
        return bool(seen()["partitions"])

    def uri(self, user: str, vhost: str) -> str:
        """All nodes, for a client that goes on to the next one. Each begins at another."""
        first = LOGINS.index(user) if user in LOGINS else 0
        turned = [self.nodes[(first + place) % 3] for place in range(3)]
        return ";".join(self._uri(node, user, vhost) for node in turned)

    def vhost(self, name: str, *, is_replicated: bool = True) -> "VirtualHost":
        """Make another virtual host, as :meth:`deploy.local.broker.Node.vhost` does."""
        access = definitions.access(name)
        self.load(definitions.replicated(access) if is_replicated else access)
        return VirtualHost(self, name)

    def load(self, access: Mapping[str, Any]) -> None:
        """Have what the definitions say."""
        file = self._directory / "loaded.json"
        # With Khepri, 4.0 makes no exchange that a topic permission has named before.
        for each in ({**access, "topic_permissions": []}, access):
            file.write_text(json.dumps(each))
            self.nodes[0].run("import_definitions", str(file))

    def version(self) -> str:
        """RabbitMQ's, whether it runs or not."""
        return self.nodes[0].run("version").strip()

    def kinds(self, vhost: str) -> dict[str, str]:
        """The type of each queue."""
        return self._of_queues(vhost, "type")

    def waiting(self, vhost: str) -> dict[str, int]:
        """How many messages are in each queue."""
        return {name: int(count) for name, count in self._of_queues(vhost, "messages").items()}

    def _of_queues(self, vhost: str, column: str) -> dict[str, str]:
        table = self.nodes[0].run("list_queues", "-p", vhost, "--no-table-headers", "name", column)
        return dict(line.split("\t") for line in table.splitlines())

    def stop(self) -> None:
        """End all nodes. Nothing of theirs is kept."""
        for node in self.nodes:
            node.kill()

    def logs(self) -> str:
        return "\n".join(f"----- {node.name} -----\n{node.log()}" for node in self.nodes)

    def _uri(self, node: BrokerNode, user: str, vhost: str) -> str:
        place = urllib.parse.quote(vhost, safe="")
        return f"amqp://{user}:{self._passwords[user]}@{node.machine.address}:{PORT}/{place}"


class VirtualHost:
    """A virtual host of the cluster."""

    def __init__(self, brokers: Brokers, name: str) -> None:
        self._brokers = brokers
        self.name = name
        self.admin_uri = brokers.uri(ADMIN, name)

    def uri(self, service: str) -> str:
        return self._brokers.uri(service, self.name)

    def stop(self) -> None:
        """Nothing: it goes with the cluster."""
