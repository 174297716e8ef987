"""The processor's notices (webhooks): stored once, then worked off from the store.

A notice only says where to look: the object that it names is fetched again, so that neither
order nor repetition nor age matters. One that cannot be worked off is tried again by a timer.
"""

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.database import after_commit
from contracts.errors import BadRequest, NotFound
from contracts.topup import ReceiveWebhook
from services.topup import cards, checkout, outcomes, reversals
from services.topup.models import Notice
from services.topup.processor import BadSignature, Missing, Object
from services.topup.till import Till

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
"""How long a notice belongs to whoever works on it, before the timer takes it up."""
DELAYS_S = (5, 30, 120, 600, 3_600)
KEPT_BY_PROCESSOR = timedelta(days=30)
KEPT = timedelta(days=90)


def receive(till: Till, request: ReceiveWebhook) -> None:
    """Check the signature and store. Raises ``BadRequest``; returns once it is stored."""
    try:
        till.processor.verify_notice(request.payload, request.signature)
    except BadSignature as error:
        raise BadRequest(
            f"The signature of this notice is not valid: {error}", "signature"
        ) from None
    try:
        body = json.loads(request.payload)
    except ValueError:
        raise BadRequest("This notice is not JSON.", "payload") from None
    store(till, body)


def store(till: Till, body: Any) -> bool:
    """Keep an event of the processor's, to be worked off now; False if it is known."""
    if not isinstance(body, dict) or body.get("object") != "event" or not body.get("id"):
        raise BadRequest("This notice is not an event with its object inside.", "payload")
    try:
        with till.database.begin() as session:
            event_id = _insert(session, body, till.clock())
            if event_id is not None:
                after_commit(session, lambda: till.later(work_off, till, event_id))
    except (DataError, ValueError):
        # PostgreSQL's text holds no NUL, which JSON does; the driver says the one or the other.
        raise BadRequest("This notice holds what cannot be stored.", "payload") from None
    crash_point("topup.after_notice")
    return event_id is not None


def _insert(session: Session, body: Object, now: datetime) -> str | None:
    """Its id, or None if it is known."""
    return session.scalar(
        insert(Notice)
        .values(
            event_id=body["id"],
            type=body.get("type", ""),
            object_id=_subject(body).get("id") or "",
            body=body,
            received_at=now,
            next_try_at=now + LEASE,
            tries=0,
            last_error="",
        )
        .on_conflict_do_nothing()
        .returning(Notice.event_id)
    )


def work_off(till: Till, event_id: str) -> None:
    """Do what a stored notice asks for, and note that it is done or why not."""
    with till.database.read() as session:
        notice = session.get_one(Notice, event_id)
    if notice.processed_at is not None:
        return
    error = ""
    try:
        handler = handler_of(notice.type)
        if handler is not None:
            handler(till, _subject(notice.body))
    except Missing as gone:
        log.warning("a notice of something that is gone", extra={"reason": gone.message})
    except Exception as failure:
        log.exception("a notice could not be worked off", extra={"event": event_id})
        error = f"{type(failure).__name__}: {failure}"[:500]
    with till.database.begin() as session:
        _note(session, event_id, error, till.clock())


def _note(session: Session, event_id: str, error: str, now: datetime) -> None:
    notice = session.get_one(Notice, event_id, with_for_update=True)
    notice.last_error = error
    if error:
        delay_s = DELAYS_S[min(notice.tries, len(DELAYS_S) - 1)]
        notice.tries += 1
        notice.next_try_at = now + timedelta(seconds=delay_s)
    else:
        notice.processed_at = now
        notice.next_try_at = None


def handler_of(kind: str) -> Callable[[Till, Object], None] | None:
    """Who works off this type of notice; None when it does not concern us."""
    if kind in _SAY_NOTHING:
        return None
    for prefix, handler in _HANDLERS:
        if kind.startswith(prefix):
            return handler
    return None


def _session_changed(till: Till, subject: Object) -> None:
    checkout.settle_session(till, subject["id"])


def _payment_changed(till: Till, subject: Object) -> None:
    payment = till.processor.get_payment(subject["id"])
    try:
        topup_id = UUID(payment["metadata"].get("topup_id", ""))
        with till.database.begin() as session:
            outcomes.record(session, till.policy, topup_id, payment, till.clock())
            if payment["status"] == "succeeded":
                cards.keep_of(session, payment, till.clock())
    except (ValueError, NotFound):
        log.warning("a payment of nobody's", extra={"payment": payment["id"]})


def _card_changed(till: Till, subject: Object) -> None:
    method = till.processor.get_payment_method(subject["id"])
    with till.database.begin() as session:
        cards.keep(session, method, till.clock())


def _customer_deleted(till: Till, subject: Object) -> None:
    if till.processor.get_customer(subject["id"]).get("deleted"):
        with till.database.begin() as session:
            cards.forget_customer(session, subject["id"], till.clock())


def _refunded(till: Till, subject: Object) -> None:
    payment_id = subject.get("payment_intent")
    if payment_id:
        reversals.take_refunds(till, payment_id)


def _disputed(till: Till, subject: Object) -> None:
    reversals.take_dispute(till, subject["id"])


_SAY_NOTHING = ("payment_intent.created", "payment_intent.requires_action")
_HANDLERS: tuple[tuple[str, Callable[[Till, Object], None]], ...] = (
    ("checkout.session.", _session_changed),
    ("payment_intent.", _payment_changed),
    ("payment_method.", _card_changed),
    ("customer.deleted", _customer_deleted),
    ("charge.dispute.", _disputed),
    ("charge.refund", _refunded),
    ("refund.", _refunded),
)


def _subject(body: Object) -> Object:
    subject = (body.get("data") or {}).get("object")
    return subject if isinstance(subject, dict) else {}


def due(session: Session, now: datetime, limit: int = 100) -> list[str]:
    """Notices that a crash or a failure left undone, each leased to the caller for a while."""
    rows = session.scalars(
        select(Notice)
        .where(Notice.next_try_at <= now)
        .order_by(Notice.next_try_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for notice in rows:
        notice.next_try_at = now + LEASE
    return [notice.event_id for notice in rows]


def forget_old(session: Session, now: datetime) -> None:
    """The processor keeps an event for thirty days: older ones serve nobody."""
    session.execute(delete(Notice).where(Notice.processed_at < now - KEPT))


def sweep_undelivered(till: Till) -> int:
    """Fetch what the processor could not deliver, after an outage of ours; how many were new."""
    since = till.clock() - KEPT_BY_PROCESSOR
    events = till.processor.undelivered_events(int(since.timestamp()))
    return sum(_store_if_possible(till, event) for event in reversed(events))


def _store_if_possible(till: Till, event: Object) -> bool:
    try:
        return store(till, event)
    except BadRequest as error:
        log.error("an event cannot be stored", extra={"event": event.get("id"), "why": str(error)})
        return False
