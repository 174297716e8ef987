"""A long random life: purchases, declines, lost answers, crashes, webhooks in any order.

Hypothesis plays it step by step against the real rules, the real database and the sandbox, and
shrinks whatever breaks a promise to its shortest story. ``TOPUP_SIMULATION=200x20`` plays 200
stories of 20 steps. What is known to be worth reaching (:mod:`tests.topup.life_states`) is played
each time, and counted: most of it takes more luck than a random life has.
"""

import json
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from chassis.money import from_cents
from contracts.errors import ServiceError
from contracts.topup import ReceiveWebhook, SetOperatorSwitch, TopupKind, TopupStatus, Trigger
from deploy.stripe_sandbox.server import SandboxServer
from services.topup import switch, topups
from services.topup.automatic import card_changes, limits, pauses
from services.topup.cards import saved_cards
from services.topup.charging import charges, checkout, webhooks
from tests.patience import PATIENCE_S
from tests.topup.conftest import USD, Card, Customer, Desk, empty, signed
from tests.topup.life_states import STATES, Histories, Moment, Sight, sights

EXAMPLES, STEPS = map(int, os.environ.get("TOPUP_SIMULATION", "2x8").split("x"))

LEFT = 10 * USD
ROOM = ((30, 60), (30, 60), (300, 900))
"""Limits of a day and a month in dollars: often the second charge of a day, and the third of a
month, is one too many."""
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

REST_H = (1, 5, 5, 13, 13, 13, 20)
"""After these hours it is looked what is due, until all has come to rest."""

Act = tuple[Any, ...]
Acts = Sequence[Act]
Payments = dict[UUID, list[dict[str, Any]]]
"""Captured payments as the processor has them, by top-up."""

pick = st.integers(min_value=0, max_value=10_000)
acts = st.one_of(
    st.tuples(st.just("buy"), pick, st.integers(1, 60), st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("all_goes_well"), pick, st.integers(15, 28)),
    st.tuples(st.just("give_up_purchases"), pick),
    st.tuples(st.just("fall_below_the_threshold"), pick),
    # Two keys for a whole life, so that most of the time one is used again.
    st.tuples(st.just("ask_by_hand"), pick, st.sampled_from(["once", "again"])),
    st.tuples(st.just("save_settings"), pick, st.booleans(), st.sampled_from([10, 25, 50])),
    st.tuples(st.just("add_card"), pick, st.sampled_from(CARDS)),
    st.tuples(st.just("remove_card"), pick, pick),
    st.tuples(
        st.just("buy_credits_by_hand"),
        pick,
        st.sampled_from([10, 25]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.tuples(st.just("confirm_with_the_bank"), pick),
    st.tuples(
        st.just("break_the_processor"), st.sampled_from(FAULTS), st.booleans(), st.integers(1, 3)
    ),
    st.tuples(st.just("mend_the_processor")),
    st.tuples(st.just("change_the_cards_luck"), pick, st.sampled_from(BEHAVIOURS)),
    st.tuples(st.just("crash_in_the_middle"), st.integers(0, 4), pick),
    st.tuples(st.just("lose_all_work_in_memory")),
    st.tuples(st.just("turn_the_operators_switch"), st.booleans()),
    st.tuples(
        st.just("money_goes_back"),
        pick,
        st.none() | st.integers(1, 900),
        st.sampled_from(sorted(GOES_BACK)),
    ),
    st.tuples(st.just("an_inquiry_becomes_a_chargeback")),
    st.tuples(st.just("a_dispute_is_decided"), st.sampled_from(["won", "lost"])),
    st.tuples(st.just("a_refund_fails")),
    st.tuples(st.just("work"), pick),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("time_passes"), st.sampled_from(MOVES)),
    st.tuples(st.just("a_webhook_comes"), pick, st.integers(1, 2)),
    st.tuples(st.just("all_news_comes")),
    st.tuples(st.just("the_wallet_listens")),
)
"""A method of :class:`Life`, and what it is called with."""

SAME: Any = Ellipsis
"""In what follows something: the same person."""
CONFIRM, GIVE_UP = ("confirm_with_the_bank", SAME), ("give_up_purchases", SAME)
SWITCH_OFF, STOP_ALL = ("save_settings", SAME, False, 25), ("turn_the_operators_switch", True)
NEWS, SWEEP, CREDIT, WORK = ("all_news_comes",), ("sweep",), ("the_wallet_listens",), ("work", -1)
MINUTES, HOURS = ("time_passes", timedelta(minutes=2)), ("time_passes", timedelta(hours=26))
LACK = ("buy", SAME, 39, False, 0)
"""Somebody wants more than there is, and a charge is reserved if it may be."""
LOW = ("fall_below_the_threshold", SAME)
READY = ("all_is_ready", SAME)

follows = st.lists(
    st.sampled_from(
        [CONFIRM, GIVE_UP, SWITCH_OFF, STOP_ALL, NEWS, SWEEP, CREDIT, WORK, MINUTES, HOURS, LACK]
    ),
    max_size=4,
)


def _charge(luck: str, fault: str | None, crash_after: int | None, *then: Act) -> Act:
    return ("a_charge_is_due", SAME, [15], luck, fault, crash_after, then)


def _back(how: str, meanwhile: str, outcome: str) -> Act:
    return ("a_payment_goes_back_for_good_or_not", SAME, None, how, meanwhile, outcome, ())


GOOD, BAD, LOST, ASKS = BEHAVIOURS[1:2] + BEHAVIOURS[2:3] + BEHAVIOURS[4:5] + BEHAVIOURS[3:4]
KNOWN: dict[tuple[int, int], list[Act]] = {
    (300, 900): [
        _charge(GOOD, "reset_after", None, MINUTES, SWEEP, CREDIT),
        _charge(BAD, "reset_after", None, MINUTES, SWEEP),
        _charge(GOOD, None, 0, MINUTES, SWEEP, CREDIT),
        _charge(GOOD, None, 1, MINUTES, SWEEP, CREDIT),
        _charge(GOOD, None, 2, MINUTES, SWEEP, CREDIT),
        _charge(ASKS, None, None, NEWS, CONFIRM, NEWS, CREDIT),
        _charge(ASKS, None, None, NEWS, HOURS, SWEEP, HOURS, SWEEP),
        _charge(BAD, None, None, LACK),
        _charge(LOST, None, None, LACK),
        ("a_charge_is_due", SAME, [28, 28], GOOD, None, None, (CREDIT,)),
        *(READY, STOP_ALL, LACK),
        *(READY, LACK, STOP_ALL, WORK),
        *(READY, LACK, SWITCH_OFF, WORK),
        *(READY, LOW, WORK, SWITCH_OFF, WORK),
        *(READY, LACK, GIVE_UP, WORK, CREDIT),
        *(READY, LACK, LACK),
        ("a_page_is_opened_for_what_falls_short", SAME, 20, False, True, (NEWS, CREDIT)),
        ("a_page_is_opened_for_what_falls_short", SAME, 20, True, True, (NEWS, CREDIT)),
        ("a_page_is_opened_for_what_falls_short", SAME, 20, True, False, (SWEEP, NEWS)),
        *(_back("refund", meanwhile, "fails") for meanwhile in ("", "paused", "charged")),
        _back("dispute", "charged", "won"),
        _back("inquiry", "", "lost"),
    ],
    (30, 60): [
        ("all_goes_well", SAME, 20),
        *(MINUTES, LACK),
        ("all_goes_well", SAME, 20),
        *(READY, LACK),
    ],
}
"""What once was a fault, or may become one, by the limits of a day and a month in dollars."""


class Crash(Exception):
    """The process dies here; what follows never happened."""


class Life(RuleBasedStateMachine):
    """``desk_of`` is set by the fixture: a fresh desk for each story."""

    server: ClassVar[SandboxServer]
    desk_of: Callable[[], Desk]
    seen: ClassVar[Counter[str]]
    """How often the stories came to each state that is known."""

    @initialize(good_days=st.integers(min_value=0, max_value=2), room=st.sampled_from(ROOM))
    def begin(self, good_days: int, room: tuple[int, int]) -> None:
        """Two good days leave a month's limit with less than one charge."""
        self.daily_micros, self.monthly_micros = (dollars * USD for dollars in room)
        self.desk = type(self).desk_of()
        self.desk.sandbox.post("reset")
        self.desk.clock.set(datetime.fromisoformat("2027-03-20T22:00:00+00:00"))
        self.is_stopped = False
        self.enabled: dict[UUID, bool] = {}
        self.wanted: dict[UUID, dict[str, int]] = defaultdict(dict)
        self.crash_after: int | None = None
        self.has_crashed = False
        self.cut_short: set[UUID] = set()
        self.told: set[str] = set()
        self.was: Histories = defaultdict(set)
        self.sight: dict[UUID, Sight] = defaultdict(Sight)
        self.watch_the_door()
        self.customers = [self.new_customer() for _ in range(2)]
        for _ in range(good_days):
            for who in range(len(self.customers)):
                self.all_goes_well(who, 26)
            self.time_passes(timedelta(hours=20))

    def new_customer(self) -> Customer:
        customer = self.desk.customer(
            enabled=True,
            daily_limit_micros=self.daily_micros,
            monthly_limit_micros=self.monthly_micros,
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
                self.has_crashed = True
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
        customer.lack(
            price,
            reference=reference,
            raised_at=raised_at,
            available_micros=held,
            total_shortfall_micros=sum(self.wanted[customer.user_id].values()) - held,
        )
        for _ in range(steps):
            self.work(-1)

    def all_goes_well(self, who: int, dollars: int) -> None:
        """A good day, which is what it takes to come near the limits."""
        self.all_is_ready(who)
        self.buy(who, dollars, late=False, steps=2)
        self.the_wallet_listens()

    def all_is_ready(self, who: int) -> None:
        """Another day: nothing is under way, and nothing keeps a charge from being made."""
        customer = self.customer(who)
        self.mend_the_processor()
        if self.is_stopped:
            self.turn_the_operators_switch(is_stopped=False)
        self.change_the_cards_luck(who, "pm_card_visa")
        self.give_up_purchases(who)
        for _ in range(2):
            self.time_passes(timedelta(hours=13))
            self.sweep()
            self.settle_wallet(customer)
        # Not below the threshold: what is bought next is the first that asks for a charge.
        self.desk.wallet.balances[customer.user_id] = LEFT
        if customer.settings().paused_code in pauses.A_NEW_CARD_HELPS:
            self.add_card(who, Card.GOOD)
        self.save_settings(who, enabled=True, dollars=25)

    @rule(
        who=pick,
        prices=st.lists(st.integers(min_value=11, max_value=28), min_size=1, max_size=2),
        luck=st.sampled_from(BEHAVIOURS),
        fault=st.none() | st.sampled_from(FAULTS),
        crash_after=st.none() | st.integers(min_value=0, max_value=3),
        then=follows,
    )
    def a_charge_is_due(
        self,
        who: int,
        prices: list[int],
        luck: str,
        fault: str | None,
        crash_after: int | None,
        then: Acts,
    ) -> None:
        """And goes as the card, the processor and the process will have it."""
        self.all_is_ready(who)
        self.change_the_cards_luck(who, luck)
        for dollars in prices:
            self.buy(who, dollars, late=len(prices) > 1, steps=0)
        if len(prices) > 1:
            # The wallet is asked what there is: one charge is reserved for both.
            self.work(-1)
        if fault is not None:
            self.desk.sandbox.switch(fault, match={"path": "/v1/payment_intents"}, times=1)
        if crash_after is None:
            self.work(-1)
        else:
            self.crash_in_the_middle(crash_after, -1)
        self.every_promise_is_kept()
        self.and_then(who, then)

    @rule(chosen=st.lists(acts, min_size=1, max_size=6))
    def anything_happens(self, chosen: Acts) -> None:
        self.and_then(0, chosen)

    def and_then(self, who: int, chosen: Acts) -> None:
        for name, *arguments in chosen:
            # What happens at the very moment of its reservation, a charge need not see.
            self.desk.clock.advance(seconds=1)
            getattr(self, name)(*(who if given is Ellipsis else given for given in arguments))
            self.every_promise_is_kept()

    @rule(
        who=pick,
        dollars=st.integers(min_value=11, max_value=28),
        ends=st.booleans(),
        pays=st.booleans(),
        then=follows,
    )
    def a_page_is_opened_for_what_falls_short(
        self, who: int, dollars: int, ends: bool, pays: bool, then: Acts
    ) -> None:
        self.all_is_ready(who)
        self.buy(who, dollars, late=True, steps=0)
        self.buy_credits_by_hand(who, 25, save=False, pays=False, for_purchase=True)
        self.work(-1)
        self.every_promise_is_kept()
        if ends:
            self.give_up_purchases(who)
        if pays:
            self.pay_what_is_open(who)
        self.and_then(who, then)

    def pay_what_is_open(self, who: int) -> None:
        for topup in self.customer(who).topups():
            if (
                topup.kind == TopupKind.MANUAL
                and topup.status in topups.PAYABLE
                and topup.session_id
            ):
                self.at_the_processor(f"checkout/{topup.session_id}/pay", number=Card.GOOD)

    @rule(
        who=pick,
        cents=st.none() | st.integers(min_value=1, max_value=900),
        how=st.sampled_from(sorted(GOES_BACK)),
        meanwhile=st.sampled_from(["", "paused", "charged"]),
        outcome=st.sampled_from(["", "won", "lost", "fails"]),
        then=follows,
    )
    def a_payment_goes_back_for_good_or_not(
        self, who: int, cents: int | None, how: str, meanwhile: str, outcome: str, then: Acts
    ) -> None:
        self.all_goes_well(who, 20)
        self.all_is_ready(who)
        if meanwhile:
            luck = "pm_card_chargeDeclinedLostCard" if meanwhile == "paused" else "pm_card_visa"
            self.change_the_cards_luck(who, luck)
            self.buy(who, 19, late=False, steps=1 if meanwhile == "paused" else 0)
            self.every_promise_is_kept()
        self.money_goes_back(who, cents, how)
        self.all_news_comes()
        self.every_promise_is_kept()
        if how == "inquiry":
            self.an_inquiry_becomes_a_chargeback()
            self.all_news_comes()
            self.every_promise_is_kept()
        if outcome == "fails":
            self.a_refund_fails()
        elif outcome:
            self.a_dispute_is_decided(outcome)
        self.all_news_comes()
        self.every_promise_is_kept()
        self.and_then(who, then)

    def give_up_purchases(self, who: int) -> None:
        customer = self.customer(who)
        for reference in self.wanted.pop(customer.user_id, {}):
            customer.end_purchase(reference)

    def fall_below_the_threshold(self, who: int) -> None:
        customer = self.customer(who)
        self.desk.wallet.balances[customer.user_id] = min(self.balance(customer), 3 * USD)
        trigger_id = customer.raise_trigger(Trigger.LOW_BALANCE, 0, available_micros=None)
        if trigger_id is not None:
            self.desk.queue.append((charges.pursue, (self.desk.till, trigger_id)))

    def ask_by_hand(self, who: int, key: str) -> None:
        customer = self.customer(who)
        trigger_id = customer.raise_trigger(
            Trigger.BY_HAND, 0, reference=key, available_micros=None
        )
        if trigger_id is not None:
            self.quietly(charges.pursue, self.desk.till, trigger_id)

    def save_settings(self, who: int, enabled: bool, dollars: int) -> None:
        customer = self.customer(who)
        self.enabled[customer.user_id] = enabled
        try:
            customer.configure(
                enabled=enabled,
                topup_amount_micros=dollars * USD,
                daily_limit_micros=self.daily_micros,
                monthly_limit_micros=self.monthly_micros,
            )
        except ServiceError:
            self.enabled[customer.user_id] = customer.settings().is_enabled

    def add_card(self, who: int, number: str) -> None:
        self.quietly(self.customer(who).add_card, number)

    def remove_card(self, who: int, which: int) -> None:
        customer = self.customer(who)
        saved = customer.cards()
        if len(saved) > 1:
            card = saved[which % len(saved)]
            with self.desk.till.database.begin() as session:
                card_changes.remove(session, customer.user_id, card, self.desk.clock())
            self.quietly(saved_cards.detach, self.desk.till, card)

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

    def confirm_with_the_bank(self, who: int) -> None:
        for topup in self.customer(who).topups():
            if topup.status == TopupStatus.ACTION_REQUIRED and topup.session_id:
                self.at_the_processor(f"checkout/{topup.session_id}/pay", number=Card.GOOD)

    # What goes wrong

    def break_the_processor(self, kind: str, keep: bool, times: int) -> None:
        self.desk.sandbox.switch(kind, match={"path": "/v1/*"}, keep=keep, times=times)

    def mend_the_processor(self) -> None:
        self.desk.sandbox.mend()

    def change_the_cards_luck(self, who: int, name: str) -> None:
        for card in self.customer(who).cards():
            self.desk.sandbox.behave(card, name)

    def crash_in_the_middle(self, steps: int, which: int) -> None:
        if self.desk.queue:
            self.crash_after = steps
            self.work(which)

    def lose_all_work_in_memory(self) -> None:
        self.desk.queue.clear()

    def turn_the_operators_switch(self, is_stopped: bool) -> None:
        self.is_stopped = is_stopped
        command = SetOperatorSwitch(is_stopped=is_stopped, reason="drill", changed_by="tests")
        with self.desk.till.database.begin() as session:
            switch.turn(session, command, self.desk.clock())

    def money_goes_back(self, who: int, cents: int | None, how: str) -> None:
        """Or an inquiry asks about it, which takes nothing. The processor may refuse it."""
        paid = [t for t in self.customer(who).topups() if t.status == TopupStatus.CREDITED]
        if paid:
            kind, body = GOES_BACK[how]
            body = body if cents is None else {**body, "amount": cents}
            self.at_the_processor(f"charges/{paid[-1].payment_id}/{kind}", **body)

    def an_inquiry_becomes_a_chargeback(self) -> None:
        for inquiry in self.of_the_processor("dispute", "warning_needs_response")[:1]:
            self.desk.sandbox.post(f"disputes/{inquiry['id']}/escalate")

    def a_dispute_is_decided(self, outcome: str) -> None:
        for dispute in self.of_the_processor("dispute", "needs_response"):
            self.desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome=outcome)

    def a_refund_fails(self) -> None:
        for refund in self.of_the_processor("refund", "succeeded")[:1]:
            self.desk.sandbox.post(f"refunds/{refund['id']}/fail")

    # What time and the timers do

    def work(self, which: int) -> None:
        if self.desk.queue:
            work, arguments = self.desk.queue.pop(which % len(self.desk.queue))
            self.quietly(work, *arguments)

    def sweep(self) -> None:
        self.quietly(self.desk.sweep)

    def time_passes(self, move: timedelta) -> None:
        self.desk.clock.set(self.desk.clock() + move)

    def a_webhook_comes(self, which: int, times: int) -> None:
        events = self.sandbox_events()
        if events:
            body = events[which % min(len(events), 100)]
            for _ in range(times):
                request = ReceiveWebhook(payload=body, signature=signed(body))
                self.quietly(webhooks.receive, self.desk.till, request)

    def all_news_comes(self) -> None:
        """What the processor has not told of yet, in the order in which it happened."""
        for body in reversed(self.sandbox_events()):
            if body not in self.told:
                self.told.add(body)
                request = ReceiveWebhook(payload=body, signature=signed(body))
                self.quietly(webhooks.receive, self.desk.till, request)
        while self.desk.queue:
            self.work(0)

    def the_wallet_listens(self) -> None:
        for customer in self.customers:
            self.settle_wallet(customer)

    # Promises

    @invariant()
    def every_promise_is_kept(self) -> None:
        if not hasattr(self, "customers"):
            return
        before, self.sight = self.sight, self.look()
        for customer in self.customers:
            sight, taken = self.sight[customer.user_id], self.captured(customer)
            self.count_states(before[customer.user_id], sight)
            self.at_most_one_is_in_flight(sight)
            self.one_purchase_has_one_payer(sight)
            self.limits_hold_in_every_window(sight, taken)
            self.a_key_used_by_hand_is_one_topup(sight)
            self.nothing_is_charged_twice_or_told_differently(sight, taken)
            self.no_credit_is_without_its_money(sight, taken)
        self.has_crashed = False

    def look(self) -> dict[UUID, Sight]:
        with self.desk.till.database.read() as session:
            return sights(session, [customer.user_id for customer in self.customers])

    def count_states(self, before: Sight, after: Sight) -> None:
        if self.has_crashed:
            self.cut_short.update(topup.topup_id for topup in after.in_flight)
        moment = Moment(before, after, self.was, self.cut_short)
        for state in [name for name, is_reached in STATES.items() if is_reached(moment)]:
            self.seen[state] += 1
        for topup in after.topups:
            self.was[topup.topup_id].add(topup.status)

    @staticmethod
    def at_most_one_is_in_flight(sight: Sight) -> None:
        assert len(sight.in_flight) <= 1

    @staticmethod
    def one_purchase_has_one_payer(sight: Sight) -> None:
        """A card page or an automatic charge: whoever came second was refused."""
        payers = [
            str(t.purchase_id) for t in sight.topups if t.purchase_id and t.status in topups.PAYABLE
        ]
        payers += [
            str(t.trigger_reference) for t in sight.in_flight if t.trigger == Trigger.PURCHASE
        ]
        assert len(payers) == len(set(payers))

    def limits_hold_in_every_window(self, sight: Sight, taken: Payments) -> None:
        days: dict[Any, int] = defaultdict(int)
        months: dict[Any, int] = defaultdict(int)
        for topup in sight.topups:
            counts = topup.status not in limits.RELEASED or topup.topup_id in taken
            if topup.kind == TopupKind.AUTO and counts:
                days[topup.created_at.date()] += topup.amount_micros
                months[topup.created_at.date().replace(day=1)] += topup.amount_micros
        assert all(used <= self.daily_micros for used in days.values())
        assert all(used <= self.monthly_micros for used in months.values())

    @staticmethod
    def a_key_used_by_hand_is_one_topup(sight: Sight) -> None:
        keys = [t.trigger_reference for t in sight.topups if t.trigger == Trigger.BY_HAND]
        assert len(keys) == len(set(keys))

    @staticmethod
    def nothing_is_charged_twice_or_told_differently(sight: Sight, taken: Payments) -> None:
        news = {(e["topup_id"], e["amount_micros"]) for e in sight.events["topup_paid"]}
        told = {topup_id for topup_id, _ in news}
        assert len(news) == len(told), "told again, a payment is the same"
        assert all(len(payments) == 1 for payments in taken.values())
        assert {UUID(topup_id) for topup_id in told} <= set(taken)

    def no_credit_is_without_its_money(self, sight: Sight, taken: Payments) -> None:
        """Credits in the wallet's books ≤ money taken − refunds and disputes that we know of."""
        books = self.desk.wallet.entries
        credited = sum(
            entry.amount_micros
            for topup_id in taken
            if (entry := books.get(f"topup:{topup_id}")) is not None
        )
        known = sight.events["topup_reversed"]
        taken_back = sum(event["amount_micros"] for event in known)
        given_again = sum(event["amount_micros"] for event in sight.events["topup_restored"])
        captured = sum(payment["amount"] for of in taken.values() for payment in of)
        went_back = self.went_back_cents([event["reversal_id"] for event in known])
        assert credited - taken_back + given_again <= from_cents(captured - went_back)

    def teardown(self) -> None:
        """When all has come to rest, every cent taken and not given back is credited."""
        if not hasattr(self, "customers"):
            return
        self.mend_the_processor()
        self.told.clear()
        for hours in REST_H:
            self.time_passes(timedelta(hours=hours))
            self.sweep()
            self.all_news_comes()
            self.the_wallet_listens()
        self.every_promise_is_kept()
        for customer in self.customers:
            totals = self.desk.sandbox.totals(customer.customer_id)
            kept = totals["paid_cents"] - totals["refunded_cents"] - totals["disputed_cents"]
            sight = self.sight[customer.user_id]
            # One that the wallet did not credit for a while is told again; it credits once.
            paid = {e["topup_id"]: e["amount_micros"] for e in sight.events["topup_paid"]}
            credited = sum(paid.values())
            reversed_ = sum(event["amount_micros"] for event in sight.events["topup_reversed"])
            restored = sum(event["amount_micros"] for event in sight.events["topup_restored"])
            assert credited - reversed_ + restored == from_cents(kept)
            assert not {"unknown", "paid"} & {topup.status for topup in sight.topups}

    # How the other services behave

    def at_the_processor(self, path: str, **body: Any) -> None:
        """What a person or a bank does there, which it may refuse."""
        self.desk.sandbox.session.post(
            f"{self.desk.sandbox.url}/_sandbox/{path}", json=body, timeout=PATIENCE_S
        )

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

    def sandbox_events(self) -> list[str]:
        """What the processor could tell of, the newest first."""
        with self.server.sandbox.store.lock:
            return [json.dumps(told) for told in self.server.sandbox.store.newest("event")]

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


@pytest.fixture
def life(desk: Desk, sandbox_server: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> type[Life]:
    lives: list[Life] = []

    def crash_point(name: str) -> None:
        if lives:
            lives[-1].crash_point(name)

    monkeypatch.setattr(charges, "crash_point", crash_point)
    monkeypatch.setattr(checkout, "crash_point", crash_point)
    monkeypatch.setattr(webhooks, "crash_point", crash_point)
    monkeypatch.setattr("services.topup.automatic.rule.crash_point", crash_point)

    class LifeHere(Life):
        server = sandbox_server
        seen: ClassVar[Counter[str]] = Counter()

        def __init__(self) -> None:
            super().__init__()
            lives.append(self)

        @staticmethod
        def desk_of() -> Desk:
            desk.queue.clear()
            desk.wallet.balances.clear()
            desk.wallet.entries.clear()
            empty(desk.till.database)
            return desk

    return LifeHere


@pytest.mark.timeout(3_600)
def test_what_is_known_to_happen_keeps_every_promise(life: type[Life]) -> None:
    for room, story in KNOWN.items():
        this = life()
        this.begin(good_days=0, room=room)
        this.and_then(0, story)
        this.teardown()

    assert " / ".join(state for state in STATES if not life.seen[state]) == ""


@pytest.mark.timeout(3_600)
def test_a_long_random_life_keeps_every_promise(life: type[Life]) -> None:
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
