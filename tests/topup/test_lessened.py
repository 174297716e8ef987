"""What lacked money and does not run any more: no card is charged for that."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from chassis.identifiers import new_id
from contracts.billing import ShortageLessened
from contracts.topup import RefusalCode, TopupStatus
from services.topup.automatic import shortages, triggers
from services.topup.charging import charges
from tests.topup.conftest import NOON, USD, Customer, Desk

COUNTED = NOON
"""By billing's clock, which need not be ours: it says what was counted before what."""


def lessen(
    desk: Desk, customer: Customer, needed_micros: int, ago_s: float = 0, counted_s: float = 0
) -> None:
    """As told by a version before, unless it says when it counted, as so long after ``COUNTED``."""
    event = ShortageLessened(
        event_id=new_id(),
        occurred_at=desk.clock() - timedelta(seconds=ago_s),
        user_id=customer.user_id,
        needed_micros=needed_micros,
        counted_at=COUNTED + timedelta(seconds=counted_s) if counted_s else None,
    )
    with desk.till.database.begin() as session:
        shortages.lessen(session, event, desk.clock())


def lack(desk: Desk, customer: Customer, micros: int, counted_s: float, **fields: Any) -> None:
    counted_at = COUNTED + timedelta(seconds=counted_s)
    customer.lack_month(micros, counted_at=counted_at, **fields)
    desk.drain()


@pytest.mark.parametrize(
    ("needed_usd", "ago", "charged_usd"),
    [(0, 0, []), (30, 0, [30]), (70, 0, [60]), (0, 61, [60])],
    ids=["all of it", "a part", "it is more by now", "what was told later"],
)
def test_what_was_stopped_is_not_charged_for_when_a_limit_starts_anew(
    desk: Desk, needed_usd: int, ago: int, charged_usd: list[int]
) -> None:
    customer = desk.customer(daily_limit_micros=60 * USD)
    customer.lack_month(25 * USD)
    desk.drain()
    customer.credited()
    desk.wallet.balances[customer.user_id] = 0
    desk.clock.advance(minutes=2)
    customer.lack_month(60 * USD)
    (refused,) = customer.events("auto_topup_refused")
    assert refused["refusal_code"] == RefusalCode.DAILY_LIMIT

    desk.clock.advance(minutes=1)
    lessen(desk, customer, needed_usd * USD, ago)
    desk.clock.advance(days=1)
    desk.sweep()

    assert [topup.amount_micros // USD for topup in customer.topups()] == [25, *charged_usd]


def test_a_charge_that_has_not_gone_out_is_not_made_for_what_was_stopped(desk: Desk) -> None:
    customer = desk.customer()
    customer.lack_month(30 * USD, is_frozen=True)
    trigger_id = customer.raise_trigger(triggers.Trigger.RENEWAL, available_micros=None)
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    lessen(desk, customer, 0)

    desk.drain()
    desk.sweep()

    assert (customer.statuses(), customer.charge_count()) == ([TopupStatus.CANCELLED], 0)


def test_what_is_lessened_is_what_this_user_lacks(desk: Desk) -> None:
    """Nor is it a purchase that waits."""
    customer, other = desk.customer(), desk.customer()
    purchase = customer.raise_trigger(needed_micros=30 * USD)
    month = other.raise_trigger(triggers.Trigger.RENEWAL, needed_micros=30 * USD)
    assert purchase is not None
    assert month is not None

    lessen(desk, customer, 0)
    for each in (purchase, month):
        charges.pursue(desk.till, each)
    desk.drain()

    amounts = [
        [topup.amount_micros // USD for topup in each.topups()] for each in (customer, other)
    ]
    assert amounts == [[30], [30]]


def charged_usd(customer: Customer) -> list[int]:
    return [topup.amount_micros // USD for topup in customer.topups()]


def test_what_was_stopped_is_not_charged_for_though_its_shortage_is_heard_last(desk: Desk) -> None:
    """As after an outage: each has a queue of its own."""
    customer = desk.customer()

    lessen(desk, customer, 0, counted_s=2)
    lack(desk, customer, 30 * USD, counted_s=1)
    desk.sweep()

    assert customer.topups() == []


def test_what_is_left_of_a_shortage_that_is_heard_last_is_charged_for(desk: Desk) -> None:
    customer = desk.customer()

    lessen(desk, customer, 70 * USD, counted_s=2)
    lessen(desk, customer, 40 * USD, counted_s=3)
    lessen(desk, customer, 60 * USD, counted_s=2.5)
    lack(desk, customer, 90 * USD, counted_s=1)
    desk.sweep()

    assert charged_usd(customer) == [40]


def test_what_lacked_money_after_something_was_stopped_is_charged_for_though_that_is_heard_last(
    desk: Desk,
) -> None:
    """The wallet had been asked before, and refused after it."""
    customer = desk.customer(daily_limit_micros=25 * USD)
    lack(desk, customer, 30 * USD, counted_s=2)

    desk.clock.advance(minutes=1)
    lessen(desk, customer, 0, counted_s=1)
    customer.configure(daily_limit_micros=100 * USD)
    desk.drain()

    assert charged_usd(customer) == [30]


def test_of_two_shortages_the_one_that_was_counted_last_is_charged_for(desk: Desk) -> None:
    """Whichever asked the wallet first, and whichever comes first."""
    for is_in_order in (True, False):
        customer = desk.customer()
        asked_at = desk.clock()
        told = [
            {"micros": 60 * USD, "counted_s": 1, "occurred_at": asked_at},
            {
                "micros": 30 * USD,
                "counted_s": 2,
                "occurred_at": asked_at - timedelta(seconds=1),
            },
        ]
        desk.wallet.frozen.add(customer.user_id)
        for each in told if is_in_order else reversed(told):
            lack(desk, customer, is_frozen=True, **each)
        desk.wallet.frozen.clear()
        desk.clock.advance(days=1)
        desk.sweep()

        assert charged_usd(customer) == [30]


def test_a_deployment_that_lacks_money_again_is_charged_for_whenever_the_wallet_was_asked(
    desk: Desk,
) -> None:
    customer, deployment_id = desk.customer(), uuid4()
    desk.wallet.frozen.add(customer.user_id)
    asked_at, of = desk.clock(), {"is_frozen": True, "deployment_id": deployment_id}
    lack(desk, customer, 60 * USD, counted_s=1, **of)
    lack(desk, customer, 30 * USD, counted_s=2, occurred_at=asked_at - timedelta(seconds=1), **of)
    desk.wallet.frozen.clear()
    desk.clock.advance(days=1)
    desk.sweep()

    assert charged_usd(customer) == [30]


def test_what_is_heard_late_waits_for_what_was_told_since(desk: Desk) -> None:
    """A transfer, a refund or an earning came meanwhile, of which another queue tells: it paid the
    month, and that is told by a third one."""
    customer = desk.customer(threshold_micros=0)
    asked_at = desk.clock()
    desk.clock.advance(minutes=1)

    lack(desk, customer, 30 * USD, counted_s=1, occurred_at=asked_at)
    charged_at_once = charged_usd(customer)
    lessen(desk, customer, 0, counted_s=2)
    desk.clock.advance(seconds=6)
    desk.sweep()

    assert (charged_at_once, charged_usd(customer)) == ([], [])


def test_what_is_heard_late_and_still_lacks_is_charged_for_after_that_moment(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=0)
    asked_at = desk.clock()
    desk.clock.advance(minutes=1)

    lack(desk, customer, 30 * USD, counted_s=1, occurred_at=asked_at)
    desk.clock.advance(seconds=6)
    desk.sweep()

    assert charged_usd(customer) == [30]
