"""A long random life: purchases, declines, lost answers, crashes, webhooks in any order.

Hypothesis plays it step by step against the real rules, the real database and the sandbox, and
shrinks whatever breaks a promise to its shortest story. ``TOPUP_SIMULATION=200x100`` plays 200
stories of 100 steps.
"""

import json
import os
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text

from chassis.money import from_cents
from contracts.errors import ServiceError
from contracts.topup import ReceiveWebhook, SetOperatorSwitch, TopupStatus, Trigger
from services.topup import switch
from services.topup.automatic import card_changes, limits, pages
from services.topup.cards import saved_cards
from services.topup.charging import charges, checkout, webhooks
from services.topup.models import Topup
from tests.topup.conftest import USD, Card, Customer, Desk, empty, signed

EXAMPLES, STEPS = map(int, os.environ.get("TOPUP_SIMULATION", "25x80").split("x"))

# So that the second charge of a day, and the third of a month, is one too many.
DAILY, MONTHLY = 30 * USD, 60 * USD
FAULTS = ("reset_before", "reset_after", "error_before", "error_after", "rate_limit")
BEHAVIOURS = (
    "pm_card_visa",
    "pm_card_visa",
    "pm_card_chargeCustomerFail",
    "pm_card_authenticationRequired",
    "pm_card_chargeDeclinedLostCard",
)
CARDS = (
    Card.GOOD,
    Card.MASTERCARD,
    Card.DECLINED_WHEN_CHARGED,
    Card.REFUNDS_LATE,
    Card.REFUNDS_FAIL,
)
GOES_BACK = {
    "refund": ("refund", {}),
    "dispute": ("dispute", {"reason": "fraudulent"}),
    "inquiry": ("dispute", {"reason": "inquiry"}),
}
MOVES = (
    timedelta(seconds=1),
    timedelta(seconds=61),
    timedelta(minutes=6),
    timedelta(hours=1),
    timedelta(hours=13),
    timedelta(days=9),
)

Payments = dict[UUID, list[dict[str, Any]]]
"""Captured payments as the processor has them, by top-up."""

pick = st.integers(min_value=0, max_value=10_000)


class Crash(Exception):
    """The process dies here; what follows never happened."""


class Life(RuleBasedStateMachine):
    """``desk_of`` is set by the test: a fresh desk for each story."""

    desk_of: Callable[[], Desk]

    @initialize(good_days=st.integers(min_value=0, max_value=2))
    def begin(self, good_days: int) -> None:
        """Two good days leave the month's limit with less than one charge."""
        self.desk = type(self).desk_of()
        self.desk.sandbox.post("reset")
        self.desk.clock.set(datetime.fromisoformat("2027-03-20T22:00:00+00:00"))
        self.is_stopped = False
        self.enabled: dict[UUID, bool] = {}
        self.wanted: dict[UUID, dict[str, int]] = defaultdict(dict)
        self.crash_after: int | None = None
        self.watch_the_door()
        self.customers = [self.new_customer() for _ in range(2)]
        for _ in range(good_days):
            for who in range(len(self.customers)):
                self.all_goes_well(who, 26)
            self.time_passes(timedelta(hours=20))

    def new_customer(self) -> Customer:
        customer = self.desk.customer(
            enabled=True, daily_limit_micros=DAILY, monthly_limit_micros=MONTHLY
        )
        self.enabled[customer.user_id] = True
        return customer

    def watch_the_door(self) -> None:
        """No charge goes out without consent, while it is off, or while all is stopped.

        Nor on a card that was removed, nor for a purchase that has ended.
        """
        send = type(self.desk.till.processor).charge_off_session.__get__(self.desk.till.processor)

        def watched(**call: Any) -> Any:
            user_id = UUID(call["user_id"])
            assert not self.is_stopped, "charged while the operator's switch was on"
            assert self.enabled.get(user_id), "charged while automatic top-up was off"
            with self.desk.till.database.read() as session:
                agreed = session.scalar(
                    text("SELECT count(*) FROM consents WHERE user_id = :user"),
                    {"user": user_id},
                )
                is_saved = session.scalar(
                    text(
                        "SELECT count(*) FROM cards"
                        " WHERE payment_method_id = :card AND removed_at IS NULL"
                    ),
                    {"card": call["payment_method_id"]},
                )
                has_ended = session.scalar(
                    text(
                        "SELECT count(*) FROM topups JOIN triggers USING (user_id, trigger)"
                        " WHERE topups.topup_id = :topup AND reference = trigger_reference"
                        " AND ended_at IS NOT NULL"
                    ),
                    {"topup": call["topup_id"]},
                )
            assert agreed, "charged without consent"
            assert is_saved, "charged a card that was removed"
            assert not has_ended, "charged for a purchase that has ended"
            return send(**call)

        self.desk.till.processor.charge_off_session = watched  # type: ignore[method-assign]

    def customer(self, number: int) -> Customer:
        return self.customers[number % len(self.customers)]

    def crash_point(self, name: str) -> None:
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                self.desk.queue.clear()
                raise Crash(name)

    def quietly(self, work: Callable[..., Any], *arguments: Any) -> None:
        """A crash, or an error that a caller would hear, ends this step and nothing else."""
        try:
            work(*arguments)
        except (Crash, ServiceError, charges.ProcessorError):
            pass
        finally:
            self.crash_after = None

    # What people do

    @rule(
        who=pick,
        dollars=st.integers(min_value=1, max_value=60),
        late=st.booleans(),
        steps=st.integers(min_value=0, max_value=2),
    )
    def buy(self, who: int, dollars: int, late: bool, steps: int) -> None:
        """``steps`` is how far the service gets with it before something else happens."""
        customer = self.customer(who)
        price, held = dollars * USD, self.balance(customer)
        if held >= price:
            self.desk.wallet.balances[customer.user_id] -= price
            return
        reference = str(uuid.uuid4())
        self.wanted[customer.user_id][reference] = price
        raised_at = self.desk.clock() - (timedelta(minutes=7) if late else timedelta(0))
        trigger_id = customer.raise_trigger(
            Trigger.PURCHASE,
            price,
            reference=reference,
            raised_at=raised_at,
            available_micros=held,
            total_shortfall_micros=sum(self.wanted[customer.user_id].values()) - held,
        )
        if trigger_id is not None:
            self.desk.queue.append((charges.pursue, (self.desk.till, trigger_id)))
            for _ in range(steps):
                self.work(-1)

    @rule(who=pick, dollars=st.integers(min_value=15, max_value=28))
    def all_goes_well(self, who: int, dollars: int) -> None:
        """A good day, which is what it takes to come near the limits."""
        self.mend_the_processor()
        self.turn_the_operators_switch(is_stopped=False)
        self.change_the_cards_luck(who, "pm_card_visa")
        self.save_settings(who, enabled=True, dollars=25)
        for _ in range(2):
            self.time_passes(timedelta(minutes=31))
            self.sweep()
            self.the_wallet_listens()
        self.buy(who, dollars, late=False, steps=2)
        self.the_wallet_listens()

    @rule(who=pick)
    def give_up_purchases(self, who: int) -> None:
        customer = self.customer(who)
        for reference in self.wanted.pop(customer.user_id, {}):
            customer.end_purchase(reference)

    @rule(who=pick)
    def fall_below_the_threshold(self, who: int) -> None:
        customer = self.customer(who)
        self.desk.wallet.balances[customer.user_id] = min(self.balance(customer), 3 * USD)
        trigger_id = customer.raise_trigger(Trigger.LOW_BALANCE, 0, available_micros=None)
        if trigger_id is not None:
            self.desk.queue.append((charges.pursue, (self.desk.till, trigger_id)))

    @rule(who=pick, key=st.sampled_from(["once", "again"]))
    def ask_by_hand(self, who: int, key: str) -> None:
        """Two keys for a whole life, so that most of the time one is used again."""
        customer = self.customer(who)
        trigger_id = customer.raise_trigger(
            Trigger.BY_HAND, 0, reference=key, available_micros=None
        )
        if trigger_id is not None:
            self.quietly(charges.pursue, self.desk.till, trigger_id)

    @rule(who=pick, enabled=st.booleans(), dollars=st.sampled_from([10, 25, 50]))
    def save_settings(self, who: int, enabled: bool, dollars: int) -> None:
        customer = self.customer(who)
        self.enabled[customer.user_id] = enabled
        try:
            customer.configure(
                enabled=enabled,
                topup_amount_micros=dollars * USD,
                daily_limit_micros=DAILY,
                monthly_limit_micros=MONTHLY,
            )
        except ServiceError:
            self.enabled[customer.user_id] = customer.settings().is_enabled

    @rule(who=pick, number=st.sampled_from(CARDS))
    def add_card(self, who: int, number: str) -> None:
        self.quietly(self.customer(who).add_card, number)

    @rule(who=pick, which=pick)
    def remove_card(self, who: int, which: int) -> None:
        customer = self.customer(who)
        saved = customer.cards()
        if len(saved) > 1:
            card = saved[which % len(saved)]
            with self.desk.till.database.begin() as session:
                card_changes.remove(session, customer.user_id, card, self.desk.clock())
            self.quietly(saved_cards.detach, self.desk.till, card)

    @rule(
        who=pick,
        dollars=st.sampled_from([10, 25]),
        save=st.booleans(),
        pays=st.booleans(),
        for_purchase=st.booleans(),
    )
    def buy_credits_by_hand(
        self, who: int, dollars: int, save: bool, pays: bool, for_purchase: bool
    ) -> None:
        """For the purchase that waits longest, or for none."""
        customer = self.customer(who)
        waiting = list(self.wanted[customer.user_id]) if for_purchase else []
        purchase_id = UUID(waiting[0]) if waiting else None
        try:
            topup = customer.start_topup(dollars * USD, save_card=save, purchase_id=purchase_id)
        except (ServiceError, Crash):
            return
        page = next(t.session_id for t in customer.topups() if t.topup_id == topup.topup_id)
        if pays:
            self.desk.sandbox.pay(str(page))
            self.quietly(checkout.refresh, self.desk.till, customer.user_id, topup.topup_id)

    @rule(who=pick)
    def confirm_with_the_bank(self, who: int) -> None:
        for topup in self.customer(who).topups():
            if topup.status == TopupStatus.ACTION_REQUIRED and topup.session_id:
                requests.post(
                    f"{self.desk.sandbox.url}/_sandbox/checkout/{topup.session_id}/pay",
                    json={"number": Card.GOOD},
                    timeout=10,
                )

    # What goes wrong

    @rule(kind=st.sampled_from(FAULTS), keep=st.booleans(), times=st.integers(1, 3))
    def break_the_processor(self, kind: str, keep: bool, times: int) -> None:
        self.desk.sandbox.switch(kind, match={"path": "/v1/*"}, keep=keep, times=times)

    @rule()
    def mend_the_processor(self) -> None:
        self.desk.sandbox.mend()

    @rule(who=pick, name=st.sampled_from(BEHAVIOURS))
    def change_the_cards_luck(self, who: int, name: str) -> None:
        for card in self.customer(who).cards():
            self.desk.sandbox.behave(card, name)

    @rule(steps=st.integers(min_value=0, max_value=4), which=pick)
    def crash_in_the_middle(self, steps: int, which: int) -> None:
        if self.desk.queue:
            self.crash_after = steps
            self.work(which)

    @rule()
    def lose_all_work_in_memory(self) -> None:
        self.desk.queue.clear()

    @rule(is_stopped=st.booleans())
    def turn_the_operators_switch(self, is_stopped: bool) -> None:
        self.is_stopped = is_stopped
        command = SetOperatorSwitch(is_stopped=is_stopped, reason="drill", changed_by="tests")
        with self.desk.till.database.begin() as session:
            switch.turn(session, command, self.desk.clock())

    @rule(
        who=pick,
        cents=st.none() | st.integers(min_value=1, max_value=900),
        how=st.sampled_from(sorted(GOES_BACK)),
    )
    def money_goes_back(self, who: int, cents: int | None, how: str) -> None:
        """Or an inquiry asks about it, which takes nothing. The processor may refuse it."""
        paid = [t for t in self.customer(who).topups() if t.status == TopupStatus.CREDITED]
        if paid:
            kind, body = GOES_BACK[how]
            body = body if cents is None else {**body, "amount": cents}
            requests.post(
                f"{self.desk.sandbox.url}/_sandbox/charges/{paid[-1].payment_id}/{kind}",
                json=body,
                timeout=10,
            )

    @rule()
    def an_inquiry_becomes_a_chargeback(self) -> None:
        for inquiry in self.of_the_processor("dispute", "warning_needs_response")[:1]:
            self.desk.sandbox.post(f"disputes/{inquiry['id']}/escalate")

    @rule(outcome=st.sampled_from(["won", "lost"]))
    def a_dispute_is_decided(self, outcome: str) -> None:
        for dispute in self.of_the_processor("dispute", "needs_response"):
            self.desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome=outcome)

    @rule()
    def a_refund_fails(self) -> None:
        for refund in self.of_the_processor("refund", "succeeded")[:1]:
            self.desk.sandbox.post(f"refunds/{refund['id']}/fail")

    # What time and the timers do

    @rule(which=pick)
    def work(self, which: int) -> None:
        if self.desk.queue:
            work, arguments = self.desk.queue.pop(which % len(self.desk.queue))
            self.quietly(work, *arguments)

    @rule()
    def sweep(self) -> None:
        self.quietly(self.desk.sweep)

    @rule(move=st.sampled_from(MOVES))
    def time_passes(self, move: timedelta) -> None:
        self.desk.clock.set(self.desk.clock() + move)

    @rule(which=pick, times=st.integers(min_value=1, max_value=2))
    def a_webhook_comes(self, which: int, times: int) -> None:
        events = self.sandbox_events()
        if events:
            body = json.dumps(events[which % min(len(events), 100)])
            for _ in range(times):
                request = ReceiveWebhook(payload=body, signature=signed(body))
                self.quietly(webhooks.receive, self.desk.till, request)

    @rule()
    def the_wallet_listens(self) -> None:
        for customer in self.customers:
            self.settle_wallet(customer)

    # Promises

    @invariant()
    def every_promise_is_kept(self) -> None:
        for customer in getattr(self, "customers", []):
            topups, taken = customer.topups(), self.captured(customer)
            self.at_most_one_is_in_flight(topups)
            self.one_purchase_has_one_payer(topups)
            self.limits_hold_in_every_window(topups, taken)
            self.a_key_used_by_hand_is_one_topup(topups)
            self.nothing_is_charged_twice_or_told_differently(customer, taken)
            self.no_credit_is_without_its_money(customer, taken)

    @staticmethod
    def at_most_one_is_in_flight(topups: list[Topup]) -> None:
        open_ones = [t for t in topups if t.kind == "auto" and t.status in limits.IN_FLIGHT]
        assert len(open_ones) <= 1

    @staticmethod
    def one_purchase_has_one_payer(topups: list[Topup]) -> None:
        """A card page or an automatic charge: whoever came second was refused."""
        payers = [str(t.purchase_id) for t in topups if t.purchase_id and t.status in pages.OPEN]
        payers += [
            str(t.trigger_reference)
            for t in topups
            if t.trigger == Trigger.PURCHASE and t.status in limits.IN_FLIGHT
        ]
        assert len(payers) == len(set(payers))

    @staticmethod
    def limits_hold_in_every_window(topups: list[Topup], taken: Payments) -> None:
        days: dict[Any, int] = defaultdict(int)
        months: dict[Any, int] = defaultdict(int)
        for topup in topups:
            counts = topup.status not in limits.RELEASED or topup.topup_id in taken
            if topup.kind == "auto" and counts:
                days[topup.created_at.date()] += topup.amount_micros
                months[topup.created_at.date().replace(day=1)] += topup.amount_micros
        assert all(used <= DAILY for used in days.values())
        assert all(used <= MONTHLY for used in months.values())

    @staticmethod
    def a_key_used_by_hand_is_one_topup(topups: list[Topup]) -> None:
        keys = [t.trigger_reference for t in topups if t.trigger == Trigger.BY_HAND]
        assert len(keys) == len(set(keys))

    def nothing_is_charged_twice_or_told_differently(
        self, customer: Customer, taken: Payments
    ) -> None:
        news = {(e["topup_id"], e["amount_micros"]) for e in customer.events("topup_paid")}
        told = {topup_id for topup_id, _ in news}
        assert len(news) == len(told), "told again, a payment is the same"
        assert all(len(payments) == 1 for payments in taken.values())
        assert {UUID(topup_id) for topup_id in told} <= set(taken)

    def no_credit_is_without_its_money(self, customer: Customer, taken: Payments) -> None:
        """Credits in the wallet's books ≤ money taken − refunds and disputes that we know of."""
        books = self.desk.wallet.entries
        credited = sum(
            entry.amount_micros
            for topup_id in taken
            if (entry := books.get(f"topup:{topup_id}")) is not None
        )
        known = customer.events("topup_reversed")
        taken_back = sum(event["amount_micros"] for event in known)
        given_again = sum(event["amount_micros"] for event in customer.events("topup_restored"))
        captured = sum(payment["amount"] for of in taken.values() for payment in of)
        went_back = self.went_back_cents([event["reversal_id"] for event in known])
        assert credited - taken_back + given_again <= from_cents(captured - went_back)

    def teardown(self) -> None:
        """When all has come to rest, every cent taken and not given back is credited."""
        if not hasattr(self, "customers"):
            return
        self.mend_the_processor()
        told: set[str] = set()
        for _ in range(14):
            self.desk.clock.set(self.desk.clock() + timedelta(hours=5))
            self.quietly(self.desk.sweep)
            news = [event for event in self.sandbox_events() if event["id"] not in told]
            for event in news:
                body = json.dumps(event)
                webhooks.receive(
                    self.desk.till, ReceiveWebhook(payload=body, signature=signed(body))
                )
            told.update(event["id"] for event in news)
            self.desk.drain()
            for customer in self.customers:
                self.settle_wallet(customer)
        for customer in self.customers:
            totals = self.desk.sandbox.totals(customer.customer_id)
            kept = totals["paid_cents"] - totals["refunded_cents"] - totals["disputed_cents"]
            # One that the wallet did not credit for a while is told again; it credits once.
            paid = {e["topup_id"]: e["amount_micros"] for e in customer.events("topup_paid")}
            credited = sum(paid.values())
            reversed_ = sum(event["amount_micros"] for event in customer.events("topup_reversed"))
            restored = sum(event["amount_micros"] for event in customer.events("topup_restored"))
            assert credited - reversed_ + restored == from_cents(kept)
            assert not {"unknown", "paid"} & set(customer.statuses())

    # How the other services behave

    def balance(self, customer: Customer) -> int:
        return self.desk.wallet.balances.get(customer.user_id, 0)

    def settle_wallet(self, customer: Customer) -> None:
        customer.credited()
        waiting = self.wanted[customer.user_id]
        for reference, price in list(waiting.items()):
            if self.balance(customer) >= price:
                self.desk.wallet.balances[customer.user_id] -= price
                customer.end_purchase(reference)
                del waiting[reference]

    def sandbox_events(self) -> list[dict[str, Any]]:
        """What the processor could tell of, the newest first."""
        with self.server.sandbox.store.lock:
            return json.loads(json.dumps(self.server.sandbox.store.newest("event")))

    def captured(self, customer: Customer) -> Payments:
        """The payments that the processor really took, by top-up."""
        found: Payments = defaultdict(list)
        with self.server.sandbox.store.lock:
            for payment in self.server.sandbox.store.newest("payment_intent"):
                about = payment["metadata"]
                is_theirs = about.get("user_id") == str(customer.user_id)
                if payment["status"] == "succeeded" and is_theirs:
                    found[UUID(about["topup_id"])].append(payment)
        return found

    def of_the_processor(self, kind: str, status: str) -> list[dict[str, Any]]:
        """The refunds or disputes that stand like this, newest first."""
        with self.server.sandbox.store.lock:
            found = self.server.sandbox.store.newest(kind)
            return [item for item in found if item["status"] == status]

    def went_back_cents(self, ids: list[str]) -> int:
        """What of these refunds and disputes is with the cards' owners now."""
        store = self.server.sandbox.store
        with store.lock:
            found = [store.find("refund", key) or store.find("dispute", key) for key in ids]
        return sum(item["amount"] for item in found if item["status"] not in ("failed", "won"))


@pytest.mark.timeout(3_600)
def test_a_long_random_life_keeps_every_promise(
    desk: Desk, sandbox_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    life: list[Life] = []

    def crash_point(name: str) -> None:
        if life:
            life[-1].crash_point(name)

    monkeypatch.setattr(charges, "crash_point", crash_point)
    monkeypatch.setattr(checkout, "crash_point", crash_point)
    monkeypatch.setattr(webhooks, "crash_point", crash_point)
    monkeypatch.setattr("services.topup.automatic.rule.crash_point", crash_point)

    class ThisLife(Life):
        server = sandbox_server

        def __init__(self) -> None:
            super().__init__()
            life.append(self)

        @staticmethod
        def desk_of() -> Desk:
            desk.queue.clear()
            desk.wallet.balances.clear()
            desk.wallet.entries.clear()
            empty(desk.till.database)
            return desk

    ThisLife.TestCase.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    ThisLife.TestCase("runTest").debug()
