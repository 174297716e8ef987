"""Usage: records that count once, rated as a whole, charged by the hour with the real wallet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from chassis import bulk
from chassis.client import RpcClient
from chassis.database import Connected, lock_until_commit
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
from contracts.errors import InsufficientFunds, NotFound, PriceChanged, Unavailable
from contracts.wallet import (
    CloseKey,
    Credit,
    Debit,
    DebitAll,
    HouseAccount,
    PlaceHold,
    Refund,
    Statement,
    TransactionKind,
    VoidHold,
)
from services.billing.deployments import charge_limit
from services.billing.deployments.meters import owing_usage
from services.billing.deployments.months import cost_micros, month_at, one_month_after
from services.billing.deployments.rating import rated_micros
from services.billing.models import (
    DeploymentRow,
    UsageChargeLineRow,
    UsageChargeRow,
    UsageTotalRow,
    UsageWalletRow,
)
from services.billing.purchases.lifecycle import check_prices
from services.billing.purchases.queries import get_purchase
from services.billing.renewals import renewals as months
from services.billing.sales.statements import list_sales
from services.billing.service import AwaitsMoney, await_money, money_came
from services.billing.usage import charges, charging, shortage
from services.billing.usage.charging import UsageCharges
from services.billing.usage.paying_back import UsageRefunds
from services.billing.usage.queries import get_usage
from services.billing.usage.taking import COST_MAX_MICROS, next_hour, record_usage
from tests.billing.conftest import RULES, emptied, quote_of, quoted
from tests.billing.test_earnings import Market
from tests.billing.test_lost_answers import LOST, is_a
from tests.billing.test_renewals import (
    BOUGHT,
    DAY,
    PRICE,
    Tenant,
    after_the_answer,
    instant,
    renames,
)
from tests.billing.test_starts import wallet_held
from tests.crashes import Died, dies_at
from tests.locks import done_after, held
from tests.patience import eventually
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
        self.charges = UsageCharges(
            database, rpc, RULES, lambda: self.now, self.renewals.settle_months
        )
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


def test_who_tells_of_usage_and_who_renews_hold_deployments_in_one_order(
    tenant: Metered,
) -> None:
    first, second = sorted((tenant.deployment_id, tenant.gets_deployment(HOURS)))
    renewing: list[Session] = []

    def holds(session: Session, deployment_id: UUID) -> None:
        renewing.append(session)
        session.execute(
            text("SELECT FROM deployments WHERE deployment_id = :id FOR UPDATE"),
            {"id": deployment_id},
        )

    answers = done_after(
        tenant.database,
        lambda session: holds(session, first),
        lambda: tenant.tells(*(tenant.record(deployment_id=each) for each in (second, first))),
        lambda: holds(renewing[0], second),
    )

    assert answers == ["accepted", "accepted"]


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


def test_what_is_suspended_or_stopped_uses_nothing_on_the_instant(tenant: Metered) -> None:
    moment = timedelta(microseconds=1)
    suspended(tenant)
    suspended_at = tenant.now
    tenant.gets(100 * USD)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)
    tenant.charges.run()
    tenant.now += HOUR
    tenant.starts(tenant.deployment_id)
    started_at = tenant.now
    tenant.now += HOUR
    tenant.stops(tenant.deployment_id)
    stopped_at = tenant.now
    tenant.now += HOUR

    def told() -> list[str]:
        moments = [
            moment_ + part
            for moment_ in (suspended_at, started_at, stopped_at)
            for part in (-moment, 0 * moment, moment)
        ]
        return tenant.tells(*(tenant.record(used_at=each) for each in moments))

    taken, refused = "accepted", Refusal.NOT_RUNNING
    ran = [taken, taken, refused, refused, taken, taken, taken, taken]
    assert told() == [*ran, refused]
    tenant.starts(tenant.deployment_id)
    assert tenant.tells(tenant.record(used_at=stopped_at + moment)) == [refused]
    assert told() == [*ran, refused]


def test_a_refusal_says_until_when_it_ran_whatever_became_of_it_since(tenant: Metered) -> None:
    tenant.stops(tenant.deployment_id)
    stopped_at = tenant.now
    tenant.now += HOUR
    renames(tenant, tenant.deployment_id)
    tenant.now += HOUR
    record = tenant.record(used_at=tenant.now)

    with tenant.database.begin() as session:
        (told,) = record_usage(session, tenant.now, RecordUsage(records=[record]), RULES).results

    assert f"stopped or suspended at {stopped_at.isoformat()}." in told.message


def test_anothers_pause_refuses_no_record(tenant: Metered) -> None:
    other = tenant.gets_deployment(HOURS)
    tenant.stops(tenant.deployment_id)
    tenant.now += HOUR
    used_at = tenant.now

    assert tenant.tells(
        tenant.record(used_at=used_at), tenant.record(used_at=used_at, deployment_id=other)
    ) == [Refusal.NOT_RUNNING, "accepted"]


def test_that_another_one_started_ends_no_pause(tenant: Metered) -> None:
    other = tenant.gets_deployment(HOURS)
    tenant.stops(other)
    tenant.stops(tenant.deployment_id)
    tenant.now += HOUR
    tenant.starts(other)
    tenant.now += HOUR

    assert tenant.tells(tenant.record(used_at=tenant.now)) == [Refusal.NOT_RUNNING]


def test_a_correction_of_what_an_older_version_took_is_taken(tenant: Metered) -> None:
    """It took what was used while a deployment was stopped, too."""
    tenant.stops(tenant.deployment_id)
    stopped_at = tenant.now
    tenant.now += HOUR
    first = tenant.record(3, used_at=stopped_at)
    assert tenant.tells(first) == ["accepted"]
    taken_then = first.model_copy(update={"used_at": stopped_at + HOUR})
    with tenant.database.begin() as session:
        session.execute(
            text("UPDATE usage_records SET used_at = :at WHERE record_id = :id"),
            {"at": taken_then.used_at, "id": taken_then.record_id},
        )

    corrects(tenant, taken_then, 3)

    assert tenant.total() == 0


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


@pytest.mark.parametrize("count", [39, 40])
def test_usage_that_is_charged_in_a_loop_is_stopped_for_the_day_and_somebody_is_called(
    tenant: Metered, stack: System, database: Connected, caplog: Any, count: int
) -> None:
    tenant.gets(100 * USD)
    tenant.uses(3)
    now = tenant.now = next_hour(tenant.now)
    moment = timedelta(microseconds=1)
    other = Metered(stack, database)
    with database.begin() as session:
        # One is a day old by now, and others are another's.
        ages = [DAY, *[DAY - moment] * count]
        for user_id, age in [(tenant.user_id, age) for age in ages] + [(other.user_id, moment)] * 9:
            session.add(
                UsageChargeRow(
                    charge_id=uuid4(),
                    user_id=user_id,
                    amount_micros=1,
                    description="",
                    transaction_id=uuid4(),
                    created_at=now - age,
                    paid_at=now - age,
                )
            )

    tenant.charges.run()

    query = text(charge_limit.GAUGES["charges_in_a_day_max"].query)
    with database.read() as session:
        shown = session.execute(query, {"now": now}).scalar_one()
        due_at = session.get_one(UsageWalletRow, tenant.user_id).due_at
    if count == RULES.charges_per_day_max:
        assert (tenant.paid, due_at, shown) == ([], now + RULES.renewal_retry, count)
        assert f"{tenant.user_id}" in str([each.__dict__ for each in caplog.records])
        tenant.now += RULES.renewal_retry
        tenant.charges.run()
    else:
        assert (shown, caplog.records) == (None, [])
    assert (tenant.paid, tenant.total()) == ([-3 * USD], 3)


def test_many_charges_come_to_what_one_would(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    for quantity in (1, 1, 1, 700, 1, 3):
        tenant.uses(quantity, CALLS)
        tenant.pays()

    assert -sum(tenant.paid) == rated_micros(CALLS, 707)
    assert len(tenant.paid) == 6


def month_number(moment: datetime) -> int:
    """How many months have ended by then."""
    return sum(one_month_after(BOUGHT, number) <= moment for number in range(1, 12))


@pytest.mark.parametrize("midnight", ["2026-02-01", "2026-02-28", "2026-03-01", "2026-03-31"])
def test_charged_hour_by_hour_over_midnight_it_costs_what_it_costs_at_once(
    tenant: Metered, stack: System, database: Connected, midnight: str
) -> None:
    """Over the ends of days, of months and of a deployment's own, which lie at half past nine; a
    night in UTC is over later and earlier in other places."""
    whole = Metered(stack, database)
    for each in (tenant, whole):
        each.gets(1_000 * USD)
    begins_at = datetime.fromisoformat(f"{midnight}T00:00Z") - 5 * HOUR
    tenant.lives(begins_at)
    used = {begins_at + hour * HOUR: 1 + hour * 37 for hour in range(18)}

    for at, quantity in used.items():
        tenant.now = at
        tenant.uses(quantity, CALLS, used_at=at)
        tenant.uses(quantity, TRAFFIC, used_at=at)
        tenant.pays()
        tenant.renewals.run()
    whole.now = tenant.now
    for at, quantity in used.items():
        whole.uses(quantity, CALLS, used_at=at)
        whole.uses(quantity, TRAFFIC, used_at=at)
    whole.pays()

    assert (len(whole.paid), len(tenant.paid)) == (1, 18)
    assert sum(tenant.paid) == sum(whole.paid)
    months = month_number(begins_at + 18 * HOUR)
    assert tenant.charged == whole.charged == [-PRICE] * months


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


def test_a_charge_that_a_held_wallet_does_not_answer_is_asked_for_within_a_minute(
    tenant: Metered, stack: System
) -> None:
    tenant.gets(10 * USD)
    tenant.uses()
    with wallet_held(stack, tenant.user_id):
        tenant.pays()
    before = tenant.paid

    tenant.now += charging.DUE.lease
    tenant.charges.run()

    assert (before, tenant.paid) == ([], [-USD])


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

    slow = UsageCharges(
        tenant.database,
        cast(RpcClient, Slow()),
        RULES,
        lambda: tenant.now,
        tenant.renewals.settle_months,
    )
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


@pytest.mark.parametrize("said_before", [None, "As the version before said it"])
def test_a_rename_after_an_answer_was_lost_leaves_nothing_that_is_paid_back_unrecorded(
    tenant: Metered, said_before: str | None
) -> None:
    tenant.gets(100 * USD)
    first = tenant.uses(10)
    tenant.pays()
    tenant.cancels(tenant.deployment_id, CancelWhen.NOW)
    corrects(tenant, first, 4)
    tenant.charges.run()
    tenant.wire.lose(is_a(Refund), "after it was done")
    tenant.pays()
    if said_before is not None:
        with tenant.database.begin() as session:
            session.execute(
                text("UPDATE usage_charges SET description = :said"), {"said": said_before}
            )
    renames(tenant, tenant.deployment_id)

    tenant.now += timedelta(minutes=2)
    tenant.refunds.run()

    with tenant.database.read() as session:
        waiting = session.scalar(text("SELECT count(*) FROM usage_refunds WHERE done_at IS NULL"))
    assert (tenant.paid, waiting) == ([-10 * USD, 4 * USD], 0)


def test_a_key_that_gets_no_answer_keeps_no_other_wallet_from_paying(
    tenant: Metered, stack: System, database: Connected
) -> None:
    other = Metered(stack, database)
    tenant.gets(USD)
    wrong = tenant.uses(5_000)
    tenant.pays()
    corrects(tenant, wrong, 4_999)
    other.gets(100 * USD)
    other.uses(2)
    tenant.wire.lose(is_a(CloseKey), "before it was heard")

    tenant.now += RULES.renewal_retry
    tenant.charges.run()

    assert other.paid == [-2 * USD]


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
    UsageCharges(
        tenant.database,
        cast(RpcClient, Slow()),
        RULES,
        lambda: tenant.now,
        tenant.renewals.settle_months,
    ).run()
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


def test_what_is_stopped_and_started_again_has_one_allowance_in_its_month(tenant: Metered) -> None:
    tenant.gets(100 * USD)
    tenant.uses(60, TRAFFIC)
    tenant.stops(tenant.deployment_id)
    tenant.now += HOUR
    tenant.starts(tenant.deployment_id)
    tenant.now += 2 * HOUR
    tenant.uses(60, TRAFFIC)

    tenant.pays()

    assert tenant.paid == [-20 * TRAFFIC.price_micros]


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


@pytest.mark.parametrize(("limit", "most"), [("EARNERS_MAX", 1), ("MAX_AMOUNT_MICROS", 3 * USD)])
def test_what_has_no_room_in_a_charge_is_charged_with_the_next_hour(
    tenant: Metered, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(charges, limit, most)
    tenant.gets(100 * USD)
    for quantity in (2, 3):
        deployment_id = tenant.gets_deployment(HOURS, provider_id=uuid4())
        tenant.uses(quantity, deployment_id=deployment_id)

    tenant.pays()
    first = tenant.paid
    tenant.pays()

    assert (first, tenant.paid) == ([-2 * USD], [-2 * USD, -3 * USD])


# Many wallets in a statement.

STORED = """
SELECT amount_micros, description, created_at, paid_at, closing_since, told_at
    FROM usage_charges WHERE user_id = :user ORDER BY created_at;
SELECT meter, month_starts_at, quantity, line.amount_micros FROM usage_charge_lines AS line
    JOIN usage_charges USING (charge_id) WHERE user_id = :user ORDER BY created_at, 1, 2, 3;
SELECT meter, quantity, charged_quantity, charged_micros FROM usage_totals
    WHERE user_id = :user ORDER BY deployment_id, 1;
SELECT used_from, used_until, due_at FROM usage_wallets WHERE user_id = :user;
SELECT amount_micros, fee_micros, created_at FROM usage_refunds WHERE user_id = :user;
SELECT status, usage_short_since, due_at FROM deployments WHERE user_id = :user
    ORDER BY deployment_id;
SELECT gross_micros, fee_micros, product_name, units, sold_at, is_own FROM sales
    WHERE provider_id = :provider AND kind = 'usage' ORDER BY sold_at, 1
"""


class Crowd:
    """Wallets that are charged at once, each of another kind."""

    def __init__(self, stack: System, database: Connected) -> None:
        self.providers: dict[str, UUID] = {}
        self.users: dict[str, Metered] = {}
        self.database = database
        kinds = ("plain", "several", "free", "too often", "corrected", "replaced", "poor", "saved")
        for kind in kinds:
            user = self.users[kind] = Metered(stack, database)
            provider_id = self.providers[kind] = uuid4()
            user.deployment_id = user.gets_deployment(TRAFFIC, HOURS, provider_id=provider_id)
            if kind not in ("replaced", "poor", "saved"):
                user.gets(100 * USD)

    def charges(self, wait: timedelta = HOUR) -> None:
        """Everybody lives until the end of the hour, or longer."""
        for user in self.users.values():
            user.now = next_hour(user.now + wait - HOUR)
        self.users["plain"].charges.run()

    def lives(self) -> list[list[Any]]:
        """What is stored of each in the end."""
        users = self.users
        used = {kind: user.uses(7) for kind, user in users.items() if kind != "free"}
        users["free"].uses(3, TRAFFIC)
        other = users["several"].gets_deployment(CALLS, provider_id=self.providers["several"])
        users["several"].uses(9, CALLS, deployment_id=other)
        users["several"].uses(101, TRAFFIC)
        self.charges()
        corrects(users["corrected"], used["corrected"], 4)
        corrects(users["replaced"], used["replaced"], 5)
        users["replaced"].gets(3 * USD)
        users["saved"].gets(8 * USD)
        users["plain"].uses(2)
        users["saved"].uses(1)
        users["too often"].uses(1)
        charged_often(self.database, users["too often"], 39)
        self.charges(RULES.renewal_retry)
        self.charges()
        with self.database.read() as session:
            return [
                [
                    tuple(row)
                    for query in STORED.split(";")
                    for row in session.execute(
                        text(query), {"user": user.user_id, "provider": self.providers[kind]}
                    )
                ]
                for kind, user in users.items()
            ]


def charged_often(database: Connected, user: Metered, count: int) -> None:
    with database.begin() as session:
        session.add_all(
            UsageChargeRow(
                charge_id=uuid4(),
                user_id=user.user_id,
                amount_micros=1,
                description="",
                transaction_id=uuid4(),
                created_at=user.now,
                paid_at=user.now,
            )
            for _ in range(count)
        )


def test_what_is_charged_together_is_stored_as_if_each_were_charged_by_itself(
    stack: System, database: Connected, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    together = Crowd(stack, database)
    stored = together.lives()
    charged_together = {kind: user.paid for kind, user in together.users.items()}
    emptied(database)
    monkeypatch.setattr(
        UsageCharges, "_together", lambda self, ids, _act, alone: self._each(ids, alone)
    )
    alone = Crowd(stack, database)

    assert alone.lives() == stored
    assert {kind: user.paid for kind, user in alone.users.items()} == charged_together
    assert charged_together == {
        "plain": [-7 * USD, -2 * USD],
        "several": [-7_020_014],
        "free": [],
        "too often": [-7 * USD],
        "corrected": [-7 * USD],
        "replaced": [-2 * USD],
        "poor": [],
        "saved": [-7 * USD, -USD],
    }
    assert "one by one" not in caplog.text


@contextmanager
def sent() -> Iterator[list[str]]:
    """The statements that are sent meanwhile, but for those that make others known."""
    statements: list[str] = []
    send = bulk.run

    def note(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if not sql.startswith("PREPARE"):
            statements.append(sql)

    def run(on: Any, sql: str, parameters: Any) -> Any:
        statements.append(sql)
        return send(on, sql, parameters)

    event.listen(Engine, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "run", run)
        yield statements
    event.remove(Engine, "before_cursor_execute", note)


def test_more_wallets_take_no_more_statements(stack: System, database: Connected) -> None:
    users = [Metered(stack, database) for _ in range(7)]
    taken = []
    for count in (2, 7):
        for user in users:
            user.gets(USD)
            user.now = users[0].now
        for user in users[:count]:
            user.uses()
        with sent() as statements:
            users[0].pays()
        taken.append(len(statements))

    assert [user.paid for user in users] == [[-USD] * 2] * 2 + [[-USD]] * 5
    assert taken[0] == taken[1]


WALLET_OF_USAGE = "SELECT FROM usage_wallets WHERE user_id = :user FOR UPDATE"
DEPLOYMENTS = "SELECT FROM deployments WHERE user_id = :user FOR UPDATE"


def seen(database: Connected, user: Metered) -> list[bool]:
    """Of each charge that is written down, whether it is paid."""
    query = select(UsageChargeRow.paid_at).where(UsageChargeRow.user_id == user.user_id)
    with database.read() as session:
        return [paid_at is not None for paid_at in session.scalars(query)]


@pytest.mark.parametrize("held_rows", [WALLET_OF_USAGE, DEPLOYMENTS])
@pytest.mark.parametrize("is_asked", [False, True])
def test_what_somebody_holds_goes_when_it_is_let_go_and_holds_up_nobody(
    tenant: Metered,
    stack: System,
    database: Connected,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    held_rows: str,
    is_asked: bool,
) -> None:
    """Before it is written down, and before it is recorded, where it ends a shortage."""
    other, holding, together = Metered(stack, database), ExitStack(), UsageCharges._together
    for user in (tenant, other):
        user.gets(USD)
        user.uses()
    with database.begin() as session:
        row = session.get_one(DeploymentRow, tenant.deployment_id)
        row.usage_short_since = tenant.now

    def holds(charges: UsageCharges, *steps: Any) -> None:
        if bool(seen(database, other)) == is_asked:
            holding.enter_context(held(database, held_rows, user=tenant.user_id))
        together(charges, *steps)

    monkeypatch.setattr(UsageCharges, "_together", holds)
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(tenant.pays)
        with holding:
            eventually(lambda: paying.done() or seen(database, other) == [is_asked])
            while_held = seen(database, tenant), paying.done()
        paying.result()

    assert while_held == ([False] * is_asked, False)
    assert "one by one" not in caplog.text
    assert (tenant.paid, other.paid) == ([-USD], [-USD])
    assert (seen(database, tenant), seen(database, other)) == ([True], [True])
    with database.read() as session:
        assert session.get_one(DeploymentRow, tenant.deployment_id).usage_short_since is None


def test_one_that_cannot_be_charged_is_left_out_and_the_others_are(
    tenant: Metered, stack: System, database: Connected, monkeypatch: Any, caplog: Any
) -> None:
    broken = Metered(stack, database)
    for user in (tenant, broken):
        user.gets(USD)
        user.uses()
    rated = charges.rated_micros

    def fails_for_one(meter: Meter, quantity: int) -> int:
        if quantity == 2:
            raise ValueError("a state that nobody thought of")
        return rated(meter, quantity)

    monkeypatch.setattr(charges, "rated_micros", fails_for_one)
    broken.uses()
    tenant.pays()

    assert (tenant.paid, broken.paid) == ([-USD], [])
    assert "a state that nobody thought of" in caplog.text


def test_what_cannot_be_recorded_together_is_recorded_by_itself(
    tenant: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a state that nobody thought of")

    tenant.gets(USD)
    tenant.uses()
    monkeypatch.setattr(shortage, "waiting", fails)
    tenant.pays()

    assert (tenant.paid, seen(tenant.database, tenant)) == ([-USD], [True])


def test_a_connection_that_is_lost_is_not_tried_again_by_each_wallet(
    tenant: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def is_cut(*_: object, **__: object) -> None:
        tries.append("written")
        raise OperationalError("INSERT", {}, psycopg2.OperationalError("the server went"))

    tenant.uses()
    monkeypatch.setattr(charges, "write", is_cut)

    with pytest.raises(OperationalError):
        tenant.pays()
    assert tries == ["written"]


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
    assert [each["needed_micros"] for each in tenant.told("shortage_lessened")] == [0]
    assert (tenant.charged, tenant.paid) == ([], [])


def test_auto_topup_hears_that_a_month_is_paid_when_its_wallet_is_opened_again(
    tenant: Metered,
) -> None:
    tenant.gets(PRICE + USD)
    tenant.freezes()
    tenant.runs(one_month_after(BOUGHT))
    (told,) = tenant.told("renewal_short_of_funds")
    assert told["is_frozen"]

    tenant.thaws()
    tenant.lives(tenant.now + timedelta(hours=7))

    assert tenant.charged == [-PRICE]
    assert [each["needed_micros"] for each in tenant.told("shortage_lessened")] == [0]


def test_auto_topup_hears_that_a_month_is_paid_when_a_hold_is_released(tenant: Metered) -> None:
    tenant.gets(PRICE)
    hold = tenant.rpc.call(
        PlaceHold(
            idempotency_key=f"{uuid4()}",
            user_id=tenant.user_id,
            amount_micros=USD,
            expires_in_s=86_400,
            description="Anything",
        )
    )
    tenant.runs(one_month_after(BOUGHT))
    (told,) = tenant.told("renewal_short_of_funds")
    assert told["shortfall_micros"] == USD

    tenant.rpc.call(
        VoidHold(idempotency_key=f"{uuid4()}", user_id=tenant.user_id, hold_id=hold.hold_id)
    )
    tenant.lives(tenant.now + timedelta(hours=7))

    assert tenant.charged == [-PRICE]
    assert [each["needed_micros"] for each in tenant.told("shortage_lessened")] == [0]


def test_auto_topup_hears_that_a_correction_leaves_nothing_lacking(tenant: Metered) -> None:
    used = tenant.uses(30)
    tenant.gets(2 * USD)
    tenant.pays()
    (told,) = tenant.told("renewal_short_of_funds")
    assert told["shortfall_micros"] == 28 * USD

    correction = tenant.record(-28, used_at=used.used_at, corrects=used.record_id)
    assert tenant.tells(correction) == ["accepted"]
    tenant.now += timedelta(hours=7)
    tenant.charges.run()

    assert tenant.paid == [-2 * USD]
    assert [each["needed_micros"] for each in tenant.told("shortage_lessened")][-1:] == [0]


def test_of_unpaid_usage_the_ladder_keeps_the_data_past_the_month_that_is_paid(
    tenant: Metered,
) -> None:
    tenant.uses(3)
    tenant.pays()
    told = tenant.sees(tenant.deployment_id)
    assert told.paid_until is not None

    tenant.lives(told.ladder[-1].at)

    assert [(each.status, each.at) for each in told.ladder] == [
        (each.status, each.changed_at)
        for each in reversed(tenant.sees(tenant.deployment_id).history)
    ]
    assert told.ladder[-1].at == told.paid_until + RULES.kept


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


@pytest.mark.parametrize("in_its_month", [True, False])
def test_a_start_is_said_to_take_the_usage_that_has_to_be_paid_before(
    tenant: Metered, in_its_month: bool
) -> None:
    """The whole charge, which holds what another one used as well. What is not charged yet is no
    part of it."""
    other = tenant.gets_deployment(HOURS)
    tenant.uses(1, deployment_id=other)
    suspended(tenant)
    tenant.lives(tenant.now + (HOUR if in_its_month else 31 * DAY))
    month_micros = 0 if in_its_month else PRICE
    seen = tenant.sees(tenant.deployment_id)

    with pytest.raises(InsufficientFunds, match=r"^\$3\.00 for what was used is not paid\. It is"):
        tenant.starts(tenant.deployment_id, expected_micros=seen.start_micros)

    assert (seen.start_micros, seen.start_usage_micros) == (3 * USD + month_micros, 3 * USD)
    assert seen.owed_usage_micros == 2 * USD
    money_comes(tenant, 3 * USD + PRICE)
    tenant.charges.run()
    paid = tenant.sees(tenant.deployment_id)
    assert (paid.start_micros, paid.start_usage_micros) == (month_micros, 0)
    with pytest.raises(PriceChanged):
        tenant.starts(tenant.deployment_id, expected_micros=month_micros + USD)
    started = tenant.starts(tenant.deployment_id, expected_micros=seen.start_micros)
    assert (started.status, started.start_usage_micros) == ("active", 0)
    assert tenant.charged == [-micros for micros in (month_micros,) if micros]


def test_what_was_paid_of_both_that_it_owed_makes_no_difference_to_who_starts_it(
    tenant: Metered,
) -> None:
    """Time that ran, and what was used, each paid by itself while the page still shows both."""
    ends = one_month_after(BOUGHT)
    tenant.lives(ends - 2 * HOUR)
    tenant.uses(2)
    tenant.pays()
    tenant.runs(ends + RULES.grace - HOUR)
    seen = tenant.sees(tenant.deployment_id)
    ran_micros = seen.owed_micros - 2 * USD
    assert (seen.status, seen.start_micros) == ("suspended", ran_micros + 2 * USD + PRICE)
    money_comes(tenant, ran_micros + 2 * USD + PRICE)
    tenant.charges.run()
    tenant.renewals.run()
    assert tenant.sees(tenant.deployment_id).start_micros == PRICE

    for wrong_micros in (PRICE - 1, PRICE + USD, seen.start_micros + 1):
        with pytest.raises(PriceChanged):
            tenant.starts(tenant.deployment_id, expected_micros=wrong_micros)
    started = tenant.starts(tenant.deployment_id, expected_micros=seen.start_micros)

    assert started.status == DeploymentStatus.ACTIVE
    assert tenant.charged == [-ran_micros, -PRICE]


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


def test_a_month_that_ends_while_it_is_suspended_for_its_usage_is_not_charged_nor_the_next_one(
    tenant: Metered,
) -> None:
    """It did not run. Started again it pays a month from then on, and its usage goes on by the
    months of its first activation."""
    ends = one_month_after(BOUGHT)
    tenant.now = ends - RULES.grace - DAY
    suspended(tenant)
    suspended_at = tenant.now
    assert suspended_at < ends
    tenant.lives(ends + 10 * DAY)
    waited = tenant.sees(tenant.deployment_id)
    money_comes(tenant, 100 * USD)
    tenant.charges.run()
    tenant.renewals.run()
    assert (tenant.charged, tenant.paid) == ([], [-2 * USD])

    started = tenant.starts(tenant.deployment_id)
    tenant.uses(5, used_at=tenant.now)
    tenant.pays()
    tenant.lives(tenant.now + DAY)

    assert (waited.status, waited.owed_micros, waited.paid_until) == ("suspended", 2 * USD, ends)
    assert waited.next_renewal_at is None
    assert started.paid_until == one_month_after(ends + 10 * DAY)
    assert (tenant.charged, tenant.paid) == ([-PRICE], [-2 * USD, -5 * USD])
    with tenant.database.read() as session:
        months = session.scalars(
            select(UsageTotalRow.month_starts_at).order_by(UsageTotalRow.month_starts_at)
        ).all()
    assert months == [BOUGHT, ends]


def test_a_month_that_ends_in_the_instant_of_the_suspension_owes_nothing(tenant: Metered) -> None:
    ends = one_month_after(BOUGHT)
    tenant.now = ends - RULES.grace - HOUR / 2
    tenant.uses(2)
    tenant.pays()
    with tenant.database.begin() as session:
        row = session.get_one(DeploymentRow, tenant.deployment_id)
        row.usage_short_since = ends - RULES.grace
        row.due_at = ends

    tenant.runs(ends)

    deployment = tenant.sees(tenant.deployment_id)
    assert (deployment.status, deployment.owed_micros) == ("suspended", 2 * USD)
    money_comes(tenant, 100 * USD)
    tenant.charges.run()
    tenant.lives(ends + 5 * DAY)
    assert (tenant.charged, tenant.paid) == ([], [-2 * USD])


@pytest.mark.parametrize("is_started_in_it", [True, False])
def test_a_paid_month_runs_on_while_it_is_suspended_for_its_usage(
    tenant: Metered, is_started_in_it: bool
) -> None:
    ends = one_month_after(BOUGHT)
    suspended(tenant)
    money_comes(tenant, 100 * USD)
    tenant.charges.run()
    tenant.lives(ends - timedelta(microseconds=1) if is_started_in_it else ends)

    started = tenant.starts(tenant.deployment_id)
    tenant.lives(ends)

    assert tenant.charged == [-PRICE]
    # In the instant in which it ends the next one simply follows, to the same day of its months.
    assert started.paid_until == (ends if is_started_in_it else one_month_after(BOUGHT, 2))


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


def money_comes(tenant: Metered, micros: int) -> None:
    """As billing hears it: for months, and for usage."""
    tenant.gets(micros)
    with tenant.database.begin() as session:
        charging.money_came(session, tenant.now, tenant.user_id)


@pytest.mark.parametrize(
    ("is_month_first", "gaps"),
    [(True, [PRICE + 2 * USD]), (False, [2 * USD, PRICE + 2 * USD])],
)
def test_one_gap_is_told_of_months_and_usage_whichever_is_refused_first(
    tenant: Metered, is_month_first: bool, gaps: list[int]
) -> None:
    ends = one_month_after(BOUGHT)
    tenant.now = ends - 2 * HOUR
    tenant.gets(USD)
    tenant.uses(3)
    if is_month_first:
        tenant.runs(ends)
        tenant.pays()
    else:
        tenant.pays()
        tenant.runs(ends)

    told = tenant.told("renewal_short_of_funds")
    first, last = told[0], told[-1]
    money_comes(tenant, last["shortfall_micros"])
    tenant.renewals.run()
    tenant.charges.run()

    assert [each["shortfall_micros"] for each in told] == gaps
    assert {each["entry_count"] for each in told} == {1}
    assert (first["is_usage"], last["is_usage"]) == (not is_month_first, False)
    assert (first["deployments"], last["deployments"]) == (1, 1)
    assert first["suspended_at"] == last["suspended_at"]
    assert (tenant.charged, tenant.paid, tenant.balance) == ([-PRICE], [-3 * USD], 0)


def test_what_is_due_in_one_instant_is_told_once_also_where_usage_is_refused_first(
    tenant: Metered,
) -> None:
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3)
    tenant.now = one_month_after(BOUGHT)

    tenant.charges.run()
    tenant.renewals.run()

    (event,) = tenant.told("renewal_short_of_funds")
    assert event["shortfall_micros"] == PRICE + 3 * USD
    assert (event["deployments"], event["is_usage"]) == (1, False)
    assert tenant.sees(tenant.deployment_id).next_status_at == tenant.now + RULES.grace


def test_a_month_that_was_paid_and_not_recorded_is_no_part_of_the_gap(tenant: Metered) -> None:
    tenant.runs(one_month_after(BOUGHT))
    money_comes(tenant, PRICE)
    tenant.wire.lose(is_a(DebitAll), LOST[1])
    tenant.renewals.run()
    tenant.now += 2 * HOUR
    tenant.uses(3)

    tenant.pays()

    first, last = tenant.told("renewal_short_of_funds")
    assert (first["shortfall_micros"], last["shortfall_micros"]) == (PRICE, 3 * USD)
    assert (last["is_usage"], tenant.charged) == (True, [-PRICE])
    assert tenant.sees(tenant.deployment_id).paid_until == one_month_after(BOUGHT, 2)


def test_usage_that_was_paid_and_not_recorded_is_no_part_of_the_gap(tenant: Metered) -> None:
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.gets(3 * USD)
    tenant.uses(3)
    tenant.wire.lose(is_a(DebitAll), LOST[1])
    tenant.pays()

    tenant.runs(one_month_after(BOUGHT))

    (event,) = tenant.told("renewal_short_of_funds")
    assert (event["shortfall_micros"], tenant.paid) == (PRICE, [-3 * USD])


def test_while_the_wallet_says_nothing_of_months_nobody_is_told_what_usage_lacks(
    tenant: Metered,
) -> None:
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3)
    tenant.now = one_month_after(BOUGHT)
    after_the_answer(tenant, lambda: tenant.wire.lose(is_a(DebitAll), LOST[0]))

    tenant.charges.run()
    told = tenant.told("renewal_short_of_funds")
    tenant.now += timedelta(minutes=2)
    tenant.charges.run()

    (event,) = tenant.told("renewal_short_of_funds")
    assert (told, event["shortfall_micros"]) == ([], PRICE + 3 * USD)


@pytest.mark.parametrize("is_month_first", [True, False])
def test_money_that_covers_neither_month_nor_usage_is_told_once(
    tenant: Metered, stack: System, database: Connected, is_month_first: bool
) -> None:
    """Both are asked for again at once. That another user is told just then is no reason to say
    nothing."""
    other = Metered(stack, database)
    other.now = BOUGHT + HOUR
    other.deploys()
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3)
    tenant.pays()
    tenant.runs(one_month_after(BOUGHT))
    before = len(tenant.told("renewal_short_of_funds"))
    tenant.now = one_month_after(BOUGHT) + HOUR
    other.now = tenant.now - 45 * HOUR / 60
    other.uses(3)
    other.runs(tenant.now)
    other.charges.run()

    money_comes(tenant, 2 * USD)
    for run in (tenant.renewals.run, tenant.charges.run)[:: 1 if is_month_first else -1]:
        run()

    told = tenant.told("renewal_short_of_funds")[before:]
    assert [each["shortfall_micros"] for each in told] == [PRICE + USD]
    assert [each["deployments"] for each in told] == [1]


def test_what_is_refused_for_the_first_time_is_told_though_money_was_told_of_just_then(
    tenant: Metered,
) -> None:
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3)
    tenant.pays()
    tenant.now = one_month_after(BOUGHT)
    money_comes(tenant, USD)
    tenant.charges.run()
    tenant.renewals.run()

    told = tenant.told("renewal_short_of_funds")
    assert [each["shortfall_micros"] for each in told] == [3 * USD, PRICE + 2 * USD]


def test_a_month_that_is_refused_for_the_first_time_is_told_beside_one_that_was_told(
    tenant: Metered,
) -> None:
    ends = one_month_after(BOUGHT)
    tenant.now = BOUGHT + HOUR
    tenant.deploys()
    tenant.now = ends - 2 * HOUR
    tenant.uses(3)
    tenant.pays()
    tenant.runs(ends)
    tenant.now = ends + HOUR
    money_comes(tenant, USD)
    tenant.charges.run()
    tenant.renewals.run()

    told = [each["shortfall_micros"] for each in tenant.told("renewal_short_of_funds")]
    assert told[-2:] == [PRICE + 3 * USD, 2 * PRICE + 2 * USD]


def test_a_month_about_which_nobody_has_heard_is_told_though_money_was_told_of(
    tenant: Metered,
) -> None:
    """It was written down, and the wallet was away: the money came before it was ever refused."""
    ends = one_month_after(BOUGHT)
    tenant.now = ends - 2 * HOUR
    tenant.uses(3)
    tenant.pays()
    tenant.wire.refuse(is_a(DebitAll), Unavailable("It is away."))
    tenant.runs(ends)
    tenant.now = ends + HOUR
    money_comes(tenant, USD)
    tenant.charges.run()
    tenant.renewals.run()

    told = [each["shortfall_micros"] for each in tenant.told("renewal_short_of_funds")]
    assert told == [3 * USD, PRICE + 2 * USD]


@pytest.mark.parametrize("is_month_first", [True, False])
def test_who_was_refused_before_the_money_came_has_not_told_of_it(
    tenant: Metered, is_month_first: bool
) -> None:
    """Though that is written down after it."""
    ends = one_month_after(BOUGHT)
    runs = [tenant.renewals.run, tenant.charges.run]
    if is_month_first:
        tenant.now = ends - 2 * HOUR
        tenant.uses(3)
        tenant.pays()
        tenant.now = ends
    else:
        tenant.runs(ends)
        tenant.uses(3)
        tenant.now = next_hour(ends)
        runs.reverse()

    def comes() -> None:
        """The refused one does not hear of it before it is done."""
        tenant.now += timedelta(seconds=1)
        credit = Credit(
            idempotency_key=f"credit:{uuid4()}",
            user_id=tenant.user_id,
            amount_micros=USD,
            description="Credits bought",
        )
        tenant.rpc.call(credit)
        with tenant.database.begin() as session:
            come = charging.money_came if is_month_first else months.money_came
            come(session, tenant.now, tenant.user_id)
        tenant.now += timedelta(seconds=1)

    after_the_answer(tenant, comes)
    for run in runs:
        run()
    tenant.now += timedelta(minutes=2)
    for run in runs:
        run()

    told = [each["available_micros"] for each in tenant.told("renewal_short_of_funds")]
    assert told == [0, USD]


@pytest.mark.parametrize("is_month_first", [True, False])
def test_what_else_lacks_money_is_told_where_it_pays_months_or_usage_that_were_refused_first(
    tenant: Metered, is_month_first: bool
) -> None:
    ends = one_month_after(BOUGHT)
    used = 62 if is_month_first else 15
    used_micros = used * USD
    tenant.now = ends - 2 * HOUR
    tenant.uses(used)
    tenant.now = ends
    runs = [tenant.renewals.run, tenant.charges.run]
    if not is_month_first:
        runs.reverse()

    def comes() -> None:
        tenant.now += timedelta(seconds=1)
        money_comes(tenant, PRICE if is_month_first else used_micros)
        tenant.now += timedelta(seconds=1)

    after_the_answer(tenant, comes)
    for times in range(3):
        tenant.now = ends + times * RULES.renewal_retry
        for run in runs:
            run()

    told = [each["shortfall_micros"] for each in tenant.told("renewal_short_of_funds")]
    assert told == [used_micros if is_month_first else PRICE]


def test_money_that_came_before_the_wallet_was_asked_for_usage_is_older_than_what_is_told(
    tenant: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.uses(3)
    tenant.pays()
    look = charging._due_at
    came: list[datetime] = []

    def money_comes_first(*asked: Any) -> Any:
        if not came:
            came.append(tenant.now + timedelta(seconds=1))
            tenant.now = came[0]
            money_comes(tenant, 1)
            tenant.now += timedelta(seconds=1)
        return look(*asked)

    monkeypatch.setattr(charging, "_due_at", money_comes_first)
    tenant.now += RULES.renewal_retry
    tenant.charges.run()

    event = tenant.told("renewal_short_of_funds")[-1]
    assert event["available_micros"] == 1
    assert instant(event["occurred_at"]) > came[0]


def test_what_others_owe_is_no_part_of_what_one_owes(
    tenant: Metered, stack: System, database: Connected
) -> None:
    ends = one_month_after(BOUGHT)
    for each in (Metered(stack, database), tenant):
        each.now = ends - 2 * HOUR
        each.uses(3)
        each.pays()
        each.runs(ends)
        each.now = ends + DAY
        each.cancels(each.deployment_id, CancelWhen.NOW)
        each.renewals.run()

    (told,) = tenant.told("owed_short_of_funds")
    ran_micros = cost_micros(BOUGHT, PRICE, ends, ends + DAY)
    assert (told["owed_micros"], told["deployments"]) == (ran_micros + 3 * USD, 1)


def test_one_gap_names_what_has_waited_longest_and_counts_each_once(tenant: Metered) -> None:
    tenant.now = BOUGHT + 10 * DAY
    tenant.deploys(2 * PRICE)
    tenant.now = one_month_after(tenant.now) - 2 * HOUR
    tenant.renewals.run()
    tenant.uses(3)
    tenant.pays()
    oldest_since = instant(tenant.told("renewal_short_of_funds")[0]["suspended_at"])
    tenant.runs(one_month_after(BOUGHT + 10 * DAY))

    told = tenant.told("renewal_short_of_funds")[-1]

    assert told["deployment_id"] == str(tenant.deployment_id)
    assert (told["deployments"], instant(told["suspended_at"])) == (2, oldest_since)
    assert told["shortfall_micros"] == 3 * PRICE + 3 * USD
    assert instant(told["occurred_at"]) == tenant.now


def test_one_gap_names_what_has_waited_longest_also_where_that_is_its_usage(
    tenant: Metered,
) -> None:
    other = tenant.gets_deployment(HOURS)
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3, deployment_id=other)
    tenant.pays()
    tenant.runs(one_month_after(BOUGHT))

    assert [each["deployment_id"] for each in tenant.told("renewal_short_of_funds")] == [
        str(other)
    ] * 2


@pytest.mark.parametrize("is_usage", [True, False])
def test_whoever_says_what_a_user_lacks_waits_for_another_who_does(
    tenant: Metered, is_usage: bool
) -> None:
    """So that the last one to say it has counted all."""
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3)

    done_after(
        tenant.database,
        lambda holder: lock_until_commit(holder, f"renewals:{tenant.user_id}"),
        tenant.pays if is_usage else lambda: tenant.runs(one_month_after(BOUGHT)),
    )

    (told,) = tenant.told("renewal_short_of_funds")
    assert told["is_usage"] is is_usage


def test_a_charge_that_is_replaced_is_no_part_of_the_gap(tenant: Metered) -> None:
    """What is due in its place is."""
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    first = tenant.uses(3)
    tenant.pays()
    corrects(tenant, first, 2)
    with tenant.database.begin() as session:
        (charge,) = session.scalars(select(UsageChargeRow)).all()
        charge.closing_since = tenant.now

    tenant.runs(one_month_after(BOUGHT))

    assert tenant.told("renewal_short_of_funds")[-1]["shortfall_micros"] == PRICE + USD


def test_what_no_longer_runs_and_used_something_is_told_once_and_where_money_does_not_cover_it(
    tenant: Metered,
) -> None:
    tenant.gets(USD)
    tenant.uses(3)
    tenant.cancels(tenant.deployment_id, CancelWhen.NOW)
    tenant.pays()
    asked_at = tenant.now
    for _ in range(3):
        tenant.now += RULES.renewal_retry
        tenant.charges.run()
    once = tenant.told("owed_short_of_funds")
    money_comes(tenant, USD)
    tenant.charges.run()
    money_comes(tenant, USD)
    tenant.charges.run()

    told = tenant.told("owed_short_of_funds")
    assert (len(once), instant(once[0]["occurred_at"])) == (1, asked_at)
    assert [each["shortfall_micros"] for each in told] == [2 * USD, USD]
    assert [each["owed_micros"] for each in told] == [3 * USD] * 2
    assert [each["name"] for each in told] == ["VM-Production"] * 2
    assert (tenant.told("renewal_short_of_funds"), tenant.paid) == ([], [-3 * USD])


def test_what_still_runs_is_told_by_its_ladder_and_not_again_when_it_stops(
    tenant: Metered,
) -> None:
    suspended(tenant)
    tenant.now += RULES.renewal_retry
    tenant.charges.run()

    assert len(tenant.told("renewal_short_of_funds")) == 1
    assert tenant.told("owed_short_of_funds") == []


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


def test_usage_that_another_billing_has_leased_and_not_written_down_is_part_of_the_gap(
    tenant: Metered,
) -> None:
    tenant.now = one_month_after(BOUGHT) - 2 * HOUR
    tenant.uses(3)
    tenant.now = one_month_after(BOUGHT)
    with tenant.database.begin() as session:
        # It died, or has not come to it yet.
        assert list(charging.DUE.take(session, tenant.now)) == [tenant.user_id]

    tenant.renewals.run()

    (event,) = tenant.told("renewal_short_of_funds")
    assert event["shortfall_micros"] == PRICE + 3 * USD
    # Whoever leased it comes to it after all.
    tenant.charges._write([tenant.user_id])
    tenant.charges._ask_wallet([tenant.user_id])
    assert len(tenant.told("renewal_short_of_funds")) == 1
