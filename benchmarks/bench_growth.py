"""How much a purchase leaves in the databases, for a time and for ever."""

import pytest
from sqlalchemy import text

from benchmarks.conftest import Record
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from contracts.billing import PurchaseLine, PurchaseStatus, StartPurchase
from contracts.catalog import ListProducts
from contracts.wallet import Credit, OpenAccount, TransactionKind
from deploy.local.processes import DATABASES
from tests.conftest import StackFactory
from tests.local.test_retention import BY_SERVICE
from tests.patience import eventually
from tests.system import System
from tests.topup.conftest import USD

PURCHASES = 500
PURCHASES_OF_A_USER = 50
_SIZES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack("wallet", "catalog", "billing", "topup", "sandbox", "notifier")


def measure_what_a_purchase_leaves(stack: System, record: Record) -> None:
    products = stack.rpc.call(ListProducts(limit=50)).products
    line = PurchaseLine(
        product_id=next(item.product_id for item in products if 0 < item.price_micros <= 20 * USD)
    )
    _buy(stack, line)
    before = _sizes(stack)
    for _ in range(PURCHASES // PURCHASES_OF_A_USER):
        _buy(stack, line)
    after = _sizes(stack)
    grown = {place: (after[place] - before[place]) / PURCHASES for place in after}
    passing = {(service, kept.table) for service, rules in BY_SERVICE.items() for kept in rules}
    for_ever = sum(size for place, size in grown.items() if place not in passing)
    largest = sorted(grown.items(), key=lambda item: -item[1])[:8]
    record(
        "Bytes in the databases for each purchase, for ever",
        f"{for_ever:,.0f}",
        detail=f"and {sum(grown.values()) - for_ever:,.0f} for a time; of {PURCHASES} purchases"
        f" with enough credits; the largest tables: "
        + ", ".join(f"{service}.{table} {size:,.0f}" for (service, table), size in largest),
    )


def _buy(stack: System, line: PurchaseLine) -> None:
    """Some purchases of a new user, with credits for all of them."""
    user_id = new_id()
    stack.rpc.call(OpenAccount(idempotency_key=str(new_id()), user_id=user_id))
    stack.rpc.call(
        Credit(
            idempotency_key=str(new_id()),
            user_id=user_id,
            amount_micros=20 * USD * PURCHASES_OF_A_USER,
            kind=TransactionKind.TOPUP,
            description="For a benchmark",
        )
    )
    for _ in range(PURCHASES_OF_A_USER):
        command = StartPurchase(idempotency_key=str(new_id()), user_id=user_id, lines=[line])
        assert stack.rpc.call(command).status == PurchaseStatus.COMPLETED


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
