"""Every lock: what somebody else holds is waited for, and what they did counts.

In each test something that was done and is not committed yet meets something else that begins.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.leases import Leases
from contracts.errors import Conflict
from contracts.topup import (
    ConfigureAutoTopup,
    RefusalCode,
    SetOperatorSwitch,
    StartCardSetup,
    StartTopup,
    TopupStatus,
)
from services.topup import audit, switch, topups
from services.topup.automatic import card_changes, limits, pages, pauses, rule, terms, triggers
from services.topup.automatic.rule import Refusal
from services.topup.cards import saved_cards
from services.topup.charging import charges, checkout, janitor, outcomes, reversals, webhooks
from services.topup.models import CardSetup, Difference, Notice, Topup, TriggerRecord
from services.topup.policy import Policy
from services.topup.processor import Declined, Rejected
from tests.locks import done_after
from tests.topup.conftest import USD, Card, Customer, Desk

PURCHASE = UUID("00000000-0000-7000-8000-000000000001")
DECLINE = Declined("No.", "card_declined")


def begun(desk: Desk, work: Any, *arguments: Any) -> Any:
    """``work(session, …)`` in a transaction of its own."""
    with desk.till.database.begin() as session:
        return work(session, *arguments)


def switching_off(customer: Customer, key: str = "off") -> ConfigureAutoTopup:
    return ConfigureAutoTopup(idempotency_key=key, user_id=customer.user_id, enabled=False)


def buying(customer: Customer, key: str = "page", **fields: Any) -> StartTopup:
    return StartTopup(
        idempotency_key=key,
        user_id=customer.user_id,
        email="a@example.com",
        amount_micros=25 * USD,
        **fields,
    )


def reserved(desk: Desk, customer: Customer) -> UUID:
    """A charge that is reserved and not sent."""
    outcome = charges.pursue(desk.till, raised(customer))
    assert isinstance(outcome, Topup)
    desk.queue.clear()
    return outcome.topup_id


def raised(customer: Customer) -> UUID:
    trigger_id = customer.raise_trigger(reference=str(PURCHASE))
    assert trigger_id is not None
    return trigger_id


def trigger_of(desk: Desk, topup_id: UUID) -> TriggerRecord:
    with desk.till.database.read() as session:
        return session.query(TriggerRecord).filter(TriggerRecord.topup_id == topup_id).one()


def look_of(desk: Desk, topup_id: UUID) -> Topup:
    with desk.till.database.read() as session:
        return topups.find(session, topup_id)


# What speaks against a charge, at each door


def is_switched_off(desk: Desk, other: Session, customer: Customer) -> None:
    terms.configure(other, desk.clock(), switching_off(customer), desk.till.policy)


def is_limited(desk: Desk, other: Session, customer: Customer) -> None:
    less = ConfigureAutoTopup(
        idempotency_key="less",
        user_id=customer.user_id,
        enabled=True,
        threshold_micros=10 * USD,
        topup_amount_micros=25 * USD,
        daily_limit_micros=50 * USD,
        consent=True,
    )
    terms.configure(other, desk.clock(), less, desk.till.policy)


def loses_its_card(desk: Desk, other: Session, customer: Customer) -> None:
    card_changes.remove(other, customer.user_id, customer.cards()[0], desk.clock())


def freezes(desk: Desk, other: Session, customer: Customer) -> None:
    terms.account_froze(other, customer.user_id, "Disputed", desk.clock(), desk.clock())


def is_stopped(desk: Desk, other: Session, _customer: Customer | None = None) -> None:
    stop = SetOperatorSwitch(is_stopped=True, reason="A drill", changed_by="tests")
    switch.turn(other, stop, desk.clock())


AGAINST = (is_switched_off, is_limited, loses_its_card, freezes, is_stopped)


def news(_desk: Desk, customer: Customer) -> Callable[[], object]:
    """Something lacks money, and is decided about at once."""
    return lambda: customer.lack(90 * USD)


def a_reserved_charge(desk: Desk, customer: Customer) -> Callable[[], object]:
    trigger_id = customer.raise_trigger(needed_micros=90 * USD)
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    (topup,) = customer.topups()
    return lambda: charges.charge(desk.till, topup.topup_id)


def one_that_waited(desk: Desk, customer: Customer) -> Callable[[], object]:
    topup = never_sent(desk, customer)
    return lambda: charges.send_reserved(desk.till, topup)


def the_janitor(desk: Desk, customer: Customer) -> Callable[[], object]:
    topup = never_sent(desk, customer)
    return lambda: janitor.look(desk.till, topup.topup_id)


def never_sent(desk: Desk, customer: Customer) -> Topup:
    """A charge that was marked as sent by a process that died then."""
    customer.lack(90 * USD)
    desk.queue.clear()
    desk.clock.advance(seconds=61)
    (topup,) = customer.topups()
    return topup


@pytest.mark.parametrize("happens", AGAINST)
@pytest.mark.parametrize("door", [news, a_reserved_charge, one_that_waited, the_janitor])
def test_no_charge_goes_out_against_what_happens_at_the_same_moment(
    desk: Desk,
    door: Callable[[Desk, Customer], Callable[[], object]],
    happens: Callable[[Desk, Session, Customer], None],
) -> None:
    customer = desk.customer()
    goes_out = door(desk, customer)

    done_after(desk.till.database, lambda other: happens(desk, other, customer), goes_out)
    desk.drain()

    assert customer.charge_count() == 0


def test_the_operators_switch_waits_for_what_is_being_decided(desk: Desk) -> None:
    customer = desk.customer()
    event = customer.shortage()

    done_after(
        desk.till.database,
        lambda other: charges.cover(other, desk.till, event, triggers.raise_for_purchase),
        lambda: begun(desk, lambda session: is_stopped(desk, session)),
    )

    assert customer.statuses() == ["processing"]


def test_the_operators_switch_is_turned_though_somebody_who_decides_is_stuck(desk: Desk) -> None:
    def turn(session: Session) -> None:
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
        is_stopped(desk, session)

    with desk.till.database.begin() as holder:
        limits.fuse_lock(holder)
        begun(desk, turn)

    with desk.till.database.read() as session:
        assert limits.is_stopped(session)


def the_settings(session: Session, customer: Customer) -> None:
    topups.lock_settings(session, customer.user_id)


def the_fuse(session: Session, _customer: Customer) -> None:
    limits.fuse_lock(session)


@pytest.mark.parametrize("hold", [the_settings, the_fuse])
def test_what_lacks_money_is_kept_though_somebody_holds_what_decides_about_it(
    desk: Desk, hold: Callable[[Session, Customer], None]
) -> None:
    customer = desk.customer()

    with desk.till.database.begin() as holder:
        hold(holder, customer)
        customer.lack()
    before = customer.statuses()
    desk.drain()

    assert (before, customer.statuses(), customer.charge_count()) == ([], ["paid"], 1)


def test_whoever_hears_what_lacks_money_waits_for_the_settings_first(desk: Desk) -> None:
    customer = desk.customer()
    raised(customer)

    done_after(
        desk.till.database,
        lambda other: topups.lock_settings(other, customer.user_id),
        lambda: customer.lack(reference=str(PURCHASE)),
        lambda: is_free(desk, "triggers", customer.user_id),
    )


# The settings


def test_a_reservation_sees_that_it_is_switched_off_at_the_same_moment(desk: Desk) -> None:
    customer = desk.customer()
    trigger_id, now = raised(customer), desk.clock()

    outcome = done_after(
        desk.till.database,
        lambda other: terms.configure(other, now, switching_off(customer), desk.till.policy),
        lambda: charges.pursue(desk.till, trigger_id),
    )

    assert isinstance(outcome, Refusal)
    assert (outcome.code, customer.topups()) == (RefusalCode.DISABLED, [])


def test_a_reserved_charge_sees_that_it_is_switched_off_at_the_same_moment(desk: Desk) -> None:
    customer = desk.customer()
    topup_id, now = reserved(desk, customer), desk.clock()

    done_after(
        desk.till.database,
        lambda other: terms.configure(other, now, switching_off(customer), desk.till.policy),
        lambda: charges.charge(desk.till, topup_id),
    )

    assert (customer.statuses(), customer.charge_count()) == (["cancelled"], 0)


def test_declines_at_the_same_moment_are_all_counted(desk: Desk) -> None:
    customer = desk.customer()
    topup_id, now = reserved(desk, customer), desk.clock()
    charges_under_way = text("UPDATE topups SET status = 'processing' WHERE topup_id = :id")
    begun(desk, lambda session: session.execute(charges_under_way, {"id": topup_id}))

    def count_another(other: Session) -> None:
        settings = topups.lock_settings(other, customer.user_id)
        assert settings is not None
        settings.declines += 1

    done_after(
        desk.till.database,
        count_another,
        lambda: begun(desk, outcomes.record, desk.till.policy, topup_id, DECLINE, now),
    )

    assert customer.settings().declines == 2


@pytest.mark.parametrize("enabled", [True, False])
def test_settings_that_are_saved_see_what_is_changed_at_the_same_moment(
    desk: Desk, enabled: bool
) -> None:
    customer, now = desk.customer(), desk.clock()
    version = customer.settings().settings_version
    command = switching_off(customer)
    if enabled:
        command = ConfigureAutoTopup(
            idempotency_key="more", user_id=customer.user_id, enabled=True,
            topup_amount_micros=30 * USD, consent=True,
        )  # fmt: skip

    def change(other: Session) -> None:
        settings = topups.lock_settings(other, customer.user_id)
        assert settings is not None
        settings.settings_version += 1

    done_after(
        desk.till.database,
        change,
        lambda: begun(desk, terms.configure, now, command, desk.till.policy),
    )

    assert customer.settings().settings_version == version + 2


def test_a_page_is_not_opened_for_a_purchase_that_is_being_charged(desk: Desk) -> None:
    customer = desk.customer()
    trigger_id, now = raised(customer), desk.clock()
    funds = desk.till.wallet.funds(customer.user_id, now)

    with pytest.raises(Conflict, match="being confirmed"):
        done_after(
            desk.till.database,
            lambda other: rule.reserve(other, now, trigger_id, funds, desk.till.policy),
            lambda: begun(
                desk, checkout.begin, now, buying(customer, purchase_id=PURCHASE), desk.till.policy
            ),
        )


def test_what_freezes_pauses_what_is_switched_on_at_the_same_moment(desk: Desk) -> None:
    customer, now = desk.customer(), desk.clock()
    begun(desk, terms.configure, now, switching_off(customer), desk.till.policy)

    def switch_on(other: Session) -> None:
        settings = topups.lock_settings(other, customer.user_id)
        assert settings is not None
        settings.is_enabled = True

    done_after(
        desk.till.database,
        switch_on,
        lambda: begun(desk, terms.account_froze, customer.user_id, "Disputed", now, now),
    )

    assert customer.settings().paused_code == pauses.ACCOUNT_FROZEN


# Triggers


def test_what_is_paid_at_the_same_moment_is_not_charged(desk: Desk) -> None:
    customer = desk.customer()
    trigger_id, now = raised(customer), desk.clock()

    outcome = done_after(
        desk.till.database,
        lambda other: pages.end_purchase(
            other, customer.user_id, str(PURCHASE), pages.PAID_OTHERWISE, now
        ),
        lambda: charges.pursue(desk.till, trigger_id),
    )

    assert (outcome, customer.topups()) == (None, [])


def test_a_decline_makes_nothing_due_that_ends_at_the_same_moment(desk: Desk) -> None:
    customer = desk.customer()
    topup_id, now = reserved(desk, customer), desk.clock()
    trigger_id = trigger_of(desk, topup_id).trigger_id
    charges_under_way = text("UPDATE topups SET status = 'processing' WHERE topup_id = :id")
    begun(desk, lambda session: session.execute(charges_under_way, {"id": topup_id}))

    done_after(
        desk.till.database,
        lambda other: pages.end_purchase(other, customer.user_id, str(PURCHASE), pages.ENDED, now),
        lambda: begun(desk, outcomes.record, desk.till.policy, topup_id, DECLINE, now),
    )

    with desk.till.database.read() as session:
        assert session.get_one(TriggerRecord, trigger_id).due_at is None


# All automatic charges


@pytest.mark.parametrize("policy", [Policy(system_charges_per_hour_max=1)])
def test_reservations_of_two_people_at_once_keep_the_cap_of_the_whole_system(
    desk: Desk, policy: Policy
) -> None:
    first, second = raised(desk.customer()), raised(desk.customer())
    now = desk.clock()
    with desk.till.database.read() as session:
        user_id = session.get_one(TriggerRecord, first).user_id
    funds = desk.till.wallet.funds(user_id, now)

    outcome = done_after(
        desk.till.database,
        lambda other: rule.reserve(other, now, first, funds, policy),
        lambda: charges.pursue(desk.till, second),
    )

    assert isinstance(outcome, Refusal)
    assert outcome.code == RefusalCode.SYSTEM_CAP


# A user's commands


def test_the_same_purchase_of_credits_begun_twice_is_one(desk: Desk) -> None:
    customer, now = desk.customer(enabled=False), desk.clock()
    command = buying(customer)

    topup, is_new = done_after(
        desk.till.database,
        lambda other: checkout.begin(other, now, command, desk.till.policy),
        lambda: begun(desk, checkout.begin, now, command, desk.till.policy),
    )

    assert (is_new, [topup.topup_id]) == (False, [t.topup_id for t in customer.topups()])


def test_the_same_settings_saved_twice_are_saved_once(desk: Desk) -> None:
    customer, now = desk.customer(), desk.clock()
    version, command = customer.settings().settings_version, switching_off(customer)

    done_after(
        desk.till.database,
        lambda other: terms.configure(other, now, command, desk.till.policy),
        lambda: begun(desk, terms.configure, now, command, desk.till.policy),
    )

    assert customer.settings().settings_version == version + 1


def test_a_page_for_saving_a_card_is_remembered_once(desk: Desk) -> None:
    customer, now = desk.customer(enabled=False), desk.clock()
    command = StartCardSetup(
        idempotency_key="card", user_id=customer.user_id, email="a@example.com"
    )
    page = {"id": "cs_once", "url": "https://example.com/once"}

    done_after(
        desk.till.database,
        lambda other: checkout._remember_setup(other, command, page, now),
        lambda: begun(desk, checkout._remember_setup, command, page, now),
    )

    with desk.till.database.read() as session:
        assert session.get(CardSetup, "cs_once") is not None


@pytest.mark.parametrize("reason", [pages.ENDED, pages.FROZEN])
def test_a_page_that_is_being_begun_is_closed_by_what_ends_its_purchase(
    desk: Desk, reason: str
) -> None:
    customer, now = desk.customer(enabled=False), desk.clock()

    def end(session: Session) -> None:
        if reason == pages.FROZEN:
            pages.close_frozen(session, customer.user_id, now, now)
        else:
            pages.end_purchase(session, customer.user_id, str(PURCHASE), reason, now)

    done_after(
        desk.till.database,
        lambda other: checkout.begin(
            other, now, buying(customer, purchase_id=PURCHASE), desk.till.policy
        ),
        lambda: begun(desk, end),
    )

    assert [topup.closing_reason for topup in customer.topups()] == [reason]


def test_whoever_looks_for_another_page_waits_for_the_one_that_is_being_begun(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    command = buying(customer, purchase_id=PURCHASE)

    done_after(
        desk.till.database,
        lambda other: topups.lock_user(other, customer.user_id),
        lambda: checkout._close_other_page(desk.till, command, PURCHASE),
    )


# A top-up


def opened(other: Session, desk: Desk, topup: Topup, name: str = "cs_opened") -> Topup:
    page = {"id": name, "url": "https://example.com/page", "customer": "cus_1"}
    return checkout._page_opened(other, desk.till, topup.topup_id, page)


def by_hand(desk: Desk, customer: Customer, **fields: Any) -> Topup:
    """A top-up by hand whose page is not opened yet."""
    topup, _ = begun(
        desk, checkout.begin, desk.clock(), buying(customer, "hand", **fields), desk.till.policy
    )
    assert isinstance(topup, Topup)
    return topup


def test_a_payment_seen_from_two_sides_at_once_is_told_once(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.start_topup()
    (topup,) = customer.topups()
    desk.sandbox.pay(str(topup.session_id))
    page = desk.till.processor.get_session(str(topup.session_id))

    done_after(
        desk.till.database,
        lambda other: checkout._settle_payment(other, desk.till, page, desk.clock()),
        lambda: checkout.settle_session(desk.till, str(topup.session_id)),
    )

    assert (customer.statuses(), len(customer.events("topup_paid"))) == (["paid"], 1)


def test_what_is_credited_at_the_same_moment_is_not_told_again(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()
    (topup,) = customer.topups()

    done_after(
        desk.till.database,
        lambda other: topups.mark_credited(other, topup.topup_id, desk.clock()),
        lambda: janitor.look(desk.till, topup.topup_id),
    )

    (credited,) = customer.topups()
    assert (credited.status, credited.next_look_at) == ("credited", None)
    assert len(customer.events("topup_paid")) == 1


def test_a_credit_that_is_told_twice_at_once_is_noted_once(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()
    (topup,) = customer.topups()
    first = desk.clock()

    done_after(
        desk.till.database,
        lambda other: topups.mark_credited(other, topup.topup_id, first),
        lambda: begun(desk, topups.mark_credited, topup.topup_id, first + timedelta(minutes=1)),
    )

    assert customer.topups()[0].credited_at == first


def test_the_janitor_plans_no_look_at_what_fails_at_the_same_moment(desk: Desk) -> None:
    customer = desk.customer()
    topup_id = reserved(desk, customer)

    done_after(
        desk.till.database,
        lambda other: topups.mark_failed(
            other, topups.lock(other, topup_id), "declined", "No.", desk.clock()
        ),
        lambda: janitor._plan_next(desk.till, topup_id, has_asked=True),
    )

    topup = look_of(desk, topup_id)
    assert (topup.next_look_at, topup.looks) == (None, 0)


def test_a_page_that_is_opened_at_the_same_moment_is_not_cancelled(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    topup = by_hand(desk, customer)
    desk.clock.advance(days=2)

    done_after(
        desk.till.database,
        lambda other: opened(other, desk, topup),
        lambda: janitor._look_at_created(desk.till, topup),
    )

    assert customer.statuses() == ["processing"]


def test_a_page_that_is_opened_at_the_same_moment_gives_no_way_to_another(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    topup = by_hand(desk, customer, purchase_id=PURCHASE)

    with pytest.raises(Conflict, match="opened just now"):
        done_after(
            desk.till.database,
            lambda other: opened(other, desk, topup),
            lambda: by_hand_again(desk, customer),
        )

    assert customer.statuses() == ["processing"]


def by_hand_again(desk: Desk, customer: Customer) -> None:
    command = buying(customer, "another", purchase_id=PURCHASE)
    begun(desk, checkout.begin, desk.clock(), command, desk.till.policy)


def test_a_page_that_is_opened_at_the_same_moment_is_closed_for_the_next_one(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    topup = by_hand(desk, customer, purchase_id=PURCHASE)
    page = desk.till.processor.create_payment_session(
        customer_id=customer.customer_id, amount_cents=2_500, topup_id=str(topup.topup_id),
        user_id=str(customer.user_id), save_card=False, success_url="http://127.0.0.1/",
        cancel_url="http://127.0.0.1/", idempotency_key="page",
    )  # fmt: skip

    done_after(
        desk.till.database,
        lambda other: opened(other, desk, topup, page["id"]),
        lambda: checkout._close_other_page(
            desk.till, buying(customer, "another", purchase_id=PURCHASE), PURCHASE
        ),
    )

    (closed,) = customer.topups()
    assert (closed.status, closed.closing_reason) == ("cancelled", pages.REPLACED)


def test_a_page_is_not_shown_for_a_purchase_that_ends_at_the_same_moment(desk: Desk) -> None:
    customer, now = desk.customer(enabled=False), desk.clock()
    topup = by_hand(desk, customer, purchase_id=PURCHASE)

    done_after(
        desk.till.database,
        lambda other: pages.end_purchase(other, customer.user_id, str(PURCHASE), pages.ENDED, now),
        lambda: begun(desk, opened, desk, topup),
    )

    assert customer.statuses() == ["cancelled"]


# A charge that is paid at the same moment


def under_way(desk: Desk, customer: Customer, status: TopupStatus) -> Topup:
    """An automatic charge that was sent, and of which somebody is about to learn more."""
    topup_id = reserved(desk, customer)
    change = text("UPDATE topups SET status = :status, looks = 2 WHERE topup_id = :id")
    begun(desk, lambda session: session.execute(change, {"status": status, "id": topup_id}))
    return look_of(desk, topup_id)


def is_paid(other: Session, desk: Desk, topup: Topup) -> None:
    topups.mark_paid(other, topups.lock(other, topup.topup_id), desk.clock())


def gives_up(desk: Desk, topup: Topup) -> None:
    desk.clock.advance(hours=1)
    topup.customer_id = Customer(desk, topup.user_id).customer_id
    janitor._look_at_charge(desk.till, topup)


def is_declined(desk: Desk, topup: Topup) -> None:
    begun(desk, outcomes.record, desk.till.policy, topup.topup_id, DECLINE, desk.clock())


def closes_its_page(desk: Desk, topup: Topup) -> None:
    checkout._close_unasked(desk.till, topup.topup_id)


def has_no_page(desk: Desk, topup: Topup) -> None:
    checkout._go_on_without_link(desk.till, topup, Rejected("No.", "customer_deleted"))


@pytest.mark.parametrize(
    ("status", "happens"),
    [
        (TopupStatus.UNKNOWN, gives_up),
        (TopupStatus.UNKNOWN, is_declined),
        (TopupStatus.ACTION_REQUIRED, closes_its_page),
        (TopupStatus.ACTION_REQUIRED, has_no_page),
    ],
)
def test_a_charge_that_is_paid_at_the_same_moment_stays_paid(
    desk: Desk, status: TopupStatus, happens: Any
) -> None:
    customer = desk.customer()
    topup = under_way(desk, customer, status)

    done_after(
        desk.till.database,
        lambda other: is_paid(other, desk, topup),
        lambda: happens(desk, topup),
    )

    assert (customer.statuses(), customer.events("topup_failed")) == (["paid"], [])


def test_a_charge_that_somebody_takes_up_at_the_same_moment_is_not_given_back(desk: Desk) -> None:
    customer = desk.customer()
    topup, now = under_way(desk, customer, TopupStatus.PROCESSING), desk.clock()
    untouched = text("UPDATE topups SET looks = 0")
    begun(desk, lambda session: session.execute(untouched))

    is_given_back = done_after(
        desk.till.database,
        lambda other: janitor.DUE.take(other, now + timedelta(hours=1)),
        lambda: begun(desk, outcomes.give_back_unsent, topup, now),
    )

    assert (is_given_back, customer.statuses()) == (False, ["processing"])


def test_two_links_to_confirm_a_charge_that_are_made_at_once_are_one(desk: Desk) -> None:
    customer = desk.customer()
    topup = under_way(desk, customer, TopupStatus.ACTION_REQUIRED)
    first, second = ({"id": f"cs_{n}", "url": f"https://example.com/{n}"} for n in (1, 2))

    done_after(
        desk.till.database,
        lambda other: checkout._send_link(other, topup.topup_id, first, desk.till),
        lambda: begun(desk, checkout._send_link, topup.topup_id, second, desk.till),
    )

    assert look_of(desk, topup.topup_id).session_id == "cs_1"


def test_a_dispute_that_is_told_of_twice_at_once_takes_the_credit_back_once(desk: Desk) -> None:
    customer, now = desk.customer(), desk.clock()
    customer.ask()
    (topup,) = customer.topups()
    dispute = {"id": "dp_1", "amount": 2_500, "status": "needs_response"}

    def take(session: Session) -> None:
        reversals.record(session, topup.topup_id, [dispute], is_dispute=True, now=now)

    done_after(desk.till.database, take, lambda: begun(desk, take))

    assert len(customer.events("topup_reversed")) == 1


# Cards


def method_of(desk: Desk, customer: Customer, which: int = 0) -> Any:
    return desk.till.processor.get_payment_method(customer.cards()[which])


def forgotten(desk: Desk, payment_method_id: str) -> None:
    """As if we had never heard of this card."""
    gone = text("DELETE FROM cards WHERE payment_method_id = :id")
    begun(desk, lambda session: session.execute(gone, {"id": payment_method_id}))


@pytest.mark.parametrize("enabled", [True, False])
def test_a_card_told_of_from_two_sides_at_once_is_kept_once(desk: Desk, enabled: bool) -> None:
    customer, now = desk.customer(enabled=enabled), desk.clock()
    method = method_of(desk, customer)
    forgotten(desk, method["id"])

    done_after(
        desk.till.database,
        lambda other: card_changes.keep(other, method, now),
        lambda: begun(desk, card_changes.keep, method, now),
    )

    assert customer.cards() == [method["id"]]


def defaults(desk: Desk, customer: Customer) -> list[str]:
    """All that are marked as the default card, removed or not."""
    query = text("SELECT payment_method_id FROM cards WHERE user_id = :user AND is_default")
    with desk.till.database.read() as session:
        return list(session.scalars(query, {"user": customer.user_id}))


def test_of_two_cards_made_the_default_at_once_the_later_one_is_it(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    second, third = customer.add_card(Card.MASTERCARD), customer.add_card(Card.DISPUTED)

    done_after(
        desk.till.database,
        lambda other: saved_cards.set_default(other, customer.user_id, second),
        lambda: begun(desk, saved_cards.set_default, customer.user_id, third),
    )

    assert defaults(desk, customer) == [third]


def test_two_cards_that_are_removed_at_once_leave_the_third_as_the_default(desk: Desk) -> None:
    customer, now = desk.customer(enabled=False), desk.clock()
    second, third = customer.add_card(Card.MASTERCARD), customer.add_card(Card.DISPUTED)
    (default,) = defaults(desk, customer)

    done_after(
        desk.till.database,
        lambda other: card_changes.remove(other, customer.user_id, default, now),
        lambda: begun(desk, card_changes.remove, customer.user_id, third, now),
    )

    assert (customer.cards(), defaults(desk, customer)) == ([second], [second])


def test_a_card_that_is_saved_while_its_customer_is_deleted_is_removed_too(desk: Desk) -> None:
    customer, now = desk.customer(), desk.clock()
    method = method_of(desk, customer)
    forgotten(desk, method["id"])

    done_after(
        desk.till.database,
        lambda other: card_changes.keep(other, method, now),
        lambda: begun(desk, card_changes.forget_customer, method["customer"], now),
    )

    assert customer.cards() == []


# The order in which they are taken, so that nobody waits in a circle


def is_free(desk: Desk, table: str, user_id: UUID) -> None:
    """Nobody holds any row of this user's."""
    query = text(f"SELECT FROM {table} WHERE user_id = :user FOR UPDATE NOWAIT")
    begun(desk, lambda session: session.execute(query, {"user": user_id}))


@pytest.mark.parametrize(
    "work",
    [
        card_changes.keep,
        saved_cards.set_default,
        card_changes.remove,
        card_changes.forget_customer,
    ],
)
def test_whoever_changes_cards_waits_for_the_settings_first(
    desk: Desk, work: Callable[..., None]
) -> None:
    customer, now = desk.customer(), desk.clock()
    method = method_of(desk, customer)
    arguments: dict[Callable[..., None], tuple[Any, ...]] = {
        card_changes.keep: (method, now),
        saved_cards.set_default: (customer.user_id, method["id"]),
        card_changes.remove: (customer.user_id, method["id"], now),
        card_changes.forget_customer: (method["customer"], now),
    }

    done_after(
        desk.till.database,
        lambda other: topups.lock_settings(other, customer.user_id),
        lambda: begun(desk, work, *arguments[work]),
        lambda: [is_free(desk, table, customer.user_id) for table in ("customers", "cards")],
    )


def test_whoever_changes_a_topup_waits_for_the_settings_first(desk: Desk) -> None:
    customer = desk.customer()
    topup_id = reserved(desk, customer)

    done_after(
        desk.till.database,
        lambda other: topups.lock_settings(other, customer.user_id),
        lambda: charges.charge(desk.till, topup_id),
        lambda: [is_free(desk, table, customer.user_id) for table in ("topups", "triggers")],
    )


def test_what_a_frozen_wallet_closes_waits_for_the_settings_first(desk: Desk) -> None:
    customer, now = desk.customer(), desk.clock()
    by_hand(desk, customer, purchase_id=PURCHASE)

    done_after(
        desk.till.database,
        lambda other: topups.lock_settings(other, customer.user_id),
        lambda: begun(desk, terms.account_froze, customer.user_id, "Disputed", now, now),
        lambda: is_free(desk, "topups", customer.user_id),
    )


def test_whoever_reserves_waits_for_the_settings_first(desk: Desk) -> None:
    customer = desk.customer()
    trigger_id = raised(customer)

    done_after(
        desk.till.database,
        lambda other: topups.lock_settings(other, customer.user_id),
        lambda: charges.pursue(desk.till, trigger_id),
        lambda: is_free(desk, "triggers", customer.user_id),
    )


# What several processes take up


@pytest.mark.parametrize("due", [triggers.DUE, janitor.DUE])
def test_what_somebody_takes_up_is_passed_over(desk: Desk, due: Leases) -> None:
    first, second = desk.customer(), desk.customer()
    for customer in (first, second):
        reserved(desk, customer)
        customer.raise_trigger()
    now = desk.clock.advance(minutes=1)

    with desk.till.database.begin() as holder:
        taken = replace(due, limit=1).take(holder, now)
        holder.flush()
        others = begun(desk, due.take, now)

    assert len(taken) == 1
    assert others
    assert not taken.keys() & others.keys()


def test_a_notice_that_somebody_takes_up_is_passed_over(desk: Desk) -> None:
    now = desk.clock()
    for name in ("evt_1", "evt_2"):
        begun(desk, stored_notice, name, now)

    with desk.till.database.begin() as holder:
        taken = replace(webhooks.DUE, limit=1).take(holder, now)
        holder.flush()
        others = begun(desk, webhooks.DUE.take, now)

    assert (list(taken), list(others)) == (["evt_1"], ["evt_2"])


def stored_notice(session: Session, event_id: str, now: Any) -> None:
    body = {"data": {"object": {"id": "pi_of_nobody"}}}
    session.add(
        Notice(
            event_id=event_id, type="payment_intent.succeeded", object_id="pi_of_nobody",
            subject="payment:pi_of_nobody", body=body, received_at=now, next_try_at=now,
        )
    )  # fmt: skip


def test_a_notice_that_is_done_at_the_same_moment_is_not_noted_as_failed(desk: Desk) -> None:
    now = desk.clock()
    begun(desk, stored_notice, "evt_1", now)
    desk.sandbox.switch("error_before", match={"path": "/v1/payment_intents/*"}, times=None)
    done = text("UPDATE notices SET processed_at = :now, next_try_at = NULL")

    done_after(
        desk.till.database,
        lambda other: other.execute(done, {"now": now}),
        lambda: webhooks.work_off(desk.till, "evt_1"),
    )

    with desk.till.database.read() as session:
        notice = session.get_one(Notice, "evt_1")
    assert (notice.processed_at, notice.next_try_at, notice.last_error) == (now, None, "")


def warn_of_expiry(session: Session, now: datetime) -> int:
    return saved_cards._warn_some(session, now, limit=10)


@pytest.mark.parametrize("take", [saved_cards.to_detach, warn_of_expiry])
def test_a_card_that_somebody_takes_up_is_passed_over(desk: Desk, take: Any) -> None:
    customer, now = desk.customer(enabled=False), desk.clock()
    change = text("UPDATE cards SET exp_year = 2020, removed_at = :removed_at")
    removed_at = now if take is saved_cards.to_detach else None
    begun(desk, lambda session: session.execute(change, {"removed_at": removed_at}))

    with desk.till.database.begin() as holder:
        taken = take(holder, now)
        holder.flush()
        others = begun(desk, take, now)

    assert (bool(taken), bool(others)) == (True, False)
    assert len(customer.events("card_expiring")) == (take is warn_of_expiry)


def test_a_credit_that_two_answer_for_at_once_is_accepted_once(desk: Desk) -> None:
    now, transaction_id = desk.clock(), new_id()
    begun(desk, unexplained, transaction_id, now)

    is_done = done_after(
        desk.till.database,
        lambda other: audit.accept(other, now, transaction_id, "one", "a gift"),
        lambda: begun(desk, audit.accept, now, transaction_id, "another", "a mistake"),
    )

    with desk.till.database.read() as session:
        accepted_by = session.scalar(text("SELECT accepted_by FROM differences"))
    assert (is_done, accepted_by) == (False, "one: a gift")


def unexplained(session: Session, transaction_id: UUID, now: Any) -> None:
    session.add(
        Difference(
            key=f"{audit.UNEXPLAINED}:{transaction_id}", code=audit.UNEXPLAINED, payment_id="",
            amount_micros=USD, message="x", occurred_at=now, found_at=now, seen_at=now,
        )
    )  # fmt: skip
