"""``kill -9`` at each step of a purchase: it ends exactly once, and the money adds up.

Each test names a point in the code (:func:`chassis.crash_points.crash_point`) at which the
process kills itself, once. It is then started again, as a supervisor would.
"""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, text

from chassis.money import parse_usd
from contracts.billing import (
    CancelPurchase,
    GetPurchase,
    ListDeployments,
    ListPurchases,
    Purchase,
    PurchaseLine,
    PurchaseStatus,
    StartPurchase,
)
from contracts.errors import ServiceError
from contracts.wallet import Credit, GetWallet, OpenAccount, Statement, TransactionKind
from deploy.local.startup import wait_for
from services.catalog.seed import product_id_of
from tests.crashes import points
from tests.faults.conftest import DyingAt
from tests.patience import eventually
from tests.system import System

SLUG = "3node-memory-kit"
STOCK = 40
PRICE = parse_usd("94.00")
ENDLESS = "vm-starter"
ENDLESS_PRICE = parse_usd("5.00")

BILLING_PAYS = [
    "billing.purchase_recorded",
    "billing.stock_reserved",
    "billing.wallet_debited",
    "billing.completing",
    "billing.completed",
]
WALLET_DEBITS = ["wallet.committing", "wallet.committed"]
BILLING_RESUMES = ["billing.awaiting_funds", "billing.credit_heard", "billing.resuming"]
BILLING_CLOSES = [
    "billing.closing_marked",
    "billing.key_closed",
    "billing.ended",
    "billing.stock_released",
]


class Buyer:
    """A user with a wallet, one purchase, and everything that must add up about it."""

    def __init__(self, stack: System, usd: str = "0", quantity: int = 1, slug: str = SLUG) -> None:
        self.stack = stack
        self.user_id = uuid4()
        self.credited_micros = 0
        self.command = StartPurchase(
            idempotency_key=f"order:{uuid4()}",
            user_id=self.user_id,
            lines=[PurchaseLine(product_id=product_id_of(slug), quantity=quantity)],
        )
        stack.rpc.call(OpenAccount(idempotency_key=f"open:{uuid4()}", user_id=self.user_id))
        if parse_usd(usd):
            self.credit(usd)

    def credit(self, usd: str) -> None:
        """Add credits, insisting until the wallet has answered."""
        command = Credit(
            idempotency_key=f"credit:{uuid4()}",
            user_id=self.user_id,
            amount_micros=parse_usd(usd),
            description="Credits bought",
        )
        insist(lambda: self.stack.rpc.call(command, timeout_s=3))
        self.credited_micros += parse_usd(usd)

    def buy(self) -> Purchase:
        return self.stack.rpc.call(self.command)

    def asks(self) -> None:
        """Order while something dies: whether an answer comes is not known."""
        with suppress(ServiceError):
            self.stack.rpc.call(self.command, timeout_s=2)

    def asks_to_cancel(self, purchase_id: UUID) -> None:
        command = CancelPurchase(user_id=self.user_id, purchase_id=purchase_id)
        with suppress(ServiceError):
            self.stack.rpc.call(command, timeout_s=2)

    def purchase(self) -> Purchase:
        (purchase,) = self.stack.rpc.call(ListPurchases(user_id=self.user_id)).purchases
        return self.stack.rpc.call(
            GetPurchase(user_id=self.user_id, purchase_id=purchase.purchase_id)
        )

    def comes_to(self, status: PurchaseStatus) -> None:
        eventually(lambda: self.purchase().status, lambda seen: seen == status)

    def paid_times(self) -> int:
        kinds = [TransactionKind.PURCHASE]
        page = self.stack.rpc.call(Statement(user_id=self.user_id, kinds=kinds))
        return len(page.transactions)

    def balance(self) -> int:
        return self.stack.rpc.call(GetWallet(user_id=self.user_id)).balance_micros

    def deployed(self) -> int:
        return len(self.stack.rpc.call(ListDeployments(user_id=self.user_id)).deployments)

    def outcome(self) -> tuple[int, int, int]:
        """How often it was paid and deployed, and what the balance lacks of what it should be."""
        paid = self.paid_times()
        return paid, self.deployed(), self.credited_micros - paid * PRICE - self.balance()


def insist(call: Callable[[], object]) -> None:
    """Repeat a call that has an idempotency key until it is answered."""

    def answered() -> bool:
        try:
            call()
        except ServiceError:
            return False
        return True

    eventually(answered)


@pytest.fixture(autouse=True)
def shelf(stack: System) -> None:
    """Fill the shelf, so that what was taken from it can be counted."""
    update = "UPDATE products SET stock = :stock WHERE slug = :slug"
    run_in(stack, "catalog", update, stock=STOCK, slug=SLUG)


def left(stack: System) -> int:
    return run_in(stack, "catalog", "SELECT stock FROM products WHERE slug = :slug", slug=SLUG)


def comes_to_be_left(stack: System, expected: int) -> None:
    """What a purchase lets go returns to the shelf in a while."""
    eventually(lambda: left(stack), lambda seen: seen == expected)


def events_about(stack: System, purchase: Purchase, event_type: str) -> int:
    return run_in(
        stack,
        "billing",
        "SELECT count(*) FROM outbox WHERE type = :type AND payload->>'purchase_id' = :purchase_id",
        type=event_type,
        purchase_id=str(purchase.purchase_id),
    )


def run_in(stack: System, service: str, statement: str, **values: object) -> int:
    engine = create_engine(stack.database_url(service))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return int(result.scalar_one()) if result.returns_rows else 0
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "point", points([*BILLING_PAYS, *WALLET_DEBITS], "billing.wallet_debited", "wallet.committed")
)
def test_a_crash_while_paying_pays_and_delivers_once(
    stack: System, dying_at: DyingAt, point: str
) -> None:
    buyer = Buyer(stack, "100")
    with dying_at(point) as ask:
        ask(buyer.asks)

    buyer.comes_to(PurchaseStatus.COMPLETED)

    assert buyer.outcome() == (1, 1, 0)
    comes_to_be_left(stack, STOCK - 1)
    assert events_about(stack, buyer.purchase(), "purchase_completed") == 1


@pytest.mark.parametrize("point", points(BILLING_PAYS, "billing.wallet_debited"))
def test_a_crash_while_several_pay_together_pays_and_delivers_each_once(
    stack: System, dying_at: DyingAt, point: str
) -> None:
    buyers = [Buyer(stack, "25", slug=ENDLESS) for _ in range(4)]
    with dying_at(point) as ask, ThreadPoolExecutor(len(buyers)) as pool:
        ask(lambda: list(pool.map(Buyer.asks, buyers)))

    # Who was not recorded asks again, with the same key.
    for buyer in buyers:
        insist(buyer.buy)
        buyer.comes_to(PurchaseStatus.COMPLETED)

    assert [(each.paid_times(), each.deployed()) for each in buyers] == [(1, 1)] * len(buyers)
    assert {buyer.balance() for buyer in buyers} == {parse_usd("25") - ENDLESS_PRICE}


def test_the_key_that_a_crash_interrupted_returns_the_same_purchase(
    stack: System, dying_at: DyingAt
) -> None:
    buyer = Buyer(stack, "100")
    with dying_at("billing.wallet_debited") as ask:
        ask(buyer.asks)

    again = buyer.buy()

    assert again.purchase_id == buyer.purchase().purchase_id
    buyer.comes_to(PurchaseStatus.COMPLETED)
    assert buyer.outcome() == (1, 1, 0)


def test_a_crash_after_a_debit_that_took_almost_everything_delivers_a_large_order(
    stack: System, dying_at: DyingAt
) -> None:
    buyer = Buyer(stack, "1900", quantity=20)
    with dying_at("billing.wallet_debited") as ask:
        ask(buyer.asks)

    buyer.comes_to(PurchaseStatus.COMPLETED)

    assert (buyer.paid_times(), buyer.deployed(), buyer.balance()) == (1, 20, parse_usd("20"))


@pytest.mark.parametrize("point", points(BILLING_RESUMES, "billing.resuming"))
def test_a_crash_while_money_comes_pays_and_delivers_once(
    stack: System, dying_at: DyingAt, point: str
) -> None:
    buyer = Buyer(stack)
    if point == "billing.awaiting_funds":
        with dying_at(point) as ask:
            ask(buyer.asks)
        buyer.credit("100")
    else:
        buyer.buy()
        with dying_at(point):
            buyer.credit("100")

    buyer.comes_to(PurchaseStatus.COMPLETED)

    assert buyer.outcome() == (1, 1, 0)
    comes_to_be_left(stack, STOCK - 1)


@pytest.mark.parametrize("point", points(BILLING_CLOSES, "billing.key_closed"))
def test_a_crash_while_cancelling_cancels_once_and_for_good(
    stack: System, dying_at: DyingAt, point: str
) -> None:
    buyer = Buyer(stack)
    purchase = buyer.buy()
    with dying_at(point) as ask:
        ask(lambda: buyer.asks_to_cancel(purchase.purchase_id))
    buyer.comes_to(PurchaseStatus.CANCELLED)

    buyer.credit("100")

    assert buyer.outcome() == (0, 0, 0)
    comes_to_be_left(stack, STOCK)
    assert events_about(stack, purchase, "purchase_ended") == 1


@pytest.mark.parametrize("victim", points(["wallet", "billing", "catalog"], "billing"))
def test_a_service_killed_amid_many_purchases_loses_and_doubles_nothing(
    stack: System, victim: str
) -> None:
    buyers = [Buyer(stack, "100") for _ in range(12)]
    with ThreadPoolExecutor(12) as crowd:
        for buyer in buyers:
            crowd.submit(buyer.asks)
        half_way = random.Random(victim).randint(2, 8)
        wait_for(lambda: STOCK - left(stack) >= half_way, 5, 0.005)
        stack.kill(victim)
    stack.start(victim)

    for buyer in buyers:
        insist(buyer.buy)
    for buyer in buyers:
        buyer.comes_to(PurchaseStatus.COMPLETED)

    assert [buyer.outcome() for buyer in buyers] == [(1, 1, 0)] * len(buyers)
    comes_to_be_left(stack, STOCK - len(buyers))
