"""Purchases through the real broker, with the catalog and the wallet as real processes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, text

from chassis.clock import utc_now
from chassis.money import parse_usd
from contracts.billing import (
    CancelDeployment,
    CancelPurchase,
    DeploymentStatus,
    GetBurnRate,
    GetForecast,
    GetPurchase,
    ListDeployments,
    ListPurchases,
    Purchase,
    PurchaseLine,
    PurchaseStatus,
    ReportDeployment,
    StartDeployment,
    StartPurchase,
    StopDeployment,
)
from contracts.catalog import GetProduct
from contracts.errors import (
    AccountFrozen,
    Conflict,
    IdempotencyConflict,
    NotFound,
    OutOfStock,
    PriceChanged,
)
from contracts.wallet import Credit, Freeze, GetWallet, OpenAccount, Statement, TransactionKind
from services.catalog.seed import product_id_of
from tests.patience import eventually
from tests.system import System

Status = PurchaseStatus
T = TypeVar("T")


def buyer_with(stack: System, usd: str) -> UUID:
    """A new user with an open wallet that holds this much."""
    user_id = uuid4()
    stack.rpc.call(OpenAccount(idempotency_key=f"open:{user_id}", user_id=user_id))
    if parse_usd(usd):
        credit(stack, user_id, usd)
    return user_id


def credit(stack: System, user_id: UUID, usd: str) -> None:
    stack.rpc.call(
        Credit(
            idempotency_key=f"credit:{uuid4()}",
            user_id=user_id,
            amount_micros=parse_usd(usd),
            description="Credits bought",
        )
    )


def order(user_id: UUID, slug: str = "vm-starter", quantity: int = 1) -> StartPurchase:
    return StartPurchase(
        idempotency_key=f"order:{uuid4()}",
        user_id=user_id,
        lines=[PurchaseLine(product_id=product_id_of(slug), quantity=quantity)],
    )


def buy(stack: System, user_id: UUID, slug: str = "vm-starter", quantity: int = 1) -> Purchase:
    """As somebody does who asks again, under the same key, while it is not known what came of it:
    a busy machine lets a call to the wallet or the catalog take too long."""
    command = order(user_id, slug, quantity)
    return eventually(
        lambda: stack.rpc.call(command), lambda bought: bought.status != Status.PENDING
    )


def look(stack: System, purchase: Purchase) -> Purchase:
    return stack.rpc.call(GetPurchase(user_id=purchase.user_id, purchase_id=purchase.purchase_id))


def comes_to(stack: System, purchase: Purchase, status: PurchaseStatus) -> Purchase:
    return eventually(lambda: look(stack, purchase), lambda found: found.status == status)


def balance(stack: System, user_id: UUID) -> int:
    return stack.rpc.call(GetWallet(user_id=user_id)).balance_micros


def payments(stack: System, user_id: UUID) -> list[int]:
    page = stack.rpc.call(Statement(user_id=user_id, kinds=[TransactionKind.PURCHASE]))
    return [transaction.amount_micros for transaction in page.transactions]


def in_catalog(stack: System, statement: str, **values: object) -> object:
    """Run one statement on the catalog's database."""
    return in_database(stack, "catalog", statement, **values)


def in_database(stack: System, service: str, statement: str, **values: object) -> object:
    engine = create_engine(stack.database_url(service))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def stock_of(stack: System, slug: str) -> object:
    return in_catalog(stack, "SELECT stock FROM products WHERE slug = :slug", slug=slug)


@pytest.fixture
def last_one(stack: System) -> str:
    """A product of which there is exactly one left: its slug."""
    slug = "3node-rack"
    in_catalog(
        stack,
        "UPDATE products SET stock = 1, price_micros = 1000000 WHERE slug = :slug",
        slug=slug,
    )
    return slug


def test_enough_money_completes_at_once(stack: System) -> None:
    user_id = buyer_with(stack, "25")

    purchase = buy(stack, user_id)

    assert (purchase.status, balance(stack, user_id)) == (Status.COMPLETED, parse_usd("20"))


def test_a_completed_purchase_runs_what_was_bought(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    purchase = buy(stack, user_id)

    deployments = stack.rpc.call(ListDeployments(user_id=user_id)).deployments

    assert [(one.deployment_id, one.status) for one in deployments] == [
        (purchase.deployment_ids[0], "active")
    ]


def test_a_user_who_never_had_a_wallet_waits_for_money(stack: System) -> None:
    user_id = uuid4()

    purchase = buy(stack, user_id)

    assert (purchase.status, purchase.shortfall_micros) == (Status.AWAITING_FUNDS, 5_000_000)


def test_money_completes_a_purchase_that_waits(stack: System) -> None:
    user_id = buyer_with(stack, "1")
    purchase = buy(stack, user_id)

    credit(stack, user_id, "25")

    comes_to(stack, purchase, Status.COMPLETED)
    assert balance(stack, user_id) == parse_usd("21")


def test_too_little_money_changes_the_shortfall(stack: System) -> None:
    user_id = buyer_with(stack, "1")
    purchase = buy(stack, user_id)

    credit(stack, user_id, "1.50")

    eventually(lambda: look(stack, purchase).shortfall_micros == parse_usd("2.50"))


def test_money_completes_all_that_wait_oldest_first(stack: System) -> None:
    user_id = buyer_with(stack, "0")
    older, younger = buy(stack, user_id), buy(stack, user_id)

    credit(stack, user_id, "6")

    comes_to(stack, older, Status.COMPLETED)
    assert look(stack, younger).status == Status.AWAITING_FUNDS


def test_a_purchase_that_does_not_fit_blocks_none_that_does(stack: System) -> None:
    user_id = buyer_with(stack, "0")
    large, small = buy(stack, user_id, "vm-production"), buy(stack, user_id)

    credit(stack, user_id, "6")

    comes_to(stack, small, Status.COMPLETED)
    assert look(stack, large).status == Status.AWAITING_FUNDS


def test_the_same_key_again_is_the_same_purchase(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    command = order(user_id)
    first = stack.rpc.call(command)

    second = stack.rpc.call(command)

    assert (second.replayed, second.purchase_id) == (True, first.purchase_id)
    assert payments(stack, user_id) == [-5_000_000]


def test_the_same_key_for_another_product_is_a_conflict(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    command = order(user_id)
    stack.rpc.call(command)

    with pytest.raises(IdempotencyConflict):
        stack.rpc.call(
            order(user_id, "gateway-eu").model_copy(
                update={"idempotency_key": command.idempotency_key}
            )
        )


def test_one_key_from_twenty_threads_is_one_purchase_and_one_debit(stack: System) -> None:
    user_id = buyer_with(stack, "100")
    command = order(user_id)

    with ThreadPoolExecutor(20) as crowd:
        answers = list(crowd.map(lambda _: stack.rpc.call(command), range(20)))

    comes_to(stack, answers[0], Status.COMPLETED)
    assert len({answer.purchase_id for answer in answers}) == 1
    assert payments(stack, user_id) == [-5_000_000]


def test_twenty_purchases_at_once_spend_no_more_than_there_is(stack: System) -> None:
    user_id = buyer_with(stack, "50")

    with ThreadPoolExecutor(20) as crowd:
        bought = list(crowd.map(lambda _: buy(stack, user_id), range(20)))

    statuses = [look(stack, purchase).status for purchase in bought]
    assert statuses.count(Status.COMPLETED) == 10
    assert balance(stack, user_id) == 0


def test_a_changed_price_is_refused_and_nothing_is_bought(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    line = PurchaseLine(product_id=product_id_of("vm-starter"), expected_unit_price_micros=1)

    with pytest.raises(PriceChanged) as refusal:
        stack.rpc.call(StartPurchase(idempotency_key="k", user_id=user_id, lines=[line]))

    assert refusal.value.details == ("5000000",)
    assert stack.rpc.call(ListPurchases(user_id=user_id)).purchases == []


def test_an_unknown_product_cannot_be_bought(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    line = PurchaseLine(product_id=uuid4())

    with pytest.raises(NotFound):
        stack.rpc.call(StartPurchase(idempotency_key="k", user_id=user_id, lines=[line]))


def test_what_costs_nothing_needs_no_wallet(stack: System) -> None:
    purchase = buy(stack, uuid4(), "service-consultation")

    assert (purchase.status, purchase.transaction_id) == (Status.COMPLETED, None)


def test_somebody_elses_purchase_is_not_found(stack: System) -> None:
    purchase = buy(stack, buyer_with(stack, "0"))

    with pytest.raises(NotFound):
        stack.rpc.call(GetPurchase(user_id=uuid4(), purchase_id=purchase.purchase_id))


def test_a_cancelled_purchase_is_not_paid_by_money_that_comes_later(stack: System) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id)
    cancel = CancelPurchase(user_id=user_id, purchase_id=purchase.purchase_id)

    cancelled = stack.rpc.call(cancel)
    credit(stack, user_id, "25")
    later = buy(stack, user_id)

    assert (cancelled.status, later.status) == (Status.CANCELLED, Status.COMPLETED)
    assert balance(stack, user_id) == parse_usd("20")


def test_cancelling_twice_is_cancelling_once(stack: System) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id)
    cancel = CancelPurchase(user_id=user_id, purchase_id=purchase.purchase_id)

    answers = [stack.rpc.call(cancel) for _ in range(2)]

    assert [answer.status for answer in answers] == [Status.CANCELLED, Status.CANCELLED]


def test_a_paid_purchase_cannot_be_cancelled(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    purchase = buy(stack, user_id)

    with pytest.raises(Conflict):
        stack.rpc.call(CancelPurchase(user_id=user_id, purchase_id=purchase.purchase_id))


def test_somebody_elses_purchase_cannot_be_cancelled(stack: System) -> None:
    purchase = buy(stack, buyer_with(stack, "0"))

    with pytest.raises(NotFound):
        stack.rpc.call(CancelPurchase(user_id=uuid4(), purchase_id=purchase.purchase_id))


def test_a_purchase_takes_stock(stack: System, last_one: str) -> None:
    buy(stack, buyer_with(stack, "5"), last_one)

    assert stock_of(stack, last_one) == 0


def test_what_is_sold_out_cannot_be_bought(stack: System, last_one: str) -> None:
    buy(stack, buyer_with(stack, "5"), last_one)

    with pytest.raises(OutOfStock):
        buy(stack, buyer_with(stack, "5"), last_one)


def test_what_is_held_unpaid_is_told_apart_from_what_is_sold(stack: System, last_one: str) -> None:
    def shelf() -> tuple[int | None, int, datetime | None]:
        product = stack.rpc.call(GetProduct(product_id=last_one))
        return product.stock, product.held, product.held_until

    user_id = buyer_with(stack, "0")
    waiting = buy(stack, user_id, last_one)
    assert waiting.stock_held_until is not None
    eventually(lambda: shelf() == (0, 1, waiting.stock_held_until))

    credit(stack, user_id, "5")
    comes_to(stack, waiting, Status.COMPLETED)

    eventually(lambda: shelf() == (0, 0, None))


def test_stock_is_held_for_who_is_about_to_pay(stack: System, last_one: str) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id, last_one)
    with pytest.raises(OutOfStock):
        buy(stack, buyer_with(stack, "5"), last_one)

    credit(stack, user_id, "5")

    comes_to(stack, purchase, Status.COMPLETED)


@pytest.fixture
def shelf(stack: System) -> str:
    """A product of which there are twenty: its slug."""
    slug = "3node-rack"
    in_catalog(
        stack,
        "UPDATE products SET stock = 20, price_micros = 1000000 WHERE slug = :slug",
        slug=slug,
    )
    return slug


def test_unpaid_purchases_do_not_empty_a_shelf(stack: System, shelf: str) -> None:
    user_id = buyer_with(stack, "0")
    waiting = [buy(stack, user_id, shelf, quantity) for quantity in (2, 18, 1, 1)]

    held = [purchase.stock_held_until is not None for purchase in waiting]
    assert (held, stock_of(stack, shelf)) == ([True, False, True, False], 17)


def test_who_has_no_money_takes_no_more_stock_even_while_it_is_tried(
    stack: System, shelf: str
) -> None:
    buy(stack, buyer_with(stack, "0"), shelf, 20)

    taken = in_catalog(stack, "SELECT count(*) FROM reservation_lines WHERE quantity = 20")
    assert taken == 0


def test_who_has_the_money_buys_as_many_as_there_are(stack: System, shelf: str) -> None:
    purchase = buy(stack, buyer_with(stack, "20"), shelf, 20)

    assert (purchase.status, stock_of(stack, shelf)) == (Status.COMPLETED, 0)


def test_what_was_not_set_aside_is_bought_when_the_money_comes(stack: System, shelf: str) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id, shelf, 15)

    credit(stack, user_id, "15")

    comes_to(stack, purchase, Status.COMPLETED)
    assert (payments(stack, user_id), stock_of(stack, shelf)) == ([-parse_usd("15")], 5)


def test_a_cancelled_purchase_puts_its_stock_back(stack: System, last_one: str) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id, last_one)

    stack.rpc.call(CancelPurchase(user_id=user_id, purchase_id=purchase.purchase_id))

    eventually(lambda: stock_of(stack, last_one) == 1)


def test_money_completes_a_purchase_although_billing_was_down_when_it_came(
    stack: System,
) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id)
    stack.kill("billing")

    credit(stack, user_id, "25")
    stack.start("billing")

    comes_to(stack, purchase, Status.COMPLETED)


def test_a_purchase_that_finds_no_wallet_service_completes_when_it_is_back(
    stack: System,
) -> None:
    user_id = buyer_with(stack, "25")
    stack.kill("wallet")
    try:
        purchase = stack.rpc.call(order(user_id))
    finally:
        stack.start("wallet")

    assert purchase.status == Status.PENDING
    comes_to(stack, purchase, Status.COMPLETED)
    assert payments(stack, user_id) == [-5_000_000]


def test_a_cancellation_that_finds_no_wallet_service_is_seen_to_when_it_is_back(
    stack: System,
) -> None:
    user_id = buyer_with(stack, "0")
    purchase = buy(stack, user_id)
    stack.kill("wallet")
    try:
        refused = _raises(
            lambda: stack.rpc.call(
                CancelPurchase(user_id=user_id, purchase_id=purchase.purchase_id)
            )
        )
    finally:
        stack.start("wallet")

    assert refused in ("unavailable", "deadline_exceeded")
    comes_to(stack, purchase, Status.CANCELLED)


def test_the_burn_rate_of_the_plans_example(stack: System) -> None:
    user_id = buyer_with(stack, "70.50")
    for slug in ("vm-production", "gateway-eu", "storage-backup"):
        buy(stack, user_id, slug)

    analysis = stack.rpc.call(GetBurnRate(user_id=user_id))

    figures = (analysis.balance_micros, analysis.projected_balance_30_days_micros)
    assert figures == (parse_usd("47.50"), parse_usd("24.50"))


def test_the_burn_rate_is_of_all_and_names_the_dearest(stack: System) -> None:
    user_id = buyer_with(stack, "70.50")
    for slug in ("gateway-eu", "vm-production", "storage-backup"):
        buy(stack, user_id, slug)

    analysis = stack.rpc.call(GetBurnRate(user_id=user_id, limit=1))

    assert [part.monthly_cost_micros for part in analysis.deployments] == [parse_usd("15")]
    assert (analysis.deployments_total, analysis.monthly_burn_micros) == (3, parse_usd("23"))


def test_a_forecast_is_made_where_the_topup_service_is_away(stack: System) -> None:
    user_id = buyer_with(stack, "20")
    buy(stack, user_id, "vm-production")

    forecast = stack.rpc.call(GetForecast(user_id=user_id, days=40))

    assert (forecast.is_auto_topup_known, forecast.short_by_micros) == (False, parse_usd("10"))


def test_a_forecast_brings_the_purchases_that_wait_where_it_is_asked_to(stack: System) -> None:
    user_id = buyer_with(stack, "20")
    buy(stack, user_id, "vm-production")
    paid = stack.rpc.call(GetForecast(user_id=user_id, waiting=2))
    for _ in range(3):
        buy(stack, user_id, "vm-production")

    forecast = stack.rpc.call(GetForecast(user_id=user_id, waiting=2))
    alone = stack.rpc.call(GetForecast(user_id=user_id))

    newest_first = stack.rpc.call(ListPurchases(user_id=user_id, limit=2)).purchases
    assert (paid.waiting, alone.waiting, forecast.waiting) == ([], [], newest_first)
    assert {each.status for each in forecast.waiting} == {Status.AWAITING_FUNDS}


def test_what_changes_what_is_to_come_is_a_reason_to_look_for_a_warning(stack: System) -> None:
    user_id = buyer_with(stack, "20")
    purchase = buy(stack, user_id)
    mine = {"user_id": user_id, "deployment_id": purchase.deployment_ids[0]}
    soon = timedelta(seconds=30)
    seen = [looked_at(stack, user_id) - utc_now() > soon]

    for command in (StopDeployment, StartDeployment, CancelDeployment):
        in_database(stack, "billing", "UPDATE runways SET due_at = '9000-01-01'")
        stack.rpc.call(command(idempotency_key=f"{uuid4()}", **mine))
        # On a busy machine it has been looked at by now, and is so again on some other day.
        seen.append(looked_at(stack, user_id).year < 9000)

    assert seen == [True] * 4


def looked_at(stack: System, user_id: UUID) -> datetime:
    query = "SELECT due_at FROM runways WHERE user_id = :user_id"
    return cast(datetime, in_database(stack, "billing", query, user_id=user_id))


def test_the_burn_rate_of_nobody_is_zero(stack: System) -> None:
    analysis = stack.rpc.call(GetBurnRate(user_id=uuid4()))

    assert (analysis.balance_micros, analysis.days_until_empty) == (0, None)


def test_purchases_are_listed_newest_first_in_pages(stack: System) -> None:
    user_id = buyer_with(stack, "0")
    made = [buy(stack, user_id).purchase_id for _ in range(3)]

    first = stack.rpc.call(ListPurchases(user_id=user_id, limit=2))
    second = stack.rpc.call(ListPurchases(user_id=user_id, limit=2, cursor=first.next_cursor))

    listed = [purchase.purchase_id for purchase in [*first.purchases, *second.purchases]]
    assert listed == made[::-1]


def _raises(call: Callable[[], object]) -> str:
    """The code of the error that a call ends with, or nothing."""
    try:
        call()
    except Exception as error:
        return getattr(error, "code", type(error).__name__)
    return ""


@contextmanager
def billing_with(stack: System, **settings: str) -> Iterator[None]:
    """Billing started anew with other settings, for the length of the block."""
    stack.kill("billing")
    stack.start("billing", settings=settings)
    try:
        yield
    finally:
        stack.kill("billing")
        stack.start("billing")


def test_what_waits_too_long_expires_and_says_so(stack: System) -> None:
    user_id = buyer_with(stack, "0")
    with billing_with(stack, PURCHASE_LIFETIME_S="1"):
        purchase = buy(stack, user_id)
        expired = comes_to(stack, purchase, Status.EXPIRED)

    credit(stack, user_id, "25")

    assert expired.status_code == "expired"
    assert balance(stack, user_id) == parse_usd("25")


def test_when_the_item_is_gone_as_the_money_arrives_the_credit_stays(
    stack: System, last_one: str
) -> None:
    slow, quick = buyer_with(stack, "0"), buyer_with(stack, "5")
    with billing_with(stack, STOCK_HOLD_S="0"):
        purchase = buy(stack, slow, last_one)
        eventually(lambda: stock_of(stack, last_one) == 1)
        buy(stack, quick, last_one)

        credit(stack, slow, "5")

        failed = comes_to(stack, purchase, Status.FAILED)
    assert (failed.status_code, balance(stack, slow)) == ("out_of_stock", parse_usd("5"))


def test_a_frozen_account_cannot_buy_and_keeps_its_money(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    stack.rpc.call(
        Freeze(
            idempotency_key=f"freeze:{user_id}", user_id=user_id, reason="A dispute", actor="test"
        )
    )

    with pytest.raises(AccountFrozen):
        buy(stack, user_id)

    assert balance(stack, user_id) == parse_usd("25")


def test_an_outside_provisioner_makes_a_deployment_active(stack: System) -> None:
    user_id = buyer_with(stack, "25")
    with billing_with(stack, PROVISIONING="external"):
        (deployment_id,) = buy(stack, user_id).deployment_ids
        (requested,) = stack.rpc.call(ListDeployments(user_id=user_id)).deployments

        reported = stack.rpc.call(
            ReportDeployment(deployment_id=deployment_id, status=DeploymentStatus.ACTIVE)
        )

    assert (requested.status, reported.status) == ("requested", "active")
