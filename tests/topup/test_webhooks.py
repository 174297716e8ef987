"""Webhooks: in any order, any number of times, and believed only after a look of our own."""

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import requests

from contracts.errors import BadRequest
from contracts.topup import ReceiveWebhook
from deploy.stripe_sandbox.server import SandboxServer
from services.topup import problems, topups
from services.topup.charging import charges, outcomes, webhooks
from services.topup.models import Notice, Topup
from tests.patience import PATIENCE_S
from tests.topup.conftest import SECRET, USD, Card, Customer, Desk, signed


def events_of(desk: Desk, *kinds: str) -> list[dict[str, Any]]:
    reply = requests.get(
        f"{desk.sandbox.url}/v1/events",
        params={"limit": 100},
        headers={"Authorization": "Bearer sk_test_x"},
        timeout=PATIENCE_S,
    )
    return [
        event
        for event in reply.json()["data"]
        if (not kinds or event["type"] in kinds) and event["data"]["object"].get("mode") != "setup"
    ]


def receive(desk: Desk, event: dict[str, Any]) -> None:
    body = json.dumps(event)
    webhooks.receive(desk.till, ReceiveWebhook(payload=body, signature=signed(body)))
    desk.drain()


def pay_by_hand(desk: Desk, number: str = Card.GOOD, **changes: Any) -> Customer:
    customer = desk.customer(enabled=False)
    topup = customer.start_topup(**changes)
    with desk.till.database.read() as session:
        page = topups.find(session, topup.topup_id).session_id
    desk.sandbox.pay(str(page), number)
    return customer


ABOUT_A_PAYMENT = ("payment_intent.succeeded", "checkout.session.completed", "charge.succeeded")


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order_of_webhooks_pays_once(desk: Desk, order: tuple[int, ...]) -> None:
    customer = pay_by_hand(desk)
    events = events_of(desk, *ABOUT_A_PAYMENT)

    for index in order:
        receive(desk, events[index])

    assert (customer.statuses(), len(customer.events("topup_paid"))) == (["paid"], 1)


def test_a_repeated_webhook_changes_nothing(desk: Desk) -> None:
    customer = pay_by_hand(desk)
    (event,) = events_of(desk, "checkout.session.completed")

    for _ in range(3):
        receive(desk, event)

    assert len(customer.events("topup_paid")) == 1


def test_a_webhook_after_the_credit_changes_nothing(desk: Desk) -> None:
    customer = pay_by_hand(desk)
    (first,) = events_of(desk, "checkout.session.completed")
    (second,) = events_of(desk, "payment_intent.succeeded")
    receive(desk, first)
    customer.credited()

    receive(desk, second)

    assert customer.statuses() == ["credited"]


@pytest.mark.parametrize(
    "signature",
    ["", "t=1,v1=00", "v1=00", "nonsense", "t=99999999999,v1=", "t=99999999999,v1=é"],
)
def test_a_wrong_signature_is_refused(desk: Desk, signature: str) -> None:
    with pytest.raises(BadRequest):
        webhooks.receive(desk.till, ReceiveWebhook(payload="{}", signature=signature))


def test_an_old_signature_is_refused(desk: Desk) -> None:
    import time

    import stripe

    old = stripe.WebhookSignature.generate_signature_header(
        "{}", SECRET, timestamp=int(time.time()) - 301
    )

    with pytest.raises(BadRequest, match="tolerance"):
        webhooks.receive(desk.till, ReceiveWebhook(payload="{}", signature=old))


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "[]",
        "{}",
        "[" * 100_000,
        '{"object": "v2.core.event", "id": "e"}',
        '{"object": "event", "id": "e"}',
        '{"object": "event", "id": "e", "data": {"object": {"id": "x"}}}',
        '{"object": "event", "id": 1, "type": "charge.updated", "data": {"object": {}}}',
        '{"object": "event", "id": "e", "type": {}, "data": {"object": {}}}',
        '{"object": "event", "id": "e", "type": "charge.updated", "data": {"object": []}}',
        '{"object": "event", "id": "e", "type": "charge.x", "data": {"object": {"a": "\\u0000"}}}',
        '{"object": "event", "id": "e\\u0000", "type": "charge.updated", "data": {"object": {}}}',
        '{"object": "event", "id": "e", "type": "payment_intent.created", "data": {}}',
        '{"object": "event", "id": "e", "type": "customer.deleted", "data": {"object": {}}}',
        '{"object": "event", "id": "", "type": "refund.a", "data": {"object": {}}}',
        '{"object": "event", "id":"e", "type": "refund.", "data":{"object":{"payment_intent":1}}}',
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(desk: Desk, body: str) -> None:
    with pytest.raises(BadRequest):
        webhooks.receive(desk.till, ReceiveWebhook(payload=body, signature=signed(body)))


def test_what_a_webhook_claims_is_not_believed(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.start_topup()
    forged = {
        "object": "event",
        "id": "evt_forged",
        "type": "checkout.session.completed",
        "data": {"object": {"id": customer.topups()[0].session_id, "payment_status": "paid"}},
    }

    receive(desk, forged)

    assert customer.statuses() == ["processing"]


@pytest.mark.parametrize(
    "lie",
    [
        {"amount_received": 2_499},
        {"currency": "eur"},
        {"metadata": {"topup_id": "00000000-0000-7000-8000-000000000000"}},
    ],
)
def test_a_payment_of_another_amount_currency_or_topup_is_not_credited(
    desk: Desk, lie: dict[str, Any]
) -> None:
    customer = pay_by_hand(desk)
    (topup,) = customer.topups()
    page = desk.till.processor.get_session(str(topup.session_id))
    payment = {**page["payment_intent"], **lie}

    with desk.till.database.begin() as session:
        row = outcomes.record(session, desk.till.policy, topup.topup_id, payment, desk.clock())

    assert (row.status, customer.events("topup_paid")) == ("processing", [])
    assert row.problem


def test_a_second_payment_of_a_topup_is_flagged_and_the_first_still_credited(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()
    (topup,) = customer.topups()
    desk.sandbox.post("idempotency/prune")
    second = desk.till.processor.charge_off_session(
        customer_id=customer.customer_id,
        payment_method_id=str(topup.payment_method_id),
        amount_cents=2_500,
        topup_id=str(topup.topup_id),
        user_id=str(customer.user_id),
    )

    for event in events_of(desk, "payment_intent.succeeded"):
        receive(desk, event)
    desk.clock.advance(minutes=10, seconds=1)
    desk.sweep()

    (topup,) = customer.topups()
    assert topup.problem == f"paid twice: {topup.payment_id} and {second['id']}"
    told = customer.events("topup_paid")
    assert [event["payment_id"] for event in told] == [topup.payment_id] * 2


def test_a_failed_processing_is_tried_again_from_the_store(desk: Desk) -> None:
    customer = pay_by_hand(desk)
    (event,) = events_of(desk, "checkout.session.completed")
    desk.sandbox.switch("reset_before", match={"method": "GET"})
    receive(desk, event)
    assert customer.statuses() == ["processing"]

    receive(desk, event)
    desk.clock.advance(seconds=6)
    desk.sweep()

    assert customer.statuses() == ["paid"]


def test_a_notice_that_a_crash_left_is_worked_off_by_the_timer(desk: Desk) -> None:
    customer = pay_by_hand(desk)
    (event,) = events_of(desk, "checkout.session.completed")
    body = json.dumps(event)
    webhooks.receive(desk.till, ReceiveWebhook(payload=body, signature=signed(body)))
    desk.queue.clear()

    desk.clock.advance(seconds=61)
    desk.sweep()

    assert customer.statuses() == ["paid"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_notice_of_a_charge_is_left_to_its_answer_and_settles_it_where_that_is_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    customer, before, asked = desk.customer(), [], []
    look = desk.till.processor.get_payment

    def after_the_call(point: str) -> None:
        if point == "topup.after_charge":
            receive(desk, *events_of(desk, "payment_intent.succeeded"))
            before.append(customer.statuses())
            if is_lost:
                raise ConnectionAbortedError

    def get_payment(payment_id: str) -> dict[str, Any]:
        asked.append(payment_id)
        return look(payment_id)

    monkeypatch.setattr(charges, "crash_point", after_the_call)
    monkeypatch.setattr(desk.till.processor, "get_payment", get_payment)
    with pytest.raises(ConnectionAbortedError) if is_lost else nullcontext():
        customer.ask()
    desk.clock.advance(seconds=4.9)
    desk.sweep()
    too_soon = len(asked)
    desk.clock.advance(seconds=0.1)
    desk.sweep()

    assert (before, too_soon, len(asked)) == ([["processing"]], 0, int(is_lost))
    assert (customer.statuses(), customer.charge_count()) == (["paid"], 1)


def test_a_notice_is_queued_once_while_the_workers_are_busy(desk: Desk) -> None:
    pay_by_hand(desk)
    (event,) = events_of(desk, "checkout.session.completed")
    body = json.dumps(event)
    webhooks.receive(desk.till, ReceiveWebhook(payload=body, signature=signed(body)))
    desk.clock.advance(seconds=61)

    queued = []
    for _ in range(8):
        with desk.till.database.begin() as session:
            queued += webhooks.DUE.take(session, desk.clock())
        desk.clock.advance(seconds=2)

    assert queued == [event["id"]]


def test_the_return_page_learns_of_the_payment_without_any_webhook(desk: Desk) -> None:
    from services.topup.charging import checkout

    customer = pay_by_hand(desk)
    (topup,) = customer.topups()

    asked = checkout.refresh(desk.till, customer.user_id, topup.topup_id)

    assert asked.status == "paid"


def test_the_return_page_asks_the_processor_once_in_three_seconds(desk: Desk) -> None:
    from services.topup.charging import checkout

    customer = desk.customer(enabled=False)
    topup = customer.start_topup()
    checkout.refresh(desk.till, customer.user_id, topup.topup_id)
    desk.sandbox.pay(str(customer.topups()[0].session_id))

    soon = checkout.refresh(desk.till, customer.user_id, topup.topup_id)
    desk.clock.advance(seconds=4)
    later = checkout.refresh(desk.till, customer.user_id, topup.topup_id)

    assert (soon.status, later.status) == ("processing", "paid")


def test_a_page_that_expires_cancels_the_topup(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.start_topup()
    (topup,) = customer.topups()
    desk.till.processor.expire_session(str(topup.session_id))

    for event in events_of(desk, "checkout.session.expired"):
        receive(desk, event)

    assert customer.statuses() == ["cancelled"]


def test_a_declined_card_on_the_page_is_not_the_end(desk: Desk) -> None:
    customer = desk.customer(enabled=False)
    customer.start_topup()
    page = str(customer.topups()[0].session_id)
    desk.sandbox.pay(page, "4000000000000002")
    for event in events_of(desk, "payment_intent.payment_failed"):
        receive(desk, event)
    assert customer.statuses() == ["processing"]

    desk.sandbox.pay(page, Card.GOOD)
    for event in events_of(desk, "checkout.session.completed"):
        receive(desk, event)

    assert customer.statuses() == ["paid"]


def test_saving_the_card_while_paying_keeps_it(desk: Desk) -> None:
    customer = pay_by_hand(desk, Card.MASTERCARD, save_card=True)
    before = len(customer.cards())
    for event in events_of(desk, "checkout.session.completed"):
        receive(desk, event)

    assert (before, len(customer.cards())) == (1, 2)


def test_not_saving_the_card_keeps_none(desk: Desk) -> None:
    customer = pay_by_hand(desk, save_card=False)
    for event in events_of(desk):
        receive(desk, event)

    assert len(customer.cards()) == 1


def fail_delivery(server: SandboxServer, event: dict[str, Any]) -> None:
    """The processor gave up on delivering this event."""
    store = server.sandbox.store
    with store.transaction():
        store.put("delivery", {"id": event["id"], "state": "failed"})


@pytest.mark.parametrize("away_days", [0, 29])
def test_events_that_were_never_delivered_are_fetched_after_an_outage(
    desk: Desk, sandbox_server: SandboxServer, away_days: int
) -> None:
    customer = pay_by_hand(desk)
    (event,) = events_of(desk, "checkout.session.completed")
    fail_delivery(sandbox_server, event)
    desk.clock.advance(days=away_days)

    fresh = webhooks.sweep_undelivered(desk.till)
    again = webhooks.sweep_undelivered(desk.till)
    desk.drain()

    assert (fresh, again, customer.statuses()) == (1, 0, ["paid"])


def test_an_event_that_cannot_be_stored_does_not_keep_the_others_away(desk: Desk) -> None:
    unreadable = {"object": "event", "id": "evt_nul", "type": "\0", "data": {"object": {}}}
    other = {"object": "event", "id": "evt_other", "type": "charge.updated", "data": {"object": {}}}
    desk.till.processor.undelivered_events = lambda _since_s: [  # type: ignore[method-assign]
        other,
        unreadable,
    ]

    assert webhooks.sweep_undelivered(desk.till) == 1


def test_the_amount_of_a_topup_by_hand_is_what_was_asked(desk: Desk) -> None:
    customer = pay_by_hand(desk, amount_micros=12_340_000)
    for event in events_of(desk, *ABOUT_A_PAYMENT):
        receive(desk, event)

    (paid,) = customer.events("topup_paid")
    assert paid["amount_micros"] == 12_340_000 == int(customer.charged_cents()) * USD // 100


def refund_many(desk: Desk, customer: Customer, count: int) -> list[dict[str, Any]]:
    """So many refunds of ten cents of the first payment, and a notice of each."""
    payment_id = str(customer.topups()[0].payment_id)
    refunds = [
        desk.till.processor.refund(payment_id, 10, idempotency_key=f"{payment_id}-{number}")
        for number in range(count)
    ]
    return [event_about("refund.created", refund) for refund in refunds]


def event_about(kind: str, subject: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "event",
        "id": f"evt_of_{subject['id']}",
        "type": kind,
        "data": {"object": subject},
    }


def test_sixty_refunds_of_a_payment_are_taken_back_by_one_look(desk: Desk) -> None:
    customer = desk.customer()
    customer.ask()
    customer.credited()
    events = refund_many(desk, customer, 60)
    desk.sandbox.switch("latency", match={"method": "GET"}, seconds=0, times=None)

    for event in events:
        webhooks.store(desk.till, event)
    desk.drain()

    (counted,) = requests.get(f"{desk.sandbox.url}/_sandbox/switches", timeout=PATIENCE_S).json()[
        "switches"
    ]
    assert len(customer.events("topup_reversed")) == 60
    assert counted["used"] == 2  # the payment, and all its refunds


def test_a_notice_that_comes_during_a_look_is_looked_at_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = desk.customer()
    customer.ask()
    customer.credited()
    first, second = refund_many(desk, customer, 2)
    refunds_of = desk.till.processor.refunds_of
    looks = []

    def look(payment_id: str) -> list[dict[str, Any]]:
        looks.append(payment_id)
        found = refunds_of(payment_id)
        if len(looks) == 1:
            webhooks.store(desk.till, second)
        return found

    monkeypatch.setattr(desk.till.processor, "refunds_of", look)

    receive(desk, first)

    assert len(looks) == 2


def test_the_notices_of_one_user_leave_turns_to_the_others(desk: Desk) -> None:
    busy, other = desk.customer(), desk.customer()
    for customer in (busy, other):
        customer.ask()
        customer.credited()
    for event in [*refund_many(desk, busy, 5), *refund_many(desk, other, 1)]:
        webhooks.store(desk.till, event)
        desk.clock.advance(seconds=1)
    desk.clock.advance(minutes=2)

    with desk.till.database.begin() as session:
        first = replace(webhooks.DUE, limit=2).take(session, desk.clock())

    assert set(first.values()) == {busy.user_id, other.user_id}


def break_notice(desk: Desk) -> str:
    """A notice that no code of ours can work off: its top-up is in a state that there is not."""
    customer = desk.customer()
    customer.ask()
    (topup,) = customer.topups()
    with desk.till.database.begin() as session:
        session.get_one(Topup, topup.topup_id).status = "no such state"
    event = event_about("payment_intent.succeeded", {"id": str(topup.payment_id)})
    receive(desk, event)
    return str(event["id"])


def test_a_notice_that_can_never_be_worked_off_is_given_up_visibly(desk: Desk) -> None:
    event_id = break_notice(desk)

    for _ in range(12):
        desk.clock.advance(hours=1, seconds=1)
        desk.sweep()

    with desk.till.database.begin() as session:
        notice = session.get_one(Notice, event_id)
        found = problems.listed(session, desk.clock(), 9).problems
    assert (notice.next_try_at, notice.tries) == (None, webhooks.TRIES_MAX)
    assert [p.message for p in found if p.code == "notice_given_up"] == [
        f"payment_intent.succeeded {event_id}: {notice.last_error}"
    ]


def test_a_notice_is_tried_again_later_and_later(desk: Desk) -> None:
    event_id = break_notice(desk)
    pauses_s = []

    for _ in webhooks.DELAYS_S:
        with desk.till.database.read() as session:
            next_at = session.get_one(Notice, event_id).next_try_at
        assert next_at is not None
        pauses_s.append((next_at - desk.clock()).total_seconds())
        desk.clock.advance(seconds=pauses_s[-1])
        desk.sweep()

    assert pauses_s == list(webhooks.DELAYS_S)


def test_a_notice_is_not_given_up_for_an_outage_of_the_processor(desk: Desk) -> None:
    customer = pay_by_hand(desk)
    (event,) = events_of(desk, "checkout.session.completed")
    desk.sandbox.switch("error_before", match={"method": "GET"}, times=None)
    receive(desk, event)
    for _ in range(14):
        desk.clock.advance(hours=1, seconds=1)
        desk.sweep()
    desk.sandbox.mend()

    desk.clock.advance(hours=1, seconds=1)
    desk.sweep()

    assert customer.statuses() == ["paid"]
