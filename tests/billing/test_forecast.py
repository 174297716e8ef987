"""The forecast says what running the clock forward then brings: with the real wallet, and the
answer of auto top-up where a test gives one."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, literal, select, update

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.billing import (
    CancelWhen,
    DeploymentStatus,
    Forecast,
    ForecastKind,
    GetForecast,
    UsageRecord,
)
from contracts.catalog import Meter
from contracts.errors import NotFound, Unavailable
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.topup import (
    AutoTopupState,
    AutoTopupStates,
    ForecastSchedule,
    GetAutoTopupStates,
    PlannedCharge,
    ScheduleForecast,
    Trigger,
)
from contracts.wallet import AccountStatus, GetWallet, GivePromotion
from services.billing.deployments import periods
from services.billing.deployments.meters import usage_owed_micros
from services.billing.deployments.months import cost_micros, one_month_after
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.deployments.queries import what_burns
from services.billing.forecast import covered
from services.billing.forecast import forecast as forecasts
from services.billing.forecast.burn_rate import analyse
from services.billing.forecast.forecast import DUE_NEXT_MAX, foretell
from services.billing.forecast.months_ahead import schedule
from services.billing.models import (
    DeploymentRow,
    PeriodRow,
    UsageChargeLineRow,
    UsageChargeRow,
)
from services.billing.usage import charging
from services.billing.usage.rates import monthly_micros
from services.wallet.finance import promotions
from tests.billing.conftest import RULES
from tests.billing.test_renewals import BOUGHT, DAY, PRICE, Tenant, month
from tests.billing.test_usage import CALLS, HOUR, HOURS, TRAFFIC, USD, Metered
from tests.system import System

SEEDS = int(os.environ.get("FORECAST_SEEDS", "100"))
SECOND = timedelta(seconds=1)


def seeds(in_the_suite: int) -> list[Any]:
    """The first ones in the suite, and ``FORECAST_SEEDS`` in the soak."""
    more = range(in_the_suite, SEEDS)
    return [*range(in_the_suite), *(pytest.param(each, marks=pytest.mark.soak) for each in more)]


@dataclass(eq=False)
class Wire:
    """The tenant's wallet is real; what auto top-up charges is what the test says."""

    tenant: Tenant
    charges: list[tuple[datetime, int]] = field(default_factory=list)
    threshold_micros: int | None = None
    reason: str = ""
    failure: Exception | None = None
    fails: type = object
    asked: list[ForecastSchedule] = field(default_factory=list)

    def call(self, request: Any, timeout_s: float = 10.0) -> Any:
        return self.tenant.wire.call(request, timeout_s)

    def begin(self, request: Any, _timeout_s: float = 10.0) -> Callable[[], Any]:
        if self.failure is not None and isinstance(request, self.fails):
            raise self.failure
        if isinstance(request, GetAutoTopupStates):
            is_on = self.threshold_micros is not None
            state = AutoTopupState(
                enabled=is_on,
                state="active" if is_on else "off",
                threshold_micros=self.threshold_micros,
            )
            return lambda: AutoTopupStates(states=[state] * len(request.user_ids))
        self.asked.append(request)
        planned = [
            PlannedCharge(amount_micros=amount, trigger=Trigger.RENEWAL, at=at)
            for at, amount in self.charges
        ]
        return lambda: ScheduleForecast(charges=planned, reason=self.reason)


def foretold(tenant: Tenant, days: int = 30, wire: Wire | None = None, **asked: Any) -> Forecast:
    asked = {"with_promotion_ends": True, **asked}
    request = GetForecast(user_id=tenant.user_id, days=days, **asked)
    rpc = cast(RpcClient, wire or Wire(tenant))
    return foretell(tenant.database, rpc, request, tenant.now, tenant.rules)


def balances(forecast: Forecast) -> dict[date, int]:
    return {day.date: day.balance_micros for day in forecast.days}


def events(forecast: Forecast) -> list[tuple[date, str, int]]:
    return [
        (day.date, event.kind, event.amount_micros) for day in forecast.days for event in day.events
    ]


Charges = Counter[tuple[date, str, UUID]]


def foretold_charges(forecast: Forecast) -> Charges:
    """What is charged on which day, for which deployment."""
    found: Charges = Counter()
    for day in forecast.days:
        assert day.events_total == len(day.events)
        for event in day.events:
            if event.deployment_id is not None:
                found[day.date, event.kind, event.deployment_id] += event.amount_micros
    return found


def charges(tenant: Tenant) -> Charges:
    """The same, as it was: months and what ran unpaid, and usage."""
    period, charge, line = PeriodRow, UsageChargeRow, UsageChargeLineRow
    months = select(
        period.changed_at, literal("renewal"), period.deployment_id, period.amount_micros
    ).where(period.user_id == tenant.user_id, period.status == PeriodStatus.PAID)
    usage = (
        select(charge.paid_at, literal("usage"), line.deployment_id, line.amount_micros)
        .join(line, line.charge_id == charge.charge_id)
        .where(charge.user_id == tenant.user_id, charge.paid_at.is_not(None))
    )
    found: Charges = Counter()
    with tenant.database.read() as session:
        for at, kind, deployment_id, micros in session.execute(months.union_all(usage)):
            found[at.date(), kind, deployment_id] += micros
    return found


@pytest.fixture
def tenant(stack: System, database: Connected) -> Tenant:
    return Tenant(stack, database)


def test_nothing_is_taken_until_the_month_ends_and_then_all_of_it(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(100_000_000)

    forecast = foretold(tenant, 30)

    assert [day.date for day in forecast.days] == [BOUGHT.date() + n * DAY for n in range(31)]
    before = [day.balance_micros for day in forecast.days if day.date < month(1).date()]
    after = [day.balance_micros for day in forecast.days if day.date >= month(1).date()]
    assert (set(before), set(after)) == ({100_000_000}, {100_000_000 - PRICE})
    (event,) = [event for day in forecast.days for event in day.events]
    assert (event.kind, event.at, event.amount_micros, event.deployment_id, event.name) == (
        ForecastKind.RENEWAL,
        month(1),
        PRICE,
        deployment_id,
        "VM-Production",
    )
    assert (forecast.short_on, forecast.short_by_micros, forecast.days_until_empty) == (
        None,
        0,
        None,
    )


def test_the_day_it_falls_short_and_what_it_lacks(tenant: Tenant) -> None:
    tenant.deploys(29_000_000)

    forecast = foretold(tenant, 28)
    a_day_less = foretold(tenant, 27)

    assert forecast.short_on == date(2026, 2, 28)
    assert (forecast.short_by_micros, forecast.days_until_empty) == (29_000_000, 28)
    assert set(balances(forecast).values()) == {0}
    assert (a_day_less.short_on, a_day_less.days_until_empty) == (None, None)


@pytest.mark.parametrize(("has_micros", "short_by_micros"), [(PRICE, 0), (PRICE - 1, 1)])
def test_exactly_enough_is_enough(tenant: Tenant, has_micros: int, short_by_micros: int) -> None:
    tenant.deploys()
    tenant.gets(has_micros)

    assert foretold(tenant).short_by_micros == short_by_micros


def test_what_is_due_is_listed_whether_or_not_it_is_covered(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()

    forecast = foretold(tenant, 90)

    assert [(due.at, due.amount_micros, due.deployment_id) for due in forecast.due_next] == [
        (month(n), PRICE, deployment_id) for n in (1, 2, 3)
    ]
    assert len(foretold(tenant, 366).due_next) == 12


def test_no_more_is_listed_as_due_than_fits(tenant: Tenant) -> None:
    tenant.deploys(quantity=DUE_NEXT_MAX + 1)

    assert len(foretold(tenant).due_next) == DUE_NEXT_MAX


def test_what_ends_is_stopped_or_is_paid_once_costs_nothing(tenant: Tenant) -> None:
    ends, stopped, cancelled = tenant.deploys(quantity=3)
    tenant.deploys(PRICE, period="once")
    tenant.gets(10 * PRICE)
    tenant.cancels(ends)
    tenant.stops(stopped)
    tenant.cancels(cancelled, CancelWhen.NOW)

    forecast = foretold(tenant, 90)

    assert (events(forecast), forecast.due_next) == ([], [])


def test_without_a_deployment_it_lasts_longer(tenant: Tenant) -> None:
    dear, _ = (*tenant.deploys(PRICE), *tenant.deploys(5_000_000))
    tenant.gets(10_000_000)

    assert foretold(tenant, 40).short_on == month(1).date()
    assert foretold(tenant, 70, without=dear).short_on is None


def test_without_what_is_nobodys_or_another_users_there_is_no_forecast(
    tenant: Tenant, stack: System, database: Connected
) -> None:
    (theirs,) = Tenant(stack, database).deploys()

    for without in (uuid4(), theirs):
        with pytest.raises(NotFound, match="no such deployment"):
            foretold(tenant, without=without)


def test_what_others_run_and_owe_is_not_foretold(
    stack: System, database: Connected, tenant: Tenant
) -> None:
    others = [Tenant(stack, database) for _ in range(2)]
    for other in others:
        other.deploys()
        other.lives(month(1) + DAY)
    tenant.now = month(1) + DAY

    forecast = foretold(tenant, 90)

    assert (events(forecast), forecast.due_next, forecast.short_on) == ([], [], None)


def test_in_grace_it_is_short_today_until_money_comes(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(PRICE - 1)
    tenant.lives(month(1) + DAY)

    forecast = foretold(tenant)

    assert (forecast.short_on, forecast.short_by_micros) == (tenant.now.date(), 1)
    assert [due.at for due in forecast.due_next] == [tenant.now, month(2)]


def test_a_larger_size_that_the_wallet_is_asked_about_changes_nothing_of_what_is_owed(
    tenant: Tenant, database: Connected
) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(PRICE - 1)
    tenant.lives(month(1) + DAY)
    before = foretold(tenant)
    asked_at = month(1) - DAY
    with database.begin() as session:
        row = session.get_one(DeploymentRow, deployment_id)
        asked = (PeriodKind.RESIZE, asked_at, month(1), 5, PeriodStatus.DUE)
        session.add(periods.new(asked_at, row, *asked))

    assert foretold(tenant) == before


def test_what_ran_unpaid_is_charged_where_the_money_allows_that(tenant: Tenant) -> None:
    """In its grace; the wallet is asked for it when it is suspended."""
    tenant.deploys()
    tenant.gets(PRICE - 1)

    forecast = foretold(tenant, 60)

    suspended_at = month(1) + RULES.grace
    ran_micros = cost_micros(BOUGHT, PRICE, month(1), suspended_at)
    assert events(forecast) == [(suspended_at.date(), "renewal", ran_micros)]


def test_what_a_suspended_one_owes_is_paid_by_what_comes(tenant: Tenant) -> None:
    (deployment_id,) = tenant.deploys()
    tenant.gets(1)
    tenant.lives(month(1) + RULES.grace + timedelta(hours=1))
    assert tenant.sees(deployment_id).status == "suspended"
    comes_at = tenant.now + DAY

    forecast = foretold(tenant, 3, Wire(tenant, [(comes_at, PRICE)], threshold_micros=0))

    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + RULES.grace)
    assert (comes_at.date(), "renewal", ran_micros) in events(forecast)


def test_on_the_last_day_of_grace_it_is_still_short(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(PRICE - 1)
    tenant.lives(month(1) + RULES.grace - timedelta(hours=1))

    forecast = foretold(tenant)

    assert (forecast.short_on, forecast.short_by_micros) == (tenant.now.date(), 1)


def test_a_frozen_wallet_pays_nothing(tenant: Tenant) -> None:
    tenant.deploys()
    tenant.gets(10 * PRICE)
    tenant.freezes()

    forecast = foretold(tenant, 40)

    assert (forecast.short_on, forecast.short_by_micros) == (month(1).date(), PRICE)
    assert set(balances(forecast).values()) == {10 * PRICE}


def test_a_charge_that_comes_when_it_is_due_pays_it(tenant: Tenant) -> None:
    tenant.deploys()
    wire = Wire(tenant, charges=[(month(1), 50_000_000)])

    forecast = foretold(tenant, 30, wire=wire)

    assert events(forecast) == [
        (month(1).date(), "auto_topup", 50_000_000),
        (month(1).date(), "renewal", PRICE),
    ]
    assert balances(forecast)[month(1).date()] == 50_000_000 - PRICE
    assert (forecast.short_on, forecast.is_auto_topup_known) == (None, True)


def test_a_charge_that_comes_a_day_late_leaves_it_short_for_that_day(tenant: Tenant) -> None:
    tenant.deploys()
    wire = Wire(tenant, charges=[(month(1) + DAY, 50_000_000)], reason="The daily limit.")

    forecast = foretold(tenant, 30, wire=wire)

    assert (forecast.short_on, forecast.short_by_micros) == (month(1).date(), PRICE)
    assert [kind for _, kind, _ in events(forecast)] == ["auto_topup", "renewal"]
    assert forecast.auto_topup_refusal == "The daily limit."


def test_auto_topup_hears_what_is_due_and_until_when_it_waits(tenant: Tenant) -> None:
    short, _ = tenant.deploys(PRICE), tenant.deploys(5_000_000)
    tenant.gets(5_000_000)
    tenant.lives(month(1) + DAY)
    wire = Wire(tenant)

    foretold(tenant, 10, wire=wire)

    (asked,) = wire.asked
    assert asked.until == datetime(2026, 3, 12, tzinfo=UTC)
    (waits,) = asked.spendings
    assert (waits.reference, waits.amount_micros, waits.at) == (short[0], PRICE, tenant.now)
    assert (waits.waits_until, waits.is_waiting) == (month(1) + RULES.grace, True)


def test_auto_topup_hears_what_is_owed_of_a_month_that_waits_for_nothing(tenant: Tenant) -> None:
    tenant.deploys()
    wire = Wire(tenant, threshold_micros=0)

    foretold(tenant, 60, wire=wire)
    tenant.lives(month(1) + DAY)
    foretold(tenant, 30, wire=wire)

    ahead, waits = (asked.spendings[0] for asked in wire.asked)
    ran_micros = cost_micros(BOUGHT, PRICE, month(1), month(1) + RULES.grace)
    assert (ahead.is_waiting, waits.is_waiting) == (False, True)
    assert (ahead.owed_micros, waits.owed_micros) == (ran_micros, ran_micros)


@pytest.mark.parametrize(("threshold_micros", "is_asked"), [(None, False), (5, False), (6, True)])
def test_auto_topup_is_asked_only_where_it_may_charge(
    tenant: Tenant, threshold_micros: int | None, is_asked: bool
) -> None:
    tenant.deploys()
    tenant.gets(PRICE + 5)
    wire = Wire(tenant, threshold_micros=threshold_micros)

    forecast = foretold(tenant, wire=wire)

    assert (bool(wire.asked), forecast.is_auto_topup_known) == (is_asked, True)


@pytest.mark.parametrize("fails", [GetAutoTopupStates, ForecastSchedule])
def test_where_auto_topup_cannot_be_asked_the_forecast_says_so(tenant: Tenant, fails: type) -> None:
    tenant.deploys()
    wire = Wire(tenant, failure=Unavailable("It is away."), fails=fails)

    forecast = foretold(tenant, wire=wire)

    assert (forecast.is_auto_topup_known, forecast.short_on) == (False, month(1).date())


def test_a_user_without_anything_has_a_flat_line(tenant: Tenant) -> None:
    tenant.gets(1_000_000)

    forecast = foretold(tenant, 1)

    assert [day.balance_micros for day in forecast.days] == [1_000_000, 1_000_000]
    assert (forecast.short_on, forecast.days_until_empty) == (None, None)


@pytest.mark.parametrize("seed", seeds(4))
def test_the_forecast_agrees_with_running_the_clock_forward(tenant: Tenant, seed: int) -> None:
    """Deployments of the 28th to the 31st, some of them stopped, ending or unpaid; credits come,
    and prices change."""
    dice = random.Random(seed)
    has_lived(tenant, dice)
    last = tenant.now.date() + 60 * DAY
    topups = sorted(
        (tenant.now + dice.random() * 60 * DAY, dice.randint(1, 60_000_000))
        for _ in range(dice.choice([0, 0, 1, 4]))
    )

    wire = Wire(tenant, charges=topups, threshold_micros=MAX_AMOUNT_MICROS)
    before = charges(tenant)

    forecast = foretold(tenant, 60, wire=wire, events_max=100)
    of_half = foretold(tenant, 30, wire=wire)

    short, told = None, {}
    while tenant.now.date() <= last:
        day = tenant.now.date()
        evening = midnight_after(day) - timedelta(microseconds=1)
        for at, micros in [each for each in topups if each[0].date() == day]:
            tenant.lives(at)
            tenant.gets(micros)
            tenant.renewals.run()
        suspended = len(suspensions(tenant))
        tenant.lives(evening)
        told[day], unpaid = tenant.balance, unpaid_months_micros(tenant)
        if short is None and len(suspensions(tenant)) > suspended:
            short = (day, forecast.short_by_micros)
        elif short is None and unpaid:
            short = (day, unpaid - told[day])
        tenant.now = midnight_after(day)
    assert balances(forecast) == told
    assert balances(of_half).items() <= told.items()
    assert foretold_charges(forecast) == charges(tenant) - before
    assert (forecast.short_on, forecast.short_by_micros) == (short or (None, 0))
    assert (forecast.short_at and forecast.short_at.date()) == forecast.short_on


@pytest.mark.parametrize("seed", seeds(8))
def test_what_need_not_be_played_is_foretold_as_if_it_were(
    tenant: Tenant, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    if seed % 2:
        has_lived(tenant, dice)
    for _ in range(4):
        tenant.now += timedelta(days=dice.randint(0, 2), hours=dice.randint(0, 23))
        for deployment_id in tenant.deploys(dice.randint(1, 40_000_000), dice.randint(1, 9)):
            if dice.random() < 0.2:
                tenant.cancels(deployment_id)
    tenant.gets(100_000_000_000)
    asked: dict[str, Any] = {
        "days": dice.choice([30, 100, 366]),
        "events_max": dice.choice([0, 3, 100]),
        "without": dice.choice([None, deployment_id]),
        "dearest": 3,
    }
    played: list[object] = []

    def noted(found: Any, *more: Any) -> Any:
        played.append(found)
        return schedule(found, *more)

    monkeypatch.setattr(forecasts, "schedule", noted)

    told = foretold(tenant, **asked)
    need_not = not played
    monkeypatch.setattr(covered, "renewed_alike", lambda _session, asked: [None] * len(asked))

    assert told == foretold(tenant, **asked)
    assert need_not or seed % 2
    assert played


@pytest.mark.parametrize("has_micros", [2 * PRICE - 1, 2 * PRICE, 2 * PRICE + 10_000_000 - 1])
def test_what_the_balance_does_not_cover_is_played(tenant: Tenant, has_micros: int) -> None:
    tenant.deploys(PRICE, 2)
    tenant.gets(has_micros)
    wire = Wire(tenant, charges=[(month(1), 20_000_000)], threshold_micros=10_000_000)

    topups = [each for each in events(foretold(tenant, 31, wire=wire)) if each[1] == "auto_topup"]

    assert topups == [(month(1).date(), ForecastKind.AUTO_TOPUP, 20_000_000)]


def test_of_each_day_as_many_events_are_named_as_were_asked_for_and_each_topup(
    tenant: Tenant,
) -> None:
    tenant.deploys(PRICE, 3)
    wire = Wire(tenant, charges=[(month(1), 3 * PRICE)], threshold_micros=0)
    tenant.gets(PRICE)

    told = foretold(tenant, 31, wire=wire, events_max=1)

    (busy,) = [each for each in told.days if each.events]
    assert [event.kind for event in busy.events] == [ForecastKind.RENEWAL, ForecastKind.AUTO_TOPUP]
    assert busy.events_total == 4


def test_of_each_day_the_first_ten_are_named_unless_more_are_asked_for(tenant: Tenant) -> None:
    tenant.deploys(PRICE, 12)
    tenant.gets(12 * PRICE)

    told, whole = foretold(tenant, 31), foretold(tenant, 31, events_max=100)

    (busy,) = [day for day in told.days if day.events]
    assert (len(busy.events), busy.events_total) == (10, 12)
    assert [len(day.events) for day in whole.days if day.events] == [12]
    assert balances(told) == balances(whole)


def suspensions(tenant: Tenant) -> list[dict[str, Any]]:
    events = tenant.told("deployment_changed")
    return [event for event in events if event["status"] == DeploymentStatus.SUSPENDED]


def has_lived(tenant: Tenant, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 6)):
        tenant.now = BOUGHT.replace(day=dice.randint(28, 31), hour=dice.randint(0, 23))
        for deployment_id in tenant.deploys(dice.randint(1, 40_000_000), dice.randint(1, 2)):
            dice.choice([tenant.cancels, tenant.stops, *[lambda _: None] * 4])(deployment_id)
            if dice.random() < 0.3:
                gets_a_new_price(tenant, deployment_id, dice)
    if dice.random() < 0.8:
        tenant.gets(dice.randint(1, 250_000_000))
    evening = BOUGHT.replace(hour=23, minute=59)
    tenant.lives(one_month_after(evening, dice.randint(0, 1)) + dice.randint(0, 25) * DAY)


def gets_a_new_price(tenant: Tenant, deployment_id: UUID, dice: random.Random) -> None:
    new = {
        "new_price_micros": dice.choice([0, dice.randint(1, 40_000_000)]),
        "new_price_from": tenant.now + dice.randint(0, 70) * DAY,
    }
    mine = DeploymentRow.deployment_id == deployment_id
    with tenant.database.begin() as session:
        session.execute(update(DeploymentRow).where(mine).values(**new))


# Promotional credit that ends.


def gives(tenant: Tenant, micros: int, until: datetime, wallet: Connected | None = None) -> None:
    """The wallet's own clock is now; its database takes a moment of the tenant's."""
    command = GivePromotion(
        idempotency_key=f"{uuid4()}",
        user_id=tenant.user_id,
        amount_micros=micros,
        reason="A test",
        expires_at=until,
        given_by=uuid4(),
    )
    if wallet is None:
        tenant.wire.call(command)
        return
    with wallet.begin() as session:
        promotions.give(session, tenant.now, command, MAX_AMOUNT_MICROS)


def test_what_is_left_of_promotional_credit_at_its_end_pays_nothing_after_it(
    tenant: Tenant,
) -> None:
    tenant.now = utc_now()
    tenant.deploys()
    tenant.gets(5_000_000)
    ends_at = tenant.now + 10 * DAY
    gives(tenant, PRICE, ends_at)

    forecast = foretold(tenant, 40)

    told, due = balances(forecast), one_month_after(tenant.now).date()
    assert [each for each in events(forecast) if each[0] <= due] == [
        (ends_at.date(), "promotion_end", PRICE)
    ]
    assert told[ends_at.date() - DAY] == PRICE + 5_000_000
    assert told[ends_at.date()] == told[due] == 5_000_000
    assert (forecast.short_on, forecast.short_by_micros) == (due, PRICE - 5_000_000)
    assert foretold(tenant, 9).short_on is None


def test_who_does_not_ask_for_ends_is_told_of_none_and_of_the_same_balance(tenant: Tenant) -> None:
    """The version before asks so, which knows no such word."""
    tenant.now = utc_now()
    tenant.deploys()
    gives(tenant, 3 * PRICE, one_month_after(tenant.now))

    told = foretold(tenant, 31)
    without = foretold(tenant, 31, events_max=1, with_promotion_ends=False)

    assert [kind for _, kind, _ in events(told)] == ["renewal", "promotion_end"]
    assert [kind for _, kind, _ in events(without)] == ["renewal"]
    assert balances(without) == balances(told)
    assert sum(day.events_total for day in without.days) == 2


def test_auto_topup_is_asked_with_what_ends_where_that_takes_the_balance_below_its_level(
    tenant: Tenant,
) -> None:
    tenant.now = utc_now()
    tenant.deploys()
    tenant.gets(PRICE)
    wire = Wire(tenant, threshold_micros=PRICE + 1)
    due = one_month_after(tenant.now)
    ends = [tenant.now + 10 * DAY, due + DAY]
    gives(tenant, 9_000_000, ends[0])
    gives(tenant, 2 * PRICE, ends[1])

    foretold(tenant, 40, wire=wire, events_max=0)

    (asked,) = wire.asked
    assert [(each.at, each.amount_micros, each.waits_until) for each in asked.spendings] == [
        (ends[0], 9_000_000, ends[0]),
        (due, PRICE, due + RULES.grace),
        (ends[1], PRICE, ends[1]),
    ]


def test_an_end_is_named_however_much_is_charged_on_its_day(tenant: Tenant) -> None:
    tenant.now = utc_now()
    tenant.deploys(PRICE, 2)
    due = one_month_after(tenant.now)
    gives(tenant, 3 * PRICE, due)

    told = foretold(tenant, 31, events_max=1)

    (busy,) = [each for each in told.days if each.events]
    assert [event.kind for event in busy.events] == ["renewal", "promotion_end"]
    assert (busy.events_total, busy.balance_micros) == (3, 0)


@pytest.mark.parametrize("seed", seeds(4))
def test_what_ends_of_promotional_credit_is_what_the_wallet_then_takes(
    tenant: Tenant, stack: System, seed: int
) -> None:
    dice = random.Random(seed)
    tenant.now = utc_now()
    for _ in range(dice.randint(1, 3)):
        tenant.now += timedelta(hours=dice.randint(0, 40))
        tenant.deploys(dice.randint(1, 40) * USD, dice.randint(1, 2))
    tenant.gets(dice.randint(1, 100) * USD)
    ends = [tenant.now + dice.randint(1, 60 * 86_400) * SECOND for _ in range(3)]
    for ends_at in ends:
        gives(tenant, dice.randint(1, 60) * USD, ends_at)

    forecast = foretold(tenant, 70)

    wallet, told = connect(stack.database_url("wallet")), {}
    for day in balances(forecast):
        for ends_at in sorted(each for each in ends if each.date() == day):
            tenant.lives(ends_at)
            promotions.sweep(wallet, ends_at)
        tenant.lives(midnight_after(day) - timedelta(microseconds=1))
        told[day] = tenant.balance
        tenant.now = midnight_after(day)
    wallet.engine.dispose()
    assert balances(forecast) == told
    assert any(kind == "promotion_end" for _, kind, _ in events(forecast))


def midnight_after(day: date) -> datetime:
    return datetime.combine(day + DAY, time(), UTC)


def unpaid_months_micros(tenant: Tenant) -> int:
    """What the deployments that run owe for months that the wallet has refused."""
    query = (
        select(func.coalesce(func.sum(PeriodRow.amount_micros), 0))
        .join(DeploymentRow, DeploymentRow.deployment_id == PeriodRow.deployment_id)
        .where(
            DeploymentRow.user_id == tenant.user_id,
            DeploymentRow.short_since.is_not(None),
            PeriodRow.status == PeriodStatus.DUE,
            PeriodRow.kind == PeriodKind.MONTH,
        )
    )
    with tenant.database.read() as session:
        return int(session.scalars(query).one())


# Usage.


class ShortAsLived(NamedTuple):
    """The first day that was short; what it lacked, unless something was suspended for that."""

    day: date | None = None
    by_micros: int | None = None


class Steady(Metered):
    """A user whose deployments use as much in every hour, which is told within it."""

    def __init__(self, stack: System, database: Connected) -> None:
        super().__init__(stack, database)
        self.hourly: dict[UUID, tuple[Meter, int]] = {}
        self.now = BOUGHT
        self.rules = RULES.model_copy(update={"grace_s": DAY // SECOND})
        self.renewals = replace(self.renewals, rules=self.rules)
        self.charges = replace(self.charges, rules=self.rules)

    def uses_hourly(self, meter: Meter, quantity: int, bought: datetime, **more: Any) -> UUID:
        self.now = bought
        (deployment_id,) = self.deploys(meters=[meter], **more)
        self.hourly[deployment_id] = (meter, quantity)
        return deployment_id

    def tells_hours(self, since: datetime, until: datetime) -> None:
        while since < until:
            self.now = min(since + RULES.usage_window, until)
            hours = [since + n * HOUR for n in range((self.now - since) // HOUR)]
            for deployment_id in self.hourly:
                self.tells(*(self.used_in(deployment_id, hour) for hour in hours))
            since = self.now

    def has_used(self, until: datetime, days: int = 7) -> None:
        """Of the days before all is told and paid, and nothing else: the balance stays."""
        self.tells_hours(until - days * DAY, until)
        if due := self.unpaid_usage_micros():
            self.gets(due)
        self.charges.run()

    def used_in(self, deployment_id: UUID, hour: datetime) -> UsageRecord:
        meter, quantity = self.hourly[deployment_id]
        used_at = hour + HOUR - SECOND
        return self.record(quantity, meter, deployment_id=deployment_id, used_at=used_at)

    def lives_an_hour(self) -> None:
        """From one full hour to the next. What does not run uses nothing."""
        ends = self.now + HOUR
        self.lives(ends - SECOND)
        row = DeploymentRow
        with self.database.read() as session:
            active = select(row.deployment_id).where(
                row.deployment_id.in_(self.hourly), row.status == DeploymentStatus.ACTIVE
            )
            running = session.scalars(active).all()
        if running:
            self.tells(*(self.used_in(each, ends - HOUR) for each in running))
        self.lives(ends - timedelta(microseconds=1))
        self.now = ends

    def is_charged(self) -> None:
        self.charges.run()
        self.lives(self.now)

    def receives(self, micros: int) -> None:
        self.gets(micros)
        with self.database.begin() as session:
            charging.money_came(session, self.now, self.user_id)
        self.charges.run()
        self.renewals.run()

    def lives_on(
        self, coming: Iterable[tuple[datetime, Callable[[], object]]], days: int
    ) -> tuple[dict[date, int], ShortAsLived]:
        """Until the end of that day, while this comes: the balance at the end of each day, and the
        first day on which something was suspended, or not paid at its end."""
        waiting = sorted(coming, key=lambda each: each[0])
        last, told, short = self.now.date() + days * DAY, dict[date, int](), ShortAsLived()
        while self.now.date() <= last:
            day, starts_at, suspended = self.now.date(), self.now, len(suspensions(self))
            while waiting and waiting[0][0] < starts_at + HOUR:
                at, act = waiting.pop(0)
                self.lives(at)
                act()
            self.now = starts_at
            self.lives_an_hour()
            if short.day is None and len(suspensions(self)) > suspended:
                short = ShortAsLived(day)
            if self.now.date() > day:
                told[day] = self.balance
                if short.day is None and (unpaid := self.unpaid_micros()):
                    short = ShortAsLived(day, max(unpaid - self.available, 1))
            if self.now.date() <= last:
                self.is_charged()
        return told, short

    @property
    def available(self) -> int:
        found = self.rpc.call(GetWallet(user_id=self.user_id))
        return 0 if found.status == AccountStatus.FROZEN else found.available_micros

    def unpaid_micros(self) -> int:
        """Of months, and of usage where something runs in its days of grace for that."""
        short, charge = DeploymentRow.usage_short_since, UsageChargeRow
        with self.database.read() as session:
            mine = DeploymentRow.user_id == self.user_id
            if session.scalar(select(func.count()).where(mine, short.is_not(None))) == 0:
                return unpaid_months_micros(self)
            waits = select(func.count()).where(charge.user_id == self.user_id)
            assert session.scalar(waits.where(charge.paid_at.is_(None))) == 1
        return unpaid_months_micros(self) + self.unpaid_usage_micros()

    def unpaid_usage_micros(self) -> int:
        with self.database.read() as session:
            return sum(usage_owed_micros(session, self.hourly).values())


@pytest.fixture
def steady(stack: System, database: Connected) -> Steady:
    return Steady(stack, database)


NOON = BOUGHT.replace(hour=12, minute=0)
LATER = BOUGHT.replace(year=2098)
"""The wallet's process takes back what has ended by its own clock."""


def test_usage_goes_on_at_its_measured_rate_day_by_day(steady: Steady) -> None:
    deployment_id = steady.uses_hourly(HOURS, 2, NOON, price_micros=0)
    steady.gets(100 * USD)
    steady.has_used(NOON + 8 * DAY)

    forecast = foretold(steady, 2)

    # By 23:00 there are 11 hours of today, and then 24 of each day; the balance ends on the second.
    assert events(forecast) == [
        (forecast.days[0].date, "usage", 22 * USD),
        (forecast.days[1].date, "usage", 48 * USD),
        (forecast.days[2].date, "usage", 30 * USD),
    ]
    assert (forecast.short_on, forecast.short_by_micros) == (forecast.days[2].date, 20 * USD)
    assert (forecast.days_until_empty, forecast.short_at) == (2, NOON + 10 * DAY + 3 * HOUR)
    (due,) = forecast.due_next
    assert (due.kind, due.amount_micros, due.at) == (
        ForecastKind.USAGE,
        22 * USD,
        steady.now.replace(hour=23),
    )
    without = foretold(steady, 2, without=deployment_id)
    assert (events(without), without.due_next, without.short_on) == ([], [], None)


def test_usage_is_foretold_by_what_is_included_in_each_month(steady: Steady) -> None:
    """Of 100 GB a month 96 are used by the fourth evening, and none costs anything after it."""
    steady.uses_hourly(TRAFFIC, 1, NOON, price_micros=0)
    steady.gets(100 * USD)
    steady.has_used(NOON + 4 * DAY, days=4)

    forecast = foretold(steady, 35)

    used = {day: micros for day, kind, micros in events(forecast) if kind == "usage"}
    assert used.pop(date(2026, 2, 4)) == (11 - 4) * 20_000
    ends_on = month(1).date()
    free = {ends_on + n * DAY for n in range(1, 4)}
    assert not free & used.keys()
    assert used[ends_on] == 13 * 20_000
    assert {micros for day, micros in used.items() if day < ends_on} == {24 * 20_000}


def test_a_rate_is_what_was_used_in_seven_days_or_since_it_runs_but_at_least_in_one(
    steady: Steady,
) -> None:
    def monthly() -> int:
        with steady.database.read() as session:
            return sum(monthly_micros(session, steady.user_id, steady.now).values())

    steady.uses_hourly(HOURS, 2, NOON, price_micros=0)
    rates = []
    for hours in (6, 18, 24, 7 * 24):
        steady.tells_hours(steady.now, steady.now + hours * HOUR)
        rates.append(monthly())
    steady.now += 6 * DAY
    rates.append(monthly())
    steady.now += DAY
    rates.append(monthly())

    assert rates == [360 * USD, 1_440 * USD, 1_440 * USD, 1_440 * USD, 205 * USD, 0]


def test_what_does_not_run_any_more_has_no_rate(steady: Steady) -> None:
    stopped = steady.uses_hourly(HOURS, 2, NOON, price_micros=0)
    ended = steady.uses_hourly(HOURS, 3, NOON, price_micros=0)
    runs = steady.uses_hourly(HOURS, 5, NOON, price_micros=0)
    steady.tells_hours(NOON, NOON + DAY)

    steady.stops(stopped)
    steady.cancels(ended, CancelWhen.NOW)

    with steady.database.read() as session:
        assert monthly_micros(session, steady.user_id, steady.now) == {runs: 5 * 720 * USD}


def test_the_burn_rate_counts_what_is_used_like_a_price(steady: Steady) -> None:
    free = steady.uses_hourly(HOURS, 2, NOON, price_micros=0)
    steady.uses_hourly(HOURS, 1, NOON, price_micros=PRICE)
    steady.has_used(NOON + 8 * DAY)

    request = GetForecast(user_id=steady.user_id, days=1, dearest=1)
    rpc = cast(RpcClient, Wire(steady))
    told = foretell(steady.database, rpc, request, steady.now, RULES).burn_rate
    with steady.database.read() as session:
        usage = monthly_micros(session, steady.user_id, steady.now)
        asked = analyse(0, what_burns(session, steady.user_id, 1, usage), steady.now)

    assert asked == told
    assert told is not None
    # With the deployment that every Metered has, at the same price.
    assert (told.monthly_burn_micros, told.monthly_usage_micros) == (
        2 * PRICE + 3 * 720 * USD,
        3 * 720 * USD,
    )
    (dearest,) = told.deployments
    assert (dearest.deployment_id, dearest.monthly_cost_micros) == (free, 2 * 720 * USD)
    assert (dearest.monthly_usage_micros, told.deployments_total) == (2 * 720 * USD, 3)


def test_what_was_used_and_is_not_paid_is_foretold_first(steady: Steady) -> None:
    steady.uses_hourly(HOURS, 1, NOON, price_micros=0)
    steady.has_used(NOON + 8 * DAY)
    for _ in range(2):
        steady.lives_an_hour()
        steady.is_charged()

    forecast = foretold(steady, 1)
    wire = Wire(steady, charges=[(steady.now + HOUR / 2, 3 * USD)])
    paid = foretold(steady, 1, wire=wire)

    # An hour is refused, the next one is not charged yet, and ten more come by the day's end.
    assert (forecast.short_on, forecast.short_by_micros) == (steady.now.date(), 12 * USD)
    waits, _ = wire.asked[0].spendings[:2]
    assert (waits.amount_micros, waits.is_waiting, waits.at) == (USD, True, steady.now)
    assert waits.waits_until == steady.now - HOUR + steady.rules.grace
    # It was used, whatever becomes of what used it.
    assert waits.owed_micros == USD
    assert events(paid)[:2] == [
        (steady.now.date(), "auto_topup", 3 * USD),
        (steady.now.date(), "usage", 3 * USD),
    ]


def test_usage_of_what_does_not_run_any_more_sets_off_no_charge_that_is_foretold(
    steady: Steady,
) -> None:
    """As it waits for money and asks for none: see what is owed for time that ran."""
    used = steady.uses_hourly(HOURS, 1, NOON, price_micros=0)
    steady.has_used(NOON + 8 * DAY)
    steady.lives_an_hour()
    steady.is_charged()
    steady.stops(used)

    wire = Wire(steady, charges=[(steady.now + HOUR / 2, 3 * USD)])
    foretold(steady, 1, wire=wire)

    (asked,) = (each for each in wire.asked[0].spendings if each.amount_micros == USD)
    assert (asked.is_waiting, asked.waits_until) == (True, None)


@pytest.mark.parametrize("seed", seeds(2))
def test_the_forecast_of_steady_usage_agrees_with_running_the_clock_forward(
    steady: Steady, stack: System, seed: int
) -> None:
    """Some of it with a monthly price, at the end of their months, beside what is not measured;
    prices change, credits come, and promotional credit ends."""
    dice = random.Random(seed)
    wallet = connect(stack.database_url("wallet"))
    has_used_steadily(steady, dice)
    steady.gets(dice.choice([dice.randint(1, 60 * USD), dice.randint(1, 1_000 * USD)]))
    for _ in range(dice.choice([0, 0, dice.randint(1, 30)])):
        steady.lives_an_hour()
        steady.is_charged()
    days = 3
    within = days * DAY + timedelta(hours=12)
    ends = [steady.now + dice.random() * within for _ in range(dice.choice([0, 0, 1, 3]))]
    for ends_at in ends:
        gives(steady, dice.randint(1, 60 * USD), ends_at, wallet)
    if dice.random() < 0.1:
        steady.freezes()
    before = charges(steady)
    topups = sorted(
        (steady.now + dice.random() * within, dice.randint(1, 60 * USD))
        for _ in range(dice.choice([0, 1, 3]))
    )
    wire = Wire(steady, charges=topups, threshold_micros=MAX_AMOUNT_MICROS)

    forecast = foretold(steady, days, wire=wire, events_max=100)

    coming: list[tuple[datetime, Callable[[], object]]] = [
        (at, partial(steady.receives, micros)) for at, micros in topups
    ]
    coming += [(at, partial(promotions.sweep, wallet, at)) for at in ends]
    told, short = steady.lives_on(coming, days)
    wallet.engine.dispose()
    assert balances(forecast) == told
    assert foretold_charges(forecast) == charges(steady) - before
    assert forecast.short_on == short.day
    assert short.by_micros in (None, forecast.short_by_micros)
    assert (forecast.short_at and forecast.short_at.date()) == forecast.short_on


def has_used_steadily(steady: Steady, dice: random.Random) -> None:
    steady.cancels(steady.deployment_id, CancelWhen.NOW)
    for _ in range(dice.randint(1, 3)):
        bought = LATER.replace(day=dice.randint(24, 31), hour=dice.randint(0, 23), minute=0)
        meter = dice.choice([HOURS, CALLS, TRAFFIC])
        price_micros = dice.choice([0, dice.randint(1, 40 * USD)])
        each = steady.uses_hourly(meter, dice.randint(1, 20), bought, price_micros=price_micros)
        if price_micros and dice.random() < 0.3:
            gets_a_new_price(steady, each, dice)
        if dice.random() < 0.3:
            steady.cancels(each)
    for _ in range(dice.randint(0, 2)):
        steady.now = LATER.replace(day=dice.randint(24, 31), hour=dice.randint(0, 23))
        (each,) = steady.deploys(dice.randint(1, 40 * USD))
        if dice.random() < 0.3:
            gets_a_new_price(steady, each, dice)
    steady.has_used(
        LATER.replace(month=2, day=dice.randint(23, 27), hour=dice.randint(0, 23), minute=0)
    )
