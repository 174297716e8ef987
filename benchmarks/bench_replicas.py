"""What more processes of a service do to purchases that all have one popular seller.

Callers, services, broker and database share the machine's cores: where these are busy, more
processes cannot do more, and the figure says what they cost or save. By RPC, with enough credits.
"""

import random
from pathlib import Path
from statistics import median

import pytest

from benchmarks.conftest import Record
from benchmarks.load import NamekoCallers
from benchmarks.replicas import replicas
from benchmarks.site.processor import used_at_rest_s
from chassis.identifiers import new_id
from contracts.catalog import ListProducts, SortOrder
from contracts.wallet import Credit, TransactionKind
from deploy.local.child import Child
from tests.conftest import StackFactory
from tests.system import System

BUYERS = 200
CALLERS = 40
SECONDS = 5.0
ROUNDS = 3
FUNDS_MICROS = 10**12
NAMES = ("wallet", "catalog", "billing")


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    # Who listens is there: what nobody wants to hear would be told again and again.
    return service_stack(*NAMES, "topup", "sandbox")


@pytest.fixture(scope="module")
def buying(stack: System) -> NamekoCallers:
    """Callers that buy the cheapest thing without an end, for somebody or other."""
    cheapest = ListProducts(limit=100, sort=SortOrder.PRICE)
    product = next(
        item
        for item in stack.rpc.call(cheapest).products
        if item.stock is None and item.price_micros
    )
    buyers = [new_id() for _ in range(BUYERS)]
    for user_id in buyers:
        stack.rpc.call(
            Credit(
                idempotency_key=str(new_id()),
                user_id=user_id,
                amount_micros=FUNDS_MICROS,
                kind=TransactionKind.TOPUP,
                description="For a benchmark",
            )
        )
    return NamekoCallers(
        stack.vhost.admin_uri,
        "billing.start_purchase",
        lambda: {
            "idempotency_key": str(new_id()),
            "user_id": str(random.choice(buyers)),
            "lines": [{"product_id": str(product.product_id)}],
        },
    )


@pytest.mark.parametrize(
    ("service", "more"), [("billing", 2), ("wallet", 1)], ids=["three billings", "two wallets"]
)
def measure_purchases_with_more_of_a_service(
    stack: System, buying: NamekoCallers, record: Record, tmp_path: Path, service: str, more: int
) -> None:
    first = [stack.child(name) for name in NAMES]
    rates: dict[bool, list[float]] = {False: [], True: []}
    processor_ms: dict[bool, list[float]] = {False: [], True: []}
    buying.run(CALLERS, 1.0)
    for _ in range(ROUNDS):
        for has_more in (False, True):
            with replicas(stack, [service] * more * has_more, tmp_path) as others:
                rate, spent_ms = _bought(buying, [*first, *others])
            rates[has_more].append(rate)
            processor_ms[has_more].append(spent_ms)
    alone, together = median(rates[False]), median(rates[True])
    record(
        f"purchases a second, one seller, {1 + more} × {service} ÷ one",
        together / alone,
        detail=f"{together:.0f} against {alone:.0f} a second by {CALLERS} callers;"
        f" {median(processor_ms[True]):.1f} against {median(processor_ms[False]):.1f} ms of the"
        " three services' processor for each",
    )


def _bought(buying: NamekoCallers, children: list[Child]) -> tuple[float, float]:
    """Purchases a second, and the processor time that these processes spent on each, in ms."""
    pids = {str(child.pid): child.pid for child in children if child.pid}
    before = used_at_rest_s(pids)
    done = buying.run(CALLERS, SECONDS)
    after = used_at_rest_s(pids)
    assert not done.errors, done
    spent_s = sum(after.values()) - sum(before.values())
    return done.calls_per_s, 1_000 * spent_s / len(done.latencies_s)
