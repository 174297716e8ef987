"""The product's own RabbitMQ node, or the broker that ``AMQP_URI`` names.

Our node is the installed ``rabbitmq-server``, run as whoever runs us: with its own name, ports,
data, cookie and epmd, all on 127.0.0.1, beside and apart from a broker that the machine may
have (docs/decisions/0002-own-broker-node.md). Users, virtual hosts and permissions come from a
definitions file that the node loads when it boots.
"""

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

import kombu

from deploy import definitions
from deploy.definitions import ADMIN, VHOST
from deploy.local.child import Child
from deploy.local.startup import StartupError, free_port, take_lock, wait_for, write_private
from deploy.parts import LOGINS

NODE = "mycelium@localhost"
START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 240
"""Of a call into the node: where the machine is busy, Erlang takes long to start."""
SCRIPTS = Path("/usr/lib/rabbitmq/bin")
CONTAINER_IMAGE = "rabbitmq:4.1.8"


class Broker(Protocol):
    """Where the processes find their broker."""

    @property
    def admin_uri(self) -> str: ...

    @property
    def children(self) -> list[Child]: ...

    def uri(self, service: str) -> str: ...
    def wait_ready(self) -> None: ...
    def stop(self) -> None: ...


def begin(data_dir: Path, environment: Mapping[str, str] = os.environ) -> Broker:
    """The broker of ``AMQP_URI`` if that is set, else our own node on the data in ``data_dir``.

    It is ready after ``wait_ready()``. Raises StartupError when there is none to be had.
    """
    if environment.get("AMQP_URI"):
        return GivenBroker(environment)
    kind = Node if _server_script() or not _docker_answers() else ContainerNode
    node = kind(data_dir.resolve(), port=free_port(5672))
    node.begin()
    return node


def start_node(data_dir: Path) -> "Node":
    """Our own node, whatever the environment says, on a port of no meaning."""
    node = Node(data_dir.resolve(), port=free_port())
    node.start()
    return node


class GivenBroker:
    """A broker that somebody else runs: ``AMQP_URI``, or ``<SERVICE>_AMQP_URI`` for one service.

    Its administrator makes the virtual host and the users; ``deploy.definitions`` says what
    each of them needs.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    @property
    def admin_uri(self) -> str:
        return self._environment["AMQP_URI"]

    @property
    def children(self) -> list[Child]:
        return []

    def uri(self, service: str) -> str:
        return self._environment.get(f"{service.upper()}_AMQP_URI") or self.admin_uri

    def wait_ready(self) -> None:
        """Raises StartupError unless every service can log in."""
        for service in LOGINS:
            problem = login_problem(self.uri(service))
            if problem:
                address = kombu.Connection(self.uri(service)).as_uri()
                raise StartupError(
                    f"{address} refuses the service {service} ({problem}):"
                    " set AMQP_URI to a virtual host that exists and a user who may use it."
                )

    def stop(self) -> None:
        """Nothing: it is not ours."""


class Node:
    """A RabbitMQ node of ours. ``admin_uri`` is its administrator's, for the runner alone."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.port = port
        self._directory = data_dir
        self._distribution_port = free_port()
        self._epmd_port = free_port()
        self._passwords = {user: secrets.token_urlsafe(24) for user in (ADMIN, *LOGINS)}
        self._lock: IO[str] | None = None
        self._epmd: Child | None = None
        self._server: Child | None = None

    @property
    def admin_uri(self) -> str:
        return self._uri(ADMIN, VHOST)

    @property
    def children(self) -> list[Child]:
        """The node's processes, for a supervisor."""
        return [child for child in (self._epmd, self._server) if child is not None]

    def uri(self, service: str, vhost: str = VHOST) -> str:
        """The address for a service, with its own user."""
        return self._uri(service, vhost)

    def vhost(self, name: str) -> "VirtualHost":
        """Make another virtual host with the same permissions: a product of its own, for tests."""
        self.load(definitions.access(name))
        return VirtualHost(self, name)

    def load(self, access: Mapping[str, Any]) -> None:
        """Add to what the node has, as ``rabbitmqctl import_definitions`` does."""
        self._call("rabbit_definitions", "import_raw", json.dumps(access))

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with its queues and messages."""
        self._call("rabbit_vhost", "delete", name, "mycelium")

    def start(self) -> None:
        """Start the node and wait until its administrator can log in."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start the node; it takes some seconds to be ready."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._directory, "The broker")
        self._end_orphans()
        self._write_configuration()
        self._run_server()

    def restart(self) -> None:
        """Stop the node, cutting all connections, and start it again on the same ports."""
        self._stop_server()
        self._run_server()
        self.wait_ready()

    def stop(self) -> None:
        """Stop the node and its epmd."""
        self._stop_server()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """End the node at once, as a crash would."""
        if self._server is not None:
            self._server.kill()
        self.stop()

    def _uri(self, user: str, vhost: str) -> str:
        return (
            f"amqp://{user}:{self._passwords[user]}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"
        )

    def _write_configuration(self) -> None:
        access = definitions.definitions(self._passwords)
        for file in sorted((self._directory / "logins").glob("*.json")):
            for kind, entries in json.loads(file.read_text()).items():
                access[kind] += entries
        write_private(self._directory / "definitions.json", json.dumps(access, indent=1))
        # Erlang's own format: RabbitMQ takes two seconds less over it than over `rabbitmq.conf`.
        write_private(self._directory / "advanced.config", self._configuration())
        # Erlang asks DNS for the machine's name, and waits where no server answers.
        (self._directory / "inetrc").write_text(
            '{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n'
        )
        (self._directory / "enabled_plugins").write_text("[].\n")
        (self._directory / "rabbitmq-env.conf").write_text("")

    def _configuration(self) -> str:
        loaded = _erlang_string(str(self._directory / "definitions.json"))
        return (
            "[{rabbit, [\n"
            f'  {{tcp_listeners, [{{"127.0.0.1", {self.port}}}]}},\n'
            f"  {{load_definitions, {loaded}}},\n"
            "  {loopback_users, []},\n"
            "  {log, [{console, [{enabled, true}, {level, info}]}, {file, [{file, false}]}]}\n"
            " ]},\n"
            " {kernel, [{inet_dist_use_interface, {127,0,0,1}}]}].\n"
        )

    def _environment(self) -> dict[str, str]:
        directory = self._directory
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            # The cookie that lets one Erlang node into another lies in HOME.
            "HOME": str(directory),
            "ERL_INETRC": str(directory / "inetrc"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            # There is no such file: all of the configuration is in the advanced one.
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            # Idle schedulers sleep instead of spinning: the services need the processor.
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
            # Makes the start script become the server, so that our signals reach it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _run_server(self) -> None:
        server = _server_script()
        if server is None:
            raise StartupError(
                "RabbitMQ is not installed: run `sudo apt-get install rabbitmq-server`,"
                " or set AMQP_URI to a broker of yours."
            )
        environment = self._environment()
        log = self._directory / "server.log"
        if epmd := shutil.which("epmd"):
            # Erlang would start one as a daemon, which would stay behind.
            self._epmd = Child("epmd", [epmd], environment, log, death_signal="TERM")
            self._epmd.start()
        self._server = Child("rabbitmq", [str(server)], environment, log, death_signal="TERM")
        self._server.start()
        (self._directory / "pid").write_text(str(self._server.pid))

    def wait_ready(self) -> None:
        """Wait until the administrator can log in."""
        wait_for(lambda: self._accepts() or not self._is_running(), START_TIMEOUT_S)
        if not self._accepts():
            self.stop()
            log = self._directory / "server.log"
            raise StartupError(f"RabbitMQ did not start; its own words are in {log}.")

    def _is_running(self) -> bool:
        return self._server is not None and self._server.is_running

    def _accepts(self) -> bool:
        return self._is_running() and not login_problem(self.admin_uri)

    def _stop_server(self) -> None:
        for child in (self._server, self._epmd):
            if child is not None:
                child.stop(STOP_TIMEOUT_S)
        self._server = self._epmd = None

    def _end_orphans(self) -> None:
        """Stop a node that a killed runner left here; we hold the lock, so it is ours."""
        try:
            pid = int((self._directory / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._is_ours(pid):
            os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            wait_for(lambda: not self._is_ours(pid), 5)

    def _is_ours(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"RABBITMQ_MNESIA_BASE={self._directory / 'data'}\0".encode() in environment

    def _call(self, module: str, function: str, *arguments: str) -> None:
        """Call a function inside the node. ``rabbitmqctl`` would take seconds for the same."""
        terms = ", ".join(f'base64:decode("{_base64(argument)}")' for argument in arguments)
        self.apply(module, function, terms)

    def apply(self, module: str, function: str, terms: str) -> None:
        """Call a function inside the node with arguments in Erlang's own notation."""
        self._asks(module, function, terms, "ok -> halt(0)")

    def messages(self, vhost: str) -> dict[str, int]:
        """How many messages each queue of a virtual host has: those that wait, and those that were
        handed to somebody who has not acknowledged them."""
        told = self._asks(
            "rabbit_amqqueue",
            "info_all",
            f'base64:decode("{_base64(vhost)}"), [name, messages]',
            'Found when is_list(Found) -> [io:format("~b ~ts~n", [Count, Name]) ||'
            " [{name, {resource, _, queue, Name}}, {messages, Count}] <- Found,"
            " is_integer(Count)], halt(0)",
        )
        counted = (line.split(" ", 1) for line in told.splitlines())
        return {name: int(count) for count, name in counted}

    def _asks(self, module: str, function: str, terms: str, answer: str) -> str:
        """What is printed where the call comes to ``answer``, a clause that ends the program.

        Raises ``RuntimeError`` for everything else.
        """
        program = (
            f"case rpc:call('{NODE}', {module}, {function}, [{terms}]) of {answer};"
            ' Other -> io:format(standard_error, "~p", [Other]), halt(1) end.'
        )
        call = subprocess.run(
            [
                "erl",
                "-noinput",
                "-hidden",
                "-sname",
                f"mycelium_{secrets.token_hex(4)}@localhost",
                "-start_epmd",
                "false",
                "-eval",
                program,
            ],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_TIMEOUT_S,
        )
        if call.returncode:
            raise RuntimeError(f"{module}:{function} failed: {call.stdout}{call.stderr}")
        return call.stdout


class ContainerNode(Node):
    """The same node in a container, where RabbitMQ is not installed and an engine answers.

    Its data lies in a volume named after the data directory. It has no further virtual hosts:
    the tests run on an installed server.
    """

    def _write_configuration(self) -> None:
        super()._write_configuration()
        # The container's own user reads these; on this machine the directory keeps others out.
        self._directory.chmod(0o700)
        (self._directory / "definitions.json").chmod(0o644)
        (self._directory / "rabbitmq.conf").write_text(
            "load_definitions = /etc/rabbitmq/definitions.json\n"
        )

    def _run_server(self) -> None:
        volume = f"mycelium-{hashlib.sha256(str(self._directory).encode()).hexdigest()[:12]}"

        def remove_left_over() -> None:
            # There may be none, which is no error.
            subprocess.run(["docker", "rm", "--force", volume], capture_output=True, check=False)

        command = [
            *("docker", "run", "--rm", "--name", volume, "--hostname", "mycelium"),
            *("--publish", f"127.0.0.1:{self.port}:5672"),
            *("--volume", f"{volume}:/var/lib/rabbitmq"),
        ]
        for source, target in (
            ("definitions.json", "definitions.json"),
            ("rabbitmq.conf", "conf.d/90-mycelium.conf"),
        ):
            command += ["--volume", f"{self._directory / source}:/etc/rabbitmq/{target}:ro"]
        log = self._directory / "server.log"
        command.append(CONTAINER_IMAGE)
        self._server = Child(
            "rabbitmq",
            command,
            dict(os.environ),
            log,
            death_signal="TERM",
            before_start=remove_left_over,
        )
        self._server.start()


class VirtualHost:
    """A virtual host of our node, with the same users as the product's own."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self.name = name
        self.admin_uri = node.uri(ADMIN, name)

    def uri(self, service: str) -> str:
        return self._node.uri(service, self.name)

    def stop(self) -> None:
        """Remove it with all that is in it."""
        self._node.delete_vhost(self.name)


def login_problem(uri: str) -> str | None:
    """Why somebody cannot log in there; None where they can."""
    try:
        with kombu.Connection(uri, connect_timeout=2) as connection:
            connection.connect()
    except Exception as error:
        # Refused, reset, no such virtual host, not allowed: kombu raises many kinds.
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _server_script() -> Path | None:
    # The wrapper in the PATH insists on root or the `rabbitmq` user; the real script does not.
    for candidate in (SCRIPTS / "rabbitmq-server", Path(shutil.which("rabbitmq-server") or "")):
        if candidate.is_file():
            return candidate
    return None


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _erlang_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
