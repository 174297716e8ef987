"""Many at once: one charge, exact limits."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from contracts.topup import RefusalCode, StartCardSetup, StartTopup, TopupStatus, Trigger
from services.topup.automatic.rule import Refusal
from services.topup.charging import charges, checkout
from services.topup.models import CardSetup, Topup
from services.topup.policy import Policy
from tests.patience import PATIENCE_S, insist
from tests.topup.conftest import USD, Customer, Desk

MANY = 50


def pursue_all(desk: Desk, trigger_ids: list[UUID]) -> list[Any]:
    with ThreadPoolExecutor(16) as pool:
        return list(
            pool.map(lambda each: insist(lambda: charges.pursue(desk.till, each)), trigger_ids)
        )


def triggers_of(customer: Customer, count: int, trigger: Trigger = Trigger.PURCHASE) -> list[UUID]:
    raised = [customer.raise_trigger(trigger) for _ in range(count)]
    return [trigger_id for trigger_id in raised if trigger_id is not None]


def test_fifty_triggers_at_once_are_one_charge(desk: Desk) -> None:
    customer = desk.customer()

    outcomes = pursue_all(desk, triggers_of(customer, MANY))
    desk.drain()

    refused = {outcome.code for outcome in outcomes if isinstance(outcome, Refusal)}
    assert (customer.charge_count(), customer.statuses()) == (1, ["paid"])
    assert refused == {RefusalCode.IN_FLIGHT}


def lack_all(customers: list[Customer]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda customer: insist(customer.lack), customers))


def test_fifty_purchases_heard_of_at_once_are_one_charge(desk: Desk) -> None:
    customer = desk.customer()

    lack_all([customer] * MANY)
    desk.drain()

    refused = {event["refusal_code"] for event in customer.events("auto_topup_refused")}
    assert (customer.charge_count(), customer.statuses(), refused) == (1, ["paid"], {"in_flight"})


@pytest.mark.parametrize("policy", [Policy(system_charges_per_hour_max=5)])
def test_the_fuse_is_exact_for_purchases_heard_of_at_once(desk: Desk, policy: Policy) -> None:
    customers = [desk.customer() for _ in range(8)]

    lack_all(customers)
    desk.drain()

    assert sum(customer.charge_count() for customer in customers) == 5


def test_fifty_attempts_on_one_trigger_are_one_charge(desk: Desk) -> None:
    customer = desk.customer()
    (trigger_id,) = triggers_of(customer, 1)

    outcomes = pursue_all(desk, [trigger_id] * MANY)
    desk.drain()

    assert sum(isinstance(outcome, Topup) for outcome in outcomes) == 1
    assert customer.charge_count() == 1


def test_fifty_calls_of_one_charge_are_one_charge(desk: Desk) -> None:
    customer = desk.customer()
    (trigger_id,) = triggers_of(customer, 1)
    topup = charges.pursue(desk.till, trigger_id)
    assert isinstance(topup, Topup)

    with ThreadPoolExecutor(16) as pool:
        charge = partial(charges.charge, desk.till, topup.topup_id)
        list(pool.map(lambda _: insist(charge), range(MANY)))

    assert (customer.charge_count(), len(customer.events("topup_paid"))) == (1, 1)


@pytest.mark.parametrize("policy", [Policy(system_charges_per_hour_max=5)])
def test_the_fuse_of_the_whole_system_is_exact_under_concurrency(
    desk: Desk, policy: Policy
) -> None:
    customers = [desk.customer() for _ in range(8)]
    trigger_ids = [triggers_of(customer, 1)[0] for customer in customers]

    outcomes = pursue_all(desk, trigger_ids)
    desk.drain()

    refused = [outcome.code for outcome in outcomes if isinstance(outcome, Refusal)]
    assert refused == [RefusalCode.SYSTEM_CAP] * 3
    assert (
        sum(customer.charge_count() for customer in customers) == policy.system_charges_per_hour_max
    )


def test_fifty_purchases_stay_within_the_limits_and_each_says_why_not(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=100 * USD)
    references = [f"purchase-{number}" for number in range(MANY)]
    for reference in references:
        customer.raise_trigger(Trigger.PURCHASE, 5 * USD, reference=reference)
    paid: set[str] = set()
    for _ in range(12):
        desk.sweep()
        customer.credited()
        for reference in references:
            if reference not in paid and desk.wallet.balances[customer.user_id] >= 5 * USD:
                desk.wallet.balances[customer.user_id] -= 5 * USD
                customer.end_purchase(reference)
                paid.add(reference)
        desk.clock.advance(minutes=2)

    said = {event["trigger_reference"] for event in customer.events("auto_topup_refused")}
    assert (customer.charged_cents(), len(paid)) == (10_000, 20)
    assert set(references) - paid <= said
    assert {topup.status for topup in customer.topups()} == {TopupStatus.CREDITED}


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """What each of several that begin at the same moment returns."""
    count = 8
    together = threading.Barrier(count)

    def begin(number: int) -> Any:
        together.wait(PATIENCE_S)
        return insist(lambda: work(number))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_one_purchase_of_credits_begun_several_times_at_once_is_one_topup(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    command = StartTopup(
        idempotency_key="once",
        user_id=customer.user_id,
        email="a@example.com",
        amount_micros=25 * USD,
    )

    def start(_number: int) -> tuple[UUID, bool]:
        with desk.till.database.begin() as session:
            topup, is_new = checkout.begin(session, desk.clock(), command, desk.till.policy)
            return topup.topup_id, is_new

    started = at_once(start)

    assert {topup_id for topup_id, _ in started} == {customer.topups()[0].topup_id}
    assert sum(is_new for _, is_new in started) == 1


@pytest.mark.parametrize("key", ["once", "every time {}"])
def test_the_first_settings_saved_several_times_at_once_are_saved(desk: Desk, key: str) -> None:
    customer = desk.customer(enabled=False)
    desk.wallet.balances[customer.user_id] = 10**12

    at_once(lambda number: customer.configure(idempotency_key=key.format(number)))

    assert customer.settings().settings_version == len({key.format(n) for n in range(8)})


def test_a_card_page_asked_for_several_times_at_once_is_one(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    command = StartCardSetup(
        idempotency_key="once", user_id=customer.user_id, email="a@example.com"
    )
    page = {"id": "cs_once", "url": "https://example.com/once"}

    def remember(_number: int) -> None:
        with desk.till.database.begin() as session:
            checkout._remember_setup(session, command, page, desk.clock())

    at_once(remember)

    with desk.till.database.read() as session:
        assert session.get(CardSetup, "cs_once") is not None
