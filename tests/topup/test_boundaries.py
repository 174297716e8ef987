"""Every boundary on the instant: what holds in it, and what an instant or a cent away."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.errors import AccountFrozen, BadRequest
from contracts.topup import RefusalCode, StartTopup, TopupKind, TopupStatus, Trigger
from services.topup import problems, topups
from services.topup.automatic import limits, pages, triggers
from services.topup.automatic.limits import Usage
from services.topup.automatic.rule import Charge, Situation, decide
from services.topup.cards import saved_cards
from services.topup.charging import charges, checkout, janitor
from services.topup.models import CardSetup, Notice, Topup, TriggerRecord
from services.topup.policy import Policy
from services.topup.service import TopupService
from services.topup.wallet_questions import Funds
from tests.topup.conftest import NOON, USD, Customer, Desk
from tests.topup.test_rule import NOW, decision, refusal, settings
from tests.topup.test_unknown_outcomes import break_charges

INSTANT = timedelta(microseconds=1)
YEAR = timedelta(days=365)
CENT = 10_000
MIDNIGHT = datetime(2027, 4, 1, tzinfo=UTC)
"""Where a day ends, and a month."""


# The rule


def test_a_charge_is_made_in_the_instant_in_which_the_cool_down_ends_and_not_before() -> None:
    assert isinstance(decision(settings(cool_down_until=NOW)), Charge)
    assert refusal(settings(cool_down_until=NOW + INSTANT)) == RefusalCode.COOL_DOWN


@pytest.mark.parametrize(
    ("used", "limit", "code"),
    [
        ("day_micros", "daily_limit_micros", RefusalCode.DAILY_LIMIT),
        ("month_micros", "monthly_limit_micros", RefusalCode.MONTHLY_LIMIT),
    ],
)
def test_a_limit_can_be_reached_and_not_passed_by_a_cent(
    used: str, limit: str, code: RefusalCode
) -> None:
    chosen = settings(**{limit: 75 * USD})

    assert isinstance(decision(chosen, Usage(**{used: 50 * USD})), Charge)
    assert refusal(chosen, Usage(**{used: 50 * USD + CENT})) == code


@pytest.mark.parametrize(
    ("used", "most"),
    [
        ("user_hour_count", 10 - 1),
        ("user_hour_micros", 10_000 * USD - 25 * USD),
        ("system_hour_count", 2_000 - 1),
        ("system_hour_micros", 200_000 * USD - 25 * USD),
    ],
)
def test_the_caps_of_an_hour_can_be_reached_and_not_passed(used: str, most: int) -> None:
    assert isinstance(decision(usage=Usage(**{used: most})), Charge)
    assert refusal(usage=Usage(**{used: most + 1})) == RefusalCode.SYSTEM_CAP


def test_the_largest_topup_is_made_and_a_cent_more_is_not() -> None:
    most = Policy().topup_max_micros

    assert decision(waiting_micros=most) == Charge(most, "pm_first")
    assert refusal(waiting_micros=most + 1) == RefusalCode.AMOUNT_TOO_LARGE


def test_a_purchase_that_the_balance_covers_to_the_micro_dollar_needs_no_charge() -> None:
    funds = Funds(available_micros=5 * USD)

    assert refusal(funds=funds, waiting_micros=5 * USD) == RefusalCode.NOT_NEEDED
    assert isinstance(decision(funds=funds, waiting_micros=5 * USD + 1), Charge)


@pytest.mark.parametrize("trigger", [Trigger.LOW_BALANCE, Trigger.SETTINGS_SAVED])
def test_a_balance_at_the_threshold_is_not_low(trigger: Trigger) -> None:
    at, below = Funds(available_micros=10 * USD), Funds(available_micros=10 * USD - 1)

    assert refusal(funds=at, trigger=trigger, waiting_micros=0) == RefusalCode.NOT_NEEDED
    assert isinstance(decision(funds=below, trigger=trigger, waiting_micros=0), Charge)


@pytest.mark.parametrize(
    ("gap_micros", "amount_micros"),
    [(25 * USD, 25 * USD), (25 * USD + 1, 25 * USD + CENT), (25 * USD + CENT, 25 * USD + CENT)],
)
def test_a_gap_that_is_larger_than_the_amount_is_charged_to_the_next_cent(
    gap_micros: int, amount_micros: int
) -> None:
    assert decision(waiting_micros=gap_micros) == Charge(amount_micros, "pm_first")


@pytest.mark.parametrize(
    ("trigger", "funds", "is_part"),
    [
        (Trigger.LOW_BALANCE, Funds(10 * USD - 1), True),
        (Trigger.LOW_BALANCE, Funds(10 * USD), False),
        (Trigger.PURCHASE, Funds(0), False),
    ],
)
def test_a_low_balance_alone_is_topped_up_in_parts(
    trigger: Trigger, funds: Funds, is_part: bool
) -> None:
    chosen = settings(daily_limit_micros=25 * USD)

    decided = decide(Situation(Policy(), chosen, Usage(), funds, trigger, 50 * USD, NOW))

    assert isinstance(decided, Charge) is is_part


# Days, months, hours


@pytest.mark.parametrize(
    ("now", "day_end", "month_end"),
    [
        (MIDNIGHT - INSTANT, MIDNIGHT, MIDNIGHT),
        (MIDNIGHT, MIDNIGHT + timedelta(days=1), datetime(2027, 5, 1, tzinfo=UTC)),
        (
            datetime(2027, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(2028, 1, 1, tzinfo=UTC),
            datetime(2028, 1, 1, tzinfo=UTC),
        ),
        (
            datetime(2028, 2, 29, tzinfo=UTC),
            datetime(2028, 3, 1, tzinfo=UTC),
            datetime(2028, 3, 1, tzinfo=UTC),
        ),
        (
            datetime(2027, 3, 31, 23, tzinfo=timezone(timedelta(hours=-5))),
            datetime(2027, 4, 2, tzinfo=UTC),
            datetime(2027, 5, 1, tzinfo=UTC),
        ),
    ],
)
def test_a_day_and_a_month_end_at_midnight_utc(
    now: datetime, day_end: datetime, month_end: datetime
) -> None:
    assert (limits.day_end(now), limits.month_end(now)) == (day_end, month_end)


def charged_at(database: Connected, user_id: UUID, created_at: datetime) -> None:
    topup = topups.new(user_id, TopupKind.AUTO, 25 * USD, str(new_id()), created_at)
    topup.status, topup.paid_at = TopupStatus.CREDITED, created_at
    with database.begin() as session:
        session.add(topup)


def used(database: Connected, user_id: UUID, now: datetime) -> tuple[int, ...]:
    """Charges of the day, of the month, and of the last hour: of the user and of all."""
    with database.read() as session:
        usage = limits.usage(session, user_id, now, Policy())
    return (
        usage.day_micros // (25 * USD),
        usage.month_micros // (25 * USD),
        usage.user_hour_count,
        usage.system_hour_count,
    )


def test_a_charge_counts_in_the_day_and_the_month_of_its_instant(database: Connected) -> None:
    user_id = new_id()
    charged_at(database, user_id, MIDNIGHT - INSTANT)
    before = used(database, user_id, MIDNIGHT - INSTANT), used(database, user_id, MIDNIGHT)
    charged_at(database, user_id, MIDNIGHT)

    assert before == ((1, 1, 1, 1), (0, 0, 1, 1))
    assert used(database, user_id, MIDNIGHT) == (1, 1, 2, 2)
    assert used(database, user_id, MIDNIGHT - INSTANT)[:2] == (1, 1)


def test_an_hour_ends_in_the_instant_in_which_it_is_over(database: Connected) -> None:
    user_id = new_id()
    charged_at(database, user_id, NOON)

    assert used(database, user_id, NOON + timedelta(hours=1) - INSTANT) == (1, 1, 1, 1)
    assert used(database, user_id, NOON + timedelta(hours=1)) == (1, 1, 0, 0)


def test_usage_played_forward_starts_anew_on_the_instant() -> None:
    full = Usage().with_charge(25 * USD)
    eve = MIDNIGHT - timedelta(minutes=30)

    assert full.later(eve, MIDNIGHT - INSTANT) == full
    at_midnight = full.later(eve, MIDNIGHT)
    assert (at_midnight.day_micros, at_midnight.month_micros) == (0, 0)
    assert at_midnight.user_hour_count == 1
    assert full.later(NOON, NOON + timedelta(hours=1) - INSTANT) == full
    assert full.later(NOON, NOON + timedelta(hours=1)).system_hour_micros == 0
    assert full.later(NOON, NOON + timedelta(hours=1)).day_micros == 25 * USD


def test_credits_that_were_paid_in_the_instant_of_the_news_are_not_in_it(
    database: Connected,
) -> None:
    user_id = new_id()
    charged_at(database, user_id, NOON)

    with database.read() as session:
        assert limits.was_paid_since(session, user_id, NOON)
        assert not limits.was_paid_since(session, user_id, NOON + INSTANT)


# Triggers


def due_at(desk: Desk, trigger_id: UUID | None) -> datetime | None:
    with desk.till.database.read() as session:
        return session.get_one(TriggerRecord, trigger_id).due_at


def taken(desk: Desk, take: Callable[..., Any], now: datetime) -> list[Any]:
    with desk.till.database.begin() as session:
        return list(take(session, now))


def test_a_trigger_is_taken_up_in_the_instant_in_which_it_is_due_and_its_lease_ends(
    desk: Desk,
) -> None:
    trigger_id = desk.customer().raise_trigger()
    now = desk.clock()

    assert taken(desk, triggers.DUE.take, now - INSTANT) == []
    assert taken(desk, triggers.DUE.take, now) == [trigger_id]
    assert taken(desk, triggers.DUE.take, now + triggers.DUE.lease - INSTANT) == []
    assert taken(desk, triggers.DUE.take, now + triggers.DUE.lease) == [trigger_id]


def test_news_of_the_same_instant_are_no_newer(desk: Desk) -> None:
    customer = desk.customer()
    first = customer.raise_trigger(reference="purchase")

    assert customer.raise_trigger(reference="purchase") is None
    newer = customer.raise_trigger(reference="purchase", raised_at=desk.clock() + INSTANT)
    assert newer == first


def test_what_waits_is_told_oldest_first_also_where_there_was_news_of_it(desk: Desk) -> None:
    customer = desk.customer()
    for reference in ("older", "newer", "older"):
        desk.clock.advance(seconds=1)
        customer.raise_trigger(reference=reference)

    with desk.till.database.read() as session:
        waiting = triggers.pending(session, customer.user_id, desk.clock())

    assert [each.reference for each in waiting if each.needed_micros] == ["older", "newer"]


def test_a_purchase_waits_for_less_than_twenty_five_hours(desk: Desk) -> None:
    customer = desk.customer()
    trigger_id = customer.raise_trigger()
    end = desk.clock() + triggers.WAITS_AT_MOST[Trigger.PURCHASE]

    def waiting(now: datetime) -> int:
        with desk.till.database.read() as session:
            return triggers.waiting_micros(session, customer.user_id, now)

    def made_due(now: datetime) -> bool:
        with desk.till.database.begin() as session:
            triggers.make_due(session, customer.user_id, now)
        return due_at(desk, trigger_id) == now

    assert (waiting(end - INSTANT), waiting(end)) == (5 * USD, 0)
    assert (made_due(end), made_due(end - INSTANT)) == (False, True)


@pytest.mark.parametrize(("is_made_due", "charged"), [(False, True), (True, False)])
def test_what_an_event_said_of_the_balance_is_old_once_all_is_decided_anew(
    desk: Desk, is_made_due: bool, charged: bool
) -> None:
    customer = desk.customer()
    trigger_id = customer.raise_trigger()
    assert trigger_id is not None
    desk.wallet.balances[customer.user_id] = 100 * USD
    if is_made_due:
        with desk.till.database.begin() as session:
            triggers.make_due(session, customer.user_id, desk.clock())

    outcome = charges.pursue(desk.till, trigger_id)

    assert isinstance(outcome, Topup) == charged


@pytest.mark.parametrize("trigger", list(Trigger))
def test_a_refused_trigger_is_not_put_off_to_when_it_waits_no_more(trigger: Trigger) -> None:
    end = NOON + triggers.WAITS_AT_MOST[trigger]
    record = TriggerRecord(trigger=trigger, raised_at=NOON, tries=0)

    triggers.postpone(record, end)
    at_the_end = record.due_at
    triggers.postpone(record, end - INSTANT)

    assert (at_the_end, record.due_at) == (None, end - INSTANT)


def test_what_was_asked_for_by_hand_is_not_tried_again_by_itself() -> None:
    record = TriggerRecord(trigger=Trigger.BY_HAND, raised_at=NOON, tries=0)

    triggers.postpone(record, NOON + INSTANT)

    assert record.due_at is None


def test_renewals_that_lacked_money_when_it_was_charged_end_and_later_ones_do_not(
    desk: Desk,
) -> None:
    customer = desk.customer()
    first = customer.raise_trigger(Trigger.RENEWAL, reference="first")
    later = customer.raise_trigger(
        Trigger.RENEWAL, reference="later", raised_at=desk.clock() + INSTANT
    )

    with desk.till.database.begin() as session:
        triggers.end_renewals(session, customer.user_id, desk.clock())
    assert (due_at(desk, first), due_at(desk, later)) == (None, desk.clock())
    desk.clock.advance(minutes=1)
    with desk.till.database.begin() as session:
        triggers.make_due(session, customer.user_id, desk.clock())

    assert (due_at(desk, first), due_at(desk, later)) == (None, desk.clock())


def test_an_event_is_fresh_for_five_minutes_and_not_an_instant_longer(desk: Desk) -> None:
    raised, stale_after = desk.clock.now, desk.till.policy.stale_after
    outcomes = []
    for age in (stale_after, stale_after + INSTANT):
        customer = desk.customer()
        desk.wallet.balances[customer.user_id] = 100 * USD
        desk.clock.set(raised + timedelta(minutes=10))
        raised = desk.clock()
        outcomes.append(customer.ask(raised_at=raised - age))

    assert isinstance(outcomes[0], Topup)
    assert outcomes[1].code == RefusalCode.NOT_NEEDED


# Charges and the janitor


def test_a_charge_may_be_sent_for_five_minutes_and_not_an_instant_longer() -> None:
    topup = topups.new(new_id(), TopupKind.AUTO, 25 * USD, "key", NOON)
    end = NOON + Policy().stale_after

    assert not charges.is_stale(topup, Policy(), end)
    assert charges.is_stale(topup, Policy(), end + INSTANT)


def test_one_look_in_vain_does_not_give_a_charge_up(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_before")
    customer.ask(reference="purchase")
    customer.end_purchase("purchase")
    (topup,) = customer.topups()

    seen = []
    for minutes in (6, 31, 121):
        desk.clock.set(topup.created_at + timedelta(minutes=minutes))
        desk.sweep()
        seen += customer.statuses()

    assert seen == ["unknown", "unknown", "failed"]
    assert customer.charge_count() == 0


@pytest.mark.parametrize(
    ("status", "after", "is_listed"),
    [
        (TopupStatus.UNKNOWN, problems.STUCK_AFTER, False),
        (TopupStatus.UNKNOWN, problems.STUCK_AFTER + INSTANT, True),
        (TopupStatus.PAID, problems.STUCK_AFTER + INSTANT, True),
        (TopupStatus.PROCESSING, problems.STUCK_AFTER + INSTANT, False),
        (TopupStatus.FAILED, problems.RECENT - INSTANT, True),
        (TopupStatus.FAILED, problems.RECENT, False),
        (TopupStatus.CANCELLED, INSTANT, False),
    ],
)
def test_a_topup_is_a_problem_from_its_instant_on(
    database: Connected, status: TopupStatus, after: timedelta, is_listed: bool
) -> None:
    topup = topups.new(new_id(), TopupKind.AUTO, 25 * USD, "key", NOON)
    topup.status = status
    with database.begin() as session:
        session.add(topup)
        session.flush()
        found = problems.listed(session, NOON + after, 9).problems

    code = "topup_failed" if status == TopupStatus.FAILED else f"stuck_{status}"
    assert [problem.code for problem in found] == ([code] if is_listed else [])


@pytest.mark.parametrize(
    ("after", "fields", "codes"),
    [
        (problems.UNDONE_AFTER, {}, []),
        (problems.UNDONE_AFTER + INSTANT, {}, ["notice_undone"]),
        (problems.UNDONE_AFTER + INSTANT, {"given_up_at": NOON}, ["notice_given_up"]),
        (problems.UNDONE_AFTER + INSTANT, {"processed_at": NOON}, []),
    ],
)
def test_a_notice_is_a_problem_from_its_instant_on(
    database: Connected, after: timedelta, fields: dict[str, datetime], codes: list[str]
) -> None:
    notice = Notice(
        event_id="evt_1", type="refund.created", object_id="re_1", body={}, received_at=NOON,
        **fields,
    )  # fmt: skip
    with database.begin() as session:
        session.add(notice)
        session.flush()
        found = problems.listed(session, NOON + after, 9).problems

    assert [problem.code for problem in found] == codes


def test_a_payment_that_the_last_look_finds_is_no_look_in_vain(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_after")
    customer.ask(reference="purchase")
    (topup,) = customer.topups()
    desk.sandbox.switch("error_before", match={"path": "/v1/payment_intents"}, times=None)
    for minutes in (6, 31):
        desk.clock.set(topup.created_at + timedelta(minutes=minutes))
        desk.sweep()
    before = customer.statuses(), customer.topups()[0].looks
    desk.sandbox.mend()

    desk.clock.set(topup.created_at + timedelta(hours=26))
    desk.sweep()

    assert before == (["unknown"], 0)
    assert customer.statuses() == ["paid"]


def test_the_janitor_looks_in_the_instant_that_is_planned_and_its_lease_ends(desk: Desk) -> None:
    customer = desk.customer()
    break_charges(desk, customer, "reset_before")
    customer.ask()
    (topup,) = customer.topups()
    planned = topup.next_look_at
    assert planned == topup.sent_at + desk.till.policy.check_again_after(0)

    assert taken(desk, janitor.DUE.take, planned - INSTANT) == []
    assert taken(desk, janitor.DUE.take, planned) == [topup.topup_id]
    assert taken(desk, janitor.DUE.take, planned + janitor.LEASE - INSTANT) == []
    assert taken(desk, janitor.DUE.take, planned + janitor.LEASE) == [topup.topup_id]


def test_the_last_delay_between_looks_goes_on() -> None:
    policy = replace(Policy(), janitor_delays=(timedelta(minutes=1), timedelta(hours=1)))

    assert [policy.check_again_after(looks) for looks in range(5)] == [
        timedelta(minutes=1), timedelta(hours=1), timedelta(hours=2), timedelta(hours=3),
        timedelta(hours=4),
    ]  # fmt: skip


# Pages and cards


def test_a_page_is_closed_in_the_instant_in_which_its_time_is_over() -> None:
    topup = topups.new(new_id(), TopupKind.MANUAL, 25 * USD, "key", NOON)
    topup.purchase_id = new_id()
    end = NOON + Policy().page_life

    assert not pages.is_to_close(topup, Policy(), end - INSTANT)
    assert pages.is_to_close(topup, Policy(), end)


@pytest.mark.parametrize(
    ("purchase_id", "wait"), [(new_id(), pages.OPENED_WITHIN), (None, pages.NEVER_BEGUN_AFTER)]
)
def test_a_page_that_was_never_opened_is_waited_for_until_its_instant(
    desk: Desk, purchase_id: UUID | None, wait: timedelta
) -> None:
    customer = desk.customer(enabled=False)
    command = StartTopup(
        idempotency_key="key", user_id=customer.user_id, email="a@example.com",
        amount_micros=25 * USD, purchase_id=purchase_id,
    )  # fmt: skip
    with desk.till.database.begin() as session:
        topup, _ = checkout.begin(session, desk.clock(), command, desk.till.policy)
    begun, seen = desk.clock(), []

    for now in (begun + wait - INSTANT, begun + wait):
        desk.clock.now = now
        janitor._look_at_created(desk.till, topup)
        seen += customer.statuses()

    assert seen == ["created", "cancelled"]


def test_the_processor_is_asked_again_after_three_seconds_and_not_before(desk: Desk) -> None:
    customer, other = (desk.customer(enabled=False) for _ in range(2))
    customer.start_topup()
    other.start_topup()
    again = NOON + checkout.ASK_AGAIN_AFTER

    def claims(whose: Customer, now: datetime) -> bool:
        with desk.till.database.begin() as session:
            (topup,) = session.query(Topup).filter(Topup.user_id == whose.user_id)
            return checkout._claim_question(session, topup, now)

    assert [claims(customer, now) for now in (NOON, again, again + INSTANT)] == [True, False, True]
    assert claims(other, again + INSTANT), "that somebody else was asked about is nothing to them"


def test_a_page_is_looked_at_five_minutes_after_it_was_opened(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.start_topup()

    (topup,) = customer.topups()
    assert (topup.sent_at, topup.customer_id) == (desk.clock(), customer.customer_id)
    assert topup.next_look_at == desk.clock() + timedelta(minutes=5)


def test_a_page_for_saving_a_card_lives_for_a_day_to_the_instant(desk: Desk) -> None:
    with desk.till.database.begin() as session:
        for name, done_at in (("cs_1", None), ("cs_done", NOON)):
            session.add(
                CardSetup(session_id=name, user_id=new_id(), created_at=NOON, done_at=done_at)
            )
    end = NOON + checkout.SETUPS_LIVE
    done = []
    for now in (end - INSTANT, end):
        with desk.till.database.begin() as session:
            checkout.close_setups(session, now)
        with desk.till.database.read() as session:
            done.append(session.get_one(CardSetup, "cs_1").done_at)

    assert done == [None, end]
    with desk.till.database.read() as session:
        assert session.get_one(CardSetup, "cs_done").done_at == NOON


def test_the_service_closes_pages_for_saving_a_card_by_itself(desk: Desk) -> None:
    service = TopupService()
    service.database = desk.till.database
    with desk.till.database.begin() as session:
        session.add(CardSetup(session_id="cs_old", user_id=new_id(), created_at=NOON - YEAR))

    service.close_setups()

    with desk.till.database.read() as session:
        assert session.get_one(CardSetup, "cs_old").done_at is not None


def test_a_page_for_saving_a_card_is_asked_about_for_a_day_and_not_too_often(desk: Desk) -> None:
    user_id, now, often = new_id(), desk.clock(), checkout.ASK_AGAIN_AFTER
    setups = {
        "young": {"created_at": now - checkout.SETUPS_LIVE + INSTANT},
        "old": {"created_at": now - checkout.SETUPS_LIVE},
        "asked": {"asked_at": now - often},
        "asked before": {"asked_at": now - often - INSTANT},
        "done": {"done_at": now - often},
    }
    with desk.till.database.begin() as session:
        for name, fields in setups.items():
            moments: dict[str, datetime] = {"created_at": now, **fields}
            session.add(CardSetup(session_id=name, user_id=user_id, **moments))

    checkout.refresh_setups(desk.till, user_id)

    with desk.till.database.read() as session:
        asked = session.query(CardSetup).filter(CardSetup.asked_at == now)
        assert {setup.session_id for setup in asked} == {"young", "asked before"}


def test_of_many_pages_for_saving_a_card_five_are_asked_about_at_a_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id, asked = new_id(), []
    with desk.till.database.begin() as session:
        for number in range(6):
            setup = CardSetup(session_id=f"cs_{number}", user_id=user_id, created_at=desk.clock())
            session.add(setup)
    monkeypatch.setattr(checkout, "settle_session", lambda _till, name: asked.append(name))

    checkout.refresh_setups(desk.till, user_id)

    assert len(set(asked)) == 5


@pytest.mark.parametrize(("short_cents", "is_sold"), [(0, True), (-1, False)])
def test_a_frozen_wallet_takes_what_it_owes_to_the_cent(
    desk: Desk, short_cents: int, is_sold: bool
) -> None:
    customer = desk.customer(enabled=False)
    desk.wallet.frozen.add(customer.user_id)
    desk.wallet.balances[customer.user_id] = -30 * USD
    command = StartTopup(
        idempotency_key="key", user_id=customer.user_id, email="a@example.com",
        amount_micros=30 * USD - short_cents * CENT,
    )  # fmt: skip

    if is_sold:
        checkout._refuse_frozen(desk.till, command)
        return
    with pytest.raises(AccountFrozen):
        checkout._refuse_frozen(desk.till, command)


@pytest.mark.parametrize("bound", ["topup_min_micros", "topup_max_micros"])
def test_a_topup_is_within_its_bounds_to_the_cent(bound: str) -> None:
    policy = Policy()
    edge, outside = getattr(policy, bound), CENT if "max" in bound else -CENT

    topups.check_amount(edge, policy)
    with pytest.raises(BadRequest):
        topups.check_amount(edge + outside, policy)


def test_a_removed_card_is_told_again_once_its_lease_ends(desk: Desk) -> None:
    desk.customer(enabled=False)
    now = desk.clock()
    gone = text("UPDATE cards SET removed_at = :now")
    with desk.till.database.begin() as session:
        session.execute(gone, {"now": now})

    assert len(taken(desk, saved_cards.to_detach, now)) == 1
    assert taken(desk, saved_cards.to_detach, now + saved_cards.LEASE - INSTANT) == []
    assert len(taken(desk, saved_cards.to_detach, now + saved_cards.LEASE)) == 1


@pytest.mark.parametrize(("now", "is_told"), [((2027, 10, 31), False), ((2027, 11, 1), True)])
def test_a_card_is_told_of_from_the_first_of_the_month_before_its_last(
    desk: Desk, now: tuple[int, int, int], is_told: bool
) -> None:
    desk.customer(enabled=False)
    expires = text("UPDATE cards SET exp_year = 2027, exp_month = 12")
    with desk.till.database.begin() as session:
        session.execute(expires)

    told = saved_cards.warn_of_expiry(desk.till.database, datetime(*now, tzinfo=UTC))

    assert bool(told) is is_told


def test_a_charge_counts_in_every_limit() -> None:
    assert Usage().with_charge(25 * USD) == Usage(
        day_micros=25 * USD,
        month_micros=25 * USD,
        user_hour_count=1,
        user_hour_micros=25 * USD,
        system_hour_count=1,
        system_hour_micros=25 * USD,
    )
