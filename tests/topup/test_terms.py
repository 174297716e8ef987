"""Settings: bounds, consent, and what is said about how it stands."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from chassis.identifiers import new_id
from contracts.errors import BadRequest, IdempotencyConflict, NotFound
from contracts.topup import (
    AutoTopupPreview,
    AutoTopupState,
    ConfigureAutoTopup,
    GetTopupOverview,
    ListTopups,
    PreviewAutoTopup,
    RefusalCode,
    SetOperatorSwitch,
    StartCardSetup,
    TopupOverview,
)
from services.topup import overview, switch, topups
from services.topup.automatic import card_changes, consent, terms
from services.topup.charging import checkout
from services.topup.models import Consent
from tests.topup.conftest import USD, Card, Customer, Desk


def status(customer: Customer) -> Any:
    till = customer.desk.till
    with till.database.read() as session:
        found = terms.status(session, customer.user_id, till.policy, till.clock())
        # What is told in short is the same, in every case that a test of this file makes.
        (state,) = terms.states(session, [(customer.user_id, till.policy.is_stopped)])
    assert state == AutoTopupState.model_validate(found, from_attributes=True)
    return found


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("consent", {"consent": False}),
        ("consent_version", {"consent_version": "1999-01"}),
        ("amount_micros", {"topup_amount_micros": 4_990_000}),
        ("amount_micros", {"topup_amount_micros": 2_001 * USD}),
        ("amount_micros", {"topup_amount_micros": 25 * USD + 1}),
        ("threshold_micros", {"threshold_micros": 10_001 * USD}),
        ("threshold_micros", {"threshold_micros": 10 * USD + 1}),
        ("daily_limit_micros", {"daily_limit_micros": 50 * USD + 1}),
        ("daily_limit_micros", {"daily_limit_micros": 24 * USD}),
        ("monthly_limit_micros", {"monthly_limit_micros": 24 * USD}),
        (
            "monthly_limit_micros",
            {"daily_limit_micros": 100 * USD, "monthly_limit_micros": 99 * USD},
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    desk: Desk, field: str, changes: dict[str, Any]
) -> None:
    customer = desk.customer(enabled=False)

    with pytest.raises(BadRequest) as caught:
        customer.configure(**changes)

    assert caught.value.details == (field,)


def test_enabling_without_a_card_says_to_save_one(desk: Desk) -> None:
    customer = Customer(desk, desk.customer(enabled=False).user_id.__class__(int=7))

    with pytest.raises(BadRequest, match="Save a card first"):
        customer.configure()


def test_somebody_elses_card_is_not_found(desk: Desk) -> None:
    other = desk.customer(enabled=False)
    customer = desk.customer(enabled=False)

    with pytest.raises(NotFound):
        customer.configure(payment_method_id=other.cards()[0])


def test_consent_is_stored_with_text_version_time_and_address(desk: Desk) -> None:
    customer = desk.customer(client_address="203.0.113.7")

    with desk.till.database.read() as session:
        (stored,) = session.scalars(select(Consent).where(Consent.user_id == customer.user_id))
    assert (stored.version, stored.text, stored.client_address) == (
        consent.VERSION,
        consent.TEXT,
        "203.0.113.7",
    )
    assert stored.terms["topup_amount_micros"] == 25 * USD


def test_the_text_says_who_starts_charges_how_often_and_how_the_amount_is_found() -> None:
    for words in ("starts a charge when", "never more than one charge at a time", "Each charge is"):
        assert words in consent.TEXT


def customer_with_limits(desk: Desk) -> Customer:
    """Two cards, the second as backup, and both limits."""
    customer = desk.customer(enabled=False)
    backup = customer.add_card(Card.MASTERCARD)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(
        backup_payment_method_id=backup,
        daily_limit_micros=100 * USD,
        monthly_limit_micros=500 * USD,
    )
    return customer


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold_micros": 11 * USD},
        {"threshold_micros": 9 * USD},
        {"topup_amount_micros": 26 * USD},
        {"daily_limit_micros": 101 * USD},
        {"daily_limit_micros": None},
        {"monthly_limit_micros": 501 * USD},
        {"monthly_limit_micros": None},
    ],
    ids=str,
)
def test_whoever_changes_what_may_be_charged_consents_again(
    desk: Desk, changes: dict[str, Any]
) -> None:
    customer = customer_with_limits(desk)
    before = customer.settings()

    with pytest.raises(BadRequest) as caught:
        customer.configure(consent=False, **changes)

    assert caught.value.details == ("consent",)
    assert customer.settings().settings_version == before.settings_version
    customer.configure(consent=True, **changes)
    assert customer.settings().consent_id != before.consent_id


def test_another_card_takes_consent_and_so_does_another_backup_card(desk: Desk) -> None:
    customer = customer_with_limits(desk)
    third = customer.add_card(Card.DECLINED_WHEN_CHARGED)

    for change in ("payment_method_id", "backup_payment_method_id"):
        with pytest.raises(BadRequest, match="consent"):
            customer.configure(consent=False, **{change: third})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"daily_limit_micros": 50 * USD},
        {"monthly_limit_micros": 200 * USD},
        {"backup_payment_method_id": None},
    ],
    ids=str,
)
def test_whoever_changes_nothing_or_allows_less_needs_no_new_consent(
    desk: Desk, changes: dict[str, Any]
) -> None:
    customer = customer_with_limits(desk)
    before = customer.settings()

    customer.configure(consent=False, **changes)

    after = customer.settings()
    assert (after.settings_version, after.consent_id) == (2, before.consent_id)


def test_a_first_limit_needs_no_new_consent(desk: Desk) -> None:
    customer = desk.customer()

    customer.configure(consent=False, daily_limit_micros=50 * USD)

    assert customer.settings().daily_limit_micros == 50 * USD


def test_switching_on_again_takes_consent(desk: Desk) -> None:
    customer = desk.customer()
    customer.configure(enabled=False, consent=False)

    with pytest.raises(BadRequest, match="consent"):
        customer.configure(consent=False)


def test_a_new_text_takes_consent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = desk.customer()
    monkeypatch.setattr(consent, "VERSION", "2027-01")

    with pytest.raises(BadRequest, match="consent"):
        customer.configure(consent=False)


def test_what_a_save_leaves_out_stays_as_it_is(desk: Desk) -> None:
    customer = customer_with_limits(desk)
    before = customer.settings()
    command = ConfigureAutoTopup(idempotency_key="k", user_id=customer.user_id, enabled=True)
    on_the_wire = ConfigureAutoTopup(**command.arguments())

    with desk.till.database.begin() as session:
        terms.configure(session, desk.clock(), on_the_wire, desk.till.policy)

    after = customer.settings()
    assert consent.terms_of(after) == consent.terms_of(before)
    assert after.settings_version == before.settings_version + 1


@pytest.mark.parametrize("name", ["threshold_micros", "topup_amount_micros"])
def test_the_first_save_needs_the_amounts(desk: Desk, name: str) -> None:
    customer = desk.customer(enabled=False)
    given = {"threshold_micros": 10 * USD, "topup_amount_micros": 25 * USD}
    del given[name]
    command = ConfigureAutoTopup(
        idempotency_key="k", user_id=customer.user_id, enabled=True, consent=True, **given
    )

    with pytest.raises(BadRequest) as caught, desk.till.database.begin() as session:
        terms.configure(session, desk.clock(), command, desk.till.policy)

    assert caught.value.details == (name,)


def test_the_same_save_twice_changes_the_settings_once(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    for _ in range(2):
        customer.configure(idempotency_key="once")

    assert customer.settings().settings_version == 1


def test_the_same_key_with_other_settings_is_a_conflict(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.configure(idempotency_key="once")

    with pytest.raises(IdempotencyConflict):
        customer.configure(idempotency_key="once", threshold_micros=11 * USD)


def test_the_wallet_is_told_the_threshold_and_told_to_drop_it(desk: Desk) -> None:
    customer = desk.customer()
    customer.configure(enabled=False, consent=False)

    told = customer.events("auto_topup_settings_changed")
    assert [(event["settings_version"], event["threshold_micros"]) for event in told] == [
        (1, 10 * USD),
        (2, None),
    ]


def test_switching_off_charges_nothing_any_more(desk: Desk) -> None:
    customer = desk.customer()
    customer.configure(enabled=False, consent=False)

    outcome = customer.ask()

    assert (outcome.code, customer.topups()) == ("disabled", [])


@pytest.mark.parametrize(
    "changes",
    [
        {"topup_amount_micros": 4 * USD},
        {"daily_limit_micros": 5 * USD},
        {"threshold_micros": 10**12},
        {"payment_method_id": "pm_gone"},
    ],
)
def test_switching_off_works_whatever_else_is_sent_and_keeps_the_settings(
    desk: Desk, changes: dict[str, Any]
) -> None:
    customer = desk.customer(daily_limit_micros=60 * USD)
    before = customer.settings()

    customer.configure(enabled=False, consent=False, **changes)

    after = customer.settings()
    assert (before.is_enabled, after.is_enabled) == (True, False)
    kept = ("threshold_micros", "amount_micros", "payment_method_id", "daily_limit_micros")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def test_limits_show_what_is_used_and_when_they_start_anew(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=60 * USD, monthly_limit_micros=200 * USD)
    customer.ask()

    stands = status(customer)
    assert (
        stands.daily_limit.used_micros,
        str(stands.daily_limit.resets_at),
        stands.monthly_limit.used_micros,
        str(stands.monthly_limit.resets_at),
    ) == (25 * USD, "2027-03-11 00:00:00+00:00", 25 * USD, "2027-04-01 00:00:00+00:00")


def test_every_refusal_is_kept_with_its_reason_and_said_once_per_purchase(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=25 * USD)
    customer.ask()
    customer.credited()
    desk.clock.advance(minutes=2)
    for _ in range(3):
        desk.clock.advance(seconds=1)
        customer.ask(reference="purchase-1")

    (said,) = customer.events("auto_topup_refused")
    assert (said["refusal_code"], said["trigger_reference"]) == ("daily_limit", "purchase-1")
    assert status(customer).last_refusal.refusal_code == "daily_limit"


def test_what_passes_within_minutes_leaves_no_banner(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask(reference="first")
    in_flight = customer.ask(reference="second")
    customer.credited()
    desk.clock.advance(seconds=1)
    cooling = customer.ask(reference="third", needed_micros=60 * USD)

    assert (in_flight.code, cooling.code) == ("in_flight", "cool_down")
    assert status(customer).last_refusal is None


def test_a_limit_that_starts_anew_lets_what_waits_go_on(desk: Desk) -> None:
    from datetime import timedelta

    customer = desk.customer(daily_limit_micros=25 * USD)
    customer.ask(reference="first")
    customer.credited()
    customer.end_purchase("first")
    desk.wallet.balances[customer.user_id] = 0
    desk.clock.advance(hours=2)
    customer.ask(reference="second")

    desk.clock.set(desk.clock().replace(hour=0, minute=0) + timedelta(days=1, seconds=1))
    desk.sweep()

    assert customer.statuses() == ["credited", "paid"]


def test_a_preview_says_what_would_be_charged_and_to_which_card(desk: Desk) -> None:
    customer = desk.customer()
    till = desk.till
    request = PreviewAutoTopup(user_id=customer.user_id, shortfall_micros=40 * USD)

    with till.database.read() as session:
        preview = terms.preview(session, till.clock(), request, till.policy)

    assert (preview.would_topup, preview.amount_micros, preview.card_last4) == (
        True,
        40 * USD,
        "4242",
    )


def test_a_preview_closes_the_whole_gap_up_to_the_next_cent(desk: Desk) -> None:
    assert preview_of(desk, desk.customer(), 40 * USD + 1).amount_micros == 40_010_000


def test_a_preview_says_why_not(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=30 * USD)
    till = desk.till
    request = PreviewAutoTopup(user_id=customer.user_id, shortfall_micros=40 * USD)

    with till.database.read() as session:
        preview = terms.preview(session, till.clock(), request, till.policy)

    assert (preview.would_topup, preview.refusal_code) == (False, "daily_limit")


def turn_switch(desk: Desk, *, is_stopped: bool) -> None:
    with desk.till.database.begin() as session:
        command = SetOperatorSwitch(is_stopped=is_stopped, reason="Drill", changed_by="tests")
        switch.turn(session, command, desk.clock())


def test_the_operators_switch_stops_and_releases_everybody(desk: Desk) -> None:
    customer = desk.customer()
    turn_switch(desk, is_stopped=True)
    refused = customer.ask()
    shown = status(customer)

    turn_switch(desk, is_stopped=False)
    desk.clock.advance(minutes=6)
    desk.sweep()

    assert (refused.code, shown.state, shown.is_stopped_by_operator) == (
        "stopped_by_operator",
        "paused",
        True,
    )
    assert customer.statuses() == ["paid"]


def test_a_charge_reserved_before_the_switch_does_not_go_out(desk: Desk) -> None:
    from services.topup.charging import charges

    customer = desk.customer()
    trigger_id = customer.raise_trigger()
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    turn_switch(desk, is_stopped=True)

    desk.drain()

    assert (customer.statuses(), customer.charge_count()) == (["cancelled"], 0)


def test_pages_of_topups_are_stable_while_new_ones_come(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    made = []
    for _ in range(5):
        made.append(customer.start_topup().topup_id)
        desk.clock.advance(seconds=1)
    with desk.till.database.read() as session:
        first = topups.page(session, ListTopups(user_id=customer.user_id, limit=2))
    customer.start_topup()

    with desk.till.database.read() as session:
        second = topups.page(
            session, ListTopups(user_id=customer.user_id, limit=2, cursor=first.next_cursor)
        )

    shown = [topup.topup_id for topup in (*first.topups, *second.topups)]
    assert shown == list(reversed(made))[:4]


def preview_of(desk: Desk, customer: Customer, micros: int, **changes: Any) -> AutoTopupPreview:
    with desk.till.database.read() as session:
        request = PreviewAutoTopup(user_id=customer.user_id, shortfall_micros=micros, **changes)
        return terms.preview(session, desk.clock(), request, desk.till.policy)


def test_what_passes_by_itself_has_a_time_and_the_charge_that_comes_then(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask(needed_micros=5 * USD)
    customer.credited()
    desk.clock.advance(seconds=20)

    seen = preview_of(desk, customer, 32 * USD)

    assert (seen.would_topup, seen.refusal_code) == (False, RefusalCode.COOL_DOWN)
    assert (seen.retry_at, seen.amount_micros) == (
        desk.clock() + timedelta(seconds=40),
        32 * USD,
    )


def test_behind_a_cool_down_the_limit_that_stays_is_told(desk: Desk) -> None:
    customer = desk.customer(daily_limit_micros=30 * USD)
    customer.ask(needed_micros=5 * USD)
    customer.credited()
    desk.clock.advance(seconds=20)

    seen = preview_of(desk, customer, 32 * USD)

    assert (seen.refusal_code, seen.retry_at) == (RefusalCode.DAILY_LIMIT, None)


def test_after_a_decline_no_charge_is_promised(desk: Desk) -> None:
    customer = desk.customer(Card.DECLINED_WHEN_CHARGED)
    customer.ask(needed_micros=5 * USD)

    seen = preview_of(desk, customer, 32 * USD)

    assert (seen.refusal_code, seen.amount_micros) == (RefusalCode.COOL_DOWN, 0)
    assert seen.reason.startswith("The last charge was declined.")


def test_a_preview_for_a_purchase_knows_its_card_page(desk: Desk) -> None:
    customer, purchase_id = desk.customer(), uuid.uuid4()
    page = customer.start_topup(32 * USD, purchase_id=purchase_id)

    seen = preview_of(desk, customer, 32 * USD, purchase_id=purchase_id)

    assert (seen.refusal_code, seen.amount_micros) == (RefusalCode.CARD_PAGE_OPEN, 32 * USD)
    assert seen.card_page_url == page.checkout_url
    assert preview_of(desk, customer, 32 * USD, purchase_id=uuid.uuid4()).card_page_url is None


def test_a_preview_for_a_purchase_says_that_a_payment_is_being_confirmed(desk: Desk) -> None:
    customer, purchase_id = desk.customer(), uuid.uuid4()
    before = preview_of(desk, customer, 32 * USD, purchase_id=purchase_id)
    customer.ask(needed_micros=32 * USD, reference=str(purchase_id))

    during = preview_of(desk, customer, 32 * USD, purchase_id=purchase_id)

    assert (before.is_being_confirmed, during.is_being_confirmed) == (False, True)


# The overview


def overview_of(customer: Customer, limit: int = 10) -> TopupOverview:
    request = GetTopupOverview(user_id=customer.user_id, topups=limit)
    return overview.overview(customer.desk.till, request)


def test_the_overview_has_what_there_is_and_nothing_else(desk: Desk) -> None:
    stranger, buyer = Customer(desk, new_id()), Customer(desk, new_id())
    has_card, has_settings = desk.customer(enabled=False), desk.customer()
    (card,) = has_settings.cards()
    with desk.till.database.begin() as session:
        card_changes.remove(session, has_settings.user_id, card, desk.clock())
    buyer.start_topup()

    def told_of(customer: Customer) -> tuple[str, int, int, int]:
        told = overview_of(customer)
        cards, topups = told.payment_methods.payment_methods, told.topups.topups
        return told.auto_topup.state, len(cards), len(topups), told.paid_topups

    assert told_of(stranger) == ("off", 0, 0, 0)
    assert told_of(has_card) == ("off", 1, 0, 0)
    assert told_of(has_settings) == ("paused", 0, 0, 0)
    assert told_of(buyer) == ("off", 0, 1, 0)


def test_the_overview_counts_what_was_paid_beyond_what_it_shows(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    for _ in range(2):
        customer.start_topup(payment_method_id=customer.cards()[0])
        customer.credited()
    customer.start_topup()

    told = overview_of(customer, limit=1)

    assert ([each.status for each in told.topups.topups], told.paid_topups) == (["processing"], 2)


def test_a_card_is_in_the_overview_as_soon_as_it_was_saved(desk: Desk) -> None:
    customer = Customer(desk, new_id())
    command = StartCardSetup(idempotency_key="k", user_id=customer.user_id, email="a@example.com")
    url = checkout.start_card_setup(desk.till, command).checkout_url
    before = overview_of(customer).payment_methods.payment_methods
    desk.sandbox.pay(url.rsplit("/", 1)[-1].split("#")[0].split("?")[0])
    desk.clock.advance(seconds=4)

    (card,) = overview_of(customer).payment_methods.payment_methods

    assert (before, card.last4) == ([], "4242")


def test_who_never_set_anything_sees_that_the_operator_has_stopped_it(desk: Desk) -> None:
    customer = Customer(desk, new_id())
    seen = []
    for is_stopped in (True, False):
        turn_switch(desk, is_stopped=is_stopped)
        found = overview.auto_topup(desk.till, customer.user_id), overview_of(customer).auto_topup
        seen.append([each.is_stopped_by_operator for each in found])

    assert seen == [[True, True], [False, False]]


def test_who_asks_at_the_same_moment_is_told_of_themselves(desk: Desk) -> None:
    first, second = Customer(desk, new_id()), desk.customer()
    asked = [second.user_id, first.user_id, second.user_id]

    with desk.till.database.read() as session:
        found = overview._what_they_have(session, asked)

    assert [(row.user_id, row.cards) for row in found] == [  # type: ignore[union-attr]
        (user_id, user_id == second.user_id) for user_id in asked
    ]
    assert overview.auto_topup(desk.till, second.user_id) == status(second)
