"""The charge: one, of the right amount, whatever happens around it."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import psycopg2
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from chassis.identifiers import new_id
from contracts.topup import RefusalCode, TopupKind, TopupStatus, Trigger
from services.topup import topups
from services.topup.automatic import triggers
from services.topup.automatic.rule import Refusal
from services.topup.charging import charges, janitor, outcomes
from services.topup.processor import Declined, Object, OutcomeUnknown, ProcessorError, Rejected
from tests.topup.conftest import NOON, USD, Card, Customer, Desk


def test_a_purchase_short_of_funds_charges_the_configured_amount_once(desk: Desk) -> None:
    customer = desk.customer()

    customer.ask(needed_micros=5 * USD)

    assert (customer.statuses(), customer.charged_cents()) == (["paid"], 2_500)


def test_a_purchase_that_says_all_is_charged_for_in_one_transaction_before_the_call(
    desk: Desk,
) -> None:
    customer = desk.customer()

    customer.lack(5 * USD)
    before = customer.statuses()
    desk.drain()

    assert (before, customer.statuses(), customer.charged_cents()) == (
        ["processing"],
        ["paid"],
        2_500,
    )


def test_a_charge_is_on_the_disk_before_it_goes_out_and_its_answer_may_be_asked_for_again(
    desk: Desk,
) -> None:
    customer = desk.customer()
    engine = desk.till.database.engine
    unhurried: list[bool] = []

    def note(connection: Connection) -> None:
        with connection.connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            unhurried.append(cursor.fetchall() == [("off",)])

    event.listen(engine, "commit", note)
    customer.lack(5 * USD)
    at_the_reservation = sum(unhurried)
    desk.drain()
    event.remove(engine, "commit", note)

    assert (customer.statuses(), at_the_reservation, sum(unhurried)) == (["paid"], 0, 1)


def test_a_charge_that_waited_for_its_turn_goes_out_all_the_same(desk: Desk) -> None:
    customer = desk.customer()
    customer.lack(5 * USD)

    desk.clock.advance(seconds=1)
    desk.drain()

    assert (customer.statuses(), customer.charge_count()) == (["paid"], 1)


def test_a_charge_that_waited_until_the_janitor_had_it_is_left_to_that(desk: Desk) -> None:
    customer = desk.customer()
    customer.lack(5 * USD)
    waiting = desk.queue.copy()
    desk.queue.clear()

    desk.clock.advance(seconds=61)
    with desk.till.database.begin() as session:
        janitor.DUE.take(session, desk.clock())
    desk.queue[:] = waiting
    desk.drain()

    assert (customer.statuses(), customer.charge_count()) == (["processing"], 0)


def test_a_charge_that_was_lost_between_its_reservation_and_the_call_is_made_once(
    desk: Desk,
) -> None:
    customer = desk.customer()
    customer.lack(5 * USD)
    desk.queue.clear()

    desk.clock.advance(seconds=61)
    desk.sweep()

    assert (customer.statuses(), customer.charge_count()) == (["paid"], 1)


@pytest.mark.parametrize(
    ("failure", "is_kept"),
    [
        (ValueError("for the test"), True),
        (OperationalError("SELECT", {}, psycopg2.OperationalError("the server went")), False),
    ],
    ids=["a fault", "a lost connection"],
)
def test_a_purchase_that_cannot_be_decided_about_at_once_is_charged_for_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, failure: Exception, is_kept: bool
) -> None:
    customer = desk.customer()

    with monkeypatch.context() as patch, nullcontext() if is_kept else pytest.raises(type(failure)):
        patch.setattr(charges, "_mark_sent", Mock(side_effect=failure))
        customer.lack(5 * USD)
    before = customer.statuses()
    desk.drain()

    assert (before, customer.charge_count()) == ([], int(is_kept))


def test_old_news_of_a_purchase_has_the_wallet_asked(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 8 * USD

    customer.lack(5 * USD, raised_at=desk.clock() - timedelta(minutes=7))
    desk.drain()

    assert customer.topups() == []


def test_one_charge_closes_the_whole_gap_rounded_up_to_a_cent(desk: Desk) -> None:
    customer = desk.customer()

    customer.ask(needed_micros=80 * USD + 1)

    assert customer.charged_cents() == 8_001


def test_the_event_says_what_was_paid_and_what_triggered_it(desk: Desk) -> None:
    customer = desk.customer()

    customer.ask(Trigger.PURCHASE, reference="purchase-7")

    (paid,) = customer.events("topup_paid")
    assert {
        "amount_micros": 25 * USD,
        "kind": "auto",
        "trigger": "purchase",
        "trigger_reference": "purchase-7",
        "threshold_micros": 10 * USD,
        "card_last4": "4242",
        "card_brand": "visa",
    }.items() <= paid.items()


def test_a_declined_card_fails_with_the_processors_code_and_a_sentence(desk: Desk) -> None:
    customer = desk.customer(Card.DECLINED_WHEN_CHARGED)

    customer.ask()

    (failed,) = customer.events("topup_failed")
    assert (failed["failure_code"], failed["message"]) == (
        "generic_decline",
        "Your bank declined the card. Use another card, or ask your bank why.",
    )


def test_a_low_balance_charges_when_it_is_still_low(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 9 * USD

    customer.ask(Trigger.LOW_BALANCE, available_micros=None)

    assert customer.charged_cents() == 2_500


def test_a_low_balance_that_has_risen_since_charges_nothing(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 11 * USD

    outcome = customer.ask(Trigger.LOW_BALANCE, available_micros=None)

    assert (outcome.code, customer.topups()) == (RefusalCode.NOT_NEEDED, [])


def test_an_idle_account_is_left_alone(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.idle.add(customer.user_id)

    outcome = customer.ask(Trigger.LOW_BALANCE, available_micros=None)

    assert (outcome.code, customer.topups()) == (RefusalCode.IDLE, [])


def test_a_gap_above_the_daily_limit_is_closed_by_the_amount_day_after_day(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=120 * USD, daily_limit_micros=60 * USD)
    customer.ask(Trigger.LOW_BALANCE, available_micros=None)
    days = [len(customer.topups())]
    for _ in range(3):
        for _ in range(6):
            customer.credited()
            desk.clock.advance(minutes=2)
            desk.sweep()
        days.append(len(customer.topups()))
        desk.clock.advance(days=1)

    assert days == [1, 2, 4, 5]
    assert {topup.amount_micros for topup in customer.topups()} == {25 * USD}


@pytest.mark.parametrize("held_up", ["idle", "frozen"])
def test_a_low_balance_of_an_idle_or_frozen_account_is_charged_once_that_has_passed(
    desk: Desk, held_up: str
) -> None:
    customer = desk.customer()
    holders = getattr(desk.wallet, held_up)
    holders.add(customer.user_id)
    customer.ask(Trigger.LOW_BALANCE, available_micros=None)

    holders.clear()
    desk.clock.advance(hours=24)
    desk.sweep()

    assert customer.statuses() == ["paid"]


def test_saving_the_settings_when_already_below_charges_at_once(desk: Desk) -> None:
    customer = desk.customer(enabled=False)

    customer.configure()
    desk.drain()

    assert (customer.statuses(), customer.topups()[0].trigger) == (["paid"], "settings_saved")


def test_a_trigger_older_than_five_minutes_reads_the_present_before_it_charges(
    desk: Desk,
) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 30 * USD
    raised = desk.clock()
    desk.clock.advance(minutes=6)

    outcome = customer.ask(needed_micros=5 * USD, raised_at=raised)

    assert (outcome.code, customer.topups()) == (RefusalCode.NOT_NEEDED, [])


def test_a_stale_trigger_whose_purchase_still_lacks_money_charges(desk: Desk) -> None:
    customer = desk.customer()
    raised = desk.clock()
    desk.clock.advance(minutes=6)

    customer.ask(needed_micros=5 * USD, raised_at=raised)

    assert customer.statuses() == ["paid"]


def test_a_second_trigger_in_flight_waits_and_then_finds_money_enough(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask(needed_micros=5 * USD, reference="first")
    second = customer.ask(needed_micros=5 * USD, reference="second")
    customer.credited()
    desk.wallet.balances[customer.user_id] -= 10 * USD
    customer.end_purchase("first")
    customer.end_purchase("second")

    desk.clock.advance(minutes=5)
    desk.sweep()

    assert isinstance(second, Refusal)
    assert (second.code, customer.statuses()) == (RefusalCode.IN_FLIGHT, ["credited"])


def test_what_still_lacks_money_after_the_cool_down_is_charged_then(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask(needed_micros=25 * USD, reference="first")
    customer.credited()
    desk.wallet.balances[customer.user_id] = 0
    customer.end_purchase("first")
    desk.clock.advance(seconds=1)
    outcome = customer.ask(needed_micros=40 * USD)
    assert outcome.code == RefusalCode.COOL_DOWN

    desk.clock.advance(seconds=61)
    desk.sweep()

    assert [topup.amount_micros for topup in customer.topups()] == [25 * USD, 40 * USD]


@pytest.mark.parametrize("times", [2, 5])
def test_charging_the_same_topup_again_charges_nothing(desk: Desk, times: int) -> None:

    customer = desk.customer()
    customer.ask()
    (topup,) = customer.topups()

    for _ in range(times):
        charges.send(desk.till, topup)
        charges.charge(desk.till, topup.topup_id)

    assert (customer.charge_count(), len(customer.events("topup_paid"))) == (1, 1)


def test_a_frozen_account_is_not_charged(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.frozen.add(customer.user_id)

    outcome = customer.ask(Trigger.BY_HAND, available_micros=None)

    assert (outcome.code, customer.topups()) == (RefusalCode.ACCOUNT_FROZEN, [])


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_month_that_a_frozen_wallet_does_not_pay_is_not_charged_for(
    desk: Desk, is_frozen: bool
) -> None:
    customer = desk.customer()
    if is_frozen:
        desk.wallet.frozen.add(customer.user_id)

    customer.lack_month(is_frozen=is_frozen)
    desk.drain()

    refused = [event["refusal_code"] for event in customer.events("auto_topup_refused")]
    assert (customer.charge_count(), refused) == ((0, ["account_frozen"]) if is_frozen else (1, []))


@pytest.mark.parametrize("is_credited", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        Declined("No.", "card_declined"),
        Declined("Who is it?", "authentication_required"),
        Rejected("No.", "resource_missing"),
        OutcomeUnknown("Silence.", "no_answer"),
        {"id": "pi_old", "status": "requires_payment_method"},
        {"id": "pi_old", "status": "requires_action"},
        {"id": "pi_old", "status": "canceled"},
    ],
    ids=str,
)
def test_no_late_answer_takes_back_that_it_was_paid(
    desk: Desk, answer: Object | ProcessorError, is_credited: bool
) -> None:
    customer = desk.customer()
    customer.ask()
    if is_credited:
        customer.credited()
    (topup,) = customer.topups()

    with desk.till.database.begin() as session:
        outcomes.record(session, desk.till.policy, topup.topup_id, answer, desk.clock())

    assert customer.statuses() == ["credited" if is_credited else "paid"]
    assert (customer.events("topup_failed"), customer.settings().declines) == ([], 0)


@pytest.mark.parametrize(
    ("status", "onward"),
    [
        (TopupStatus.PAID, {TopupStatus.PAID, TopupStatus.CREDITED}),
        (TopupStatus.CREDITED, {TopupStatus.CREDITED}),
    ],
)
def test_nothing_leads_back_from_paid(status: TopupStatus, onward: set[TopupStatus]) -> None:
    for other in set(TopupStatus) - onward:
        topup = topups.new(new_id(), TopupKind.AUTO, 25 * USD, "key", NOON)
        topup.status = status
        with pytest.raises(topups.IllegalMove):
            topups.move(topup, other, NOON)


def test_a_due_trigger_is_queued_once_while_the_workers_are_busy(desk: Desk) -> None:
    trigger_id = desk.customer().raise_trigger()

    queued = []
    for _ in range(8):
        with desk.till.database.begin() as session:
            queued += triggers.DUE.take(session, desk.clock())
        desk.clock.advance(seconds=1)

    assert queued == [trigger_id]


def charge_and_spend(desk: Desk, customer: Customer) -> Any:
    """One purchase that is short of funds, charged if it may be, and over."""
    outcome = customer.ask(reference="a purchase", raised_at=desk.clock())
    customer.credited()
    desk.wallet.balances[customer.user_id] = 0
    desk.clock.advance(minutes=2)
    return outcome


@pytest.mark.parametrize(
    "cap", [{"user_charges_per_hour_max": 2}, {"user_hourly_cap_micros": 50 * USD}]
)
def test_the_cap_of_an_hour_is_each_persons_own(desk: Desk, cap: dict[str, int]) -> None:
    desk.till = replace(desk.till, policy=replace(desk.till.policy, **cap))
    somebody, another = desk.customer(), desk.customer()
    for _ in range(2):
        charge_and_spend(desk, somebody)

    outcome = charge_and_spend(desk, somebody)
    charge_and_spend(desk, another)

    assert outcome.code == RefusalCode.SYSTEM_CAP
    assert (somebody.charge_count(), another.charge_count()) == (2, 1)


def test_the_monthly_limit_counts_the_days_before(desk: Desk) -> None:
    customer = desk.customer(monthly_limit_micros=50 * USD)
    for _ in range(2):
        charge_and_spend(desk, customer)
        desk.clock.advance(days=3)

    outcome = charge_and_spend(desk, customer)

    assert (outcome.code, customer.charge_count()) == (RefusalCode.MONTHLY_LIMIT, 2)
