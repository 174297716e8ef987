"""Each call of a checkout whose answer is lost: before the other service heard of it, and after.

The catalog and the wallet are real, and do what they are asked. Between them and the checkout
stands a wire that loses one answer. What is asked again later has to come to one payment and one
delivery, or to none of both.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import text

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import CancelPurchase, Purchase, PurchaseLine, PurchaseStatus, StartPurchase
from contracts.catalog import GetProduct, GetQuote, ReleaseStock, ReserveStock
from contracts.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    KeyClosed,
    ServiceError,
)
from contracts.wallet import (
    CloseKey,
    Credit,
    Debit,
    Freeze,
    GetWallet,
    OpenAccount,
    Statement,
    TransactionKind,
)
from services.billing.models import DeploymentRow, PurchaseRow
from services.billing.purchases.checkout import EXPIRY_GRACE, Checkout
from services.billing.purchases.lifecycle import UNITS_MAX
from services.catalog.seed import product_id_of
from tests.billing.conftest import RULES, row_of
from tests.billing.test_checkout import in_catalog
from tests.billing.test_purchases import events
from tests.system import System

Status = PurchaseStatus
PRICE_MICROS = 5_000_000
SLUG = "vm-starter"
STOCK = 20
# More units than are set aside for who has not paid, so that the debit is rehearsed first.
MANY = RULES.unpaid_units_per_product_max + 1

Choice = Callable[[Any], bool]
LOST = ("before it was heard", "after it was done")


def is_rehearsal(request: Any) -> bool:
    return isinstance(request, Debit) and request.dry_run


def is_debit(request: Any) -> bool:
    return isinstance(request, Debit) and not request.dry_run


def is_a(kind: type) -> Choice:
    return lambda request: isinstance(request, kind)


class Wire:
    """An RpcClient that loses the next answer to the calls chosen by ``lose``."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._choice: Choice = lambda _: False
        self._when = ""
        self._refusal: ServiceError | None = None

    def lose(self, choice: Choice, when: str) -> None:
        self._choice, self._when = choice, when

    def refuse(self, choice: Choice, refusal: ServiceError) -> None:
        """The next of these is refused, without anybody being asked."""
        self._choice, self._refusal = choice, refusal

    def begin(self, request: Any, timeout_s: float = 10.0) -> Callable[[], Any]:
        return partial(self.call, request, timeout_s)

    def call(self, request: Any, timeout_s: float = 10.0) -> Any:
        if not self._choice(request):
            return self._rpc.call(request, timeout_s)
        self._choice = lambda _: False
        if self._refusal is not None:
            raise self._refusal
        if self._when == "after it was done":
            self._rpc.call(request, timeout_s)
        raise DeadlineExceeded("No answer came; whether it did the work is not known.")


class Shop:
    """A checkout with a wire that loses answers and a clock that is set, and a buyer."""

    def __init__(self, stack: System, database: Connected) -> None:
        self.user_id = uuid4()
        self.wire = Wire(stack.rpc)
        self.now: datetime = utc_now()
        self.checkout = Checkout(database, cast(RpcClient, self.wire), RULES, lambda: self.now)
        self._rpc = stack.rpc
        self._database = database
        self.has(0)

    def has(self, amount_micros: int) -> None:
        """The buyer gets this much."""
        open_account = OpenAccount(idempotency_key=f"open:{self.user_id}", user_id=self.user_id)
        self._rpc.call(open_account)
        if amount_micros:
            self._rpc.call(
                Credit(
                    idempotency_key=f"credit:{uuid4()}",
                    user_id=self.user_id,
                    amount_micros=amount_micros,
                    description="Credits bought",
                )
            )

    def freeze(self) -> None:
        self._rpc.call(
            Freeze(
                idempotency_key=f"freeze:{self.user_id}",
                user_id=self.user_id,
                reason="A dispute",
                actor="test",
            )
        )

    def order(self, *quantities: int) -> StartPurchase:
        return StartPurchase(
            idempotency_key=f"order:{uuid4()}",
            user_id=self.user_id,
            lines=[
                PurchaseLine(product_id=product_id_of(SLUG), quantity=quantity)
                for quantity in quantities or [1]
            ],
        )

    def cancel(self, purchase: Purchase) -> Purchase:
        return self.checkout.cancel(
            CancelPurchase(user_id=self.user_id, purchase_id=purchase.purchase_id)
        )

    def sweep_later(self, delay: timedelta = RULES.claim_lease) -> None:
        self.now += delay
        self.checkout.sweep()

    def status_of(self, purchase: Purchase) -> str:
        with self._database.read() as session:
            return session.get_one(PurchaseRow, purchase.purchase_id).status

    def payments(self) -> list[int]:
        page = self._rpc.call(Statement(user_id=self.user_id, kinds=[TransactionKind.PURCHASE]))
        return [transaction.amount_micros for transaction in page.transactions]

    def balance_micros(self) -> int:
        return self._rpc.call(GetWallet(user_id=self.user_id)).balance_micros

    def delivered(self) -> int:
        with self._database.read() as session:
            return session.query(DeploymentRow).filter_by(user_id=self.user_id).count()

    def purchases(self) -> int:
        with self._database.read() as session:
            return session.query(PurchaseRow).filter_by(user_id=self.user_id).count()

    def releases_waiting(self) -> int:
        with self._database.read() as session:
            return session.scalar(text("SELECT count(*) FROM stock_releases")) or 0

    def stock(self) -> int | None:
        return self._rpc.call(GetProduct(product_id=SLUG)).stock


@pytest.fixture
def shop(stack: System, database: Connected) -> Iterator[Shop]:
    _set_stock(stack, STOCK)
    yield Shop(stack, database)
    _set_stock(stack, None)


def _set_stock(stack: System, stock: int | None) -> None:
    in_catalog(
        stack, "UPDATE products SET stock = :stock WHERE slug = :slug", stock=stock, slug=SLUG
    )


@pytest.mark.parametrize("when", LOST)
@pytest.mark.parametrize(
    ("choice", "quantity"),
    [(is_a(ReserveStock), 1), (is_rehearsal, MANY), (is_a(ReserveStock), MANY), (is_debit, 1)],
    ids=["reserve", "rehearsal", "reserve after a rehearsal", "debit"],
)
def test_a_lost_answer_while_paying_comes_to_one_payment_and_one_delivery(
    shop: Shop, choice: Choice, quantity: int, when: str
) -> None:
    shop.has(10 * PRICE_MICROS)
    shop.wire.lose(choice, when)

    purchase = shop.checkout.start(shop.order(quantity))
    shop.sweep_later()

    assert (purchase.status, shop.status_of(purchase)) == (Status.PENDING, Status.COMPLETED)
    assert shop.payments() == [-quantity * PRICE_MICROS]
    assert (shop.delivered(), shop.stock()) == (quantity, STOCK - quantity)


@pytest.mark.parametrize("when", LOST)
def test_a_lost_quote_records_nothing_and_the_same_order_buys_once(shop: Shop, when: str) -> None:
    shop.has(10 * PRICE_MICROS)
    order = shop.order()
    shop.wire.lose(is_a(GetQuote), when)

    with pytest.raises(DeadlineExceeded):
        shop.checkout.start(order)
    recorded_at_first = shop.purchases()
    purchase = shop.checkout.start(order)

    assert (recorded_at_first, purchase.status) == (0, Status.COMPLETED)
    assert shop.payments() == [-PRICE_MICROS]


@pytest.mark.parametrize(
    ("stock", "quantity"),
    [(None, 1), (STOCK, 1), (STOCK, MANY)],
    ids=["debit with others", "debit", "rehearsal"],
)
def test_a_shortage_is_of_the_moment_in_which_the_wallet_was_asked(
    shop: Shop, stack: System, database: Connected, stock: int | None, quantity: int
) -> None:
    _set_stock(stack, stock)
    asked_at, ask = shop.now, shop.wire.call

    def takes_long(request: Any, timeout_s: float = 10.0) -> Any:
        try:
            return ask(request, timeout_s)
        finally:
            if isinstance(request, Debit):
                shop.now += timedelta(seconds=2)

    shop.wire.call = takes_long  # type: ignore[method-assign]
    purchase = shop.checkout.start(shop.order(quantity))

    (told,) = events(database, "purchase_short_of_funds")
    row = row_of(database, purchase.purchase_id)
    assert datetime.fromisoformat(str(told["occurred_at"])) == row.short_at == asked_at
    assert row.updated_at == shop.now


def test_more_things_than_a_purchase_may_deploy_are_not_even_asked_for(shop: Shop) -> None:
    shop.has(1_000 * PRICE_MICROS)
    shop.wire.lose(is_a(GetQuote), "before it was heard")

    with pytest.raises(BadRequest):
        shop.checkout.start(shop.order(UNITS_MAX, 1))


@pytest.mark.parametrize("when", LOST)
def test_a_lost_answer_while_cancelling_ends_it_and_later_money_stays(
    shop: Shop, when: str
) -> None:
    purchase = shop.checkout.start(shop.order())
    shop.wire.lose(is_a(CloseKey), when)

    with pytest.raises(DeadlineExceeded):
        shop.cancel(purchase)
    shop.has(10 * PRICE_MICROS)
    shop.sweep_later()

    assert (shop.status_of(purchase), shop.payments()) == (Status.CANCELLED, [])
    assert (shop.balance_micros(), shop.stock()) == (10 * PRICE_MICROS, STOCK)


@pytest.mark.parametrize("when", LOST)
def test_stock_whose_release_got_no_answer_is_put_back_once(shop: Shop, when: str) -> None:
    purchase = shop.checkout.start(shop.order())
    held = shop.stock()
    shop.wire.lose(is_a(ReleaseStock), when)

    shop.cancel(purchase)
    still_to_tell = shop.releases_waiting()
    shop.checkout.sweep()

    assert (held, still_to_tell) == (STOCK - 1, 1)
    assert (shop.stock(), shop.releases_waiting()) == (STOCK, 0)


def paid_without_an_answer(shop: Shop) -> Purchase:
    """A purchase whose money the wallet took, which billing has not heard."""
    shop.has(10 * PRICE_MICROS)
    shop.wire.lose(is_debit, "after it was done")
    purchase = shop.checkout.start(shop.order())
    assert (purchase.status, shop.payments()) == (Status.PENDING, [-PRICE_MICROS])
    return purchase


def test_cancelling_what_was_paid_unheard_delivers_it(shop: Shop) -> None:
    purchase = paid_without_an_answer(shop)

    with pytest.raises(Conflict, match="was paid in the meantime"):
        shop.cancel(purchase)

    assert (shop.status_of(purchase), shop.delivered()) == (Status.COMPLETED, 1)


def test_what_was_paid_unheard_and_is_past_its_time_is_delivered(shop: Shop) -> None:
    purchase = paid_without_an_answer(shop)

    shop.sweep_later(RULES.purchase_lifetime + EXPIRY_GRACE)

    assert (shop.status_of(purchase), shop.delivered()) == (Status.COMPLETED, 1)


def test_what_was_paid_unheard_before_the_account_was_frozen_is_delivered(shop: Shop) -> None:
    purchase = paid_without_an_answer(shop)
    shop.freeze()

    shop.sweep_later()

    assert (shop.status_of(purchase), shop.delivered()) == (Status.COMPLETED, 1)
    assert shop.payments() == [-PRICE_MICROS]


@pytest.mark.parametrize("when", LOST)
def test_a_lost_answer_while_closing_what_was_paid_unheard_still_delivers_it(
    shop: Shop, when: str
) -> None:
    purchase = paid_without_an_answer(shop)
    shop.wire.lose(is_a(CloseKey), when)
    with pytest.raises(DeadlineExceeded):
        shop.cancel(purchase)

    shop.sweep_later()

    assert (shop.status_of(purchase), shop.delivered()) == (Status.COMPLETED, 1)


@pytest.mark.parametrize("when", LOST)
def test_a_try_that_got_no_answer_is_cancelled_without_a_payment(shop: Shop, when: str) -> None:
    shop.has(10 * PRICE_MICROS)
    shop.wire.lose(is_a(ReserveStock), when)
    purchase = shop.checkout.start(shop.order())

    cancelled = shop.cancel(purchase)

    assert (cancelled.status, shop.payments()) == (Status.CANCELLED, [])
    assert (shop.stock(), shop.releases_waiting()) == (STOCK, 0)


def test_who_is_refused_though_there_is_enough_by_now_still_lacks_something(shop: Shop) -> None:
    """Money that came between the wallet's look and its answer makes no shortfall of nothing."""
    has_micros = 2 * PRICE_MICROS
    refusal = InsufficientFunds("Too little.", str(has_micros), "1")
    shop.wire.refuse(is_debit, refusal)

    purchase = shop.checkout.start(shop.order())

    assert (purchase.status, purchase.shortfall_micros) == (Status.AWAITING_FUNDS, 1)


@pytest.mark.parametrize("refusal", [KeyClosed("Closed."), IdempotencyConflict("Taken.")])
def test_what_its_key_no_longer_pays_is_not_delivered(shop: Shop, refusal: ServiceError) -> None:
    shop.has(10 * PRICE_MICROS)
    shop.wire.refuse(is_debit, refusal)

    purchase = shop.checkout.start(shop.order())
    shop.sweep_later()

    assert shop.status_of(purchase) == Status.FAILED
    assert (shop.payments(), shop.delivered(), shop.stock()) == ([], 0, STOCK)
