"""What the ledger can do: by RPC, in batches, in process, and when it has grown.

The size of "grown" is 10 million entries; ``LEDGER_ENTRIES`` makes it another.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pytest
from kombu import Connection, Queue
from sqlalchemy import make_url, text

from benchmarks.conftest import Record, median_ratio
from benchmarks.load import NamekoCallers
from chassis.broker import event_exchange
from chassis.clock import utc_now
from chassis.identifiers import new_id
from contracts.wallet import BalanceAt, BatchCommand, Credit, PostBatch, Statement
from deploy.local.child import Child
from deploy.local.postgres import BINARIES, Postgres
from deploy.local.processes import ROOT
from deploy.local.startup import wait_for
from services.wallet import chain, statements
from tests.plans import planned, ways
from tests.system import System
from tests.wallet.filled import FilledLedger, filled
from tests.wallet.test_plans import HOT, make_known

CLIENTS = 40
ROUNDS = 5
SECONDS = 4.0
WARM_UP_S = 10.0
BATCH = 500
BATCH_CALLERS = 3
PAGE = 25
ASKING_USERS = 1_000
USERS = 100_000
ENTRIES = int(os.environ.get("LEDGER_ENTRIES", "10000000"))
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def wallet(service_stack: Callable[..., System]) -> System:
    """The wallet as `make run` starts it, and a queue that wants its events."""
    stack = service_stack("wallet")
    with Connection(stack.vhost.admin_uri) as connection:
        Queue(
            "evt-wallet-wallet_credited--benchmark",
            exchange=event_exchange("wallet"),
            routing_key="wallet_credited",
            queue_arguments={"x-max-length": 10},
        )(connection.default_channel).declare()
    return stack


@pytest.fixture(scope="module")
def users(wallet: System) -> list[str]:
    """Users with money."""
    user_ids = [new_id() for _ in range(1_000)]
    commands = [
        BatchCommand.of(
            Credit(
                idempotency_key=f"credit:{user_id}",
                user_id=user_id,
                amount_micros=10**12,
                description="Top-up",
            )
        )
        for user_id in user_ids
    ]
    wallet.rpc.call(PostBatch(commands=commands))
    return [str(user_id) for user_id in user_ids]


@pytest.fixture(scope="module")
def stock_echo(wallet: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Stock nameko's echo beside the wallet, on the same broker."""
    directory = tmp_path_factory.mktemp("stock")
    config = directory / "stock.yaml"
    config.write_text(f"AMQP_URI: {wallet.vhost.admin_uri}\nmax_workers: 10\n")
    argv = [sys.executable, "-m", "nameko", "run", "--config", str(config)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    child = Child(
        "stock",
        [*argv, "benchmarks.echoes.stock"],
        environment,
        directory / "stock.log",
        directory=ROOT,
    )
    child.start()
    assert wait_for(lambda: "Connected" in child.tail(), 30), child.tail()
    yield "stock.echo"
    child.stop()


def debit_arguments(users: list[str]) -> dict[str, object]:
    return {
        "idempotency_key": f"bench:{new_id()}",
        "user_id": random.choice(users),
        "amount_micros": 1_000,
        "description": "Benchmark",
    }


def measure_debits_against_stock_nameko_echo(
    wallet: System, users: list[str], stock_echo: str, record: Record
) -> None:
    uri = wallet.vhost.admin_uri
    debits = NamekoCallers(uri, "wallet.debit", lambda: debit_arguments(users))
    echoes = NamekoCallers(uri, stock_echo, lambda: {"n": 1})
    debits.run(CLIENTS, 1.0)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        measured = debits.run(CLIENTS, SECONDS)
        assert measured.errors == 0
        ours.append(measured.calls_per_s)
        theirs.append(echoes.run(CLIENTS, SECONDS).calls_per_s)
    record(
        f"debit RPCs ÷ stock nameko's echo RPCs, {CLIENTS} clients",
        median_ratio(ours, theirs),
        at_least=1.0,
        detail=f"{max(ours):.0f} against {max(theirs):.0f} a second",
    )
    half = debits.run(CLIENTS, 10.0, rate_per_s=max(ours) / 2)
    record(
        "p99 of a debit at half the top rate",
        f"{half.percentile_ms(99):.0f} ms",
        detail=f"median {half.percentile_ms(50):.0f} ms at {half.calls_per_s:.0f} a second",
    )


def pgbench(database: str, seconds: int) -> float:
    """Hand-written double entries a second, each a transaction of its own, 8 clients."""
    url = make_url(database)
    done = subprocess.run(
        [
            str(BINARIES / "pgbench"),
            *("-n", "-c", "8", "-j", "2", "-T", str(seconds)),
            *("-f", str(HERE / "double_entry.sql")),
            *("-h", str(url.host), "-p", str(url.port), "-U", str(url.username)),
            str(url.database),
        ],
        env={"PGPASSWORD": str(url.password), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    assert rate, done.stdout
    return float(rate[1])


def batch_rate(wallet: System, users: list[str], seconds: float) -> float:
    """Postings a second through ``post_batch``, from a few callers at a time."""
    began = time.monotonic()

    def caller(_number: int) -> int:
        count = 0
        while time.monotonic() < began + seconds:
            commands = [
                BatchCommand(method="debit", arguments=debit_arguments(users)) for _ in range(BATCH)
            ]
            outcome = wallet.rpc.call(PostBatch(commands=commands))
            assert all(result.error is None for result in outcome.results)
            count += BATCH
        return count

    with ThreadPoolExecutor(BATCH_CALLERS) as pool:
        count = sum(pool.map(caller, range(BATCH_CALLERS)))
    return count / (time.monotonic() - began)


def measure_post_batch_against_pgbench(
    wallet: System, users: list[str], postgres: Postgres, record: Record
) -> None:
    database = postgres.create_database("bench_by_hand")
    connection = psycopg2.connect(database.replace("+psycopg2", ""))
    with connection, connection.cursor() as cursor:
        cursor.execute((HERE / "double_entry_tables.sql").read_text())
    connection.close()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(batch_rate(wallet, users, SECONDS))
        theirs.append(pgbench(database, int(SECONDS)))
    postgres.drop_database("bench_by_hand")
    record(
        f"post_batch postings, {BATCH} in a call ÷ pgbench, the same by hand, 8 clients",
        median_ratio(ours, theirs),
        at_least=2.0,
        detail=f"{max(ours):.0f} against {max(theirs):.0f} postings a second, fsync on",
    )


@pytest.fixture(scope="module")
def small(postgres: Postgres) -> Iterator[FilledLedger]:
    """One credit for each user, and nothing else."""
    with filled(postgres, "bench_small", 2 * USERS, USERS) as ledger:
        yield ledger


def posting_rate(ledger: FilledLedger, seconds: float, users: int | None = None) -> float:
    """Postings a second in process, in batches, each in its own transaction."""
    began, count = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        ledger.post(ledger.debits(BATCH, users))
        count += BATCH
    return count / (time.monotonic() - began)


def measure_postings_against_django_hordak(
    small: FilledLedger, postgres: Postgres, record: Record
) -> None:
    pytest.importorskip("hordak", reason="needs `uv pip install django-hordak`")
    database = postgres.create_database("bench_hordak")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database,
        "SECONDS": str(SECONDS),
    }
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(posting_rate(small, SECONDS))
        hordak = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.hordak_transfers"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert hordak.returncode == 0, hordak.stderr
        theirs.append(float(hordak.stdout))
    postgres.drop_database("bench_hordak")
    record(
        "in-process postings ÷ django-hordak's transfer_to",
        median_ratio(ours, theirs),
        at_least=8.0,
        detail=f"{max(ours):.0f} against {max(theirs):.0f} a second",
    )


def measure_one_hot_wallet_against_many(small: FilledLedger, record: Record) -> None:
    hot, many = [], []
    for _ in range(ROUNDS):
        hot.append(posting_rate(small, SECONDS, users=1))
        many.append(posting_rate(small, SECONDS))
    record(
        f"postings on one hot wallet ÷ on {USERS:,} wallets",
        median_ratio(hot, many),
        at_least=0.7,
        detail=f"{max(hot):.0f} against {max(many):.0f} a second",
    )


def question_rate(ledger: FilledLedger, seconds: float, ask: Callable[..., object]) -> float:
    """Questions a second about a thousand users, each in a transaction of its own."""
    began, count = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        with ledger.database.read() as session:
            ask(session, random.choice(ledger.user_ids[:ASKING_USERS]))
        count += 1
    return count / (time.monotonic() - began)


def ask_statement(session, user_id) -> object:
    return statements.statement(session, Statement(user_id=user_id, limit=PAGE))


def ask_balance(session, user_id) -> object:
    at = utc_now() - timedelta(days=random.randint(0, 365))
    return statements.balance_at(session, BalanceAt(user_id=user_id, at=at))


@pytest.fixture(scope="module")
def grown(postgres: Postgres) -> Iterator[FilledLedger]:
    """A ledger after years."""
    with filled(postgres, "bench_grown", ENTRIES, min(USERS, ENTRIES // (2 * PAGE))) as ledger:
        yield ledger


@pytest.mark.timeout(5400)
def measure_a_grown_ledger_against_a_new_one(
    small: FilledLedger, grown: FilledLedger, postgres: Postgres, record: Record
) -> None:
    """Postings on as many wallets; questions of as many users about as long a page."""
    ask_page = partial(question_rate, ask=ask_statement)
    ask_past = partial(question_rate, ask=ask_balance)
    # The first posting to a wallet reads its pages from the disk, and the log takes them whole.
    for place in range(0, len(grown.user_ids), BATCH):
        grown.post([grown.debit(user_id) for user_id in grown.user_ids[place : place + BATCH]])
    with filled(postgres, "bench_new", 2 * PAGE * ASKING_USERS, ASKING_USERS) as new:
        for name, rate, beginning, entries in (
            ("postings", posting_rate, small, 2 * USERS),
            ("statement pages", ask_page, new, 2 * PAGE * ASKING_USERS),
            ("balance_at", ask_past, new, 2 * PAGE * ASKING_USERS),
        ):
            rate(grown, WARM_UP_S)
            full, empty = [], []
            for _ in range(ROUNDS):
                full.append(rate(grown, SECONDS))
                empty.append(rate(beginning, SECONDS))
            record(
                f"{name} at {ENTRIES:,} entries ÷ on a new ledger",
                median_ratio(full, empty),
                at_least=0.9,
                detail=f"{max(full):.0f} against {max(empty):.0f} a second at {entries:,}",
            )


@pytest.mark.timeout(5400)
def measure_the_verification_of_a_grown_ledger(grown: FilledLedger, record: Record) -> None:
    """The chain is sealed first, then the command runs in a process of its own, and in several."""
    began = time.monotonic()
    sealed = chain.seal(grown.database)
    sealed_s = time.monotonic() - began
    alone = verified(grown, 1)
    record(
        f"verification of {ENTRIES:,} entries",
        f"{alone.seconds:.0f} s",
        detail=f"{alone.mib:.0f} MiB of memory, {alone.aside_gb:.1f} GB written aside;"
        f" {sealed:,} transactions were sealed at {sealed / sealed_s:.0f} a second",
    )
    processes = os.cpu_count() or 1
    shared = verified(grown, processes)
    record(
        f"verification of {ENTRIES:,} entries by {processes} processes",
        f"{shared.seconds:.0f} s",
        detail=f"{alone.seconds / shared.seconds:.2f} times as fast as by one, on {processes}"
        f" processors that the database works on too; {shared.mib:.0f} MiB of memory in the largest"
        " of them",
    )


_SIZES = text(
    "SELECT relname, pg_table_size(oid) AS rows, pg_indexes_size(oid) AS indexes FROM pg_class"
    " WHERE relname IN ('transactions', 'entries', 'keys') ORDER BY relname"
)


@pytest.mark.timeout(5400)
def measure_the_plans_of_a_grown_ledger(grown: FilledLedger, record: Record) -> None:
    """What is asked all the time is found as the tests find it in 100,000 entries."""
    user_id = make_known(grown)
    with grown.database.read() as session:
        plans = {}
        for name, question in HOT.items():
            with planned(session) as sent:
                question.ask(session, user_id)
            plans[name] = (ways(sent), sorted(question.ways))
        sizes = [
            f"{name} {rows / ENTRIES:.0f} and {indexes / ENTRIES:.0f} of indexes"
            for name, rows, indexes in session.execute(_SIZES)
        ]
    others = [name for name, (found, expected) in plans.items() if found != expected]
    record(
        f"questions at {ENTRIES:,} entries that are found otherwise than at 100,000",
        f"{len(others)} of {len(plans)}",
        detail=f"{', '.join(others) or 'each by its index'}; bytes for an entry, with its half of a"
        f" transaction and of a key: {'; '.join(sizes)}",
    )


class Verified(NamedTuple):
    """``mib``: memory of the largest process. ``aside_gb``: what PostgreSQL wrote into files that
    are gone with the statement."""

    seconds: float
    mib: float
    aside_gb: float


_WRITTEN_ASIDE = text("SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()")


def verified(ledger: FilledLedger, processes: int) -> Verified:
    """What the command takes."""
    url = ledger.database.engine.url.render_as_string(hide_password=False)
    environment = {"DATABASE_URL": url, "AMQP_URI": "amqp://", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-W", "ignore", "-m", "services.wallet.verification"]
    command += ["--processes", str(processes)]
    before = written_aside(ledger)
    began = time.monotonic()
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as process:
        verdict = process.stdout.read() if process.stdout else b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    assert process.returncode == 0, verdict
    return Verified(seconds, used.ru_maxrss / 1024, (written_aside(ledger) - before) / 1e9)


def written_aside(ledger: FilledLedger) -> int:
    with ledger.database.read() as session:
        return session.scalars(_WRITTEN_ASIDE).one()
