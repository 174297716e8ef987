"""What is announced before money is spent is what is charged then.

The property plays both: the forecast, and then the same spending against the real rules, the
real database and the sandbox, with the clock going on until nothing is due any more.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from chassis.bulk import Batch
from contracts.errors import Conflict
from contracts.keys import topup_key
from contracts.topup import (
    ChargeForecast,
    ForecastCharges,
    ForecastChargesOfMany,
    RefusalCode,
    TopupStatus,
    Trigger,
)
from services.topup.automatic import forecast, triggers
from services.topup.charging import charges
from services.topup.models import TriggerRecord
from services.topup.wallet_questions import Entry, Funds
from tests.topup.conftest import USD, Customer, Desk, empty

EXAMPLES = int(os.environ.get("TOPUP_FORECASTS", "8"))
PASSES_WITHIN = timedelta(minutes=5)
"""Longer than a cool-down, shorter than it takes until a limit starts anew."""


def foretold(customer: Customer, spend_micros: int = 0, **how: Any) -> ChargeForecast:
    desk = customer.desk
    request = ForecastCharges(user_id=customer.user_id, spend_micros=spend_micros, **how)
    return forecast.foretell(desk.till, request)


def amounts(told: ChargeForecast) -> list[int]:
    return [charge.amount_micros // USD for charge in told.charges]


@dataclass
class Life:
    """A wallet and billing, as far as top-ups see them."""

    customer: Customer
    threshold_micros: int
    waiting: dict[UUID, int] = field(default_factory=dict)

    @property
    def balance_micros(self) -> int:
        return self.customer.desk.wallet.balances[self.customer.user_id]

    def debit(self, amount_micros: int) -> None:
        desk, user_id = self.customer.desk, self.customer.user_id
        before, after = self.balance_micros, self.balance_micros - amount_micros
        desk.wallet.balances[user_id] = after
        if after < self.threshold_micros <= before:
            self.fall_below()

    def fall_below(self) -> None:
        """The wallet says once that the balance is low."""
        trigger_id = self.customer.raise_trigger(
            Trigger.LOW_BALANCE, needed_micros=0, available_micros=None
        )
        assert trigger_id is not None
        charges.pursue(self.customer.desk.till, trigger_id)

    def pay(self, purchase_id: UUID, amount_micros: int) -> None:
        desk = self.customer.desk
        # Before the debit: the wallet's word of a low balance may come first or last.
        desk.wallet.idle.discard(self.customer.user_id)
        self.debit(amount_micros)
        self.customer.end_purchase(str(purchase_id))
        with desk.till.database.begin() as session, Batch(session) as writes:
            triggers.end_idleness(writes, [self.customer.user_id], desk.clock())

    def buy(self, purchase_id: UUID, amount_micros: int) -> None:
        if amount_micros <= self.balance_micros:
            self.pay(purchase_id, amount_micros)
            return
        self.waiting[purchase_id] = amount_micros
        self.fall_short(purchase_id, amount_micros)

    def fall_short(self, purchase_id: UUID, amount_micros: int) -> None:
        """Billing says that a purchase lacks credits, after each try anew."""
        trigger_id = self.customer.raise_trigger(
            Trigger.PURCHASE,
            needed_micros=amount_micros,
            reference=str(purchase_id),
            available_micros=self.balance_micros,
            total_shortfall_micros=sum(self.waiting.values()) - self.balance_micros,
        )
        assert trigger_id is not None
        charges.pursue(self.customer.desk.till, trigger_id)

    def settle(self) -> None:
        """Charges go out, credits arrive, and purchases that wait take them."""
        desk, before = self.customer.desk, self.balance_micros
        desk.drain()
        self.customer.credited()
        came = self.balance_micros > before
        if came:
            desk.clock.advance(seconds=1)
        for purchase_id, amount_micros in list(self.waiting.items()):
            if amount_micros <= self.balance_micros:
                del self.waiting[purchase_id]
                self.pay(purchase_id, amount_micros)
        for purchase_id, amount_micros in self.waiting.items() if came else ():
            self.fall_short(purchase_id, amount_micros)

    def go_on(self) -> None:
        """Until nothing is due within minutes."""
        desk = self.customer.desk
        while True:
            self.settle()
            due_at = self._next_due_at()
            if desk.queue:
                continue
            if due_at is None or due_at > desk.clock() + PASSES_WITHIN:
                return
            desk.clock.set(max(due_at, desk.clock() + timedelta(seconds=1)))
            desk.sweep()

    def _next_due_at(self) -> datetime | None:
        with self.customer.desk.till.database.read() as session:
            return session.scalar(
                select(func.min(TriggerRecord.due_at)).where(
                    TriggerRecord.user_id == self.customer.user_id
                )
            )


@dataclass(frozen=True)
class Beginning:
    """Dollars, and what has happened before the person asks."""

    balance: int
    price: int
    waits: int = 0
    threshold: int = 10
    amount: int = 25
    daily_limit: int | None = None
    was_charged: bool = False
    is_idle: bool = False
    has_card_page: bool = False
    """Whether the purchase that waits is to be paid on a card page."""


dollars = st.integers(min_value=0, max_value=120)
beginnings = st.builds(
    Beginning,
    balance=dollars,
    price=dollars,
    waits=st.sampled_from([0, 0, 30, 110]),
    threshold=st.sampled_from([0, 10, 50, 100]),
    amount=st.sampled_from([5, 25]),
    daily_limit=st.sampled_from([None, 25, 60, 100]),
    was_charged=st.booleans(),
    is_idle=st.booleans(),
    has_card_page=st.booleans(),
)


def begin(desk: Desk, beginning: Beginning) -> Life:
    empty(desk.till.database)
    limit = beginning.daily_limit
    customer = desk.customer(
        threshold_micros=beginning.threshold * USD,
        topup_amount_micros=beginning.amount * USD,
        daily_limit_micros=limit and limit * USD,
    )
    life = Life(customer, beginning.threshold * USD)
    if beginning.was_charged:
        life.buy(uuid4(), 5 * USD)
        life.settle()
    desk.wallet.balances[customer.user_id] = beginning.balance * USD
    if beginning.is_idle:
        desk.wallet.idle.add(customer.user_id)
    if beginning.balance < beginning.threshold:
        life.fall_below()
    if beginning.waits > beginning.balance:
        purchase_id = uuid4()
        if beginning.has_card_page:
            with suppress(Conflict):  # while a charge is under way no page is opened
                customer.start_topup(beginning.waits * USD, purchase_id=purchase_id)
        life.buy(purchase_id, beginning.waits * USD)
    return life


def test_what_is_announced_is_what_is_charged(desk: Desk) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(beginnings)
    @example(Beginning(20, 15))
    @example(Beginning(0, 40))
    @example(Beginning(8, 5, is_idle=True))
    @example(Beginning(0, 110, threshold=100, amount=5, daily_limit=25))
    @example(Beginning(12, 24, waits=30, has_card_page=True))
    @example(Beginning(0, 94, waits=30, threshold=0, amount=5, daily_limit=60, has_card_page=True))
    def plays(beginning: Beginning) -> None:
        life = begin(desk, beginning)
        customer, purchase_id = life.customer, uuid4()
        before = customer.topups()

        told = foretold(customer, beginning.price * USD, purchase_id=purchase_id)
        if beginning.price:
            life.buy(purchase_id, beginning.price * USD)
        life.go_on()

        charged = customer.topups()[len(before) :]
        assert [(topup.amount_micros, topup.trigger) for topup in charged] == [
            (charge.amount_micros, charge.trigger) for charge in told.charges
        ]
        for topup, charge in zip(charged, told.charges, strict=True):
            assert abs(topup.created_at - charge.at) < timedelta(seconds=15)
        under_way = [topup.topup_id for topup in before if topup.status == "created"]
        assert [told.in_flight_topup_id] == (under_way or [None])
        assert told.balance_after_micros == life.balance_micros
        assert told.is_covered == (purchase_id not in life.waiting)

    plays()


def test_a_purchase_that_leaves_less_than_the_threshold_announces_the_charge(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 20 * USD

    told = foretold(customer, 15 * USD)

    assert amounts(told) == [25]
    assert (told.charges[0].trigger, told.charges[0].card_last4, told.balance_after_micros) == (
        Trigger.LOW_BALANCE,
        "4242",
        30 * USD,
    )


def test_the_charge_after_the_cool_down_is_announced_with_its_time(desk: Desk) -> None:
    told = foretold(desk.customer(), 40 * USD)

    assert amounts(told) == [40, 25]
    assert told.charges[1].at - told.charges[0].at == desk.till.policy.cool_down
    assert told.balance_after_micros == 25 * USD


@pytest.mark.parametrize(("most", "announced"), [(1, ([40], True)), (3, ([40, 25], False))])
def test_no_more_charges_than_a_page_holds_are_announced_and_that_more_follow(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, most: int, announced: tuple[list[int], bool]
) -> None:
    monkeypatch.setattr(forecast, "Story", partial(forecast.Story, charges_max=most))

    told = foretold(desk.customer(), 40 * USD)

    assert (amounts(told), told.more_follow) == announced


def test_what_was_spent_a_moment_ago_announces_what_follows(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 5 * USD

    before_the_wallet_spoke = foretold(customer, 15 * USD, is_spent=True)
    Life(customer, 10 * USD).fall_below()
    under_way = foretold(customer, 15 * USD, is_spent=True)

    assert amounts(before_the_wallet_spoke) == [25]
    assert (amounts(under_way), under_way.in_flight_micros) == ([], 25 * USD)


def test_asking_by_hand_announces_the_whole_gap_to_the_threshold(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=500 * USD)
    desk.wallet.balances[customer.user_id] = 40 * USD

    assert amounts(foretold(customer, is_by_hand=True)) == [460]


def test_a_purchase_with_a_card_page_takes_credits_that_come_otherwise(desk: Desk) -> None:
    customer = desk.customer()
    desk.clock.advance(minutes=10)
    page = customer.start_topup(24 * USD, purchase_id=uuid4())
    customer.ask(needed_micros=24 * USD, reference=str(customer.topups()[0].purchase_id))

    told = foretold(customer, is_by_hand=True)

    assert page.status == TopupStatus.PROCESSING
    assert amounts(told) == [25, 25]
    assert told.charges[1].trigger == Trigger.LOW_BALANCE


def test_a_purchase_is_left_to_its_open_card_page_and_nothing_else_is(desk: Desk) -> None:
    customer = desk.customer()
    paid_on_a_page = uuid4()
    customer.start_topup(40 * USD, purchase_id=paid_on_a_page)

    told = foretold(customer, 40 * USD, purchase_id=paid_on_a_page)
    another = foretold(customer, 40 * USD, purchase_id=uuid4())
    desk.wallet.balances[customer.user_id] = 5 * USD
    customer.raise_trigger(Trigger.LOW_BALANCE, needed_micros=0)
    beside_it = foretold(customer, 40 * USD, purchase_id=paid_on_a_page)

    assert (amounts(told), told.refusal_code) == ([], RefusalCode.CARD_PAGE_OPEN)
    assert amounts(another)[:1] == [40]
    assert [charge.trigger for charge in beside_it.charges][:1] == [Trigger.LOW_BALANCE]


def test_a_limit_says_why_nothing_is_charged_and_until_when(desk: Desk) -> None:
    told = foretold(desk.customer(daily_limit_micros=30 * USD), 40 * USD)

    assert (amounts(told), told.is_covered) == ([], False)
    assert told.refusal_code == RefusalCode.DAILY_LIMIT
    assert str(told.retry_at) == "2027-03-11 00:00:00+00:00"


def test_nothing_is_announced_where_auto_topup_is_off(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    desk.wallet.balances[customer.user_id] = 20 * USD

    told = foretold(customer, 15 * USD)

    assert (told.charges, told.threshold_micros, told.is_covered) == ([], None, True)


@pytest.mark.parametrize(
    ("enabled", "balance", "spent", "how"),
    [
        (False, 20, 15, {}),
        (False, 20, 15, {"is_spent": True}),
        (True, 50, 15, {}),
        (True, 50, 15, {"is_spent": True}),
        (True, 5, 0, {}),
    ],
)
def test_where_nothing_becomes_due_the_rule_is_not_played_and_would_say_the_same(
    desk: Desk, enabled: bool, balance: int, spent: int, how: dict[str, bool]
) -> None:
    customer = desk.customer(enabled=enabled)
    desk.wallet.balances[customer.user_id] = balance * USD
    asked_before = desk.wallet.asked_for_funds

    told = foretold(customer, spent * USD, **how)
    asked = desk.wallet.asked_for_funds - asked_before

    request = ForecastCharges(user_id=customer.user_id, spend_micros=spent * USD, **how)
    funds, _ = forecast.look(desk.till, customer.user_id)
    with desk.till.database.read() as session:
        played = forecast.foresee(session, desk.clock(), request, funds, desk.till.policy)
    assert (asked, told) == (0, played)


def test_a_paid_purchase_of_which_we_have_not_heard_is_under_way_no_more(desk: Desk) -> None:
    customer, reference = desk.customer(), str(uuid4())
    customer.raise_trigger(reference=reference)
    desk.wallet.balances[customer.user_id] = 20 * USD
    about = {"is_spent": True, "purchase_id": UUID(reference)}

    asked_before = desk.wallet.asked_for_funds
    told = foretold(customer, 5 * USD, **about)
    asked = desk.wallet.asked_for_funds - asked_before

    request = ForecastCharges(user_id=customer.user_id, spend_micros=5 * USD, **about)
    with desk.till.database.read() as session:
        played = forecast.foresee(session, desk.clock(), request, Funds(20 * USD), desk.till.policy)
    assert (asked, told) == (0, played)


def test_another_purchase_that_waits_is_under_way_beside_a_paid_one(desk: Desk) -> None:
    customer = desk.customer()
    customer.raise_trigger(needed_micros=30 * USD)
    desk.wallet.balances[customer.user_id] = 20 * USD

    told = foretold(customer, 5 * USD, is_spent=True, purchase_id=uuid4())

    assert [charge.amount_micros for charge in told.charges] == [25 * USD]


def test_of_many_who_sets_off_no_charge_is_told_the_same_and_the_others_nothing(
    desk: Desk,
) -> None:
    rich, low, short, busy, nobody = (desk.customer() for _ in range(5))
    for customer, balance in ((rich, 50), (low, 12), (short, 3), (busy, 50)):
        desk.wallet.balances[customer.user_id] = balance * USD
    desk.wallet.balances.pop(nobody.user_id, None)
    busy.raise_trigger()
    spends, spent = {"spend_micros": 5 * USD}, {"spend_micros": 5 * USD, "is_spent": True}
    asked: list[tuple[Customer, dict[str, Any]]] = [
        (rich, spent),
        (low, spends),
        (rich, {"is_by_hand": True}),
        (short, spends),
        (busy, spent),
        (nobody, {}),
    ]
    questions = [ForecastCharges(user_id=each.user_id, **how) for each, how in asked]

    told = forecast.foretell_many(desk.till, ForecastChargesOfMany(questions=questions)).forecasts

    alone = forecast.foretell(desk.till, questions[0])
    assert told == [alone, None, None, None, None, forecast.foretell(desk.till, questions[5])]
    assert alone.balance_after_micros == 50 * USD


def test_who_is_a_cent_short_is_told_that_it_is_not_covered(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    desk.wallet.balances[customer.user_id] = 15 * USD - 10_000

    told = foretold(customer, 15 * USD)

    assert (told.is_covered, told.refusal_code) == (False, RefusalCode.DISABLED)


def test_a_frozen_wallet_covers_nothing_whatever_is_in_it(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 50 * USD
    desk.wallet.frozen.add(customer.user_id)

    told = foretold(customer, 15 * USD)

    assert (told.is_covered, told.refusal_code) == (False, RefusalCode.ACCOUNT_FROZEN)
    assert (told.charges, told.balance_after_micros) == ([], 50 * USD)


def test_credits_that_are_in_the_wallet_are_not_awaited_as_well(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 5 * USD
    customer.ask(Trigger.LOW_BALANCE)
    [paid] = customer.topups()
    assert paid.status == "paid"
    before = foretold(customer).balance_after_micros

    # The wallet has credited it, and the event that says so is still on its way.
    key = topup_key(paid.topup_id)
    desk.wallet.entries[key] = Entry(paid.amount_micros, desk.clock())
    desk.wallet.balances[customer.user_id] = 5 * USD + paid.amount_micros

    assert foretold(customer).balance_after_micros == before


def test_a_forecast_changes_nothing(desk: Desk) -> None:
    customer = desk.customer()

    foretold(customer, 40 * USD)

    assert (customer.topups(), customer.settings().cool_down_until) == ([], None)


def test_an_idle_account_is_charged_once_something_is_bought_again(desk: Desk) -> None:
    customer = desk.customer()
    life = Life(customer, 10 * USD)
    desk.wallet.balances[customer.user_id] = 8 * USD
    desk.wallet.idle.add(customer.user_id)
    life.fall_below()
    desk.clock.advance(days=40)
    desk.sweep()
    assert customer.topups() == []

    life.buy(uuid4(), 5 * USD)
    desk.sweep()

    assert customer.charged_cents() == 2_500
