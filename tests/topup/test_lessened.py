"""What lacked money and does not run any more: no card is charged for that."""

from datetime import timedelta

import pytest

from contracts.topup import RefusalCode, TopupStatus
from services.topup.automatic import triggers
from services.topup.charging import charges
from tests.topup.conftest import USD, Customer, Desk


def lessen(desk: Desk, customer: Customer, needed_micros: int, ago: timedelta) -> None:
    with desk.till.database.begin() as session:
        before = desk.clock() - ago
        triggers.lessen_renewals(session, customer.user_id, needed_micros, before)


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
    lessen(desk, customer, needed_usd * USD, timedelta(seconds=ago))
    desk.clock.advance(days=1)
    desk.sweep()

    assert [topup.amount_micros // USD for topup in customer.topups()] == [25, *charged_usd]


def test_a_charge_that_has_not_gone_out_is_not_made_for_what_was_stopped(desk: Desk) -> None:
    customer = desk.customer()
    customer.lack_month(30 * USD, is_frozen=True)
    trigger_id = customer.raise_trigger(triggers.Trigger.RENEWAL, available_micros=None)
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    lessen(desk, customer, 0, timedelta(0))

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

    lessen(desk, customer, 0, timedelta(0))
    for each in (purchase, month):
        charges.pursue(desk.till, each)
    desk.drain()

    amounts = [
        [topup.amount_micros // USD for topup in each.topups()] for each in (customer, other)
    ]
    assert amounts == [[30], [30]]
