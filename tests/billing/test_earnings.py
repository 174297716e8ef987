"""Who sells earns: the price less the fee, in the buyer's own transaction, with the real wallet."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.migrate import migrate
from contracts.billing import (
    CancelWhen,
    DeploymentStatus,
    GetProductUses,
    GetSalesSums,
    ListSales,
    ProductSales,
    PurchaseStatus,
    ReportDeployment,
    SetProviderFee,
)
from contracts.catalog import BillingPeriod, QuotedLine
from contracts.errors import BadRequest, IdempotencyConflict, ServiceError
from contracts.keys import period_key, period_refund_key, purchase_key, unit_refund_key
from contracts.wallet import (
    CloseKey,
    Credit,
    DebitAll,
    Freeze,
    GetWallet,
    HouseAccount,
    OpenAccount,
    Statement,
    TransactionKind,
)
from deploy.local.postgres import Postgres
from services.billing import own_sales
from services.billing.deployments.lifecycle import report_deployment
from services.billing.purchases import claims, lifecycle
from services.billing.purchases.checkout import Checkout
from services.billing.purchases.claims import Claim
from services.billing.purchases.lifecycle import Paid
from services.billing.sales import fees
from services.billing.sales.shares import Price, shares
from services.billing.sales.statements import earned_micros, get_sums, get_uses, list_sales
from services.billing.settings import BillingSettings
from tests.billing.conftest import NOW, RULES, at, quoted, recorded, row_of
from tests.billing.test_lost_answers import LOST, Wire, is_a, is_debit
from tests.billing.test_renewals import BOUGHT, DAY, PRICE, Tenant, month
from tests.drawn import drawn
from tests.locks import done_after
from tests.patience import eventually
from tests.system import System

USD = 1_000_000
FEES, REVENUE = HouseAccount.FEES, HouseAccount.MARKETPLACE_REVENUE


class Market:
    """A buyer with money, and the way of purchases through the real wallet by a clock that is
    set."""

    def __init__(self, stack: System, database: Connected) -> None:
        self.database = database
        self.rpc = stack.rpc
        self.wire = Wire(stack.rpc)
        self.now = NOW
        self.rules = RULES
        self.buyer_id = uuid4()
        self._wallet_url = stack.database_url("wallet")
        self.gets(self.buyer_id, 1_000 * USD)

    def gets(self, user_id: UUID, amount_micros: int) -> None:
        self.rpc.call(
            Credit(
                idempotency_key=f"credit:{uuid4()}",
                user_id=user_id,
                amount_micros=amount_micros,
                description="Credits bought",
            )
        )

    @property
    def checkout(self) -> Checkout:
        return Checkout(self.database, cast(RpcClient, self.wire), self.rules, lambda: self.now)

    def orders(self, *lines: QuotedLine, buyer_id: UUID | None = None) -> Claim:
        buyer_id = buyer_id or self.buyer_id
        return recorded(self.database, *lines, user_id=buyer_id, now=self.now, rules=self.rules)

    def buys(self, *lines: QuotedLine, buyer_id: UUID | None = None) -> UUID:
        """The id of a purchase that is complete."""
        claimed = self.orders(*lines, buyer_id=buyer_id)
        self.checkout.settle(claimed)
        assert row_of(self.database, claimed.purchase_id).status == PurchaseStatus.COMPLETED
        return claimed.purchase_id

    def tries_again(self, purchase_id: UUID) -> None:
        """As the sweep does; that these products are in no catalog is not what it is about."""
        self.now += RULES.claim_lease
        with self.database.begin() as session:
            claimed = claims.claim(session, self.now, RULES.claim_lease, purchase_id)
        assert claimed is not None
        self.checkout.settle(replace(claimed, is_new=True))

    def balance(self, user_id: UUID) -> int:
        return self.rpc.call(GetWallet(user_id=user_id)).balance_micros

    def legs(self, transaction_id: UUID | None) -> dict[UUID | HouseAccount, int]:
        """Who got how much by a transaction, and who gave it."""
        query = text(
            "SELECT a.user_id, a.house_name, sum(e.amount_micros)::bigint AS micros FROM entries e"
            " JOIN accounts a USING (account_id) WHERE e.transaction_id = :id GROUP BY 1, 2"
        )
        engine = create_engine(self._wallet_url)
        with engine.connect() as connection:
            rows = connection.execute(query, {"id": transaction_id}).all()
        engine.dispose()
        return {row.user_id or HouseAccount(row.house_name): row.micros for row in rows}

    def paid(self, purchase_id: UUID) -> dict[UUID | HouseAccount, int]:
        return self.legs(row_of(self.database, purchase_id).transaction_id)

    def agrees(self, provider_id: UUID, fee_bps: int | None, key: str | None = None) -> int:
        command = SetProviderFee(
            idempotency_key=key or f"{uuid4()}",
            provider_id=provider_id,
            fee_bps=fee_bps,
            reason="A contract",
            actor="a test",
        )
        with self.database.begin() as session:
            return fees.set_fee(session, at(self.now), command, self.rules).fee_bps

    def sales(self, provider_id: UUID, **fields: Any) -> list[ProductSales]:
        with self.database.read() as session:
            return list_sales(session, ListSales(user_id=provider_id, **fields)).sales


@pytest.fixture
def market(stack: System, database: Connected) -> Market:
    return Market(stack, database)


@pytest.mark.parametrize(("days", "says"), [(-1, "first day"), (366, "366 days at most")])
def test_days_that_end_before_they_begin_or_are_more_than_a_year_are_not_summed(
    market: Market, days: int, says: str
) -> None:
    since = BOUGHT.date()

    with market.database.read() as session:
        get_sums(session, GetSalesSums(since=since, until=since + timedelta(days=365)))
        with pytest.raises(BadRequest, match=says):
            get_sums(session, GetSalesSums(since=since, until=since + timedelta(days=days)))


# How a price is divided.


@pytest.mark.parametrize(
    ("amount_micros", "fee_bps", "fee_micros"),
    [
        (10 * USD, 1_000, USD),
        (5, 1_000, 0),
        (15, 1_000, 2),
        (25, 1_000, 2),
        (35, 1_000, 4),
        (6_450_000, 3_000, 1_935_000),
        (1, 10_000, 1),
        (7, 0, 0),
        (0, 1_000, 0),
    ],
)
def test_the_fee_is_rounded_half_even_and_who_sells_gets_the_rest(
    amount_micros: int, fee_bps: int, fee_micros: int
) -> None:
    price = Price(amount_micros, uuid4(), fee_bps)

    assert (price.fee_micros, price.net_micros) == (fee_micros, amount_micros - fee_micros)


ANN, BEN = uuid4(), uuid4()


@given(
    st.lists(
        st.builds(
            Price,
            st.integers(0, 10**14),
            st.sampled_from([None, ANN, BEN]),
            st.none() | st.integers(0, 10_000),
            st.none(),
        ),
        max_size=6,
    )
)
def test_all_shares_come_to_all_prices_and_each_gets_one(prices: list[Price]) -> None:
    parts = shares(prices)

    total = sum(price.amount_micros for price in prices)
    earned = [price for price in prices if price.earner_id and price.amount_micros]
    assert sum(part.amount_micros for part in parts) == (total if earned else 0)
    assert len({part.destination for part in parts}) == len(parts)
    for who in (ANN, BEN):
        expected = sum(price.net_micros for price in prices if price.earner_id == who)
        assert sum(part.amount_micros for part in parts if part.destination == who) == expected


# Purchases.


def test_who_sells_earns_the_price_less_the_fee_in_the_buyers_own_transaction(
    market: Market,
) -> None:
    provider_id = uuid4()
    market.rpc.call(OpenAccount(idempotency_key=f"open:{provider_id}", user_id=provider_id))

    purchase_id = market.buys(quoted(10 * USD, provider_id=provider_id))

    assert market.paid(purchase_id) == {market.buyer_id: -10 * USD, provider_id: 9 * USD, FEES: USD}
    page = market.rpc.call(Statement(user_id=provider_id))
    (earning,) = page.transactions
    assert (earning.kind, earning.amount_micros) == (TransactionKind.EARNING, 9 * USD)
    assert earning.metadata == {"purchase_id": str(purchase_id)}


def test_who_has_no_wallet_yet_earns_all_the_same(market: Market) -> None:
    provider_id = uuid4()

    market.buys(quoted(10 * USD, provider_id=provider_id))

    assert market.balance(provider_id) == 9 * USD


def test_who_is_frozen_earns_all_the_same(market: Market) -> None:
    provider_id = uuid4()
    market.gets(provider_id, USD)
    freeze = Freeze(idempotency_key=f"{uuid4()}", user_id=provider_id, reason="-", actor="a test")
    market.rpc.call(freeze)

    market.buys(quoted(10 * USD, provider_id=provider_id))

    assert market.balance(provider_id) == 10 * USD


def test_who_buys_from_himself_pays_the_fee_alone(market: Market) -> None:
    provider_id = uuid4()
    market.gets(provider_id, 10 * USD)

    market.buys(quoted(10 * USD, provider_id=provider_id), buyer_id=provider_id)

    assert market.balance(provider_id) == 9 * USD


def test_what_nobody_else_sells_is_the_marketplaces_as_a_whole(market: Market) -> None:
    purchase_id = market.buys(quoted(10 * USD))

    assert market.paid(purchase_id) == {market.buyer_id: -10 * USD, REVENUE: 10 * USD}


def test_several_lines_go_to_each_who_sells_once_rounded_by_line(market: Market) -> None:
    ann, ben = uuid4(), uuid4()

    purchase_id = market.buys(
        quoted(15, provider_id=ann),
        quoted(25, provider_id=ben),
        quoted(USD),
        quoted(35, provider_id=ann),
    )

    assert market.paid(purchase_id) == {
        market.buyer_id: -USD - 75,
        ann: 13 + 31,
        ben: 23,
        FEES: 2 + 2 + 4,
        REVENUE: USD,
    }


def test_a_purchase_of_as_many_lines_as_there_may_be_pays_everybody(market: Market) -> None:
    providers = [uuid4() for _ in range(49)]

    purchase_id = market.buys(
        *(quoted(10 * USD, provider_id=provider_id) for provider_id in providers), quoted(USD)
    )

    assert len(market.paid(purchase_id)) == 49 + 3


@pytest.mark.parametrize(("fee_bps", "earned"), [(0, 10 * USD), (10_000, 0)])
def test_a_part_of_nothing_is_left_out(market: Market, fee_bps: int, earned: int) -> None:
    provider_id = uuid4()
    market.agrees(provider_id, fee_bps)

    purchase_id = market.buys(quoted(10 * USD, provider_id=provider_id))

    assert market.paid(purchase_id).get(provider_id, 0) == earned


def test_what_is_not_paid_earns_nothing(market: Market) -> None:
    provider_id, poor = uuid4(), uuid4()

    claimed = market.orders(quoted(10 * USD, provider_id=provider_id), buyer_id=poor)
    market.checkout.settle(claimed)

    assert row_of(market.database, claimed.purchase_id).status == PurchaseStatus.AWAITING_FUNDS
    assert market.sales(provider_id) == []


@pytest.mark.parametrize("when", LOST)
def test_a_debit_that_is_tried_again_after_a_change_of_the_fee_is_the_same(
    market: Market, when: str
) -> None:
    provider_id = uuid4()
    claimed = market.orders(quoted(10 * USD, provider_id=provider_id))
    market.wire.lose(is_debit, when)
    market.checkout.settle(claimed)

    market.agrees(provider_id, 5_000)
    market.rules = RULES.model_copy(update={"marketplace_fee_bps": 2_000})
    market.tries_again(claimed.purchase_id)

    assert row_of(market.database, claimed.purchase_id).status == PurchaseStatus.COMPLETED
    assert market.paid(claimed.purchase_id)[provider_id] == 9 * USD
    (sold,) = market.sales(provider_id)
    assert (sold.fee_micros, sold.net_micros) == (USD, 9 * USD)


def test_what_was_sold_before_there_was_a_fee_stays_the_marketplaces(market: Market) -> None:
    provider_id = uuid4()
    claimed = market.orders(quoted(10 * USD, provider_id=provider_id))
    with market.database.begin() as session:
        session.execute(text("UPDATE purchase_lines SET fee_bps = NULL"))
    for line in claimed.row.lines:
        line.fee_bps = None

    market.checkout.settle(claimed)

    assert market.paid(claimed.purchase_id) == {market.buyer_id: -10 * USD, REVENUE: 10 * USD}
    assert market.sales(provider_id) == []


# The fee.


def test_a_fee_that_was_agreed_is_one_providers_alone_and_of_what_is_sold_from_then_on(
    market: Market,
) -> None:
    ann, ben = uuid4(), uuid4()
    market.buys(quoted(10 * USD, provider_id=ann))
    market.agrees(ann, 500)
    market.agrees(ann, 250)

    market.buys(quoted(10 * USD, provider_id=ann), quoted(10 * USD, provider_id=ben))

    assert (market.balance(ann), market.balance(ben)) == (9 * USD + 9_750_000, 9 * USD)


def test_without_an_agreement_the_default_holds_again(market: Market) -> None:
    ann = uuid4()

    assert (market.agrees(ann, 0), market.agrees(ann, None)) == (0, 1_000)


def test_a_fee_is_set_once_for_each_key(market: Market) -> None:
    ann = uuid4()
    market.agrees(ann, 500, key="first")
    market.agrees(ann, 250)

    again = market.agrees(ann, 500, key="first")

    assert again == 250
    with pytest.raises(IdempotencyConflict):
        market.agrees(ann, 400, key="first")


def test_the_same_fee_that_is_set_twice_at_once_is_written_once(market: Market) -> None:
    ann = uuid4()
    command = SetProviderFee(
        idempotency_key="both", provider_id=ann, fee_bps=500, reason="A contract", actor="a test"
    )

    def sets() -> int:
        with market.database.begin() as session:
            return fees.set_fee(session, at(NOW), command, RULES).fee_bps

    assert (
        done_after(market.database, lambda s: fees.set_fee(s, at(NOW), command, RULES), sets) == 500
    )


# Months.


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    return Tenant(stack, database)


def earned(tenant: Tenant, provider_id: UUID) -> list[int]:
    page = tenant.wire.call(Statement(user_id=provider_id))
    return [each.amount_micros for each in reversed(page.transactions)]


def test_each_month_pays_who_sells_at_the_fee_of_the_purchase(
    tenant: Tenant, market: Market
) -> None:
    provider_id = uuid4()
    tenant.deploys(10 * USD, provider_id=provider_id)
    tenant.gets(100 * USD)
    market.agrees(provider_id, 5_000)

    tenant.lives(month(2))

    assert tenant.charged == [-10 * USD] * 2
    assert earned(tenant, provider_id) == [9 * USD] * 2
    assert [month["fee_micros"] for month in tenant.told("deployment_renewed")] == [USD] * 2


@pytest.mark.parametrize("when", LOST)
def test_a_month_whose_answer_is_lost_pays_who_sells_once(tenant: Tenant, when: str) -> None:
    provider_id = uuid4()
    tenant.deploys(10 * USD, provider_id=provider_id)
    tenant.gets(100 * USD)
    tenant.wire.lose(is_a(DebitAll), when)

    tenant.runs(month(1))
    tenant.lives(month(1) + timedelta(minutes=5))

    assert earned(tenant, provider_id) == [9 * USD]


def test_time_that_ran_unpaid_pays_who_sells_when_it_is_paid(
    tenant: Tenant, market: Market
) -> None:
    provider_id = uuid4()
    tenant.deploys(PRICE, provider_id=provider_id)
    tenant.lives(month(1) + RULES.grace + DAY)
    tenant.gets(100 * USD)

    tenant.renewals.run()

    (owed,) = tenant.charged
    assert owed < 0
    gross = -owed
    (sold,) = market.sales(provider_id, since=date(2026, 3, 1))
    assert (sold.gross_micros, sold.renewals) == (gross, 0)
    assert earned(tenant, provider_id) == [sold.net_micros]
    assert sold.net_micros == Price(gross, provider_id, 1_000).net_micros


def test_a_month_that_is_given_back_is_taken_from_who_sold_it(
    tenant: Tenant, market: Market
) -> None:
    provider_id = uuid4()
    (deployment_id,) = tenant.deploys(10 * USD, provider_id=provider_id)
    tenant.gets(100 * USD)
    tenant.wire.lose(is_a(DebitAll), "after it was done")
    tenant.runs(month(1))

    tenant.cancels(deployment_id)
    tenant.lives(month(1) + timedelta(minutes=5))

    assert tenant.charged == [-10 * USD, 10 * USD]
    assert earned(tenant, provider_id) == [9 * USD, -9 * USD]
    today = market.sales(provider_id)[0]
    assert (today.gross_micros, today.refunded_micros) == (10 * USD, 10 * USD)
    assert (today.fee_micros, today.net_micros) == (0, 0)


@settings(max_examples=drawn(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    price_micros=st.integers(1, 10**8),
    fee_bps=st.integers(0, 10_000),
    acts=st.lists(
        st.tuples(
            st.sampled_from(["live", "pay", "stop", "start", "cancel", "lose", "fail"]),
            st.integers(1, 40),
        ),
        max_size=10,
    ),
)
def test_whatever_months_bring_the_fee_is_of_each_and_the_books_are_the_wallets(
    stack: System, database: Connected, price_micros: int, fee_bps: int, acts: Any
) -> None:
    provider_id = uuid4()
    tenant, market = Tenant(stack, database), Market(stack, database)
    market.agrees(provider_id, fee_bps)
    units = tenant.deploys(price_micros, 2, provider_id=provider_id)
    for act, number in acts:
        unit = units[number % 2]
        with suppress(ServiceError):
            if act == "live":
                tenant.lives(tenant.now + number * DAY)
            elif act == "pay":
                tenant.gets(price_micros * number // 10 or 1)
            elif act == "lose":
                lost = DebitAll if number % 3 else CloseKey
                tenant.wire.lose(is_a(lost), LOST[number % 2])
            elif act == "stop":
                tenant.stops(unit)
            elif act == "start":
                tenant.starts(unit)
            elif act == "cancel":
                tenant.cancels(unit, CancelWhen.NOW if number % 2 else CancelWhen.PERIOD_END)
            else:
                fails(tenant, unit)
    tenant.lives(tenant.now + timedelta(minutes=5))

    kinds = [TransactionKind.RENEWAL, TransactionKind.REFUND]
    page = tenant.wire.call(Statement(user_id=tenant.user_id, kinds=kinds, limit=200))
    net = 0
    for each in page.transactions:
        price = Price(abs(each.amount_micros), provider_id, fee_bps)
        legs = market.legs(each.transaction_id)
        assert abs(legs.get(provider_id, 0)) == price.net_micros
        assert abs(legs.get(FEES, 0)) == price.fee_micros
        net += legs.get(provider_id, 0)
    bought = market.sales(provider_id, until=BOUGHT.date())
    books = sum(each.net_micros for each in market.sales(provider_id))
    assert books - sum(each.net_micros for each in bought) == net


def fails(tenant: Tenant, deployment_id: UUID) -> None:
    """Its provisioner says so."""
    command = ReportDeployment(deployment_id=deployment_id, status=DeploymentStatus.FAILED)
    with tenant.database.begin() as session:
        report_deployment(session, at(tenant.now), command, RULES)


# What a provider sees.


def test_sales_are_counted_by_day_and_product_and_are_their_providers_alone(
    market: Market, tenant: Tenant
) -> None:
    ann, ben = uuid4(), uuid4()
    of_ann = quoted(10 * USD, 2, name="VM", provider_id=ann)
    market.buys(of_ann, quoted(5 * USD, provider_id=ben))
    market.buys(of_ann)
    market.now = datetime(2026, 3, 3, 0, 0, tzinfo=UTC)
    market.buys(of_ann)
    claimed = market.orders(of_ann)
    market.now -= timedelta(microseconds=1)
    with market.database.begin() as session:
        transaction_id = uuid4()
        paid = [Paid(claimed.row, transaction_id)]
        lifecycle.complete_together(session, market.now, paid, RULES)

    sold = market.sales(ann)

    assert [(each.day, each.units, each.gross_micros) for each in sold] == [
        (date(2026, 3, 3), 2, 20 * USD),
        (date(2026, 3, 2), 6, 60 * USD),
    ]
    assert {(each.product_name, each.product_id) for each in sold} == {
        ("VM", of_ann.product.product_id)
    }
    assert [(each.fee_micros, each.net_micros) for each in sold] == [
        (2 * USD, 18 * USD),
        (6 * USD, 54 * USD),
    ]
    assert len(market.sales(ben)) == 1
    assert market.sales(market.buyer_id) == []


def test_what_was_sold_and_is_rented_of_a_product_is_told_to_who_sells_it_alone(
    market: Market,
) -> None:
    ann, ben = uuid4(), uuid4()
    vm, once, free, gone, of_ben = (
        quoted(10 * USD, 2, provider_id=ann),
        quoted(USD, provider_id=ann, period=BillingPeriod.ONCE),
        quoted(0, provider_id=ann),
        quoted(USD, provider_id=ann),
        quoted(5 * USD, provider_id=ben),
    )
    market.buys(vm, once, free, gone, of_ben)
    market.buys(vm)
    with market.database.begin() as session:
        session.execute(
            text("UPDATE deployments SET status = 'cancelled' WHERE product_id = :id"),
            {"id": gone.product.product_id},
        )
    ids = [line.product.product_id for line in (of_ben, gone, free, once, vm)]

    with market.database.read() as session:
        uses = get_uses(session, GetProductUses(user_id=ann, product_ids=ids)).products

    assert [each.product_id for each in uses] == ids
    assert [(each.units, each.rented) for each in uses] == [
        (0, 0), (1, 0), (1, 0), (1, 0), (4, 4),
    ]  # fmt: skip


def test_months_are_counted_apart_from_what_was_bought(tenant: Tenant, market: Market) -> None:
    provider_id = uuid4()
    tenant.deploys(10 * USD, quantity=2, provider_id=provider_id, name="VM")
    tenant.gets(100 * USD)

    tenant.lives(month(1))

    renewed, bought = market.sales(provider_id)
    assert (bought.units, bought.renewals) == (2, 0)
    assert (renewed.units, renewed.renewals, renewed.product_name) == (0, 2, "VM")


def test_pages_of_sales_come_to_all_of_them_and_end(market: Market) -> None:
    ann = uuid4()
    market.buys(*(quoted(USD, provider_id=ann) for _ in range(3)))
    market.now += DAY
    market.buys(*(quoted(USD, provider_id=ann) for _ in range(2)))
    found: list[ProductSales] = []
    cursor: str | None = None
    with market.database.read() as session:
        while len(found) < 6:
            command = ListSales(user_id=ann, cursor=cursor, limit=2)
            page = list_sales(session, command)
            found += page.sales
            cursor = page.next_cursor
            if cursor is None:
                break

    assert found == market.sales(ann)
    assert len(found) == 5
    until, since = market.sales(ann, until=NOW.date()), market.sales(ann, since=market.now.date())
    assert (len(until), len(since)) == (3, 2)


@pytest.mark.parametrize("cursor", ["nonsense", "WyIyMDI2LTEzLTAxIiwi"])
def test_a_cursor_that_was_not_issued_is_refused(market: Market, cursor: str) -> None:
    with pytest.raises(BadRequest):
        market.sales(uuid4(), cursor=cursor)


# Who upgrades.


def test_what_was_deployed_before_earns_with_its_next_month(postgres: Postgres) -> None:
    url = postgres.create_database("billing_older")
    migrate("services.billing", url, "0006")
    database = connect(url)
    provider_id, unsold = uuid4(), uuid4()
    with database.begin() as session:
        for seller in (provider_id, None):
            ids = {"purchase": uuid4(), "deployment": unsold if seller is None else uuid4()}
            for statement in _BEFORE:
                session.execute(text(statement), {**ids, "seller": seller})

    migrate("services.billing", url)

    with database.read() as session:
        rows = session.execute(text("SELECT deployment_id, provider_id, fee_bps FROM deployments"))
        found = {row.deployment_id == unsold: (row.provider_id, row.fee_bps) for row in rows}
        lines = session.scalars(text("SELECT fee_bps FROM purchase_lines")).all()
    database.engine.dispose()
    postgres.drop_database("billing_older")
    assert found == {True: (None, None), False: (provider_id, 1_000)}
    assert lines == [None, None]


def test_what_a_version_before_sold_to_himself_beside_this_one_is_told_apart_later(
    market: Market, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seller = market.buyer_id
    market.buys(quoted(10 * USD, provider_id=seller))
    market.buys(quoted(10 * USD, provider_id=uuid4()))
    with market.database.begin() as session:
        session.execute(text("UPDATE sales SET is_own = false"))
        assert earned_micros(session, seller) > 0
    monkeypatch.setattr(own_sales, "connect", lambda *_, **__: market.database)
    monkeypatch.setattr(own_sales, "get_settings", lambda: RULES)

    for count in (1, 0):
        assert own_sales.main() == 0
        assert capsys.readouterr().out == f"{count} sales to themselves were told apart.\n"
    with market.database.read() as session:
        assert earned_micros(session, seller) == 0
        assert session.scalar(text("SELECT count(*) FROM sales WHERE is_own")) == 1


def test_what_somebody_had_bought_of_himself_is_told_apart(postgres: Postgres) -> None:
    url = postgres.create_database("billing_own_before")
    database = connect(url)
    purchase, deployment, other = uuid4(), uuid4(), uuid4()
    buyer = purchase
    keys = {
        f"{purchase_key(purchase)}:0": buyer,
        f"{purchase_key(purchase)}:1": other,
        unit_refund_key(purchase, deployment): buyer,
        period_key(deployment, "month", utc_now()): buyer,
        period_refund_key(deployment, "month", utc_now()): other,
    }
    migrate("services.billing", url, "0006")
    with database.begin() as session:
        ids = {"purchase": purchase, "deployment": deployment, "seller": buyer}
        for statement in _BEFORE:
            session.execute(text(statement), ids)
    migrate("services.billing", url, "0025")
    with database.begin() as session:
        for key, provider_id in keys.items():
            session.execute(text(_SALE), {"key": key, "provider": provider_id})

    migrate("services.billing", url)

    with database.read() as session:
        own = session.scalars(text("SELECT sale_key FROM sales WHERE is_own")).all()
    database.engine.dispose()
    postgres.drop_database("billing_own_before")
    assert set(own) == {key for key, provider_id in keys.items() if provider_id == buyer}


def test_a_debt_of_before_that_somebody_holds_fails_no_upgrade(postgres: Postgres) -> None:
    """The version before runs meanwhile: whoever waits too long for a row begins again."""
    url = postgres.create_database("billing_held_before")
    database = connect(url)
    ids = {"purchase": uuid4(), "deployment": uuid4(), "seller": uuid4()}
    migrate("services.billing", url, "0006")
    with database.begin() as session:
        for statement in (*_BEFORE, _DEBT):
            session.execute(text(statement), ids)
    migrate("services.billing", url, "0029")

    with ThreadPoolExecutor(1) as pool, database.rehearse() as holder:
        holder.execute(text("SELECT FROM deployments FOR UPDATE"))
        migrating = pool.submit(migrate, "services.billing", url)
        with database.read() as session:
            eventually(lambda: session.scalar(text(_WAITING)))
            eventually(lambda: not session.scalar(text(_WAITING)))
        holder.rollback()
        migrating.result()

    with database.read() as session:
        assert session.scalar(text("SELECT due_at FROM deployments")) is not None
    database.engine.dispose()
    postgres.drop_database("billing_held_before")


_WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_DEBT = """
INSERT INTO periods (deployment_id, starts_at, kind, ends_at, user_id, amount_micros, status,
    created_at, changed_at)
VALUES (:deployment, now(), 'arrears', now() + interval '1 day', :purchase, 5, 'due', now(), now())
"""
_SALE = """
INSERT INTO sales (sale_key, provider_id, product_id, product_name, kind, units, gross_micros,
    fee_micros, sold_at, day)
VALUES (:key, :provider, :provider, 'A product', 'purchase', 1, 10, 1, now(), CURRENT_DATE)
"""
_BEFORE = (
    """
    INSERT INTO purchases (purchase_id, user_id, idempotency_key, body_hash, status, status_code,
        status_reason, total_micros, shortfall_micros, transaction_id, reservation_id,
        closing_code, closing_reason, attempts, created_at, updated_at, expires_at)
    VALUES (:purchase, :purchase, 'key', '', 'completed', '', '', 5, 0, :purchase, :purchase, '',
        '', 0, now(), now(), now())
    """,
    """
    INSERT INTO purchase_lines (purchase_id, position, product_id, product_name, provider_id,
        category, billing_period, quantity, unit_price_micros, amount_micros)
    VALUES (:purchase, 0, :purchase, 'VM', :seller, 'compute', 'month', 1, 5, 5)
    """,
    """
    INSERT INTO deployments (deployment_id, purchase_id, line_position, unit_number, user_id,
        product_id, name, category, billing_period, monthly_cost_micros, status, status_reason,
        created_at, status_changed_at)
    VALUES (:deployment, :purchase, 0, 1, :purchase, :purchase, 'VM', 'compute', 'month', 5,
        'active', '', now(), now())
    """,
)


def test_the_default_fee_is_a_setting_within_its_bounds() -> None:
    for fee_bps in (-1, 10_001):
        with pytest.raises(ValueError, match="marketplace_fee_bps"):
            BillingSettings(amqp_uri="", database_url="", marketplace_fee_bps=fee_bps)
