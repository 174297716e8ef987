"""Usage: records that count once, rated as a whole, charged by the hour with the real wallet."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import select, text

from chassis.client import RpcClient
from chassis.database import Connected
from chassis.locks import locked
from contracts.billing import (
    CancelWhen,
    DeploymentStatus,
    GetPurchase,
    GetUsage,
    ListSales,
    PurchaseLine,
    RecordUsage,
    UsageRecord,
)
from contracts.billing import UsageRefusal as Refusal
from contracts.catalog import QUANTITY_MAX, Meter, MeterTier
from contracts.errors import InsufficientFunds, NotFound, PriceChanged
from contracts.wallet import (
    CloseKey,
    Debit,
    DebitAll,
    HouseAccount,
    Refund,
    Statement,
    TransactionKind,
)
from services.billing.deployments.meters import owing_usage
from services.billing.deployments.months import cost_micros, month_at, one_month_after
from services.billing.deployments.rating import rated_micros
from services.billing.models import (
    DeploymentRow,
    UsageChargeLineRow,
    UsageTotalRow,
    UsageWalletRow,
)
from services.billing.purchases.lifecycle import check_prices
from services.billing.purchases.queries import get_purchase
from services.billing.sales.statements import list_sales
from services.billing.service import AwaitsMoney, await_money, money_came
from services.billing.usage import charging
from services.billing.usage.charging import UsageCharges
from services.billing.usage.paying_back import UsageRefunds
from services.billing.usage.queries import get_usage
from services.billing.usage.taking import COST_MAX_MICROS, next_hour, record_usage
from tests.billing.conftest import RULES, quote_of, quoted
from tests.billing.test_earnings import Market
from tests.billing.test_lost_answers import LOST, is_a
from tests.billing.test_renewals import BOUGHT, PRICE, Tenant, after_the_answer, instant
from tests.crashes import Died, dies_at
from tests.locks import done_after
from tests.system import System

HOUR = timedelta(hours=1)
USD = 1_000_000
TRAFFIC = Meter(
    key="traffic",
    label="Traffic",
    unit="GB",
    price_micros=20_000,
    included_units=100,
    tiers=[
        MeterTier(above_units=1_000, price_micros=10_000),
        MeterTier(above_units=5_000, price_micros=0),
    ],
)
CALLS = Meter(key="calls", label="Calls", unit="call", price_micros=1_500, per_units=1_000)
HOURS = Meter(key="hours", label="Hours", unit="hour", price_micros=USD)

# Rating.


@pytest.mark.parametrize(
    ("meter", "quantity", "micros"),
    [
        # Written by hand: 100 GB included, then $0.02 up to 1,000, $0.01 up to 5,000, then free.
        (TRAFFIC, 0, 0),
        (TRAFFIC, 100, 0),
        (TRAFFIC, 101, 20_000),
        (TRAFFIC, 1_000, 18_000_000),
        (TRAFFIC, 1_001, 18_010_000),
        (TRAFFIC, 5_000, 58_000_000),
        (TRAFFIC, 9_000, 58_000_000),
        # $0.0015 for a thousand calls: half a micro-dollar goes to the even one.
        (CALLS, 1, 2),
        (CALLS, 3, 4),
        (CALLS, 5, 8),
        (CALLS, 1_000, 1_500),
        (HOURS, 7, 7_000_000),
    ],
)
def test_a_quantity_costs_what_its_tiers_say(meter: Meter, quantity: int, micros: int) -> None:
    assert rated_micros(meter, quantity) == micros


@st.composite
def a_meter(draw: st.DrawFn) -> Meter:
    begins = sorted(draw(st.sets(st.integers(0, 2_000), min_size=1, max_size=4)))
    price = st.integers(0, 5_000)
    return Meter(
        key="any",
        label="Any",
        unit="GB",
        price_micros=draw(price),
        per_units=draw(st.integers(1, 1_000)),
        included_units=begins[0],
        tiers=[MeterTier(above_units=each, price_micros=draw(price)) for each in begins[1:]],
    )


@given(a_meter(), st.integers(0, 3_000))
def test_a_total_is_rated_unit_by_unit_and_rounded_once(meter: Meter, quantity: int) -> None:
    prices = {meter.included_units: meter.price_micros}
    prices |= {tier.above_units: tier.price_micros for tier in meter.tiers}
    micros = sum(
        price
        for unit in range(quantity)
        if (price := next((prices[b] for b in sorted(prices, reverse=True) if unit >= b), None))
    )

    assert abs(rated_micros(meter, quantity) * meter.per_units - micros) * 2 <= meter.per_units


@given(a_meter(), st.lists(st.integers(1, 500), max_size=20), st.randoms())
def test_however_it_is_parted_it_costs_what_the_whole_costs(
    meter: Meter, parts: list[int], chance: Any
) -> None:
    def charged(parts: list[int]) -> int:
        total = micros = 0
        for part in parts:
            total += part
            micros += rated_micros(meter, total) - micros
        return micros

    shuffled = list(parts)
    chance.shuffle(shuffled)

    assert charged(shuffled) == charged(parts) == rated_micros(meter, sum(parts))


@pytest.mark.parametrize(
    "changes",
    [
        {"per_units": 0},
        {"key": "Traffic"},
        {"unit": " "},
        {"price_micros": -1},
        {"included_units": -1},
        {"tiers": [MeterTier(above_units=1, price_micros=0)] * 21},
    ],
)
def test_a_meter_that_makes_no_sense_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Meter.model_validate({**HOURS.model_dump(), **changes})


# Records.


class Metered(Tenant):
    """A user with one deployment that is measured, by a clock that the test sets."""

    def __init__(self, stack: System, database: Connected) -> None:
        super().__init__(stack, database)
        self.rpc = stack.rpc
        self.deployment_id = self.gets_deployment(TRAFFIC, CALLS, HOURS)
        rpc = cast(RpcClient, self.wire)
        self.charges = UsageCharges(database, rpc, RULES, lambda: self.now)
        self.refunds = UsageRefunds(database, rpc, RULES, lambda: self.now)
        self.now = BOUGHT + 5 * HOUR

    def gets_deployment(self, *meters: Meter, **more: Any) -> UUID:
        now, self.now = self.now, BOUGHT
        (deployment_id,) = self.deploys(meters=meters, **more)
        self.now = now
        return deployment_id

    def record(self, quantity: int = 1, meter: Meter = HOURS, **more: Any) -> UsageRecord:
        told: dict[str, Any] = {
            "record_id": f"{uuid4()}",
            "deployment_id": self.deployment_id,
            "meter": meter.key,
            "quantity": quantity,
            "used_at": self.now - HOUR,
            **more,
        }
        return UsageRecord.model_validate(told)

    def tells(self, *records: UsageRecord) -> list[str]:
        """What billing answers to each: the code of a refusal, or that it was taken."""
        with self.database.begin() as session:
            told = record_usage(session, self.now, RecordUsage(records=list(records)), RULES)
        assert [each.record_id for each in told.results] == [each.record_id for each in records]
        assert all(bool(each.message) == bool(each.code) for each in told.results)
        return [str(each.code or each.answer) for each in told.results]

    def uses(self, quantity: int = 1, meter: Meter = HOURS, **more: Any) -> UsageRecord:
        record = self.record(quantity, meter, **more)
        assert self.tells(record) == ["accepted"]
        return record

    def total(self, meter: Meter = HOURS) -> int:
        query = select(UsageTotalRow.quantity).where(
            UsageTotalRow.deployment_id == self.deployment_id, UsageTotalRow.meter == meter.key
        )
        with self.database.read() as session:
            return sum(session.scalars(query))

    def pays(self, hours: int = 1) -> None:
        """Lives until the end of the hour."""
        for _ in range(hours):
            self.now = next_hour(self.now)
            self.charges.run()
            self.refunds.run()

    @property
    def statement(self) -> list[tuple[int, str]]:
        kinds = [TransactionKind.USAGE, TransactionKind.REFUND]
        page = self.rpc.call(Statement(user_id=self.user_id, kinds=kinds))
        return [(each.amount_micros, each.description) for each in reversed(page.transactions)]

    @property
    def paid(self) -> list[int]:
        return [micros for micros, _ in self.statement]

    def sees_usage(self, days: int = 30, **more: Any) -> list[tuple[str, str, int, int]]:
        return [
            (f"{each.day:%m-%d}", each.meter, each.quantity, each.amount_micros)
            for each in self.looks(days, **more).days
        ]

    def looks(self, days: int = 30, user_id: UUID | None = None) -> Any:
        command = GetUsage(
            user_id=user_id or self.user_id, deployment_id=self.deployment_id, days=days
        )
        with self.database.read() as session:
            return get_usage(session, self.now, command)


@pytest.fixture
def tenant(stack: System, database: Connected) -> Metered:
    return Metered(stack, database)


def test_a_record_counts_once_however_often_it_is_told(tenant: Metered) -> None:
    record = tenant.record(3)

    assert tenant.tells(record, record) == ["accepted", "repeated"]
    assert tenant.tells(record) == ["repeated"]
    assert tenant.total() == 3


@pytest.mark.parametrize("other", [{"quantity": 4}, {"meter": "calls"}, {"used_at": BOUGHT + HOUR}])
def test_another_record_under_the_same_id_is_refused_by_itself(
    tenant: Metered, other: dict[str, Any]
) -> None:
    first = tenant.uses(3)
    second = first.model_copy(update=other)

    assert tenant.tells(second, tenant.record(5)) == [Refusal.RECORD_CONFLICT, "accepted"]
    assert tenant.total() == 8


def test_the_same_id_of_another_deployment_is_another_record(tenant: Metered) -> None:
    first = tenant.uses(3)
    other = tenant.record(4, record_id=first.record_id, deployment_id=tenant.gets_deployment(HOURS))

    assert tenant.tells(other, first) == ["accepted", "repeated"]
    assert tenant.total() == 3


def test_what_is_not_there_or_not_measured_is_refused(tenant: Metered) -> None:
    unmeasured = tenant.gets_deployment()

    assert tenant.tells(
        tenant.record(deployment_id=uuid4()),
        tenant.record(meter=HOURS.model_copy(update={"key": "other"})),
        tenant.record(deployment_id=unmeasured),
        tenant.record(),
    ) == [Refusal.NOT_FOUND, Refusal.UNKNOWN_METER, Refusal.UNKNOWN_METER, "accepted"]


def test_nothing_is_used_in_the_future_or_too_long_ago_on_the_instant(tenant: Metered) -> None:
    tenant.now = BOUGHT + 10 * RULES.usage_window
    moment = timedelta(microseconds=1)
    oldest = tenant.now - RULES.usage_window

    assert tenant.tells(
        tenant.record(used_at=tenant.now),
        tenant.record(used_at=tenant.now + moment),
        tenant.record(used_at=oldest),
        tenant.record(used_at=oldest - moment),
    ) == ["accepted", Refusal.IN_THE_FUTURE, "accepted", Refusal.TOO_LATE]


def test_a_record_that_is_repeated_too_late_is_repeated(tenant: Metered) -> None:
    record = tenant.uses()

    tenant.now += 2 * RULES.usage_window

    assert tenant.tells(record) == ["repeated"]


def test_nothing_is_used_before_it_ran_or_after_it_ended_on_the_instant(tenant: Metered) -> None:
    ended_at = BOUGHT + 3 * HOUR
    moment = timedelta(microseconds=1)
    with tenant.database.begin() as session:
        session.get_one(DeploymentRow, tenant.deployment_id).ended_at = ended_at

    assert tenant.tells(
        tenant.record(used_at=BOUGHT),
        tenant.record(used_at=BOUGHT - moment),
        tenant.record(used_at=ended_at),
        tenant.record(used_at=ended_at + moment),
    ) == ["accepted", Refusal.NOT_RUNNING, "accepted", Refusal.NOT_RUNNING]


def test_what_is_being_set_up_uses_nothing(tenant: Metered) -> None:
    with tenant.database.begin() as session:
        session.get_one(DeploymentRow, tenant.deployment_id).active_at = None

    assert tenant.tells(tenant.record()) == [Refusal.NOT_RUNNING]
    assert tenant.sees_usage() == []


def test_a_correction_takes_back_what_a_record_said_and_no_more(tenant: Metered) -> None:
    first = tenant.uses(10)
    tenant.uses(5)
    less: dict[str, Any] = {"corrects": first.record_id, "used_at": first.used_at}

    assert tenant.tells(
        tenant.record(-4, **less), tenant.record(-7, **less), tenant.record(-6, **less)
    ) == ["accepted", Refusal.NOTHING_TO_CORRECT, "accepted"]
    assert tenant.tells(tenant.record(-1, **less)) == [Refusal.NOTHING_TO_CORRECT]
    assert tenant.total() == 5


def test_a_correction_names_a_record_of_its_meter_and_time_that_is_none_itself(
    tenant: Metered,
) -> None:
    first = tenant.uses(10)
    of_calls = tenant.uses(10, CALLS)
    correction = tenant.uses(-1, corrects=first.record_id, used_at=first.used_at)
    at = first.used_at

    assert (
        tenant.tells(
            tenant.record(-1, corrects="unknown", used_at=at),
            tenant.record(-1, corrects=of_calls.record_id, used_at=at),
            tenant.record(-1, corrects=correction.record_id, used_at=at),
            tenant.record(-1, corrects=first.record_id, used_at=at - HOUR),
        )
        == [Refusal.NOTHING_TO_CORRECT] * 4
    )
    assert tenant.total() == 9


def test_a_record_and_its_correction_may_come_together(tenant: Metered) -> None:
    first = tenant.record(10)
    correction = tenant.record(-10, corrects=first.record_id, used_at=first.used_at)

    assert tenant.tells(correction, first, correction) == [
        Refusal.NOTHING_TO_CORRECT,
        "accepted",
        "accepted",
    ]
    assert tenant.total() == 0


def test_what_no_month_ever_costs_is_refused(tenant: Metered) -> None:
    most = COST_MAX_MICROS // USD

    assert tenant.tells(
        tenant.record(most + 1), tenant.record(most - 1), tenant.record(1), tenant.record(1)
    ) == [Refusal.LIMIT_EXCEEDED, "accepted", "accepted", Refusal.LIMIT_EXCEEDED]
    assert tenant.tells(tenant.record(QUANTITY_MAX, TRAFFIC), tenant.record(1, TRAFFIC)) == [
        "accepted",
        Refusal.LIMIT_EXCEEDED,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": 0},
        {"quantity": -1},
        {"quantity": 1, "corrects": "a"},
        {"quantity": QUANTITY_MAX + 1},
        {"quantity": 1.5},
        {"quantity": True},
        {"record_id": ""},
        {"record_id": "x" * 101},
        {"record_id": "\0"},
        {"used_at": 1_700_000_000},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(changes: dict[str, Any]) -> None:
    sound = {
        "record_id": "a",
        "deployment_id": str(uuid4()),
        "meter": "hours",
        "quantity": 1,
        "used_at": "2026-03-02T12:00:00Z",
    }
    UsageRecord.model_validate(sound)

    with pytest.raises(ValidationError):
        UsageRecord.model_validate({**sound, **changes})


def test_the_same_record_at_the_same_moment_counts_once(tenant: Metered) -> None:
    record = tenant.record(3)

    def told(session: Any) -> None:
        record_usage(session, tenant.now, RecordUsage(records=[record]), RULES)

    assert done_after(tenant.database, told, lambda: tenant.tells(record)) == ["repeated"]
    assert tenant.total() == 3


# Charges.


def test_an_hours_usage_is_one_transaction_with_a_line_for_each_meter(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    tenant.uses(2, used_at=BOUGHT + HOUR)
    tenant.uses(3)
    tenant.uses(101, TRAFFIC)

    tenant.charges.run()
    before = tenant.paid
    tenant.pays(3)

    assert before == []
    assert tenant.statement == [
        (-5_020_000, "Usage of VM-Production, 2026-01-31 10:00–14:00 UTC"),
    ]
    line = UsageChargeLineRow
    with tenant.database.read() as session:
        lines = session.execute(select(line.meter, line.quantity, line.amount_micros)).all()
    assert sorted(map(tuple, lines)) == [("hours", 5, 5_000_000), ("traffic", 101, 20_000)]


def test_many_charges_come_to_what_one_would(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    for quantity in (1, 1, 1, 700, 1, 3):
        tenant.uses(quantity, CALLS)
        tenant.pays()

    assert -sum(tenant.paid) == rated_micros(CALLS, 707)
    assert len(tenant.paid) == 6


def test_a_statement_names_one_of_several_and_two_days(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    tenant.now = BOUGHT + 15 * HOUR
    tenant.uses(used_at=BOUGHT + HOUR)
    tenant.uses(deployment_id=tenant.gets_deployment(HOURS, name="VM-Other"), used_at=tenant.now)

    tenant.pays()

    assert tenant.statement == [
        (
            -2 * USD,
            "Usage of VM-Production and 1 more, 2026-01-31 10:00 to 2026-02-01 01:00 UTC",
        )
    ]


def test_each_wallet_pays_for_its_own_and_one_without_money_holds_up_nobody(
    tenant: Metered, stack: System, database: Connected
) -> None:
    poor, frozen = Metered(stack, database), Metered(stack, database)
    tenant.gets(USD)
    frozen.gets(USD)
    frozen.freezes()
    for each in (poor, frozen, tenant):
        each.uses()

    tenant.pays()

    assert (poor.paid, frozen.paid, tenant.paid) == ([], [], [-USD])
    frozen.thaws()
    for each in (poor, frozen):
        each.now = tenant.now + RULES.renewal_retry
    poor.gets(USD)
    frozen.charges.run()
    assert (poor.paid, frozen.paid, tenant.paid) == ([-USD], [-USD], [-USD])


def test_usage_that_is_short_of_funds_is_asked_again_and_at_once_when_money_comes(
    tenant: Metered,
) -> None:
    tenant.gets(USD)
    tenant.uses(2)
    tenant.pays(2)
    assert (tenant.paid, tenant.looks().due_micros) == ([], 2 * USD)

    tenant.uses(1)
    tenant.gets(2 * USD)
    with tenant.database.begin() as session:
        assert await_money(session, [uuid4(), tenant.user_id]) == [False, True]
        charging.money_came(session, tenant.now, uuid4())
    tenant.charges.run()
    assert tenant.paid == []
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()

    assert (tenant.paid, tenant.looks().due_micros) == ([-2 * USD], USD)
    tenant.pays()
    assert (tenant.paid, tenant.looks().due_micros) == ([-2 * USD, -USD], 0)


def test_money_that_comes_while_nothing_is_due_changes_nothing(tenant: Metered) -> None:
    tenant.gets(USD)
    tenant.uses()

    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()

    assert tenant.paid == []


@pytest.mark.parametrize("when", LOST)
def test_a_charge_whose_answer_is_lost_is_paid_once(tenant: Metered, when: str) -> None:
    tenant.gets(10 * USD)
    tenant.uses()
    tenant.wire.lose(is_a(DebitAll), when)
    tenant.pays()
    tenant.uses()

    tenant.now += timedelta(minutes=2)
    tenant.charges.run()

    assert tenant.paid == [-USD]
    tenant.pays()
    assert tenant.paid == [-USD, -USD]


def test_an_answer_that_comes_after_the_next_charge_was_written_pays_only_its_own(
    tenant: Metered,
) -> None:
    tenant.gets(USD)
    tenant.uses()

    class Slow:
        def call(self, request: Any) -> Any:
            answer = tenant.rpc.call(request)
            # Another worker takes over, and an hour later finds more than the wallet has.
            tenant.now += 2 * charging.DUE.lease
            tenant.charges.run()
            tenant.uses(2)
            tenant.pays()
            return answer

    slow = UsageCharges(tenant.database, cast(RpcClient, Slow()), RULES, lambda: tenant.now)
    tenant.now = next_hour(tenant.now)
    slow.run()

    assert (tenant.paid, tenant.looks().due_micros) == ([-USD], 2 * USD)


def test_usage_within_what_is_included_costs_nothing(tenant: Metered) -> None:
    tenant.uses(100, TRAFFIC)

    tenant.pays(2)

    assert (tenant.paid, tenant.looks().due_micros) == ([], 0)


def corrects(tenant: Metered, first: UsageRecord, quantity: int) -> None:
    less = {"record_id": f"{uuid4()}", "quantity": -quantity, "corrects": first.record_id}
    assert tenant.tells(first.model_copy(update=less)) == ["accepted"]


def test_a_correction_lowers_what_is_charged_with_the_same_hour(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    first = tenant.uses(10)
    tenant.pays()
    corrects(tenant, first, 4)
    tenant.uses(5)

    tenant.pays()

    assert tenant.paid == [-10 * USD, -1 * USD]


@pytest.mark.parametrize("when", [None, *LOST])
def test_what_is_corrected_after_the_last_charge_is_paid_back_by_itself_and_once(
    tenant: Metered, when: str | None
) -> None:
    tenant.gets(100 * USD)
    first, second = tenant.uses(10), tenant.uses(1)
    tenant.pays()
    tenant.uses(2)
    tenant.pays()
    tenant.cancels(tenant.deployment_id, CancelWhen.NOW)
    corrects(tenant, first, 4)
    if when is not None:
        tenant.wire.lose(is_a(Refund), when)

    tenant.pays()
    tenant.now += timedelta(minutes=2)
    tenant.refunds.run()
    tenant.pays(2)

    # The latest charge goes back first, and no more of it than it took.
    assert tenant.paid == [-11 * USD, -2 * USD, 2 * USD, 2 * USD]
    assert tenant.looks().due_micros == 0
    corrects(tenant, second, 1)
    tenant.pays()
    assert tenant.paid[4:] == [USD]


def test_who_sold_gives_back_a_share_of_what_is_paid_back(market: Market, stack: System) -> None:
    """In parts too small to divide: all of them have the fee of the whole."""
    tenant, provider_id = Metered(stack, market.database), uuid4()
    tenant.gets(100 * USD)
    tenant.deployment_id = tenant.gets_deployment(CALLS, provider_id=provider_id)
    sold = tenant.uses(10, CALLS)
    tenant.uses(10_000, CALLS, deployment_id=tenant.gets_deployment(CALLS))
    tenant.pays()
    before = market.balance(provider_id)

    for _ in range(10):
        corrects(tenant, sold, 1)
        tenant.pays()

    with tenant.database.read() as session:
        sales = list_sales(session, ListSales(user_id=provider_id)).sales
        debts = session.scalar(text("SELECT count(*) FROM debts"))
    # Ten calls were $0.000015, of which the fee is a tenth, rounded half-even.
    assert (before, market.balance(provider_id), debts) == (13, 0, 0)
    assert sum(sale.refunded_micros for sale in sales) == 15
    assert sum(sale.fee_micros for sale in sales) == PRICE // 10
    assert sum(tenant.paid) == -15_000


def test_what_was_spent_is_advanced_and_owed(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    provider_id = uuid4()
    tenant.deployment_id = tenant.gets_deployment(HOURS, provider_id=provider_id)
    sold = tenant.uses(10)
    tenant.pays()
    spend = Debit(
        idempotency_key=f"{uuid4()}",
        user_id=provider_id,
        amount_micros=9 * USD,
        description="Spent",
    )
    tenant.rpc.call(spend)

    corrects(tenant, sold, 10)
    tenant.pays()

    with tenant.database.read() as session:
        owed = session.scalar(text("SELECT sum(amount_micros) FROM debts"))
    assert (sum(tenant.paid), owed) == (0, 9 * USD)


@pytest.mark.parametrize("when", [None, *LOST])
def test_a_charge_that_is_not_paid_is_replaced_when_it_is_corrected(
    tenant: Metered, when: str | None
) -> None:
    tenant.gets(USD)
    wrong = tenant.uses(5_000)
    tenant.pays()
    corrects(tenant, wrong, 4_999)
    if when is not None:
        tenant.wire.lose(is_a(CloseKey), when)

    for _ in range(2):
        tenant.now += RULES.renewal_retry
        tenant.charges.run()
    tenant.refunds.run()

    assert (tenant.paid, tenant.looks().due_micros) == ([-USD], 0)
    assert tenant.sees(tenant.deployment_id).next_status is None


def test_a_charge_whose_replacing_died_is_replaced_once(
    tenant: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.gets(USD)
    wrong = tenant.uses(5_000)
    tenant.pays()
    corrects(tenant, wrong, 4_999)
    dies_at(monkeypatch, charging, "billing.usage_closed")
    tenant.now += RULES.renewal_retry
    with pytest.raises(Died):
        tenant.charges.run()

    for _ in range(2):
        tenant.now += RULES.renewal_retry
        tenant.charges.run()
    tenant.refunds.run()

    assert (tenant.paid, tenant.looks().due_micros) == ([-USD], 0)


def test_a_charge_that_was_paid_before_it_could_be_replaced_is_paid_back(tenant: Metered) -> None:
    tenant.uses(5)
    wrong = tenant.uses(2)
    tenant.pays()
    corrects(tenant, wrong, 2)
    tenant.gets(7 * USD)

    class Slow:
        """Another worker's debit reaches the wallet before the key is closed."""

        def call(self, request: Any, *more: Any) -> Any:
            if isinstance(request, CloseKey):
                amount = Debit(
                    idempotency_key=request.idempotency_key,
                    user_id=tenant.user_id,
                    amount_micros=7 * USD,
                    kind=TransactionKind.USAGE,
                    description="Usage",
                )
                tenant.rpc.call(amount)
            return tenant.rpc.call(request, *more)

    tenant.now += RULES.renewal_retry
    UsageCharges(tenant.database, cast(RpcClient, Slow()), RULES, lambda: tenant.now).run()
    tenant.pays()

    assert tenant.paid == [-7 * USD, 2 * USD]
    assert tenant.sees(tenant.deployment_id).next_status is None


def test_what_is_included_and_tiers_begin_anew_with_each_month_of_the_deployment(
    tenant: Metered,
) -> None:
    tenant.gets(100 * USD)
    ends = one_month_after(BOUGHT)
    tenant.now = ends + HOUR
    tenant.uses(101, TRAFFIC, used_at=ends - timedelta(microseconds=1))
    tenant.uses(102, TRAFFIC, used_at=ends)

    tenant.pays()

    assert tenant.paid == [-60_000]


def test_who_sells_gets_the_share_of_what_was_used(market: Market, stack: System) -> None:
    tenant = Metered(stack, market.database)
    provider_id = uuid4()
    tenant.gets(100 * USD)
    tenant.deployment_id = tenant.gets_deployment(HOURS, provider_id=provider_id)
    tenant.uses(10)

    tenant.pays()

    with tenant.database.read() as session:
        (sale,) = list_sales(session, ListSales(user_id=provider_id)).sales
        transaction_id = session.scalar(text("SELECT transaction_id FROM usage_charges"))
    sold = sale.gross_micros, sale.fee_micros, sale.units, sale.renewals
    assert sold == (PRICE + 10 * USD, (PRICE + 10 * USD) // 10, 1, 0)
    assert market.legs(transaction_id) == {
        tenant.user_id: -10 * USD,
        provider_id: 9 * USD,
        HouseAccount.FEES: USD,
    }


@pytest.fixture
def market(stack: System, database: Connected) -> Market:
    return Market(stack, database)


# What the buyer saw.


@pytest.mark.parametrize(
    ("seen", "is_refused"),
    [
        (None, False),
        ([TRAFFIC, HOURS], False),
        ([HOURS, TRAFFIC], True),
        ([TRAFFIC], True),
        ([], True),
        ([TRAFFIC, HOURS.model_copy(update={"price_micros": USD - 1})], True),
    ],
)
def test_other_meters_than_the_buyer_saw_are_refused_like_another_price(
    seen: list[Meter] | None, is_refused: bool
) -> None:
    line = quoted(USD, meters=[TRAFFIC, HOURS])
    wanted = PurchaseLine(product_id=line.product.product_id, expected_meters=seen)

    with pytest.raises(PriceChanged, match="use") if is_refused else nullcontext():
        check_prices([wanted], quote_of(line))


def test_a_purchase_keeps_the_meters_at_which_it_was_made(tenant: Metered) -> None:
    with tenant.database.read() as session:
        row = session.get_one(DeploymentRow, tenant.deployment_id)
        question = GetPurchase(user_id=tenant.user_id, purchase_id=row.purchase_id)
        (line,) = get_purchase(session, question, RULES).lines

    assert line.meters == [TRAFFIC, CALLS, HOURS]


# Usage that is not paid.


def suspended(tenant: Metered) -> None:
    """Its days of grace have passed."""
    tenant.uses(2)
    tenant.pays()
    tenant.runs(tenant.now + RULES.grace)
    assert tenant.sees(tenant.deployment_id).status == DeploymentStatus.SUSPENDED


def test_unpaid_usage_has_days_of_grace_and_its_owner_is_told_once(tenant: Metered) -> None:
    tenant.gets(USD)
    tenant.uses(3)
    tenant.pays()
    refused_at = tenant.now
    deployment = tenant.sees(tenant.deployment_id)
    ends_at = refused_at + RULES.grace

    tenant.now += RULES.renewal_retry
    tenant.charges.run()
    tenant.runs(ends_at - timedelta(microseconds=1))
    before = tenant.sees(tenant.deployment_id).status
    tenant.runs(ends_at)

    assert (deployment.next_status, deployment.next_status_at) == (
        DeploymentStatus.SUSPENDED,
        ends_at,
    )
    assert (before, tenant.sees(tenant.deployment_id).status) == ("active", "suspended")
    (told,) = tenant.told("renewal_short_of_funds")
    assert (told["shortfall_micros"], told["available_micros"]) == (2 * USD, USD)
    assert (told["is_usage"], told["name"], told["deployments"]) == (True, "VM-Production", 1)
    assert (tenant.charged, tenant.paid) == ([], [])


def test_neither_a_shortage_nor_its_end_puts_off_what_is_to_be_looked_at(tenant: Metered) -> None:
    soon = tenant.now + 4 * HOUR

    def is_looked_at() -> datetime | None:
        with tenant.database.read() as session:
            return session.get_one(DeploymentRow, tenant.deployment_id).due_at

    with tenant.database.begin() as session:
        session.get_one(DeploymentRow, tenant.deployment_id).due_at = soon
    tenant.uses(3)
    tenant.pays()
    in_grace = is_looked_at()
    tenant.gets(3 * USD)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()

    assert (in_grace, is_looked_at(), tenant.paid) == (soon, soon, [-3 * USD])


def test_money_that_comes_within_the_days_of_grace_ends_them(tenant: Metered) -> None:
    tenant.uses(3)
    tenant.pays()
    tenant.gets(3 * USD)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()

    tenant.runs(tenant.now + 2 * RULES.grace)

    deployment = tenant.sees(tenant.deployment_id)
    assert (deployment.status, deployment.next_status) == ("active", None)


def test_usage_that_still_lacks_money_after_some_came_is_told_again_and_not_by_every_try(
    tenant: Metered,
) -> None:
    tenant.uses(3)
    tenant.pays(8)
    tenant.gets(2 * USD)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()
    tenant.pays(8)

    first, last = tenant.told("renewal_short_of_funds")
    assert [each["shortfall_micros"] for each in (first, last)] == [3 * USD, USD]
    assert first["suspended_at"] == last["suspended_at"]


def test_whoever_brings_money_holds_the_wallet_of_usage_before_what_used_it(
    tenant: Metered,
) -> None:
    """In the order of who charges for it: else they wait in a circle."""
    tenant.uses(3)
    tenant.runs(one_month_after(BOUGHT))
    owes_both = AwaitsMoney(purchases=False, months=True, runway=False, debts=False, usage=True)

    def comes() -> None:
        with tenant.database.begin() as session:
            money_came(session, tenant.now, tenant.user_id, owes_both)

    def is_free() -> None:
        with tenant.database.begin() as session:
            session.execute(
                text("SELECT FROM deployments WHERE user_id = :user FOR UPDATE NOWAIT"),
                {"user": tenant.user_id},
            )

    tenant.pays()
    done_after(
        tenant.database,
        lambda holder: locked(holder, UsageWalletRow, tenant.user_id),
        comes,
        is_free,
    )


def test_money_that_comes_before_a_refusal_is_recorded_pays_usage_and_nobody_hears_of_it(
    tenant: Metered,
) -> None:
    def money_comes() -> None:
        tenant.gets(3 * USD)
        with tenant.database.begin() as session:
            charging.money_came(session, tenant.now, tenant.user_id)

    tenant.uses(3)
    after_the_answer(tenant, money_comes)
    tenant.pays()

    assert (tenant.told("renewal_short_of_funds"), tenant.paid) == ([], [-3 * USD])


def test_unpaid_usage_is_told_as_of_the_moment_in_which_the_wallet_was_asked(
    tenant: Metered,
) -> None:
    def time_passes() -> None:
        tenant.now += timedelta(seconds=2)

    tenant.uses(3)
    after_the_answer(tenant, time_passes)
    tenant.pays()

    (told,) = tenant.told("renewal_short_of_funds")
    assert instant(told["occurred_at"]) == tenant.now - timedelta(seconds=2)


def test_a_month_is_announced_and_renewed_while_usage_is_not_paid(tenant: Metered) -> None:
    ends = one_month_after(BOUGHT)
    tenant.now = ends - 2 * HOUR
    tenant.uses(40)
    tenant.pays()
    tenant.gets(PRICE)

    tenant.runs(ends)

    deployment = tenant.sees(tenant.deployment_id)
    assert (tenant.charged, tenant.paid) == ([-PRICE], [])
    assert (deployment.next_renewal_at, deployment.next_status) == (
        one_month_after(BOUGHT, 2),
        DeploymentStatus.SUSPENDED,
    )


def test_what_is_suspended_for_its_usage_is_started_when_that_is_paid(tenant: Metered) -> None:
    suspended(tenant)
    with pytest.raises(InsufficientFunds, match="what was used is not paid"):
        tenant.starts(tenant.deployment_id)

    tenant.gets(2 * USD)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()

    started = tenant.starts(tenant.deployment_id)
    assert (started.status, tenant.paid, tenant.charged) == ("active", [-2 * USD], [])


def test_suspended_for_its_usage_after_an_outage_in_which_its_month_began_it_owes_what_ran(
    tenant: Metered,
) -> None:
    ends = one_month_after(BOUGHT)
    tenant.lives(ends - 2 * HOUR)
    tenant.uses(2)
    tenant.pays()
    suspended_at = tenant.now + RULES.grace + HOUR

    tenant.runs(suspended_at)

    ran_micros = cost_micros(BOUGHT, PRICE, ends, suspended_at)
    deployment = tenant.sees(tenant.deployment_id)
    assert deployment.status == DeploymentStatus.SUSPENDED
    assert deployment.owed_micros == ran_micros + 2 * USD
    tenant.gets(ran_micros)
    tenant.renewals.run()
    assert tenant.charged == [-ran_micros]


def test_another_users_unpaid_usage_keeps_nothing_from_starting(
    tenant: Metered, stack: System, database: Connected
) -> None:
    suspended(tenant)
    other = Metered(stack, database)
    other.stops(other.deployment_id)

    assert other.starts(other.deployment_id).status == DeploymentStatus.ACTIVE


def test_what_does_not_run_takes_no_step_for_its_usage(tenant: Metered) -> None:
    tenant.uses(2)
    tenant.stops(tenant.deployment_id)

    tenant.pays()

    assert tenant.sees(tenant.deployment_id).next_status == DeploymentStatus.CANCELLED
    assert tenant.told("renewal_short_of_funds") == []


def test_what_ends_with_its_month_ends_then_though_usage_is_not_paid(tenant: Metered) -> None:
    ends = one_month_after(BOUGHT)
    tenant.now = ends - 2 * HOUR
    tenant.uses(2)
    tenant.cancels(tenant.deployment_id)
    tenant.pays()

    tenant.runs(ends)

    assert tenant.sees(tenant.deployment_id).status == DeploymentStatus.CANCELLED


# By day.


def test_usage_is_shown_by_day_and_meter_and_its_days_come_to_the_month(tenant: Metered) -> None:
    day = datetime(2026, 2, 1, 12, tzinfo=UTC)
    tenant.now = day + timedelta(days=1)
    tenant.uses(80, TRAFFIC, used_at=day - timedelta(days=1, hours=1))
    tenant.uses(30, TRAFFIC, used_at=day)
    tenant.uses(2, used_at=day)
    tenant.uses(5, TRAFFIC, used_at=tenant.now)
    other = tenant.gets_deployment(HOURS)
    tenant.uses(9, deployment_id=other)

    assert tenant.sees_usage() == [
        ("02-02", "traffic", 5, 100_000),
        ("02-01", "hours", 2, 2_000_000),
        ("02-01", "traffic", 30, 200_000),
        ("01-31", "traffic", 80, 0),
    ]
    assert tenant.sees_usage(1) == [("02-02", "traffic", 5, 100_000)]
    assert [row[0] for row in tenant.sees_usage(2)] == ["02-02", "02-01", "02-01"]


def test_a_day_on_which_two_months_meet_is_one_line(tenant: Metered) -> None:
    ends = one_month_after(BOUGHT)
    tenant.now = ends + HOUR
    for moment in (ends - HOUR, ends):
        tenant.uses(101, TRAFFIC, used_at=moment)

    assert tenant.sees_usage() == [("02-28", "traffic", 202, 40_000)]


def test_what_was_used_and_is_not_paid_is_owed_for_the_deployment(tenant: Metered) -> None:
    other = tenant.gets_deployment(HOURS)
    other_twice = tenant.uses(4, deployment_id=other)
    tenant.uses(2)
    tenant.pays()
    tenant.uses(3)
    corrects(tenant, other_twice, 1)

    def owed(deployment_id: UUID) -> tuple[int, int]:
        seen = tenant.sees(deployment_id)
        return seen.owed_micros, seen.owed_usage_micros

    # Two are charged and refused, three wait for the hour; of the other one four, less one.
    before = owed(tenant.deployment_id), owed(other)
    tenant.gets(100 * USD)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()
    tenant.pays()

    assert before == ((5 * USD, 5 * USD), (3 * USD, 3 * USD))
    assert (owed(tenant.deployment_id), owed(other)) == ((0, 0), (0, 0))


def test_nobody_sees_the_usage_of_another(tenant: Metered) -> None:
    tenant.uses()

    with pytest.raises(NotFound):
        tenant.looks(user_id=uuid4())


@pytest.mark.parametrize("is_charged", [False, True])
def test_who_owes_for_usage_owes_for_his_own_alone(
    tenant: Metered, stack: System, database: Connected, is_charged: bool
) -> None:
    users = [tenant, Metered(stack, database)]
    for user in users:
        user.uses()
    if is_charged:
        tenant.pays()

    with database.read() as session:
        owing = [owing_usage(session, user.user_id) for user in users]

    assert owing == [{user.deployment_id} for user in users]


@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_a_month_begins_where_the_one_before_ends(day: int) -> None:
    anchor = datetime(2027, 1, day, 12, tzinfo=UTC)
    month = month_at(anchor, anchor)
    for number in range(1, 30):
        following = month_at(anchor, month.ends_at)
        assert following == (month.ends_at, one_month_after(anchor, number + 1))
        assert month_at(anchor, following.ends_at - timedelta(microseconds=1)) == following
        month = following
