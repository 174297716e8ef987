"""``make run``: the whole product on this machine, from its database up to its website.

Everything it makes lies in ``.data/``. Ctrl-C stops the services first, then the broker, then
the database. Settings come from the environment:

- ``GATEWAY_PORT`` (8000), ``SANDBOX_PORT`` (12111) and ``MAILBOX_PORT`` (8025) on 127.0.0.1;
- ``TRACES=1`` to record what happens, and look at it on ``TRACES_PORT`` (4318);
- ``AMQP_URI``, or ``<SERVICE>_AMQP_URI``, for a broker of your own;
- ``<SERVICE>_DATABASE_URL`` for a database of your own;
- ``STRIPE_API_KEY`` and ``STRIPE_WEBHOOK_SECRET`` to pay through Stripe instead of the sandbox;
- ``SMTP_URL`` and ``MAIL_FROM`` to send mails instead of keeping them in the mailbox;
- ``CLOCK_OFFSET_DAYS`` to live so many days ahead, with the sandbox: run, stop, run a month later;
- and every setting of a service by its own name.
"""

import importlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

from chassis.clock import ahead
from chassis.migrate import DataAreNewer, migrate, refuse_newer
from chassis.settings import ServiceSettings
from deploy.local import broker as brokers
from deploy.local import postgres as postgresql
from deploy.local.child import Child
from deploy.local.processes import ROOT, Ports, Process, Secrets, processes
from deploy.local.startup import StartupError, is_port_free, take_lock, write_private
from deploy.local.supervisor import Supervisor
from deploy.parts import DATABASES

DATA = ROOT / ".data"
ENVIRONMENTS = DATA / "environment"
READY_TIMEOUT_S = 240.0
CLOCK_OFFSET_DAYS_MAX = 3_650


def main() -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit status."""
    stopping = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        if not stopping.is_set():
            say("Stopping…")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    try:
        with ExitStack() as stack:
            run(stopping, stack)
    except StartupError as error:
        print(f"mycelium: {error}", file=sys.stderr)
        return 1
    say("Stopped. The data is kept in .data/.")
    return 0


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(f"mycelium: {line}", flush=True)


def run(stopping: threading.Event, stack: ExitStack) -> None:
    """Start everything and watch it; ``stack`` undoes it in the opposite order."""
    began = time.monotonic()
    ports = chosen_ports()
    offset_days = chosen_clock(os.environ)
    DATA.mkdir(mode=0o711, exist_ok=True)
    ENVIRONMENTS.mkdir(mode=0o700, exist_ok=True)
    stack.callback(take_lock(ENVIRONMENTS, "The product").close)
    keep_clock(DATA / "clock", datetime.now(UTC) + timedelta(days=offset_days))
    say("Starting the database and the broker…")
    # The broker takes longest: it boots while the database starts and gets its tables.
    broker = brokers.begin(DATA / "rabbitmq")
    try:
        urls, servers = databases(stack)
    finally:
        stack.callback(broker.stop)
    migrate_all(urls)
    broker.wait_ready()
    if stopping.is_set():
        return
    every = processes(
        database_url=urls.__getitem__,
        amqp_uri=broker.uri,
        ports=ports,
        secret=kept_secrets(DATA / "secrets.json"),
        sandbox_data=DATA / "sandbox.sqlite",
        environment=os.environ,
    )
    write_environments(every, ENVIRONMENTS)
    seed_catalog(every)
    say("Starting the services…")
    supervisor = Supervisor([as_child(process) for process in every], say)
    supervisor.adopt([*servers, *broker.children])
    stack.callback(supervisor.stop)
    supervisor.start()
    if wait_until_ready(every, supervisor, stopping):
        say(f"Ready after {time.monotonic() - began:.0f} s.")
        print(banner(every, ports), flush=True)
    supervisor.watch(stopping)


def chosen_ports() -> Ports:
    """The ports of the website and what stands beside it, which must be free."""
    found = {}
    for name, default, what in (
        ("GATEWAY_PORT", 8000, "website"),
        ("SANDBOX_PORT", 12111, "payment sandbox"),
        ("MAILBOX_PORT", 8025, "mailbox"),
        ("TRACES_PORT", 4318, "traces"),
    ):
        if name == "TRACES_PORT" and not os.environ.get("TRACES"):
            continue
        text = os.environ.get(name) or str(default)
        if not text.isdecimal() or not 0 < int(text) < 65_536:
            raise StartupError(f"{name} is {text!r}: give it a number from 1 to 65535.")
        if not is_port_free(int(text)):
            raise StartupError(
                f"Port {text} of the {what} is in use: stop what listens there,"
                f" or choose another with `make run {name}={int(text) + 1}`."
            )
        found[name] = int(text)
    return Ports.choose(*found.values())


def chosen_clock(environment: Mapping[str, str]) -> int:
    """How many days ahead the product is to live. A real card is charged for no such month."""
    text = environment.get("CLOCK_OFFSET_DAYS") or "0"
    if not text.isdecimal() or int(text) > CLOCK_OFFSET_DAYS_MAX:
        raise StartupError(
            f"CLOCK_OFFSET_DAYS is {text!r}: give it a number of days from 0 to"
            f" {CLOCK_OFFSET_DAYS_MAX}."
        )
    if int(text) and environment.get("STRIPE_API_KEY"):
        raise StartupError(
            "CLOCK_OFFSET_DAYS works with the payment sandbox alone, so that no card is charged for"
            " a month that has not passed: leave it out, or STRIPE_API_KEY."
        )
    return int(text)


def keep_clock(path: Path, now: datetime) -> None:
    """Note when the data last began to live; time does not go back for it."""
    last = datetime.fromisoformat(path.read_text()) if path.exists() else now
    if now < last:
        days = math.ceil((last - datetime.now(UTC)) / timedelta(days=1))
        raise StartupError(
            f"this data has lived until {last:%Y-%m-%d}, and time does not go back: start with"
            f" `CLOCK_OFFSET_DAYS={days} make run`, or remove the data with `make reset`."
        )
    write_private(path, now.isoformat())


def databases(stack: ExitStack) -> tuple[dict[str, str], list[Child]]:
    """The URL of each service's database: the user's own, or one on our own server, whose
    process comes second."""
    urls = {name: os.environ.get(f"{name.upper()}_DATABASE_URL", "") for name in DATABASES}
    missing = [name for name, url in urls.items() if not url]
    if not missing:
        return urls, []
    server = postgresql.start(DATA / "postgres")
    stack.callback(server.stop)
    urls |= {name: server.create_database(name) for name in missing}
    return urls, server.children


def migrate_all(urls: dict[str, str]) -> None:
    """Bring every database to its newest tables, or none of them."""
    try:
        for name, url in urls.items():
            refuse_newer(f"services.{name}", url)
        for name, url in urls.items():
            migrate(f"services.{name}", url, announce=say)
    except DataAreNewer as error:
        raise StartupError(str(error)) from None


def kept_secrets(path: Path) -> Secrets:
    """This installation's secrets, made the first time."""
    if path.exists():
        return Secrets(**json.loads(path.read_text()))
    made = Secrets()
    write_private(path, json.dumps(asdict(made), indent=1))
    return made


def write_environments(every: list[Process], directory: Path) -> None:
    """Leave each process's own settings in a private file, for the commands of an operator."""
    settings = setting_names()
    for process in every:
        own = {
            name: value
            for name, value in process.environment.items()
            if name in settings or os.environ.get(name) != value
        }
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in sorted(own.items()))
        write_private(directory / f"{process.name}.env", "".join(lines))


def setting_names() -> set[str]:
    """The environment variables that the services read."""
    for service in DATABASES:
        importlib.import_module(f"services.{service}.settings")
    every: list[type[ServiceSettings]] = [ServiceSettings]
    for settings in every:
        every += settings.__subclasses__()
    return {name.upper() for settings in every for name in settings.model_fields}


def seed_catalog(every: list[Process]) -> None:
    """Put the example products into the catalog, or bring them up to date."""
    catalog = next(process for process in every if process.name == "catalog")
    seeding = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "services.catalog.seed"],
        env=dict(catalog.environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if seeding.returncode:
        last = (seeding.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise StartupError(f"The catalog's example products could not be stored: {last}")


def as_child(process: Process) -> Child:
    """The process, with its output in a file of its own."""
    return Child(
        process.name,
        process.argv,
        process.environment,
        DATA / "log" / f"{process.name}.log",
        directory=ROOT,
    )


def wait_until_ready(
    every: list[Process], supervisor: Supervisor, stopping: threading.Event
) -> bool:
    """Wait until every process answers that it is ready; False when we are to stop before.

    Raises StartupError when it takes too long.
    """
    waiting = {process.name: process.ready_url for process in every}
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        waiting = {name: url for name, url in waiting.items() if not is_ready(url)}
        if not waiting:
            return True
        if time.monotonic() > deadline:
            names = ", ".join(sorted(waiting))
            raise StartupError(f"Not ready after {READY_TIMEOUT_S:.0f} s: {names}; see .data/log/.")
        supervisor.tend()
        if stopping.wait(0.1):
            return False


def is_ready(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def banner(every: list[Process], ports: Ports) -> str:
    """What the person needs to know now."""
    sandbox = any(process.name == "sandbox" for process in every)
    mailbox = any(process.name == "mailbox" for process in every)
    traces = any(process.name == "traces" for process in every)
    lines = [
        f"Mycelium is running:   http://127.0.0.1:{ports.gateway}",
        *([f"Payment sandbox:       http://127.0.0.1:{ports.sandbox}"] if sandbox else []),
        *([f"Mails to its users:    http://127.0.0.1:{ports.mailbox}"] if mailbox else []),
        *([f"Traces:                http://127.0.0.1:{ports.traces}"] if traces else []),
        *([f"The clock:             {ahead().days} days ahead"] if ahead() else []),
        *(["Card for a purchase:   4242 4242 4242 4242, any date and code"] if sandbox else []),
        "Logs:                  .data/log/",
        "Ctrl-C stops it. The data is kept; `make reset` removes it.",
    ]
    return "\n".join(["", *(f"  {line}" for line in lines), ""])


if __name__ == "__main__":
    sys.exit(main())
