"""What is foretold over weeks is what is charged when the weeks have passed.

The property plays both: the forecast, and then the same months against the real rules, the real
database and the sandbox, while billing, as far as top-ups see it, pays what it can and says short
what it cannot.
"""

import os
import random
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chassis.identifiers import new_id
from contracts.topup import (
    ForecastSchedule,
    RefusalCode,
    ScheduleForecast,
    SetOperatorSwitch,
    Spending,
    TopupKind,
    TopupStatus,
    Trigger,
)
from services.topup import switch, topups
from services.topup.automatic import schedule, triggers
from services.topup.charging import charges
from services.topup.models import AutoTopupSettings, Topup
from tests.topup.conftest import NOON, USD, Customer, Desk
from tests.topup.test_forecast import Life
from tests.topup.test_lessened import lessen

SEEDS = int(os.environ.get("TOPUP_SCHEDULES", "5"))
DAY = timedelta(days=1)
GRACE = 3 * DAY
SOON = timedelta(seconds=90)
"""Longer than a cool-down."""


def spending(at: datetime, dollars: int, reference: UUID | None = None, **how: Any) -> Spending:
    return Spending(
        reference=reference or uuid4(),
        amount_micros=dollars * USD,
        at=at,
        waits_until=at + GRACE,
        **how,
    )


def lapse(at: datetime, dollars: int) -> Spending:
    """Promotional credit ends."""
    return Spending(
        reference=uuid4(), amount_micros=dollars * USD, at=at, waits_until=at, is_waiting=True
    )


def foretold(
    customer: Customer, *spendings: Spending, until: datetime = NOON + 60 * DAY
) -> ScheduleForecast:
    request = ForecastSchedule(user_id=customer.user_id, spendings=list(spendings), until=until)
    return schedule.foretell(customer.desk.till, request)


def planned(told: ScheduleForecast) -> list[tuple[int, str, int]]:
    """Days from now, what for, and dollars."""
    return [
        ((each.at - NOON) // DAY, each.trigger, each.amount_micros // USD) for each in told.charges
    ]


def holds(customer: Customer, dollars: int) -> None:
    customer.desk.wallet.balances[customer.user_id] = dollars * USD


def test_a_month_that_takes_it_below_the_threshold_sets_off_a_charge(desk: Desk) -> None:
    customer = desk.customer()
    holds(customer, 20)

    told = foretold(customer, spending(NOON + 5 * DAY, 15), spending(NOON + 9 * DAY, 5))

    assert planned(told) == [(5, "low_balance", 25)]


def test_a_month_that_is_not_covered_is_charged_with_what_it_lacks(desk: Desk) -> None:
    customer = desk.customer()
    holds(customer, 20)

    told = foretold(customer, spending(NOON + 5 * DAY, 60))

    assert planned(told) == [(5, "renewal", 40), (5, "low_balance", 25)]
    assert told.charges[0].card_last4 == "4242"


def test_a_monthly_limit_puts_it_off_until_the_limit_starts_anew(desk: Desk) -> None:
    customer = desk.customer(monthly_limit_micros=60 * USD, topup_amount_micros=30 * USD)
    holds(customer, 10)

    told = foretold(
        customer,
        spending(NOON + 2 * DAY, 10),
        spending(NOON + 4 * DAY, 25),
        spending(NOON + 6 * DAY, 26),
    )

    assert planned(told) == [
        (2, "low_balance", 30),
        (4, "low_balance", 30),
        (21, "low_balance", 30),
    ]
    assert told.charges[-1].at == datetime(2027, 4, 1, tzinfo=NOON.tzinfo)
    assert told.refusal_code == RefusalCode.MONTHLY_LIMIT


def test_what_a_limit_forbids_for_longer_than_it_waits_is_not_charged(desk: Desk) -> None:
    customer = desk.customer(monthly_limit_micros=30 * USD, threshold_micros=0)

    told = foretold(
        customer,
        spending(NOON, 31, reference=(tenant := uuid4())),
        spending(NOON + 31 * DAY, 5, reference=tenant),
        spending(NOON + 31 * DAY, 6),
    )

    assert planned(told) == [(31, "renewal", 25)]


def test_what_is_left_when_something_was_suspended_is_foretold_as_it_is_charged(
    desk: Desk,
) -> None:
    customer = desk.customer(
        monthly_limit_micros=25 * USD, threshold_micros=0, topup_amount_micros=5 * USD
    )
    desk.clock.set(datetime(2027, 3, 27, 12, tzinfo=NOON.tzinfo))
    Months(customer, 0).charge_all(25)
    holds(customer, 0)
    began = desk.clock.advance(minutes=5)
    # The first waits until the 30th; the second until noon of the 1st.
    months = [
        spending(began + timedelta(hours=1), 20),
        spending(began + 2 * DAY, 10),
    ]
    until = began + 10 * DAY

    told = foretold(customer, *months, until=until)
    Months(customer, 0).live(months, until)

    assert [each.amount_micros // USD for each in told.charges] == [10]
    assert [each.amount_micros // USD for each in customer.topups()[1:]] == [10]


@pytest.mark.parametrize(("has", "charged"), [(0, 12), (3, 9)], ids=["unpaid", "paid at once"])
def test_what_is_owed_of_what_was_suspended_is_charged_with_what_waits(
    desk: Desk, has: int, charged: int
) -> None:
    customer = desk.customer(
        monthly_limit_micros=20 * USD, threshold_micros=0, topup_amount_micros=5 * USD
    )
    desk.clock.set(datetime(2027, 3, 27, 12, tzinfo=NOON.tzinfo))
    Months(customer, 0).charge_all(20)
    holds(customer, has)
    began = desk.clock.advance(minutes=5)
    months = [
        spending(began + timedelta(hours=1), 20, owed_micros=2 * USD),
        spending(began + 2 * DAY, 10),
    ]
    until = began + 10 * DAY

    told = foretold(customer, *months, until=until)
    Months(customer, 0).live(months, until)

    assert [each.amount_micros // USD for each in told.charges] == [charged]
    assert [each.amount_micros // USD for each in customer.topups()[1:]] == [charged]


def test_credit_that_lapses_when_it_was_spent_takes_nothing_from_what_waits(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=30 * USD, threshold_micros=0)

    told = foretold(
        customer,
        spending(NOON, 25),
        spending(NOON + SOON, 20),
        lapse(NOON + timedelta(hours=1), 10),
    )

    # The second one waits for midnight.
    assert planned(told) == [(0, "renewal", 25), (0, "renewal", 25)]


def test_of_credit_that_lapses_what_is_there_is_taken(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=5 * USD)
    holds(customer, 8)

    told = foretold(customer, lapse(NOON + 2 * DAY, 10))

    assert planned(told) == [(2, "low_balance", 25)]


def test_where_it_is_off_nothing_is_promised(desk: Desk) -> None:
    told = foretold(desk.customer(enabled=False), spending(NOON + DAY, 40))

    assert (told.charges, told.refusal_code) == ([], RefusalCode.DISABLED)


def test_a_pause_is_not_thought_to_end(desk: Desk) -> None:
    customer = desk.customer()
    with desk.till.database.begin() as session:
        settings = session.get_one(AutoTopupSettings, customer.user_id)
        settings.paused_code, settings.paused_reason = "card_removed", "The card is gone."

    told = foretold(customer, spending(NOON + DAY, 40))

    assert (told.charges, told.reason) == ([], "The card is gone.")


def test_what_an_operator_stopped_is_not_promised(desk: Desk) -> None:
    customer = desk.customer()
    stop = SetOperatorSwitch(is_stopped=True, reason="A fault", changed_by="an operator")
    with desk.till.database.begin() as session:
        switch.turn(session, stop, desk.clock())

    told = foretold(customer, spending(NOON + DAY, 40))

    assert (told.charges, told.refusal_code) == ([], RefusalCode.STOPPED_BY_OPERATOR)


def test_a_frozen_wallet_charges_no_card(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.frozen.add(customer.user_id)

    told = foretold(customer, spending(NOON + DAY, 40))

    assert (told.charges, told.refusal_code) == ([], RefusalCode.ACCOUNT_FROZEN)


def expires(customer: Customer, payment_method_id: str, year: int, month: int) -> None:
    with customer.desk.till.database.begin() as session:
        session.execute(
            text("UPDATE cards SET exp_year = :y, exp_month = :m WHERE payment_method_id = :id"),
            {"y": year, "m": month, "id": payment_method_id},
        )


def test_a_card_is_promised_until_the_end_of_its_last_month(desk: Desk) -> None:
    customer = desk.customer()
    expires(customer, customer.cards()[0], 2027, 3)
    last = datetime(2027, 3, 31, 23, 59, tzinfo=NOON.tzinfo)

    before = foretold(customer, spending(last, 25))
    after = foretold(customer, spending(last + timedelta(minutes=1), 25))

    assert [each.amount_micros for each in before.charges] == [25 * USD]
    assert (after.charges, after.reason) == ([], schedule.EXPIRED)


def test_the_backup_card_takes_the_place_of_an_expired_one(desk: Desk) -> None:
    customer = desk.customer()
    first, backup = customer.cards()[0], customer.add_card("5555555555554444")
    holds(customer, 25)
    customer.configure(backup_payment_method_id=backup)
    expires(customer, first, 2027, 3)

    told = foretold(customer, spending(NOON + 40 * DAY, 30))

    assert [each.card_last4 for each in told.charges] == ["4444"]


def test_what_is_under_way_is_counted_and_named(desk: Desk) -> None:
    customer = desk.customer()
    charges.pursue(desk.till, customer.raise_trigger(Trigger.LOW_BALANCE, needed_micros=0))

    told = foretold(customer, spending(NOON + 5 * DAY, 15), until=NOON + 10 * DAY)

    assert planned(told) == [(0, "low_balance", 25)]


AUTO, BY_HAND = TopupKind.AUTO, TopupKind.MANUAL


def stored(user_id: UUID, kind: TopupKind, **fields: Any) -> Topup:
    topup = topups.new(user_id, kind, 25 * USD, str(uuid4()), NOON)
    for name, value in fields.items():
        setattr(topup, name, value)
    return topup


@pytest.mark.parametrize(
    ("kind", "fields", "is_named"),
    [
        (AUTO, {"status": TopupStatus.UNKNOWN, "trigger": Trigger.LOW_BALANCE}, True),
        (AUTO, {"status": TopupStatus.PAID, "trigger": Trigger.RENEWAL}, True),
        (BY_HAND, {"status": TopupStatus.PAID}, True),
        (BY_HAND, {"status": TopupStatus.PROCESSING}, False),
        (AUTO, {"status": TopupStatus.FAILED, "trigger": Trigger.LOW_BALANCE}, False),
        (AUTO, {"status": TopupStatus.CREDITED, "trigger": Trigger.LOW_BALANCE}, False),
        (AUTO, {"status": TopupStatus.UNKNOWN, "trigger": Trigger.PURCHASE}, False),
        (BY_HAND, {"status": TopupStatus.PAID, "purchase_id": UUID(int=1)}, False),
    ],
)
def test_what_is_under_way_is_named_unless_a_purchase_takes_it(
    desk: Desk, kind: TopupKind, fields: dict[str, Any], is_named: bool
) -> None:
    user_id = new_id()
    topup = stored(user_id, kind, **fields)
    with desk.till.database.begin() as session:
        session.add_all([topup, stored(new_id(), kind, **fields)])
        session.flush()
        named = schedule._arriving(session, user_id, NOON, frozenset())
        once_it_is_there = schedule._arriving(session, user_id, NOON, frozenset({topup.topup_id}))

    assert [each.amount_micros for each in named] == ([25 * USD] if is_named else [])
    assert once_it_is_there == []


def test_what_falls_due_in_the_instant_in_which_it_ends_is_not_foretold(desk: Desk) -> None:
    customer, due = desk.customer(threshold_micros=0), NOON + 5 * DAY
    instant = timedelta(microseconds=1)

    told = [foretold(customer, spending(due, 60), until=due + late) for late in (0 * DAY, instant)]

    assert [planned(each) for each in told] == [[], [(5, "renewal", 60)]]


def test_a_renewal_is_asked_for_as_long_as_it_waits(desk: Desk) -> None:
    """Two days before the monthly limit starts anew; nothing runs for a purchase after a day."""
    customer = desk.customer(monthly_limit_micros=25 * USD, threshold_micros=0)
    desk.clock.set(datetime(2027, 3, 28, 12, tzinfo=NOON.tzinfo))
    Months(customer, 0).charge_all(25)
    desk.clock.set(datetime(2027, 3, 30, 12, tzinfo=NOON.tzinfo))
    asked = customer.ask(Trigger.RENEWAL, needed_micros=20 * USD)

    desk.clock.set(datetime(2027, 4, 1, 0, 1, tzinfo=NOON.tzinfo))
    desk.sweep()

    assert asked.code == RefusalCode.MONTHLY_LIMIT
    assert [topup.amount_micros // USD for topup in customer.topups()] == [25, 25]


def test_what_a_charge_under_way_leaves_short_is_charged_after_it(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=0, topup_amount_micros=5 * USD)
    trigger_id = customer.raise_trigger(Trigger.RENEWAL, needed_micros=15 * USD)
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)

    told = foretold(customer, spending(NOON, 15, is_waiting=True), spending(NOON, 4))

    assert planned(told) == [(0, "renewal", 15), (0, "renewal", 5)]


def test_what_has_asked_before_is_charged_once_and_only_if_it_still_asks(desk: Desk) -> None:
    """It is no news to billing, which asked already: what it asked for is decided about."""
    customer = desk.customer(threshold_micros=0)
    refused = spending(NOON, 30, is_waiting=True)

    unasked = foretold(customer, refused)
    customer.raise_trigger(
        Trigger.RENEWAL, needed_micros=30 * USD, reference=str(refused.reference)
    )
    asked = foretold(customer, refused)

    assert planned(unasked) == []
    assert planned(asked) == [(0, "renewal", 30)]


def test_of_what_is_said_to_lack_the_newest_counts_alone(desk: Desk) -> None:
    """It says all that is due, and what was said before, of whatever deployment, is part of it."""
    customer = desk.customer(enabled=False)
    customer.raise_trigger(Trigger.RENEWAL, needed_micros=31 * USD)
    customer.raise_trigger(Trigger.PURCHASE, needed_micros=5 * USD)
    desk.clock.advance(seconds=1)
    customer.raise_trigger(Trigger.RENEWAL, needed_micros=33 * USD)

    with desk.till.database.read() as session:
        assert triggers.waiting_micros(session, customer.user_id, desk.clock()) == 38 * USD


def test_what_is_owed_for_time_that_ran_is_charged_with_a_month_that_lacks_money(
    desk: Desk,
) -> None:
    customer = desk.customer(threshold_micros=0, topup_amount_micros=5 * USD)
    owed = spending(NOON, 7, is_waiting=True).model_copy(update={"waits_until": None})

    alone = foretold(customer, owed)
    together = foretold(customer, owed, spending(NOON + DAY, 10))

    assert planned(alone) == []
    assert planned(together) == [(1, "renewal", 17)]


class Months(Life):
    """Billing, as far as top-ups see it: months fall due, and wait for three days."""

    def __init__(self, customer: Customer, threshold_micros: int) -> None:
        super().__init__(customer, threshold_micros)
        self.unpaid: list[Spending] = []
        self.gone: set[UUID] = set()

    def charge_all(self, dollars: int) -> None:
        self.customer.ask(Trigger.RENEWAL, needed_micros=dollars * USD)
        self.customer.credited()
        self.debit(dollars * USD)

    def fall_due(self, spendings: list[Spending]) -> None:
        before = len(self.unpaid)
        for each in spendings:
            if each.reference in self.gone:
                continue
            if each.amount_micros <= self.balance_micros:
                self.debit(each.amount_micros)
            else:
                self.unpaid.append(each)
        if len(self.unpaid) > before:
            self.say_short()

    def needed_micros(self) -> int:
        """What the wallet lacks, where anything waits for it."""
        waits = any(each.waits_until for each in self.unpaid)
        return sum(each.amount_micros for each in self.unpaid) if waits else 0

    def say_short(self) -> None:
        waiting = [each for each in self.unpaid if each.waits_until]
        if not waiting:
            return
        trigger_id = self.customer.raise_trigger(
            Trigger.RENEWAL,
            needed_micros=self.needed_micros(),
            reference=str(waiting[0].reference),
            available_micros=self.balance_micros,
        )
        assert trigger_id is not None
        charges.pursue(self.customer.desk.till, trigger_id)

    def give_up(self, now: datetime) -> None:
        """It is suspended: auto top-up hears what is lacking without it, and what it owes is asked
        for. What was used is owed already."""
        over = {e.reference for e in self.unpaid if e.waits_until and e.waits_until <= now}
        if not over:
            return
        self.gone |= over
        lost = [each for each in self.unpaid if each.reference in over]
        self.unpaid = [each for each in self.unpaid if each.reference not in over]
        used = [each for each in lost if each.owed_micros == each.amount_micros]
        ran = [each for each in lost if 0 < each.owed_micros < each.amount_micros]
        owed = [
            each.model_copy(update={"amount_micros": each.owed_micros, "waits_until": None})
            for each in [*used, *ran]
        ]
        self.unpaid += owed
        self.say_less()
        is_news = False
        for each in owed[len(used) :]:
            if each.amount_micros <= self.balance_micros:
                self.unpaid.remove(each)
                self.debit(each.amount_micros)
                self.say_less()
            else:
                is_news = True
        if is_news:
            self.say_short()

    def say_less(self) -> None:
        lessen(self.customer.desk, self.customer, self.needed_micros())

    def settle(self) -> None:
        desk, before = self.customer.desk, self.balance_micros
        desk.drain()
        self.customer.credited()
        if self.balance_micros > before:
            desk.clock.advance(seconds=1)
            for each in list(self.unpaid):
                if each.amount_micros <= self.balance_micros:
                    self.unpaid.remove(each)
                    self.debit(each.amount_micros)
            if self.unpaid:
                self.say_short()

    def live(self, spendings: list[Spending], until: datetime) -> None:
        desk, coming = self.customer.desk, list(spendings)
        while True:
            self.settle()
            if desk.queue:
                continue
            moments = [each.at for each in coming[:1]]
            moments += [each.waits_until for each in self.unpaid if each.waits_until]
            moments += [due for due in [self._next_due_at()] if due is not None]
            at = max(min(moments, default=until), desk.clock())
            if at >= until:
                return
            desk.clock.set(at)
            self.give_up(at)
            due = [each for each in coming if each.at <= at]
            coming = coming[len(due) :]
            self.fall_due(due)
            desk.sweep()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_foretold_is_what_is_charged_over_the_weeks(desk: Desk, seed: int) -> None:
    dice = random.Random(seed)
    threshold = dice.choice([0, 10, 50])
    daily = dice.choice([None, None, 40, 80])
    monthly = dice.choice([None, 80, 150])
    customer = desk.customer(
        threshold_micros=threshold * USD,
        topup_amount_micros=dice.choice([5, 25]) * USD,
        daily_limit_micros=daily and daily * USD,
        monthly_limit_micros=monthly and monthly * USD,
    )
    holds(customer, dice.randint(threshold, threshold + 100))
    began = desk.clock()
    spendings = []
    for _ in range(dice.randint(1, 5)):
        tenant, price = uuid4(), dice.randint(1, 60)
        first = began + dice.random() * 30 * DAY
        owed_micros = dice.choice([0, price * USD // 5, price * USD])
        spendings += [
            spending(first + 15 * n * DAY, price, tenant, owed_micros=owed_micros) for n in range(3)
        ]
    spendings.sort(key=lambda each: each.at)
    until = began + 45 * DAY

    told = foretold(customer, *spendings, until=until)
    life = Months(customer, threshold * USD)
    life.live(spendings, until)

    charged = customer.topups()
    assert [(topup.amount_micros, topup.trigger) for topup in charged] == [
        (charge.amount_micros, charge.trigger) for charge in told.charges
    ]
    for topup, charge in zip(charged, told.charges, strict=True):
        assert abs(topup.created_at - charge.at) < SOON
