"""A PostgreSQL primary and its synchronous standby under Patroni, each on a machine of its own.

They are run by the files of ``deploy/patroni`` as they are, but for the size of what PostgreSQL
keeps, and for the backup's slot. A third machine has nothing but the third voice of etcd.
"""

import contextlib
import os
import secrets
import subprocess
from pathlib import Path

import requests
import yaml
from psycopg2 import OperationalError

from deploy.local.child import Child
from deploy.local.postgres import BINARIES, SUPERUSER, Postgres, _as_server_user, _system_account
from deploy.local.processes import ROOT
from deploy.local.startup import free_port
from tests.cluster.network import Machine
from tests.patience import START_PATIENCE_S, eventually

FILES = ROOT / "deploy" / "patroni"
PORT = 5432
DISK = "700m"
SMALL = {"shared_buffers": "128MB", "max_wal_size": "192MB"}
"""For a disk that is quickly full, and is memory in truth."""
LOG_FILES_MAX = 30
"""More than it keeps for the next ones."""


class Etcd:
    """One of three that agree on who leads."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self._machine = machine
        self._directory = directory / f"{machine.name}-etcd"
        self.address = f"{machine.address}:2379"
        self.peer = f"http://{machine.address}:2380"
        self.member = f"{machine.name}={self.peer}"
        self._child: Child | None = None

    def start(self, members: "list[Etcd]") -> None:
        options = {
            "name": self._machine.name,
            "data-dir": str(self._directory),
            "listen-client-urls": f"http://{self.address}",
            "advertise-client-urls": f"http://{self.address}",
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": ",".join(each.member for each in members),
            # What Patroni has of the other protocol, 3.0.2, overwrites another leader's lock.
            "enable-v2": "true",
            # It is asked a little all day, by machines with other work.
            "heartbeat-interval": "250",
            "election-timeout": "2500",
        }
        argv = ["etcd", *(f"--{name}={value}" for name, value in options.items())]
        log = self._directory.with_suffix(".log")
        environment = {"PATH": os.environ["PATH"]}
        self._child = Child("etcd", self._machine.command(argv), environment, log)
        self._child.start()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()


class DatabaseNode:
    """One of the two. Its data are on a disk of their own, and there when it starts again."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.address = f"{machine.address}:{PORT}"
        self.etcd = Etcd(machine, directory)
        self._etcds: list[Etcd] = []
        self._rest = f"http://{machine.address}:8008"
        self._directory = directory / machine.name
        self._disk = self._directory / "disk"
        self._environment: dict[str, str] = {}
        self._child: Child | None = None

    def prepare(self, etcds: list[Etcd], passwords: dict[str, str]) -> None:
        """Make its disk, and write what Patroni reads at its start."""
        self._etcds = etcds
        self._disk.mkdir(parents=True)
        account = _system_account()
        os.chown(self._directory, account.pw_uid, account.pw_gid)
        owner = f"uid={account.pw_uid},gid={account.pw_gid}"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700,{owner}", "data", self._disk],
            check=True,
        )
        settings = yaml.safe_load((FILES / "patroni.yml").read_text())
        settings["bootstrap"]["dcs"]["postgresql"]["parameters"] |= SMALL
        # Nobody follows here, and the log that is kept for that would fill the disk.
        del settings["bootstrap"]["dcs"]["slots"]
        # Both are on one system in truth, where their sockets would be one.
        settings["postgresql"]["parameters"] = {"unix_socket_directories": ""}
        (self._directory / "patroni.yml").write_text(yaml.safe_dump(settings))
        self._environment = {
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self._directory),
            "PATRONI_NAME": self.machine.name,
            "PATRONI_ETCD_HOSTS": ",".join(each.address for each in etcds),
            "PATRONI_RESTAPI_LISTEN": f"{self.machine.address}:8008",
            "PATRONI_RESTAPI_CONNECT_ADDRESS": f"{self.machine.address}:8008",
            "PATRONI_POSTGRESQL_LISTEN": self.address,
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": self.address,
            "PATRONI_POSTGRESQL_DATA_DIR": str(self._disk / "data"),
            "PATRONI_POSTGRESQL_BIN_DIR": str(BINARIES),
            "PATRONI_POSTGRESQL_PGPASS": str(self._directory / "pgpass"),
            **passwords,
        }

    def start(self) -> None:
        """Start what runs there; Patroni starts PostgreSQL."""
        self.etcd.start(self._etcds)
        configuration = str(self._directory / "patroni.yml")
        as_user = [*_as_server_user(self._disk), "patroni", configuration]
        log = self._directory.with_suffix(".log")
        self._child = Child("patroni", self.machine.command(as_user), self._environment, log)
        self._child.start()

    def kill(self) -> None:
        """End all of it at once, as a loss of power would."""
        self.machine.kill_all()
        self.etcd.kill()
        if self._child is not None:
            self._child.kill()

    def is_primary(self) -> bool:
        return self._answers("primary")

    def is_synchronous(self) -> bool:
        """Whether it has every commit that anybody has heard of."""
        return self._answers("synchronous")

    def fill_disk(self) -> None:
        """Leave no byte free."""
        with contextlib.suppress(OSError), (self._disk / "ballast").open("wb", 0) as file:
            while file.write(b"\0" * 65_536):
                pass

    def clear_disk(self) -> None:
        (self._disk / "ballast").unlink()

    def log(self) -> str:
        return self._child.tail(60) if self._child is not None else ""

    def _answers(self, role: str) -> bool:
        try:
            return requests.get(f"{self._rest}/{role}", timeout=2).status_code == 200
        except requests.RequestException:
            return False


class Databases(Postgres):
    """Both of them, in the place of the one server that :class:`tests.system.System` knows."""

    def __init__(self, machines: list[Machine], directory: Path) -> None:
        super().__init__(directory, free_port())
        *with_data, witness = machines
        self.nodes = [DatabaseNode(machine, directory) for machine in with_data]
        self._witness = Etcd(witness, directory)
        self._password = secrets.token_urlsafe(24)
        self._way: Child | None = None

    def start(self) -> None:
        """Make both and wait until commits are on both."""
        passwords = {
            "PATRONI_SUPERUSER_USERNAME": SUPERUSER,
            "PATRONI_SUPERUSER_PASSWORD": self._password,
            "PATRONI_REPLICATION_USERNAME": "replicator",
            "PATRONI_REPLICATION_PASSWORD": secrets.token_urlsafe(24),
        }
        etcds = [*(node.etcd for node in self.nodes), self._witness]
        self._witness.start(etcds)
        for node in self.nodes:
            node.prepare(etcds, passwords)
            node.start()
        environment = {
            "LISTEN": f"127.0.0.1:{self.port}",
            **{f"DATABASE{number}": node.address for number, node in enumerate(self.nodes, 1)},
        }
        argv = ["/usr/sbin/haproxy", "-db", "-f", str(FILES / "haproxy.cfg")]
        log = self._directory / "haproxy.log"
        self._way = Child("haproxy", argv, environment, log)
        self._way.start()
        self.become_whole()
        eventually(self._accepts, within_s=START_PATIENCE_S)

    def become_whole(self) -> None:
        """Wait until one is the primary, and the other has every commit."""
        try:
            eventually(self._are_whole, interval_s=0.5, within_s=START_PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(self.logs()) from error

    def _are_whole(self) -> bool:
        roles = {(node.is_primary(), node.is_synchronous()) for node in self.nodes}
        return roles == {(True, False), (False, True)}

    @property
    def primary(self) -> DatabaseNode:
        (found,) = eventually(
            lambda: [node for node in self.nodes if node.is_primary()],
            lambda leading: len(leading) == 1,
        )
        return found

    @property
    def standby(self) -> DatabaseNode:
        (found,) = (node for node in self.nodes if node is not self.primary)
        return found

    def use_up_log(self) -> None:
        """Have the primary begin a new file of its log until it has no place for one, and ends."""
        use = "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()"
        with (
            contextlib.suppress(OperationalError),
            self._connection() as connection,
            connection.cursor() as cursor,
        ):
            for _ in range(LOG_FILES_MAX):
                cursor.execute(use)

    def stop(self) -> None:
        """End all of it. Nothing of theirs is kept."""
        for node in self.nodes:
            node.kill()
        self._witness.kill()
        if self._way is not None:
            self._way.kill()

    def logs(self) -> str:
        return "\n".join(f"----- {node.machine.name} -----\n{node.log()}" for node in self.nodes)
