"""What comes between the reservation of a charge and the call to the processor stops the call."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from contracts.topup import RefusalCode
from services.topup.automatic import card_changes, triggers
from services.topup.charging import charges, checkout, outcomes
from tests.topup.conftest import USD, Card, Customer, Desk
from tests.topup.test_unknown_outcomes import break_charges, look

PURCHASE = "01890a5d-ac96-774b-bcce-b302099a8057"


def the_purchase_ends(_desk: Desk, customer: Customer) -> None:
    customer.end_purchase(PURCHASE)


def its_card_is_removed(desk: Desk, customer: Customer) -> None:
    with desk.till.database.begin() as session:
        card_changes.remove(session, customer.user_id, customer.cards()[0], desk.clock())


def the_limit_is_lowered(_desk: Desk, customer: Customer) -> None:
    first, backup = customer.cards()
    customer.configure(
        topup_amount_micros=5 * USD,
        daily_limit_micros=5 * USD,
        payment_method_id=first,
        backup_payment_method_id=backup,
    )


def credits_are_bought_by_hand(desk: Desk, customer: Customer) -> None:
    topup = customer.start_topup()
    page = next(t.session_id for t in customer.topups() if t.topup_id == topup.topup_id)
    desk.sandbox.pay(str(page))
    checkout.settle_session(desk.till, str(page))


MEANWHILE = (
    the_purchase_ends,
    its_card_is_removed,
    the_limit_is_lowered,
    credits_are_bought_by_hand,
)


@pytest.fixture
def customer(desk: Desk) -> Customer:
    """Somebody with two cards and a daily limit of 100 USD."""
    customer = desk.customer(enabled=False)
    first, backup = customer.cards()[0], customer.add_card(Card.MASTERCARD)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(
        payment_method_id=first, backup_payment_method_id=backup, daily_limit_micros=100 * USD
    )
    desk.wallet.balances[customer.user_id] = 0
    return customer


def reserve(desk: Desk, customer: Customer) -> None:
    trigger_id = customer.raise_trigger(needed_micros=90 * USD, reference=PURCHASE)
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)


def payments_of_first(desk: Desk, customer: Customer) -> list[str]:
    """What the processor has of the first top-up."""
    topup_id = str(customer.topups()[0].topup_id)
    found = desk.till.processor.find_payments(customer.customer_id, topup_id, 0)
    return [payment["status"] for payment in found]


@pytest.mark.parametrize("happens", MEANWHILE)
def test_a_reserved_charge_does_not_go_out_after(
    desk: Desk, customer: Customer, happens: Callable[[Desk, Customer], None]
) -> None:
    reserve(desk, customer)
    waiting = desk.queue.copy()

    happens(desk, customer)
    desk.queue[:] = waiting
    desk.drain()

    assert (customer.statuses()[0], payments_of_first(desk, customer)) == ("cancelled", [])


@pytest.mark.parametrize("happens", MEANWHILE)
def test_a_charge_that_waited_for_its_turn_does_not_go_out_after(
    desk: Desk, customer: Customer, happens: Callable[[Desk, Customer], None]
) -> None:
    customer.lack(90 * USD, reference=PURCHASE)
    waiting = desk.queue.copy()

    happens(desk, customer)
    desk.clock.advance(seconds=1)
    desk.queue[:] = waiting
    desk.drain()

    assert (customer.statuses()[0], payments_of_first(desk, customer)) == ("cancelled", [])


@pytest.mark.parametrize("happens", MEANWHILE)
def test_a_charge_that_never_arrived_is_not_sent_again_after(
    desk: Desk, customer: Customer, happens: Callable[[Desk, Customer], None]
) -> None:
    reserve(desk, customer)
    break_charges(desk, customer, "reset_before")
    desk.drain()
    assert customer.statuses() == ["unknown"]

    happens(desk, customer)
    for minutes in (1.01, 4, 30):
        look(desk, minutes)

    first = customer.topups()[0]
    assert (first.status, first.failure_code) == ("failed", "not_charged")
    assert payments_of_first(desk, customer) == []


def test_a_purchase_that_ended_is_not_decided_about_again(desk: Desk, customer: Customer) -> None:
    reserve(desk, customer)
    the_purchase_ends(desk, customer)
    desk.drain()

    look(desk, minutes=2)

    assert (customer.statuses(), customer.events("auto_topup_refused")) == (["cancelled"], [])


def test_the_backup_card_is_charged_instead_of_the_removed_one(
    desk: Desk, customer: Customer
) -> None:
    backup = customer.cards()[1]
    reserve(desk, customer)
    its_card_is_removed(desk, customer)
    desk.drain()

    look(desk, minutes=2)

    last = customer.topups()[-1]
    assert (last.status, last.payment_method_id) == ("paid", backup)
    assert customer.charge_count() == 1


def test_a_limit_that_was_lowered_is_the_one_that_counts(desk: Desk, customer: Customer) -> None:
    reserve(desk, customer)
    waiting = desk.queue.copy()
    the_limit_is_lowered(desk, customer)
    desk.queue[:] = waiting
    desk.drain()

    look(desk, minutes=2)
    customer.credited()
    look(desk, minutes=2)

    assert (customer.statuses(), customer.charged_cents()) == (["cancelled", "credited"], 500)
    assert "daily_limit" in [e["refusal_code"] for e in customer.events("auto_topup_refused")]


ALL = 20 * USD
"""What two months cost. The first of them is told by itself, the other one with all that is due."""


def tells_all(desk: Desk, customer: Customer, asked_at: datetime | None = None) -> None:
    """As another billing does, that asked the wallet in the same moment or in this one."""
    customer.lack_month(ALL, occurred_at=asked_at or desk.clock())


def money_comes(desk: Desk, customer: Customer) -> None:
    """From the card, and both months take it: nobody tells of them again."""
    desk.drain()
    desk.clock.advance(seconds=1)
    customer.credited()
    desk.wallet.balances[customer.user_id] -= ALL
    desk.clock.advance(seconds=1)


def told_before_it_is_charged(desk: Desk, customer: Customer) -> None:
    tells_all(desk, customer)
    money_comes(desk, customer)


def told_while_it_is_on_its_way(desk: Desk, customer: Customer) -> None:
    desk.drain()
    desk.clock.advance(seconds=0.1)
    tells_all(desk, customer)
    money_comes(desk, customer)


def heard_when_it_has_come(desk: Desk, customer: Customer) -> None:
    asked_at = desk.clock()
    money_comes(desk, customer)
    tells_all(desk, customer, asked_at)


def heard_when_it_has_come_and_asked_on_its_way(desk: Desk, customer: Customer) -> None:
    desk.drain()
    asked_at = desk.clock.advance(seconds=0.1)
    money_comes(desk, customer)
    tells_all(desk, customer, asked_at)


@pytest.mark.parametrize(
    "comes_second",
    [
        told_before_it_is_charged,
        told_while_it_is_on_its_way,
        heard_when_it_has_come,
        heard_when_it_has_come_and_asked_on_its_way,
    ],
)
def test_of_two_that_are_refused_in_one_moment_the_card_is_charged_once(
    desk: Desk, comes_second: Callable[[Desk, Customer], None]
) -> None:
    customer = desk.customer()
    customer.lack_month(ALL // 2)
    desk.clock.advance(seconds=0.1)

    comes_second(desk, customer)
    for _ in range(5):
        desk.sweep()
        desk.clock.advance(minutes=1)

    assert [topup.amount_micros for topup in customer.topups()] == [25 * USD]


def test_credits_of_others_end_what_a_month_lacked_before(desk: Desk) -> None:
    """It waited for its limit: by then the month is paid, or its shortage is told again."""
    customer = desk.customer(daily_limit_micros=25 * USD)
    customer.lack_month(30 * USD)
    assert [each["refusal_code"] for each in customer.events("auto_topup_refused")] == [
        RefusalCode.DAILY_LIMIT
    ]

    came_at = desk.clock.advance(minutes=1)
    with desk.till.database.begin() as session:
        assert triggers.await_credit(session, [customer.user_id]) == [True]
        outcomes.credited(session, customer.credit(), came_at)
    desk.clock.advance(days=1)
    desk.sweep()

    assert customer.topups() == []


def test_what_still_lacks_money_when_some_has_come_is_charged_for(desk: Desk) -> None:
    customer = desk.customer()
    customer.lack_month(30 * USD)
    desk.drain()
    desk.clock.advance(seconds=1)
    customer.credited()

    customer.lack_month(40 * USD)
    desk.clock.advance(minutes=2)
    desk.wallet.balances[customer.user_id] = 0
    desk.sweep()

    assert [topup.amount_micros // USD for topup in customer.topups()] == [30, 40]


APART = [timedelta(seconds=each) for each in (-300, -30, -1, 0, 1, 30, 300)]
"""So much is billing's clock ahead of ours, or behind."""


def tells(desk: Desk, customer: Customer, micros: int, entry_count: int, apart: timedelta) -> None:
    now = desk.clock() + apart
    customer.lack_month(micros, occurred_at=now, counted_at=now, entry_count=entry_count)


def lives(desk: Desk) -> None:
    for _ in range(5):
        desk.drain()
        desk.clock.advance(minutes=1)
        desk.sweep()


@pytest.mark.parametrize("apart", APART)
def test_what_lacked_money_before_some_came_is_not_charged_for_by_whichever_clock(
    desk: Desk, apart: timedelta
) -> None:
    """Whether it is heard before that, and waits for a limit, or after."""
    for is_heard_before in (True, False):
        customer = desk.customer(daily_limit_micros=25 * USD)
        if is_heard_before:
            tells(desk, customer, 40 * USD, entry_count=4, apart=apart)
        credits_are_bought_by_hand(desk, customer)
        customer.credited(entry_number=5)
        desk.wallet.balances[customer.user_id] = 10 * USD
        if not is_heard_before:
            tells(desk, customer, 40 * USD, entry_count=4, apart=apart)
        customer.configure(daily_limit_micros=None)
        lives(desk)

        assert [each.kind for each in customer.topups()] == ["manual"]


@pytest.mark.parametrize("apart", APART)
def test_what_lacks_money_after_some_came_is_charged_for_by_whichever_clock(
    desk: Desk, apart: timedelta
) -> None:
    """Whichever of both is heard first."""
    for is_credit_first in (True, False):
        customer = desk.customer()
        tells(desk, customer, 30 * USD, entry_count=4, apart=apart)
        desk.drain()
        # What seems to be late waits that long.
        desk.clock.advance(seconds=5)
        desk.sweep()
        if is_credit_first:
            customer.credited(entry_number=5)
        desk.clock.advance(seconds=0.1)
        tells(desk, customer, 40 * USD, entry_count=5, apart=apart)
        desk.drain()
        if not is_credit_first:
            customer.credited(entry_number=5)
        desk.wallet.balances[customer.user_id] = 0
        lives(desk)

        assert [each.amount_micros // USD for each in customer.topups()] == [30, 40]


def test_credits_that_were_paid_by_a_clock_that_is_behind_are_asked_of_the_wallet(
    desk: Desk,
) -> None:
    """A purchase tells no entry: up to 30 seconds between two clocks are borne."""
    customer = desk.customer(enabled=False)
    credits_are_bought_by_hand(desk, customer)
    customer.credited()
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure()
    desk.drain()
    desk.wallet.balances[customer.user_id] = 25 * USD
    paid_at = desk.clock()
    desk.clock.advance(seconds=10)

    customer.lack(20 * USD, raised_at=paid_at + timedelta(seconds=30))
    lives(desk)

    assert [each.kind for each in customer.topups()] == ["manual"]
