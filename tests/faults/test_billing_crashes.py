"""``kill -9`` at each step of what comes after a purchase: it happens once, and the money adds up.

Who asked for something asks again, under the same key, and the process dies at the next step; or a
lease runs out, for which its moment is moved into the past. Two of them run with the others, the
rest, whose lost answers are tried within one process as well, with ``make soak``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from contracts.billing import (
    Deployment,
    DeploymentStatus,
    GetDeployment,
    IssueReceipt,
    PayoutStatus,
    Purchase,
    PurchaseLine,
    PurchaseStatus,
    RecordUsage,
    RefundPurchase,
    RequestPayout,
    ResizeDeployment,
    StartDeployment,
    StartPurchase,
    StopDeployment,
    UsageRecord,
)
from contracts.catalog import BillingPeriod, Category, CreateProduct, Meter, Product
from contracts.messages import Request
from contracts.papers import BillingDetails
from contracts.wallet import (
    Debit,
    GetWallet,
    OpenAccount,
    Statement,
    TransactionKind,
)
from tests.faults.conftest import DyingAt
from tests.faults.test_purchase_crashes import SLUG, Buyer, events_about, insist, run_in
from tests.patience import eventually
from tests.system import System

USD = 1_000_000
HOURS = Meter(key="hours", label="Hours", unit="hour", price_micros=USD)


class Sizes(NamedTuple):
    """Two sizes of a machine, at $10 and $20, that somebody sells for 90 % of the price."""

    small: Product
    large: Product
    seller_id: UUID


@pytest.fixture(scope="module")
def sizes(stack: System) -> Sizes:
    seller_id, family = uuid4(), f"sizes-{uuid4().hex[:12]}"
    stack.rpc.call(OpenAccount(idempotency_key=f"open:{seller_id}", user_id=seller_id))

    def size(name: str, price_usd: int) -> Product:
        command = CreateProduct(
            idempotency_key=f"{uuid4()}",
            slug=f"size-{uuid4().hex[:16]}",
            name=name,
            category=Category.COMPUTE,
            summary="A size",
            provider_name="Example Provider",
            provider_id=seller_id,
            price_micros=price_usd * USD,
            billing_period=BillingPeriod.MONTH,
            meters=[HOURS],
            family=family,
            reason="A test",
            actor="a test",
        )
        return stack.rpc.call(command)

    return Sizes(size("Small", 10), size("Large", 20), seller_id)


class Owner(Buyer):
    """A buyer of the small machine, which runs."""

    def __init__(self, stack: System, sizes: Sizes) -> None:
        super().__init__(stack, "100")
        self.sizes = sizes
        self.command = StartPurchase(
            idempotency_key=f"order:{uuid4()}",
            user_id=self.user_id,
            lines=[PurchaseLine(product_id=sizes.small.product_id)],
        )
        bought = eventually(self.buy, lambda made: made.status == PurchaseStatus.COMPLETED)
        (self.deployment_id,) = bought.deployment_ids
        self._sellers_micros = self._seller_has()

    @property
    def earned(self) -> int:
        """What the seller got since the machine was bought."""
        return self._seller_has() - self._sellers_micros

    def _seller_has(self) -> int:
        return self.stack.rpc.call(GetWallet(user_id=self.sizes.seller_id)).balance_micros

    def wants(self, command: type, **more: Any) -> Any:
        """A command about the machine."""
        who = {"user_id": self.user_id, "deployment_id": self.deployment_id}
        return command(idempotency_key=f"{uuid4()}", **who, **more)

    def buys_another(self) -> Purchase:
        command = self.command.model_copy(update={"idempotency_key": f"order:{uuid4()}"})
        return self.stack.rpc.call(command)

    def machine(self) -> Deployment:
        question = GetDeployment(user_id=self.user_id, deployment_id=self.deployment_id)
        return self.stack.rpc.call(question)

    def month_passes(self) -> None:
        run_in(
            self.stack,
            "billing",
            "UPDATE deployments SET period_anchor_at = period_anchor_at - interval '40 days',"
            " paid_until = paid_until - interval '40 days' WHERE deployment_id = :id",
            id=self.deployment_id,
        )

    def hour_passes(self, table: str) -> None:
        """What was due, or leased, within the hour is due."""
        statement = f"UPDATE {table} SET due_at = due_at - interval '1 hour' WHERE user_id = :id"  # noqa: S608
        run_in(self.stack, "billing", statement, id=self.user_id)

    def moved(self, kind: TransactionKind) -> list[int]:
        page = self.stack.rpc.call(Statement(user_id=self.user_id, kinds=[kind]))
        return [each.amount_micros for each in reversed(page.transactions)]


AskedAtEach = Callable[..., None]


@pytest.fixture
def owner(stack: System, sizes: Sizes) -> Owner:
    return Owner(stack, sizes)


@pytest.fixture
def asked_at_each(stack: System, dying_at: DyingAt) -> AskedAtEach:
    """``asked_at_each(command, "billing.one", "billing.two")``: asked again after each death."""

    def asked(command: Request[Any], *points: str) -> None:
        for point in points:
            with dying_at(point) as ask:
                # Whoever asked is gone by the time that the process is back.
                ask(lambda: stack.rpc.call(command, timeout_s=1))
        insist(lambda: stack.rpc.call(command))

    return asked


@pytest.mark.soak
def test_a_start_that_dies_at_each_step_is_charged_one_month(
    owner: Owner, asked_at_each: AskedAtEach
) -> None:
    owner.stack.rpc.call(owner.wants(StopDeployment))
    owner.month_passes()

    asked_at_each(
        owner.wants(StartDeployment),
        "billing.start_recorded",
        "billing.periods_charged",
        "billing.periods_settled",
    )

    assert owner.machine().status == DeploymentStatus.ACTIVE
    assert (owner.moved(TransactionKind.RENEWAL), owner.balance()) == ([-10 * USD], 80 * USD)
    assert ([each.kind for each in owner.machine().charges], owner.earned) == (["month"], 9 * USD)


@pytest.mark.soak
def test_a_resize_that_nobody_asks_about_again_is_charged_when_its_lease_runs_out(
    owner: Owner, dying_at: DyingAt
) -> None:
    command = owner.wants(ResizeDeployment, product_id=owner.sizes.large.product_id)
    with dying_at("billing.resize_recorded") as ask:
        ask(lambda: owner.stack.rpc.call(command, timeout_s=1))
    waiting = owner.machine()

    owner.hour_passes("deployments")
    machine = eventually(owner.machine, lambda seen: seen.product_id != waiting.product_id)

    (charge,) = machine.charges
    assert (charge.kind, machine.next_renewal_micros) == ("resize", 20 * USD)
    assert owner.balance() == 90 * USD - charge.amount_micros
    assert owner.stack.rpc.call(command) == owner.machine()
    assert owner.earned == charge.amount_micros * 9 // 10


@pytest.mark.soak
def test_usage_whose_charge_dies_at_each_step_is_paid_and_paid_back_once(
    owner: Owner, dying_at: DyingAt
) -> None:
    used_at = owner.machine().active_at
    record = UsageRecord(
        record_id="r", deployment_id=owner.deployment_id, meter="hours", quantity=3, used_at=used_at
    )
    owner.stack.rpc.call(RecordUsage(records=[record]))
    for point in ("billing.usage_written", "billing.usage_charged", "billing.usage_settled"):
        with dying_at(point):
            owner.hour_passes("usage_wallets")

    assert (owner.moved(TransactionKind.USAGE), owner.balance()) == ([-3 * USD], 87 * USD)
    paid = "SELECT count(*) FROM usage_charges WHERE user_id = :id AND paid_at IS NOT NULL"
    assert run_in(owner.stack, "billing", paid, id=owner.user_id) == 1
    assert owner.earned == 3 * USD * 9 // 10

    correction = record.model_copy(update={"record_id": "c", "quantity": -1, "corrects": "r"})
    owner.stack.rpc.call(RecordUsage(records=[correction]))
    with dying_at("billing.usage_refunded"):
        owner.hour_passes("usage_wallets")
    owner.hour_passes("usage_refunds")
    done = "SELECT count(*) FROM usage_refunds WHERE user_id = :id AND done_at IS NOT NULL"
    eventually(lambda: run_in(owner.stack, "billing", done, id=owner.user_id) == 1)
    assert (owner.balance(), owner.earned) == (88 * USD, 2 * USD * 9 // 10)


@pytest.mark.soak
def test_a_refund_that_dies_at_each_step_gives_back_once(
    stack: System, asked_at_each: AskedAtEach
) -> None:
    buyer = Buyer(stack, "100")
    stock = "SELECT stock FROM products WHERE slug = :slug"
    before = run_in(stack, "catalog", stock, slug=SLUG)
    purchase = buyer.buy()
    command = RefundPurchase(
        idempotency_key=f"{uuid4()}",
        purchase_id=purchase.purchase_id,
        reason="It was slow",
        actor="a test",
    )

    asked_at_each(
        command,
        "billing.refund_recorded",
        "billing.unit_refunded",
        "billing.unit_refund_noted",
        "billing.stock_returned",
        "billing.refund_done",
    )

    page = stack.rpc.call(Statement(user_id=buyer.user_id, kinds=[TransactionKind.REFUND]))
    assert [each.amount_micros for each in page.transactions] == [94 * USD]
    assert (buyer.balance(), run_in(stack, "catalog", stock, slug=SLUG)) == (100 * USD, before)
    assert buyer.purchase().refunded_micros == 94 * USD
    assert events_about(stack, purchase, "purchase_refunded") == 1


def test_the_number_of_a_receipt_that_died_is_given_to_the_next_one(
    owner: Owner, asked_at_each: AskedAtEach
) -> None:
    purchases = [owner.purchase().purchase_id, owner.buys_another().purchase_id]
    first, second = (
        IssueReceipt(user_id=owner.user_id, purchase_id=each, buyer=BillingDetails(name="Ada"))
        for each in purchases
    )
    stack = owner.stack
    before = stack.rpc.call(first).number

    asked_at_each(second, "billing.receipt_numbered")

    year, sequence = str(before).split("-")
    assert stack.rpc.call(second).number == f"{year}-{int(sequence) + 1:06}"


@pytest.mark.soak
def test_a_payout_that_dies_at_each_step_is_set_aside_once(
    owner: Owner, asked_at_each: AskedAtEach
) -> None:
    owner.buys_another()
    seller_id, stack = owner.sizes.seller_id, owner.stack
    command = RequestPayout(idempotency_key=f"{uuid4()}", user_id=seller_id, amount_micros=10 * USD)

    asked_at_each(
        command, "billing.payout_written", "billing.payout_asked", "billing.payout_recorded"
    )

    payout = stack.rpc.call(command)
    assert payout.status == PayoutStatus.HELD
    assert stack.rpc.call(GetWallet(user_id=seller_id)).held_micros == 10 * USD


@pytest.mark.soak
def test_a_debt_whose_claim_dies_once_the_wallet_has_paid_it_is_paid_once(
    owner: Owner, dying_at: DyingAt
) -> None:
    stack, seller_id = owner.stack, owner.sizes.seller_id
    seller = GetWallet(user_id=seller_id)
    stack.rpc.call(
        Debit(
            idempotency_key=f"{uuid4()}",
            user_id=seller_id,
            amount_micros=stack.rpc.call(seller).available_micros,
            description="Spent",
        )
    )
    refund = RefundPurchase(
        idempotency_key=f"{uuid4()}",
        purchase_id=owner.purchase().purchase_id,
        reason="It was slow",
        actor="a test",
    )
    insist(lambda: stack.rpc.call(refund))

    with dying_at("billing.debt_claimed"):
        owner.buys_another()
    due = "UPDATE debts SET due_at = due_at - interval '1 hour' WHERE provider_id = :id"
    run_in(stack, "billing", due, id=seller_id)

    paid = "SELECT count(*) FROM debts WHERE provider_id = :id AND paid_at IS NOT NULL"
    eventually(lambda: run_in(stack, "billing", paid, id=seller_id) == 1)
    assert stack.rpc.call(seller).available_micros == 0
