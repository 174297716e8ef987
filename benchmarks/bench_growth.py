"""What steady use leaves behind: bytes in the databases, and memory of each process."""

import time
from collections.abc import Iterator, Mapping
from threading import Event, Thread
from uuid import uuid4

import psutil
import pytest
import requests
from sqlalchemy import text

from benchmarks.conftest import Record
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from contracts.wallet import Credit, TransactionKind
from deploy.parts import DATABASES, PROCESSES
from tests.conftest import StackFactory
from tests.local.test_retention import BY_SERVICE
from tests.patience import eventually
from tests.system import System
from tests.topup.conftest import USD

WATCHED_S = 20 * 60
PURCHASES = 3_000
PURCHASES_OF_A_USER = 20
TIMEOUT_S = 30
MIB = 2**20
_SIZES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack(*PROCESSES)


@pytest.fixture
def memory(stack: System) -> Iterator[dict[str, list[float]]]:
    """Process → MiB that are its own (with its children's), read every minute."""
    seen: dict[str, list[float]] = {name: [] for name in PROCESSES}
    ended = Event()

    def watch() -> None:
        while not ended.wait(60):
            for name, readings in seen.items():
                readings.append(_memory_mib(stack.child(name).pid))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()


def measure_what_steady_use_leaves(
    stack: System, memory: dict[str, list[float]], record: Record
) -> None:
    """Users register, log in, look at pages and buy, over 20 minutes."""
    product_id = _product(stack)
    _use(stack, product_id)
    before, started = _sizes(stack), time.monotonic()
    users = PURCHASES // PURCHASES_OF_A_USER
    for number in range(users):
        time.sleep(max(0.0, started + number * WATCHED_S / users - time.monotonic()))
        _use(stack, product_id)
    time.sleep(60)  # for the last reading
    after = _sizes(stack)
    grown = {place: (after[place] - before[place]) / PURCHASES for place in after}
    passing = {(service, kept.table) for service, rules in BY_SERVICE.items() for kept in rules}
    for_ever = sum(size for place, size in grown.items() if place not in passing)
    largest = sorted(grown.items(), key=lambda item: -item[1])[:8]
    record(
        "Bytes in the databases for each purchase, for ever",
        f"{for_ever:,.0f}",
        detail=f"and {sum(grown.values()) - for_ever:,.0f} for a time; of {PURCHASES:,} purchases"
        f" by {users} users, with enough credits; the largest tables: "
        + ", ".join(f"{service}.{table} {size:,.0f}" for (service, table), size in largest),
    )
    record(
        "Memory of all processes over 20 minutes of use, last ÷ fifth minute",
        sum(readings[-1] for readings in memory.values())
        / sum(readings[4] for readings in memory.values()),
        detail=f"MiB of their own after 1, 5, 10 and {len(memory['wallet'])} minutes: "
        + "; ".join(
            f"{name} {', '.join(f'{readings[at]:.0f}' for at in (0, 4, 9, -1))}"
            for name, readings in memory.items()
        ),
    )


def _memory_mib(pid: int) -> float:
    parent = psutil.Process(pid)
    family = (parent, *parent.children(recursive=True))
    return sum(process.memory_full_info().uss for process in family) / MIB


def _product(stack: System) -> str:
    answer = requests.get(
        f"{stack.base_url}/api/products",
        params={"sort": "price", "category": "compute"},
        timeout=TIMEOUT_S,
    )
    return next(
        item["product_id"] for item in answer.json()["products"] if 0 < item["price_usd"] <= 20
    )


def _use(stack: System, product_id: str) -> None:
    """A new user, with credits for all of his purchases, who logs in and looks at what he has."""
    account = {"email": f"{uuid4()}@example.com", "password": "a long enough password"}
    registered = _post(stack, "/api/auth/register", account, "").json()
    stack.rpc.call(
        Credit(
            idempotency_key=str(new_id()),
            user_id=registered["user_id"],
            amount_micros=20 * USD * PURCHASES_OF_A_USER,
            kind=TransactionKind.TOPUP,
            description="For a benchmark",
        )
    )
    token = _post(stack, "/api/auth/login", account, "").json()["token"]
    for _ in range(PURCHASES_OF_A_USER):
        body = {"product_id": product_id, "quantity": 1}
        assert _post(stack, "/api/wallet/instant-purchase", body, token).json()["status"] == (
            "completed"
        )
    for path in ("/", "/marketplace", "/api/wallet/info", "/api/wallet/transactions"):
        requests.get(
            stack.base_url + path, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S
        ).raise_for_status()


def _post(stack: System, path: str, body: Mapping[str, object], token: str) -> requests.Response:
    headers = {"Idempotency-Key": str(new_id())}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    answer = requests.post(stack.base_url + path, json=body, headers=headers, timeout=TIMEOUT_S)
    assert answer.ok, answer.text
    return answer


def _sizes(stack: System) -> dict[tuple[str, str], int]:
    """Of every table with its indexes, once all events have come to rest."""
    sizes: dict[tuple[str, str], int] = {}
    for service in DATABASES:
        database = connect(stack.database_url(service))
        eventually(lambda database=database: _unsent(database) == 0)
        with database.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.execute(text("VACUUM FULL"))
            sizes |= {(service, name): size for name, size in connection.execute(_SIZES)}
        database.engine.dispose()
    return sizes


def _unsent(database: Connected) -> int:
    with database.read() as session:
        return session.scalar(text("SELECT count(*) FROM outbox WHERE published_at IS NULL")) or 0
