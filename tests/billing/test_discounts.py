"""What staking takes off a purchase: the newest word holds, the marketplace bears it."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.database import Connected
from contracts.billing import (
    DeploymentStatus,
    GetDiscounts,
    GetReceipt,
    PurchaseLine,
    PurchaseStatus,
    RefundCause,
    StartPurchase,
)
from contracts.errors import PriceChanged
from contracts.legacy import StakingDiscountChanged
from services.billing.models import DeploymentRow, PurchaseLineRow
from services.billing.purchases import recording
from services.billing.purchases.queries import as_purchase
from services.billing.purchases.recording import Order
from services.billing.receipts import documents, issuing
from services.billing.refunds.recording import Wish, refund
from services.billing.refunds.settling import Refunds
from services.billing.sales import discounts
from services.billing.sales.discounts import fee_of_unit, price_of, price_of_unit
from services.billing.sales.shares import Price
from tests.billing.conftest import NOW, RULES, quote_of, quoted, row_of
from tests.billing.test_earnings import FEES, REVENUE, USD, Market
from tests.billing.test_lost_answers import LOST, is_debit
from tests.locks import done_after
from tests.system import System

FIVE_PERCENT = 500


def hears(
    database: Connected,
    user_id: UUID,
    discount_bps: int,
    position: int = 1,
    at: datetime = NOW,
) -> None:
    event = StakingDiscountChanged(
        event_id=uuid4(),
        occurred_at=at,
        user_id=user_id,
        discount_bps=discount_bps,
        position=position,
    )
    with database.begin() as session:
        discounts.note(session, event)


def told(database: Connected, user_id: UUID, *provider_ids: UUID | None) -> list[int]:
    with database.read() as session:
        request = GetDiscounts(user_id=user_id, provider_ids=list(provider_ids))
        return discounts.get_discounts(session, request, RULES).discounts_bps


@pytest.fixture
def market(stack: System, database: Connected) -> Market:
    """Of which the buyer has 5 % off."""
    market = Market(stack, database)
    hears(database, market.buyer_id, FIVE_PERCENT)
    return market


# What is known of somebody.


@pytest.mark.parametrize(
    "heard",
    [
        [(0, 1), (200, 2), (500, 3)],
        [(500, 3), (200, 2), (0, 1)],
        [(200, 2), (500, 3), (200, 2), (500, 3)],
        [(500, 3), (0, 1), (500, 3)],
    ],
)
def test_in_whatever_order_and_however_often_it_comes_the_newest_holds(
    database: Connected, heard: list[tuple[int, int]]
) -> None:
    user_id = uuid4()

    for discount_bps, position in heard:
        hears(database, user_id, discount_bps, position)

    assert told(database, user_id, None) == [500]


@pytest.mark.parametrize("heard", [[(200, 0), (500, 1)], [(500, 1), (200, 0)]])
def test_of_two_at_the_same_position_the_later_one_holds_in_whatever_order_they_come(
    database: Connected, heard: list[tuple[int, int]]
) -> None:
    """The table of discounts was changed, and the stake was not."""
    user_id = uuid4()

    for discount_bps, seconds in heard:
        hears(database, user_id, discount_bps, at=NOW + timedelta(seconds=seconds))

    assert told(database, user_id, None) == [500]


def test_two_that_come_at_the_same_moment_are_taken_one_after_the_other(
    database: Connected,
) -> None:
    user_id = uuid4()
    hears(database, user_id, 200, 1)

    newer = StakingDiscountChanged(
        event_id=uuid4(), occurred_at=NOW, user_id=user_id, discount_bps=500, position=3
    )
    done_after(
        database,
        lambda session: discounts.note(session, newer),
        lambda: hears(database, user_id, 0, 2),
    )

    assert told(database, user_id, None) == [500]


def test_it_is_at_most_the_fee_of_who_sells_and_nothing_for_who_stakes_nothing(
    market: Market,
) -> None:
    usual, cheap = uuid4(), uuid4()
    market.agrees(cheap, 300)
    others = (uuid4(), uuid4())
    for number, discount_bps in enumerate((200, 1_000)):
        hears(market.database, others[number], discount_bps)

    assert told(market.database, market.buyer_id, None, usual, cheap) == [500, 500, 300]
    assert told(market.database, others[0], None, cheap) == [200, 200]
    assert told(market.database, others[1], None, usual, cheap) == [1_000, 1_000, 300]
    assert told(market.database, uuid4(), None, cheap) == [0, 0]


# What it takes off, and of whom.


def test_who_sells_gets_what_they_would_get_without_it_and_the_marketplace_bears_it(
    market: Market,
) -> None:
    provider_id, other_id = uuid4(), uuid4()
    market.gets(other_id, 100 * USD)
    line = quoted(10 * USD, 2, provider_id=provider_id)

    less = market.buys(line)
    whole = market.buys(line, buyer_id=other_id)

    assert market.paid(less) == {market.buyer_id: -19 * USD, provider_id: 18 * USD, FEES: USD}
    assert market.paid(whole) == {other_id: -20 * USD, provider_id: 18 * USD, FEES: 2 * USD}
    (sold,) = market.sales(provider_id)
    assert (sold.gross_micros, sold.fee_micros, sold.net_micros) == (39 * USD, 3 * USD, 36 * USD)


def test_where_the_fee_is_less_the_fee_is_what_is_taken_off(market: Market) -> None:
    provider_id = uuid4()
    market.agrees(provider_id, 300)

    purchase_id = market.buys(quoted(10 * USD, provider_id=provider_id), quoted(10 * USD))

    assert market.paid(purchase_id) == {
        market.buyer_id: -(9_700_000 + 9_500_000), provider_id: 9_700_000, REVENUE: 9_500_000,
    }  # fmt: skip


def test_months_that_are_renewed_cost_the_whole_price(market: Market) -> None:
    purchase_id = market.buys(quoted(10 * USD), quoted(3 * USD, period="once"))

    row = row_of(market.database, purchase_id)
    assert row.total_micros == 12_350_000
    assert [unit.monthly_cost_micros for unit in row.deployments] == [10 * USD, 0]


def test_after_unstaking_the_next_purchase_costs_the_whole_price(market: Market) -> None:
    before = market.buys(quoted(10 * USD))
    waiting = market.orders(quoted(10 * USD))
    hears(market.database, market.buyer_id, 0, 2)

    market.checkout.settle(waiting)
    after = market.buys(quoted(10 * USD))

    paid = [row_of(market.database, each).total_micros for each in (before, after)]
    assert paid == [9_500_000, 10 * USD]
    # What was agreed on is what is charged.
    assert market.paid(waiting.purchase_id)[market.buyer_id] == -9_500_000


@pytest.mark.parametrize("when", LOST)
def test_a_debit_that_is_tried_again_after_a_change_of_the_discount_is_the_same(
    market: Market, when: str
) -> None:
    provider_id = uuid4()
    claimed = market.orders(quoted(10 * USD, provider_id=provider_id))
    market.wire.lose(is_debit, when)
    market.checkout.settle(claimed)

    hears(market.database, market.buyer_id, 1_000, 2)
    market.tries_again(claimed.purchase_id)

    assert row_of(market.database, claimed.purchase_id).status == PurchaseStatus.COMPLETED
    assert market.paid(claimed.purchase_id) == {
        market.buyer_id: -9_500_000, provider_id: 9 * USD, FEES: 500_000,
    }  # fmt: skip


# What was agreed on.


@pytest.mark.parametrize(
    ("staked_bps", "expected_micros", "is_bought"),
    [
        (500, 500_000, True),
        (500, None, True),
        (500, 0, False),
        (500, 200_000, False),
        (0, 500_000, False),
        (0, 0, True),
    ],
)
def test_another_discount_than_was_shown_buys_nothing(
    database: Connected, staked_bps: int, expected_micros: int | None, is_bought: bool
) -> None:
    user_id, quote = uuid4(), quote_of(quoted(10 * USD))
    hears(database, user_id, staked_bps)
    line = PurchaseLine(
        product_id=quote.lines[0].product.product_id,
        expected_unit_price_micros=10 * USD,
        expected_unit_discount_micros=expected_micros,
    )
    order = Order(StartPurchase(idempotency_key="key", user_id=user_id, lines=[line]), quote)

    with database.begin() as session:
        (made,) = recording.record_together(session, NOW, [order], RULES)

    if is_bought:
        assert not isinstance(made, Exception)
    else:
        assert isinstance(made, PriceChanged)
        assert made.unit_price_micros == 10 * USD
    if not is_bought:
        return
    hears(database, user_id, 1_000, 2)
    with database.begin() as session:
        # The same key is the purchase that was made, whatever is taken off by now.
        assert recording.record(session, NOW, order, RULES) is None


# What comes back, and what stands on paper.


def test_what_comes_back_is_what_was_paid_of_whom_it_was_paid_to(market: Market) -> None:
    provider_id = uuid4()
    # Three units whose fee cannot be divided.
    purchase_id = market.buys(quoted(10 * USD + 7, 3, provider_id=provider_id))
    paid = market.paid(purchase_id)
    rest = {who: market.balance(who) for who in (market.buyer_id, provider_id)}
    assert sum(paid.values()) == 0
    assert rest[provider_id] == paid[provider_id]

    with market.database.begin() as session:
        units = session.query(DeploymentRow).filter_by(purchase_id=purchase_id).all()
        wish = Wish(RefundCause.SUPPORT, "It was slow", "a test")
        row = refund(session, NOW, units, wish)
        assert row is not None
        refund_id = row.refund_id
    Refunds(market.database, market.rpc, RULES, lambda: NOW).try_to_settle(refund_id)

    assert market.balance(market.buyer_id) == rest[market.buyer_id] - paid[market.buyer_id]
    assert market.balance(provider_id) == 0
    (sold,) = market.sales(provider_id)
    assert (sold.net_micros, sold.fee_micros) == (0, 0)


def test_the_receipt_says_what_was_taken_off(market: Market) -> None:
    purchase_id = market.buys(quoted(10 * USD, 2), quoted(4 * USD, period="once", name="Setup"))

    with market.database.read() as session:
        question = GetReceipt(user_id=market.buyer_id, purchase_id=purchase_id)
        receipt = issuing.get(session, question, RULES)

    assert [(line.label, line.amount_micros) for line in receipt.lines] == [
        ("VM-Production × 2", 20 * USD),
        ("Setup", 4 * USD),
        ("Staking discount", -1_200_000),
    ]
    assert receipt.lines[0].detail.startswith("$10.00 each")
    assert receipt.total_micros == -market.paid(purchase_id)[market.buyer_id] == 22_800_000
    printed = documents.paper(receipt.model_copy(update={"number": "2026-000001"}))
    assert [line.amount_micros for line in printed.lines][-1] == -1_200_000


def test_the_purchase_says_what_was_taken_off_each(market: Market) -> None:
    purchase_id = market.buys(quoted(10 * USD, 2))

    purchase = as_purchase(row_of(market.database, purchase_id), RULES)
    (line,) = purchase.lines
    assert (line.unit_price_micros, line.unit_discount_micros) == (9_500_000, 500_000)
    assert (line.amount_micros, purchase.discount_micros) == (19 * USD, USD)
    assert all(each.status == DeploymentStatus.ACTIVE for each in _units(market, purchase_id))


def _units(market: Market, purchase_id: UUID) -> list[DeploymentRow]:
    return row_of(market.database, purchase_id).deployments


@given(
    price_micros=st.integers(0, 10**12),
    quantity=st.integers(1, 100),
    fee_bps=st.integers(0, 10_000),
    discount_bps=st.integers(0, 5_000),
)
def test_to_the_micro_dollar_nobody_who_sells_gives_anything_of_it(
    price_micros: int, quantity: int, fee_bps: int, discount_bps: int
) -> None:
    provider_id = uuid4()
    off = discounts.unit_discount_micros(
        price_micros, discount_bps, {provider_id: fee_bps}, provider_id
    )
    line = PurchaseLineRow(
        quantity=quantity,
        unit_price_micros=price_micros - off,
        unit_discount_micros=off,
        amount_micros=(price_micros - off) * quantity,
        provider_id=provider_id,
        fee_bps=fee_bps,
    )

    paid, whole = price_of(line), Price(price_micros * quantity, provider_id, fee_bps)
    numbers = range(1, quantity + 1)
    assert paid.net_micros == whole.net_micros
    assert 0 <= paid.fee_micros <= paid.amount_micros
    assert off <= price_micros * min(discount_bps, fee_bps) / 10_000
    assert sum(fee_of_unit(line, number) for number in numbers) == paid.fee_micros
    assert all(0 <= price_of_unit(line, each).fee_micros <= price_micros - off for each in numbers)
