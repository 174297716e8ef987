"""Nobody sees, and nobody changes, what belongs to who came before or after.

Three people have the same of everything, under the same references: whatever forgets whose it
is asked about finds theirs too.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.bulk import Batch
from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.errors import NotFound
from contracts.topup import (
    ConfigureAutoTopup,
    ListTopups,
    RefusalCode,
    StartTopup,
    TopupKind,
    TopupStatus,
    Trigger,
)
from services.topup import overview, topups
from services.topup.automatic import (
    card_changes,
    disputes,
    limits,
    pages,
    pauses,
    rule,
    terms,
    triggers,
)
from services.topup.cards import customers, saved_cards
from services.topup.charging import checkout, receipts, saved_card
from services.topup.models import (
    AutoTopupSettings,
    Base,
    Card,
    CardSetup,
    Consent,
    Customer,
    RefusalRecord,
    Reversal,
    Topup,
    TriggerRecord,
)
from services.topup.policy import Policy
from services.topup.processor import UNREACHED
from tests.topup.conftest import NOON, USD, Desk

EARLIER, ME, LATER = (UUID(f"00000000-0000-7000-8000-00000000000{n}") for n in (1, 2, 3))
PURCHASE = UUID("00000000-0000-7000-8000-0000000000aa")
OVER = UUID("00000000-0000-7000-8000-0000000000bb")
MINUTE = timedelta(minutes=1)
OLD = NOON - 40 * MINUTE
BY_HAND = StartTopup(
    idempotency_key="key", user_id=ME, email="a@example.com", amount_micros=25 * USD,
    purchase_id=PURCHASE,
)  # fmt: skip


def everything(session: Session, user_id: UUID) -> None:
    """One of each kind of thing that is kept of a user."""
    session.add(Customer(user_id=user_id, email="a@example.com", customer_id=f"cus_{user_id}",
                         created_at=OLD))  # fmt: skip
    for name, is_default in (("one", True), ("two", False)):
        session.add(_card(user_id, name, is_default=is_default))
    session.add(_settings(user_id))
    session.add(Consent(consent_id=user_id, user_id=user_id, version="1", text="x",
                        client_address="", terms={}, agreed_at=OLD))  # fmt: skip
    session.add_all(_topups(user_id))
    session.add(CardSetup(session_id=f"cs_{user_id}", user_id=user_id, created_at=OLD))
    session.flush()
    session.add(Reversal(reversal_id=f"dp_{user_id}", source_id="dp", topup_id=_topup_id(user_id),
                         user_id=user_id, amount_micros=USD, is_dispute=True,
                         status="needs_response", asked_at=OLD, taken_at=OLD))  # fmt: skip
    for code in (RefusalCode.NO_CARD, RefusalCode.DISABLED):
        session.add(RefusalRecord(refusal_id=new_id(), user_id=user_id, code=code,
                                  reason=f"of {user_id}", trigger=Trigger.BY_HAND,
                                  reference="refused", refused_at=NOON + MINUTE))  # fmt: skip
    session.add_all(_triggers(user_id))
    session.flush()


def _card(user_id: UUID, name: str, *, is_default: bool) -> Card:
    return Card(
        payment_method_id=f"pm_{name}_{user_id}", user_id=user_id, brand="visa", last4="4242",
        exp_month=1, exp_year=2040, fingerprint=name, is_default=is_default, added_at=OLD,
    )  # fmt: skip


def _settings(user_id: UUID) -> AutoTopupSettings:
    return AutoTopupSettings(
        user_id=user_id, is_enabled=True, threshold_micros=10 * USD, amount_micros=25 * USD,
        payment_method_id=f"pm_one_{user_id}", settings_version=1, consent_id=user_id,
        paused_code=pauses.AUTHENTICATION, paused_reason="x", updated_at=OLD, declines=0,
    )  # fmt: skip


def _topup_id(user_id: UUID) -> UUID:
    """Of the one that was paid."""
    return UUID(int=user_id.int + (1 << 64))


def _topups(user_id: UUID) -> Iterator[Topup]:
    paid = topups.new(user_id, TopupKind.MANUAL, 20 * USD, "paid", OLD)
    paid.topup_id, paid.status, paid.paid_at = _topup_id(user_id), TopupStatus.PAID, NOON
    paid.payment_method_id = f"pm_one_{user_id}"
    yield paid
    page = topups.by_hand(BY_HAND.model_copy(update={"user_id": user_id}), Policy(), OLD)
    page.session_id, page.status = f"cs_{user_id}", TopupStatus.PROCESSING
    yield page
    in_flight = topups.new(user_id, TopupKind.AUTO, 25 * USD, "in flight", OLD)
    in_flight.status, in_flight.trigger = TopupStatus.ACTION_REQUIRED, Trigger.PURCHASE
    in_flight.trigger_reference = str(PURCHASE)
    yield in_flight
    unsent = topups.new(user_id, TopupKind.AUTO, 25 * USD, "unsent", OLD)
    unsent.status, unsent.failure_code = TopupStatus.CANCELLED, UNREACHED
    unsent.trigger, unsent.trigger_reference = Trigger.PURCHASE, str(OVER)
    yield unsent
    asked_for = topups.new(user_id, TopupKind.AUTO, 5 * USD, "asked for", OLD)
    asked_for.status, asked_for.trigger = TopupStatus.CREDITED, Trigger.BY_HAND
    asked_for.trigger_reference = "made"
    yield asked_for


def _triggers(user_id: UUID) -> Iterator[TriggerRecord]:
    for trigger, reference, needed_micros, refusal in (
        (Trigger.PURCHASE, str(PURCHASE), 7 * USD, RefusalCode.CARD_PAGE_OPEN),
        (Trigger.PURCHASE, "another", 7 * USD, RefusalCode.IN_FLIGHT),
        (Trigger.PURCHASE, str(OVER), 0, ""),
        (Trigger.RENEWAL, "renewal", 3 * USD, RefusalCode.NO_CARD),
        (Trigger.LOW_BALANCE, "idle", 0, RefusalCode.IDLE),
        (Trigger.BY_HAND, "made", 0, ""),
        (Trigger.BY_HAND, "refused", 0, RefusalCode.NO_CARD),
    ):
        is_over = reference == str(OVER)
        yield TriggerRecord(
            trigger_id=new_id(), user_id=user_id, trigger=trigger, reference=reference,
            needed_micros=needed_micros, shortfall_micros=needed_micros, raised_at=OLD,
            due_at=None if is_over else NOON + 30 * MINUTE, tries=0, refusal_code=refusal,
            ended_at=OLD if is_over else None,
        )  # fmt: skip


def one_of(session: Session, user_id: UUID, name: str) -> Topup:
    return session.scalars(
        select(Topup).where(Topup.user_id == user_id, Topup.idempotency_key == name)
    ).one()


def unsent_of(session: Session, user_id: UUID) -> Topup:
    """For the purchase that has ended, in everybody's case."""
    topup = topups.new(user_id, TopupKind.AUTO, USD, "x", OLD)
    topup.trigger, topup.trigger_reference = Trigger.PURCHASE, str(OVER)
    return topup


def made_by_hand(session: Session, user_id: UUID, reference: str) -> Any:
    try:
        found = rule.outcome(session, user_id, reference)
    except NotFound:
        return None
    return found.topup or found.refusal_reason == f"of {user_id}" or "refused another"


QUESTIONS: dict[str, Callable[[Session, UUID], Any]] = {
    "used": lambda s, u: limits.used_micros(s, u, OLD - MINUTE, NOON),
    "in flight": limits.in_flight_topup,
    "arriving": limits.arriving_micros,
    "credit on its way": lambda s, u: bool(limits.paid_topups(s, u)),
    "paid since": lambda s, u: limits.was_paid_since(s, u, NOON),
    "unsent": lambda s, u: limits.unsent_count(s, u, NOON),
    "last hour": lambda s, u: limits.usage(s, u, NOON, Policy()).user_hour_micros,
    "page of the purchase": lambda s, u: pages.open_for(s, u, str(PURCHASE)),
    "any page": lambda s, u: limits.usage(s, u, NOON, Policy()).has_card_page,
    "when the page was opened": lambda s, u: (
        limits.usage(s, u, NOON, Policy(), str(PURCHASE)).card_page_until is not None
    ),
    "being confirmed": lambda s, u: pages.is_being_confirmed(s, u, str(PURCHASE)),
    "replayed": lambda s, u: topups.replay(s, BY_HAND.model_copy(update={"user_id": u})),
    "list": lambda s, u: topups.page(s, ListTopups(user_id=u, limit=50)).topups,
    "asked for": lambda s, u: made_by_hand(s, u, "made"),
    "refused": lambda s, u: made_by_hand(s, u, "refused"),
    "purchase is over": lambda s, u: triggers.is_over(s, u, OVER),
    "top-up's purchase has ended": lambda s, u: triggers.has_ended(s, unsent_of(s, u)),
    "waiting": lambda s, u: triggers.waiting_micros(s, u, NOON),
    "last topup": terms._last_topup,
    "last refusal": lambda s, u: terms._last_refusal(s, u) is not None,
    "cards": saved_cards.of_user,
    "saved card being charged": saved_card.under_way_of,
    "paid count": topups.paid_count,
    "what there is": lambda s, u: [
        name for name, has in overview._what_they_have(s, [u])[0]._asdict().items() if has is True
    ],
    "same card": lambda s, u: saved_cards.same_card(s, u, "one"),
    "default card": saved_cards.default_of,
    "dispute": disputes.has_open,
}


def plain(answer: Any) -> Any:
    """An answer without what tells people apart, after a look whose it is."""
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    return type(answer).__name__ if hasattr(answer, "user_id") else answer


def owners(answer: Any) -> set[UUID]:
    each = answer if isinstance(answer, list) else [answer]
    return {found.user_id for found in each if hasattr(found, "user_id")}


@pytest.fixture
def three(database: Connected) -> Connected:
    with database.begin() as session:
        for user_id in (EARLIER, ME, LATER):
            everything(session, user_id)
    return database


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_about_one_user_is_answered_as_if_there_were_no_other(
    database: Connected, name: str
) -> None:
    ask = QUESTIONS[name]
    with database.begin() as session:
        everything(session, EARLIER)
    with database.read() as session:
        alone, of_nobody = plain(ask(session, EARLIER)), ask(session, new_id())
    with database.begin() as session:
        everything(session, ME)
        everything(session, LATER)

    assert alone, "there is something to be found"
    assert not of_nobody
    with database.read() as session:
        answers = {user_id: ask(session, user_id) for user_id in (EARLIER, ME, LATER)}
    assert all(plain(answer) == alone for answer in answers.values())
    assert all(owners(answer) <= {user_id} for user_id, answer in answers.items())


def test_a_topup_paid_by_somebody_else_silences_no_refusal(three: Connected) -> None:
    with three.begin() as session:
        for user_id in (EARLIER, LATER):
            session.get_one(Topup, _topup_id(user_id)).paid_at = NOON + 2 * MINUTE

    with three.read() as session:
        assert terms._last_refusal(session, ME) is not None
        assert terms._last_refusal(session, LATER) is None


def test_a_card_page_of_somebody_else_keeps_no_purchase_from_waiting(three: Connected) -> None:
    with three.begin() as session:
        one_of(session, ME, "key").status = TopupStatus.CANCELLED

    with three.read() as session:
        waiting = [triggers.waiting_micros(session, u, NOON) for u in (EARLIER, ME, LATER)]

    assert waiting == [10 * USD, 17 * USD, 10 * USD]


@pytest.mark.parametrize("owner", [EARLIER, LATER])
def test_what_belongs_to_somebody_else_is_not_found(three: Connected, owner: UUID) -> None:
    with three.begin() as session:
        theirs = one_of(session, owner, "asked for").topup_id
        for look in (
            lambda: topups.get(session, ME, theirs),
            lambda: receipts.receipt(session, ME, _topup_id(owner)),
            lambda: saved_cards.get(session, ME, f"pm_one_{owner}"),
            lambda: saved_cards.set_default(session, ME, f"pm_two_{owner}"),
            lambda: card_changes.remove(session, ME, f"pm_two_{owner}", NOON),
        ):
            with pytest.raises(NotFound):
                look()


def pause_ends(session: Session, user_id: UUID, now: datetime) -> None:
    pauses.confirmed(session, session.get_one(AutoTopupSettings, user_id), now)


def switched_off(session: Session, user_id: UUID, now: datetime) -> None:
    command = ConfigureAutoTopup(idempotency_key="same", user_id=user_id, enabled=False)
    terms.configure(session, now, command, Policy())


def the_card_is_saved_again(session: Session, user_id: UUID, now: datetime) -> None:
    method = {
        "id": "pm_again", "customer": f"cus_{user_id}",
        "card": {"exp_month": 1, "exp_year": 2041, "brand": "visa", "last4": "4242",
                 "fingerprint": "one"},
    }  # fmt: skip
    card_changes.keep(session, method, now)


def end_of_idleness(session: Session, user_id: UUID, now: datetime) -> None:
    with Batch(session) as writes:
        triggers.end_idleness(writes, [user_id], now)


CHANGES: dict[str, Callable[[Session, UUID, datetime], Any]] = {
    "raise": lambda s, u, now: triggers.raise_trigger(
        s, u, Trigger.PURCHASE, "another", now, raised_at=now, needed_micros=USD
    ),
    "end of idleness": end_of_idleness,
    "card page closed": lambda s, u, now: triggers.card_page_closed(s, u, PURCHASE, now),
    "renewals end": triggers.end_renewals,
    "made due": triggers.make_due,
    "credit arrived": triggers.credit_arrived,
    "look at the balance": triggers.look_at_balance,
    "purchase ends": lambda s, u, now: pages.end_purchase(s, u, str(PURCHASE), "x", now),
    "wallet froze": lambda s, u, now: terms.account_froze(s, u, "x", now, now),
    "default card": lambda s, u, _: saved_cards.set_default(s, u, f"pm_two_{u}"),
    "card removed": lambda s, u, now: card_changes.remove(s, u, f"pm_one_{u}", now),
    "customer deleted": lambda s, u, now: card_changes.forget_customer(s, f"cus_{u}", now),
    "card saved again": the_card_is_saved_again,
    "pause ends": pause_ends,
    "switched off": switched_off,
    "asked by hand": lambda s, u, now: triggers.ask_by_hand(s, u, "new", now),
}


def kept_of(database: Connected, user_id: UUID) -> list[Any]:
    """Every row of a user's, in every table."""
    tables = [table for table in Base.metadata.sorted_tables if "user_id" in table.columns]
    with database.read() as session:
        return [
            tuple(row)
            for table in tables
            for row in session.execute(
                select(table).where(table.c.user_id == user_id).order_by(*table.primary_key)
            )
        ]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_one_users_changes_nothing_of_the_others(three: Connected, name: str) -> None:
    before = {user_id: kept_of(three, user_id) for user_id in (EARLIER, ME, LATER)}

    with three.begin() as session:
        CHANGES[name](session, ME, NOON)

    changed = [u for u in (EARLIER, ME, LATER) if kept_of(three, u) != before[u]]
    assert changed == [ME]


def test_on_return_only_the_own_pages_for_saving_a_card_are_asked_about(
    three: Connected, desk: Desk
) -> None:
    checkout.refresh_setups(desk.till, ME)

    with three.read() as session:
        asked = session.query(CardSetup).filter(CardSetup.asked_at.is_not(None)).all()
    assert [setup.user_id for setup in asked] == [ME]


def test_a_customer_that_is_made_belongs_to_nobody_else_who_waits_for_one(desk: Desk) -> None:
    with desk.till.database.begin() as session:
        for user_id in (EARLIER, LATER):
            session.add(Customer(user_id=user_id, email="a@example.com", created_at=NOON))

    made = customers.ensure(desk.till, ME, "a@example.com")

    with desk.till.database.read() as session:
        owners = [session.get_one(Customer, u).customer_id for u in (EARLIER, ME, LATER)]
    assert owners == [None, made, None]


def test_the_same_key_of_two_users_is_two_triggers(three: Connected) -> None:
    with three.begin() as session:
        ids = {triggers.ask_by_hand(session, u, "made", NOON) for u in (EARLIER, ME, LATER)}

    assert len(ids) == 3


def test_the_same_key_of_another_user_answers_with_nothing_of_theirs(three: Connected) -> None:
    with three.begin() as session:
        for user_id in (EARLIER, LATER):
            one_of(session, user_id, "asked for").created_at = NOON

    with three.read() as session:
        made = rule.outcome(session, ME, "made").topup

    assert made is not None
    assert made.user_id == ME
