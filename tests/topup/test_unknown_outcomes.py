"""Outcomes that are not known: never a second charge, never a lost one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.topup import RefusalCode, SetOperatorSwitch
from services.topup import switch
from services.topup.automatic import card_changes, terms
from services.topup.charging import charges
from services.topup.policy import Policy
from tests.topup.conftest import USD, Card, Customer, Desk, processor


def break_charges(desk: Desk, customer: Customer, kind: str, **more: object) -> None:
    desk.sandbox.switch(
        kind,
        match={"method": "POST", "path": "/v1/payment_intents", "customer": customer.customer_id},
        seconds=3,
        **more,
    )


@contextmanager
def soon_giving_up(desk: Desk) -> Iterator[None]:
    """Wait for the processor less long than its silence lasts."""
    patient = desk.till
    desk.till = replace(patient, processor=processor(desk.sandbox.url, read_timeout_s=2))
    yield
    desk.till = patient


def look(desk: Desk, minutes: float = 1.01) -> None:
    desk.clock.advance(minutes=minutes)
    desk.sweep()


@pytest.mark.parametrize("kind", ["timeout_before", "reset_before", "error_before"])
def test_a_charge_that_never_arrived_is_sent_again_under_the_same_key(
    desk: Desk, kind: str
) -> None:
    customer = desk.customer()
    break_charges(desk, customer, kind, keep=False)
    with soon_giving_up(desk):
        customer.ask()
    assert customer.statuses() == ["unknown"]

    look(desk)

    assert (customer.statuses(), customer.charge_count()) == (["paid"], 1)


@pytest.mark.parametrize("kind", ["timeout_after", "reset_after", "error_after"])
def test_a_charge_whose_answer_was_lost_is_found(desk: Desk, kind: str) -> None:
    customer = desk.customer()
    break_charges(desk, customer, kind)
    with soon_giving_up(desk):
        customer.ask()
    assert customer.statuses() == ["unknown"]

    look(desk)

    assert (customer.statuses(), customer.charge_count()) == (["paid"], 1)
    assert len(customer.events("topup_paid")) == 1


def test_a_payment_is_found_though_our_clock_is_hours_ahead(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_after")
    desk.sandbox.move_clock(desk.clock() - timedelta(hours=20))
    customer.ask()

    for minutes in (6, 25, 5, 2):
        look(desk, minutes)

    assert (customer.statuses(), customer.charge_count()) == (["paid"], 1)


def test_a_paid_topup_is_told_again_until_the_wallet_has_credited_it(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()

    look(desk, minutes=10.1)
    look(desk, minutes=10.1)
    customer.credited()
    look(desk, minutes=60)

    told = {event["topup_id"] for event in customer.events("topup_paid")}
    assert (len(customer.events("topup_paid")), len(told)) == (3, 1)
    # It was paid once, and that is when.
    assert len({event["occurred_at"] for event in customer.events("topup_paid")}) == 1
    assert len({event["event_id"] for event in customer.events("topup_paid")}) == 3
    assert (customer.statuses(), customer.charge_count()) == (["credited"], 1)


def test_unknown_stays_reserved_against_the_limits(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=100 * USD, monthly_limit_micros=100 * USD)
    break_charges(desk, customer, "reset_before")

    customer.ask()

    with desk.till.database.read() as session:
        status = terms.status(session, customer.user_id, desk.till.policy, desk.clock())
    assert status.daily_limit is not None
    assert status.monthly_limit is not None
    assert customer.statuses() == ["unknown"]
    assert (status.daily_limit.used_micros, status.monthly_limit.used_micros) == (
        25 * USD,
        25 * USD,
    )


def test_while_one_is_unknown_there_is_no_other(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_before", times=None)
    customer.ask()
    desk.sandbox.post("reset")

    desk.clock.advance(seconds=70)
    outcome = customer.ask()

    assert outcome.code == RefusalCode.IN_FLIGHT


def test_a_stored_500_is_given_up_after_the_processor_knows_of_no_payment(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "error_before", keep=True)
    customer.ask(needed_micros=5 * USD)

    for minutes in (1.1, 5, 5, 30):
        look(desk, minutes)

    first = customer.topups()[0]
    assert (first.status, first.failure_code) == ("failed", "not_charged")


def test_after_it_was_given_up_what_still_waits_is_charged_anew(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "error_before", keep=True)
    customer.ask(needed_micros=5 * USD)

    for minutes in (1.1, 5, 5, 30, 1, 1):
        look(desk, minutes)

    assert (customer.statuses(), customer.charge_count()) == (["failed", "paid"], 1)


@pytest.mark.parametrize(
    "policy", [Policy(janitor_delays=tuple(timedelta(minutes=n) for n in range(1, 9)))]
)
def test_what_was_looked_for_before_a_charge_was_sent_again_proves_nothing(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_before", times=None)
    customer.ask()

    for _ in range(5):
        look(desk, minutes=1)
    assert desk.clock() == customer.topups()[0].created_at + desk.till.policy.stale_after
    for expected in ("unknown", "unknown", "failed"):
        look(desk, minutes=4)

        assert customer.statuses()[0] == expected


def test_a_process_that_was_frozen_before_the_call_does_not_send_what_was_given_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = desk.customer()

    def freeze(point: str) -> None:
        """Others go on meanwhile: their call under this key does not arrive, they give it up."""
        if point != "topup.before_charge":
            return
        monkeypatch.undo()
        break_charges(desk, customer, "reset_before")
        for minutes in (1.01, 4, 30, 2, 2):
            look(desk, minutes)
        assert customer.statuses() == ["failed", "paid"]

    monkeypatch.setattr(charges, "crash_point", freeze)
    customer.ask(needed_micros=5 * USD)

    assert (customer.statuses(), customer.charge_count()) == (["failed", "paid"], 1)


@pytest.mark.parametrize(
    "policy", [Policy(janitor_delays=tuple(timedelta(minutes=n) for n in range(1, 9)))]
)
def test_nothing_is_given_up_while_another_process_may_still_send_it(
    desk: Desk, policy: Policy
) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_before")
    customer.ask(reference="purchase")
    customer.end_purchase("purchase")

    seen = []
    while desk.clock() < customer.topups()[0].created_at + policy.stale_after:
        seen += customer.statuses()
        look(desk)

    assert (set(seen), customer.statuses()) == ({"unknown"}, ["failed"])


def test_a_pause_that_began_and_ended_meanwhile_leaves_what_waits_to_be_charged(
    desk: Desk,
) -> None:
    customer = desk.customer(threshold_micros=0)
    break_charges(desk, customer, "error_before", keep=True)
    customer.ask(needed_micros=5 * USD)
    with desk.till.database.begin() as session:
        card_changes.remove(session, customer.user_id, customer.cards()[0], desk.clock())
    look(desk, minutes=6)
    customer.add_card(Card.MASTERCARD)

    for minutes in (0.2, 31, 1, 1):
        look(desk, minutes)

    (_, second) = customer.topups()
    assert (second.status, second.trigger) == ("paid", "purchase")


def test_an_hour_without_the_processor_charges_once_when_it_is_back(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.switch("reset_before", match={"customer": customer.customer_id}, times=None)
    customer.ask()
    for _ in range(12):
        look(desk, 5)
    assert customer.statuses() == ["unknown"]
    desk.sandbox.mend()

    for minutes in (130, 260, 1, 1):
        look(desk, minutes)

    assert customer.statuses() in (["paid"], ["failed", "paid"])
    assert customer.charge_count() == 1


def test_the_operators_switch_keeps_the_janitor_from_sending_again(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_before")
    customer.ask()
    with desk.till.database.begin() as session:
        command = SetOperatorSwitch(is_stopped=True, reason="Test", changed_by="tests")
        switch.turn(session, command, desk.clock())

    look(desk)

    assert (customer.statuses(), customer.charge_count()) == (["unknown"], 0)


def test_money_that_was_taken_after_we_gave_up_is_credited(desk: Desk) -> None:
    from services.topup import topups
    from services.topup.charging import outcomes

    customer = desk.customer()
    break_charges(desk, customer, "reset_after")
    customer.ask()
    (topup,) = customer.topups()
    with desk.till.database.begin() as session:
        row = topups.lock(session, topup.topup_id)
        topups.mark_failed(session, row, "not_charged", "Given up.", desk.clock())
    (payment,) = desk.till.processor.find_payments(customer.customer_id, str(topup.topup_id), 0)

    with desk.till.database.begin() as session:
        outcomes.record(session, desk.till.policy, topup.topup_id, payment, desk.clock())

    assert customer.statuses() == ["paid"]
