"""What finance reads of payments: disputes, stuck top-ups, and what did not agree."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete

from chassis.identifiers import new_id
from contracts.errors import NotFound
from contracts.topup import (
    Consent,
    DisputeDetails,
    GetConsent,
    GetPaymentBooks,
    PaymentBooks,
    TopupStatus,
)
from services.topup import payment_books
from services.topup.automatic.consent import TEXT, VERSION
from services.topup.charging import reconciliation, reversals
from services.topup.charging.reconciliation import Found
from services.topup.models import Comparison, Dispute, Topup
from services.topup.problems import STUCK_AFTER
from tests.topup.conftest import USD, Customer, Desk
from tests.topup.test_retention import SETTINGS
from tests.topup.test_reversals import pay_again, payment_of, say
from tests.topup.test_webhooks import events_of, receive

DAY = timedelta(days=1)


def look(desk: Desk, limit: int = 100) -> PaymentBooks:
    with desk.till.database.read() as session:
        return payment_books.look(session, desk.clock(), GetPaymentBooks(limit=limit))


def paid(desk: Desk) -> Customer:
    customer = desk.customer()
    customer.ask()
    customer.credited()
    return customer


def test_disputes_that_are_open_stand_before_those_that_are_decided(desk: Desk) -> None:
    customers = [paid(desk) for _ in range(2)]
    for customer in customers:
        dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
        reversals.take_dispute(desk.till, dispute["id"])
        desk.clock.advance(minutes=1)
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="won")
    desk.clock.advance(days=1)
    reversals.take_dispute(desk.till, dispute["id"])

    found = look(desk).disputes

    assert [(each.user_id, each.status, each.amount_micros) for each in found] == [
        (customers[0].user_id, "needs_response", 25 * USD),
        (customers[1].user_id, "won", 25 * USD),
    ]
    assert [each.restored_at is None for each in found] == [True, False]


def test_a_payment_is_stuck_on_the_instant_after_its_time_and_says_who_looks_next(
    desk: Desk,
) -> None:
    users = []
    for _ in range(2):
        customer = desk.customer()
        customer.ask()
        users.append(customer.user_id)
    with desk.till.database.read() as session:
        rows = {row.user_id: row for row in session.query(Topup)}
    since = rows[users[1]].updated_at

    desk.clock.set(since + STUCK_AFTER)
    at_once = [each.user_id for each in look(desk).stuck]
    desk.clock.advance(seconds=1)
    found = look(desk).stuck

    assert (at_once, [each.user_id for each in found]) == (at_once[:1], users)
    assert {each.status for each in found} == {TopupStatus.PAID}
    assert [each.next_look_at for each in found] == [rows[user].next_look_at for user in users]


def test_differences_that_stand_come_before_those_that_are_gone(desk: Desk) -> None:
    now = desk.clock()
    gone, stands = (
        Found("charged_twice", name, name, now, 5 * USD, user_id=new_id()) for name in "ab"
    )
    with desk.till.database.begin() as session:
        reconciliation.keep(session, [gone], now)
        session.add(Comparison(compared_at=now, since=now, until=now + DAY))
        # The next comparison of that day finds the other one.
        reconciliation._remember(session, [stands], now, now + DAY, now)

    found = look(desk)

    assert [(each.message, each.gone_at is None) for each in found.differences] == [
        ("b", True),
        ("a", False),
    ]
    assert [(each.since, each.until) for each in found.comparisons] == [(now, now + DAY)]
    assert [each.message for each in look(desk, limit=1).differences] == ["b"]


def opened(desk: Desk, customer: Customer, **dispute: Any) -> str:
    """A dispute of the customer's payment, as it is recorded."""
    found = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute", **dispute)
    reversals.take_dispute(desk.till, found["id"])
    return str(found["id"])


def answer(desk: Desk, dispute_id: str, **params: Any) -> None:
    """As somebody does in the processor's dashboard."""
    evidence: Any = {"evidence": {"uncategorized_text": "It was used."}, **params}
    desk.till.processor._client.v1.disputes.update(dispute_id, evidence)


def details_of(desk: Desk, dispute_id: str) -> DisputeDetails:
    [details] = [each.details for each in look(desk).disputes if each.dispute_id == dispute_id]
    assert details is not None
    return details


def test_what_the_processor_tells_of_a_dispute_is_kept(desk: Desk) -> None:
    began = desk.clock().replace(microsecond=0)
    dispute_id = opened(desk, paid(desk), reason="product_not_received")

    told = details_of(desk, dispute_id)

    assert (told.reason, told.network_reason_code) == ("product_not_received", "13.1")
    assert (told.fee_micros, told.closed_at) == (15 * USD, None)
    assert timedelta() <= told.opened_at - began < timedelta(minutes=1)
    assert told.due_at == told.opened_at + 9 * DAY
    assert (told.has_evidence, told.submission_count, told.was_submitted_late) == (False, 0, False)


def test_a_draft_is_no_evidence_that_was_handed_in(desk: Desk) -> None:
    dispute_id = opened(desk, paid(desk))
    told = []
    for submit in (False, True):
        answer(desk, dispute_id, submit=submit)
        reversals.take_dispute(desk.till, dispute_id)
        told.append(details_of(desk, dispute_id))

    assert [(each.has_evidence, each.submission_count) for each in told] == [(True, 0), (True, 1)]
    assert look(desk).disputes[0].status == "under_review"


def test_evidence_is_in_time_on_the_instant_and_past_due_after_it(desk: Desk) -> None:
    dispute_id = opened(desk, paid(desk))
    due_at = details_of(desk, dispute_id).due_at
    assert due_at is not None
    told = []
    for late in (timedelta(), timedelta(microseconds=1)):
        desk.clock.now = due_at + late
        told.append(details_of(desk, dispute_id).is_past_due)
    desk.clock.set(due_at + DAY)
    answer(desk, dispute_id)
    reversals.take_dispute(desk.till, dispute_id)

    answered = details_of(desk, dispute_id)
    assert told == [False, True]
    assert (answered.is_past_due, answered.was_submitted_late) == (False, True)


def test_the_next_deadline_stands_first_then_what_is_too_late_open_and_decided(desk: Desk) -> None:
    late = opened(desk, paid(desk))
    desk.clock.advance(days=8)
    decided, reviewed, endless, soon, inquiry = (
        opened(desk, paid(desk)),
        opened(desk, paid(desk)),
        opened(desk, paid(desk), takes_evidence=False),
        opened(desk, paid(desk)),
        opened(desk, paid(desk), reason="inquiry"),
    )
    desk.sandbox.post(f"disputes/{decided}/close", outcome="lost")
    answer(desk, reviewed)
    for dispute_id in (decided, reviewed):
        reversals.take_dispute(desk.till, dispute_id)
    desk.clock.advance(days=2)
    latest = opened(desk, paid(desk))

    found = [each.dispute_id for each in look(desk).disputes]

    # Those of one moment are told apart by their ids.
    assert (set(found[:2]), found[2:4]) == ({soon, inquiry}, [latest, late])
    assert (set(found[4:6]), found[6:]) == ({endless, reviewed}, [decided])
    assert [each.dispute_id for each in look(desk, limit=4).disputes] == found[:4]


def test_an_inquiry_and_a_second_payments_dispute_have_dates_and_took_nothing(desk: Desk) -> None:
    asks, customer = paid(desk), paid(desk)
    inquiry = opened(desk, asks, reason="inquiry")
    second = desk.sandbox.post(f"charges/{pay_again(desk, customer)}/dispute")
    reversals.take_dispute(desk.till, second["id"])

    found = {each.dispute_id: each for each in look(desk).disputes}

    assert {found[inquiry].user_id, found[second["id"]].user_id} == {
        asks.user_id,
        customer.user_id,
    }
    assert [each.taken_at for each in found.values()] == [None, None]
    assert (details_of(desk, inquiry).fee_micros, details_of(desk, second["id"]).fee_micros) == (
        None,
        15 * USD,
    )


def test_a_dispute_is_seen_closed_once_and_again_after_an_appeal(desk: Desk) -> None:
    customer = paid(desk)
    dispute_id = opened(desk, customer)
    dispute = desk.till.processor.get_dispute(dispute_id)
    seen = []
    for status in ("lost", "lost", "appeal_needs_response", "won"):
        say(desk, dispute, status)
        seen.append((details_of(desk, dispute_id).closed_at, desk.clock()))

    (lost_at, first), (still, _), (appealed, _), (won_at, last) = seen
    assert (lost_at, still, appealed, won_at) == (first, first, None, last)


def test_an_older_answer_does_not_overwrite_a_newer_one_and_is_asked_for_again(desk: Desk) -> None:
    dispute_id = opened(desk, paid(desk))
    before = desk.till.processor.get_dispute(dispute_id)
    desk.clock.advance(minutes=1)
    answer(desk, dispute_id, submit=False)
    reversals.take_dispute(desk.till, dispute_id)

    # The same status, so that only the details differ; asked two days earlier.
    desk.clock.advance(days=-2)
    with pytest.raises(reversals.Overtaken):
        say(desk, before, before["status"])

    assert details_of(desk, dispute_id).has_evidence


def test_an_older_answer_that_says_the_same_is_done_with(desk: Desk) -> None:
    dispute_id = opened(desk, paid(desk))
    [before] = look(desk).disputes
    desk.clock.advance(minutes=-1)

    reversals.take_dispute(desk.till, dispute_id)

    assert look(desk).disputes == [before]


def test_the_notice_that_a_dispute_began_may_come_last(desk: Desk) -> None:
    customer = paid(desk)
    other = opened(desk, paid(desk))
    dispute = desk.sandbox.post(f"charges/{payment_of(customer)}/dispute")
    desk.sandbox.post(f"disputes/{dispute['id']}/close", outcome="lost")
    kinds = ("charge.dispute.created", "charge.dispute.closed")
    events = {
        event["type"]: event
        for event in events_of(desk, *kinds)
        if event["data"]["object"]["id"] == dispute["id"]
    }

    for kind in reversed(kinds):
        receive(desk, events[kind])

    found = {each.dispute_id: each for each in look(desk).disputes}
    assert (found[dispute["id"]].status, found[other].status) == ("lost", "needs_response")
    assert details_of(desk, dispute["id"]).closed_at == desk.clock()


def test_a_dispute_from_before_says_that_nothing_is_known_until_something_is_heard(
    desk: Desk,
) -> None:
    dispute_id = opened(desk, paid(desk))
    soon = opened(desk, paid(desk))
    decided = opened(desk, paid(desk))
    desk.sandbox.post(f"disputes/{decided}/close", outcome="won")
    reversals.take_dispute(desk.till, decided)
    with desk.till.database.begin() as session:
        session.execute(delete(Dispute).where(Dispute.dispute_id == dispute_id))
    before = look(desk).disputes
    reversals.take_dispute(desk.till, dispute_id)

    assert [(each.dispute_id, each.details is None) for each in before] == [
        (soon, False),
        (dispute_id, True),
        (decided, False),
    ]
    assert details_of(desk, dispute_id).reason == "fraudulent"


@pytest.mark.parametrize(
    ("key", "base", "dashboard"),
    [
        ("sk_live_1", "", "https://dashboard.stripe.com/disputes/"),
        ("rk_test_1", "", "https://dashboard.stripe.com/test/disputes/"),
        ("sk_test_1", "http://127.0.0.1:12111", ""),
    ],
)
def test_a_dispute_leads_to_its_page_at_the_processor(
    desk: Desk, key: str, base: str, dashboard: str
) -> None:
    dispute_id = opened(desk, paid(desk))
    settings = SETTINGS.model_copy(update={"stripe_api_key": key, "stripe_api_base": base})

    with desk.till.database.read() as session:
        found = payment_books.look(
            session, desk.clock(), GetPaymentBooks(), payment_books.dashboard_of(settings)
        )

    assert [each.url for each in found.disputes] == [dashboard and f"{dashboard}{dispute_id}"]


def behind(desk: Desk, customer: Customer, topup_id: UUID) -> Consent | None:
    request = GetConsent(user_id=customer.user_id, topup_id=topup_id)
    with desk.till.database.read() as session:
        return payment_books.consent_behind(session, request).consent


def test_a_charge_is_told_with_what_was_agreed_to_when_it_was_begun(desk: Desk) -> None:
    """Others agree before and after, and so does the same person, to more."""
    others = [desk.customer()]
    customer = desk.customer(client_address="192.0.2.7", daily_limit_micros=100 * USD)
    agreed_at = desk.clock()
    customer.ask()
    customer.credited()
    desk.clock.advance(minutes=1)
    customer.configure(topup_amount_micros=50 * USD, client_address="192.0.2.8")
    others.append(desk.customer())
    customer.ask()

    first, second = (behind(desk, customer, each.topup_id) for each in customer.topups())

    assert first is not None
    assert second is not None
    assert (first.version, first.text, first.client_address) == (VERSION, TEXT, "192.0.2.7")
    assert abs(first.agreed_at - agreed_at) < timedelta(seconds=5)
    assert (first.threshold_micros, first.topup_amount_micros) == (10 * USD, 25 * USD)
    assert (first.daily_limit_micros, first.monthly_limit_micros) == (100 * USD, None)
    assert (second.topup_amount_micros, second.client_address) == (50 * USD, "192.0.2.8")
    for other in others:
        with pytest.raises(NotFound):
            behind(desk, other, customer.topups()[0].topup_id)


def test_what_was_bought_by_hand_has_no_consent_behind_it(desk: Desk) -> None:
    customer = desk.customer()

    assert behind(desk, customer, customer.start_topup().topup_id) is None
