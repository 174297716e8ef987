"""The processor's notices (webhooks): stored once, then worked off from the store.

A notice only says where to look: the object that it names is fetched again, so that neither
order nor repetition nor age matters, and one look serves all that is told of an object. One
that cannot be worked off is tried again by a timer, and in the end given up, visibly.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.database import after_commit
from chassis.leases import Leases
from chassis.locks import for_update
from chassis.metrics import Gauge
from contracts.errors import BadRequest
from contracts.topup import ReceiveWebhook, TopupKind, TopupStatus
from services.topup.automatic import card_changes
from services.topup.cards import customers
from services.topup.charging import checkout, outcomes, reversals
from services.topup.charging.reversals import Overtaken
from services.topup.models import Notice, Topup
from services.topup.processor import TOPUP_ID, BadSignature, Missing, Object, ProcessorError
from services.topup.till import Till

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
"""How long a notice belongs to whoever works on it, before the timer takes it up."""
DUE = Leases(Notice.next_try_at, Notice.user_id, LEASE)
"""Notices that a crash or a failure left undone."""
ANSWERED_WITHIN = timedelta(seconds=5)
"""How long a notice of a charge of ours is left alone that tells what its answer is about to."""
DELAYS_S = (5, 30, 120, 600, 3_600)
TRIES_MAX = 10
"""So many tries, over six hours, and then it is for an operator: ``dead_notices.py``."""
PASSING = (ProcessorError, OperationalError, Overtaken)
"""Failures that say nothing of the notice: it is tried again for as long as they last."""
KEPT_BY_PROCESSOR = timedelta(days=30)


class _Inside(BaseModel):
    object: dict[str, Any]


class _Event(BaseModel):
    """What an event must have to be one. The rest is kept and not read."""

    model_config = ConfigDict(strict=True)

    object: Literal["event"]
    id: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    type: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    data: _Inside


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
    except (ValueError, RecursionError):
        raise BadRequest("This notice is not JSON.", "payload") from None
    store(till, body)


def store(till: Till, body: Any) -> bool:
    """Keep an event of the processor's, to be worked off now; False if it is known.

    Raises ``BadRequest`` for what is no event, or one that does not say what it is about.
    """
    try:
        event = _Event.model_validate(body)
        about = _about(event.type, event.data.object)
    except ValueError:
        raise BadRequest("This notice is not an event with its object inside.", "payload") from None
    try:
        with till.database.begin() as session:
            is_answered = _is_being_answered(session, event)
            left_for = ANSWERED_WITHIN if is_answered else LEASE
            notice = _insert(session, event, body, about, till.clock(), left_for)
            if notice is not None and about is not None and not is_answered:
                user_id = notice.user_id
                after_commit(session, lambda: till.later(work_off, till, event.id, owner=user_id))
    except (DataError, ValueError):
        # PostgreSQL's text holds no NUL, which JSON does; the driver says the one or the other.
        raise BadRequest("This notice holds what cannot be stored.", "payload") from None
    crash_point("topup.after_notice")
    return notice is not None


def _insert(
    session: Session,
    event: _Event,
    body: Object,
    about: "About | None",
    now: datetime,
    left_for: timedelta,
) -> Notice | None:
    """The stored notice, or None if it is known. One that does not concern us is done already; any
    other is the timer's in ``left_for``."""
    return session.scalar(
        insert(Notice)
        .values(
            event_id=event.id,
            type=event.type,
            object_id=str(event.data.object.get("id") or ""),
            subject=about.subject if about else "",
            user_id=_user_of(session, event.data.object) if about else None,
            body=body,
            received_at=now,
            next_try_at=now + left_for if about else None,
            processed_at=None if about else now,
            tries=0,
            last_error="",
        )
        .on_conflict_do_nothing()
        .returning(Notice)
    )


def _is_being_answered(session: Session, event: _Event) -> bool:
    """Whether it tells of a charge whose own answer, which says as much, is on its way to us."""
    metadata = event.data.object.get("metadata")
    if not event.type.startswith("payment_intent.") or not isinstance(metadata, dict):
        return False
    topup_id = outcomes.topup_id_of({"metadata": {TOPUP_ID: str(metadata.get(TOPUP_ID))}})
    topup = session.get(Topup, topup_id) if topup_id is not None else None
    return (
        topup is not None
        and topup.kind == TopupKind.AUTO
        and topup.status == TopupStatus.PROCESSING
        and topup.payment_id is None
    )


def _user_of(session: Session, subject: Object) -> UUID | None:
    """Whose turn a notice takes. It decides about nothing else, for it is not believed."""
    customer_id = subject["id"] if subject.get("object") == "customer" else subject.get("customer")
    if isinstance(customer_id, str):
        return customers.user_of(session, customer_id)
    payment_id = subject.get("payment_intent")
    if isinstance(payment_id, str):
        return session.scalar(select(Topup.user_id).where(Topup.payment_id == payment_id))
    return None


def work_off(till: Till, event_id: str) -> None:
    """Do what a stored notice asks for, and note that it is done or why not.

    One look serves all notices of its subject that are stored by now: whatever they tell of
    happened before it.
    """
    with till.database.read() as session:
        notice = session.get_one(Notice, event_id)
        together = _undone_of(session, notice.subject) or [event_id]
    if notice.processed_at is not None:
        return
    error, is_passing = "", False
    try:
        about = _about(notice.type, notice.body["data"]["object"])
        if about is not None:
            about.look(till, about.object_id)
    except Missing as gone:
        log.warning(
            "the card processor has no more what its webhook is about",
            extra={"event": event_id, "reason": gone.message},
        )
    except Exception as failure:
        log.exception("a webhook could not be worked off", extra={"event": event_id})
        error = f"{type(failure).__name__}: {failure}"[:500]
        is_passing = isinstance(failure, PASSING)
    with till.database.begin() as session:
        for one in _lock(session, together):
            _note(one, error, is_passing, till.clock())


def _undone_of(session: Session, subject: str) -> list[str]:
    if not subject:
        return []
    return list(
        session.scalars(
            select(Notice.event_id).where(
                Notice.subject == subject,
                Notice.processed_at.is_(None),
                Notice.given_up_at.is_(None),
            )
        )
    )


def _lock(session: Session, event_ids: list[str]) -> Sequence[Notice]:
    return session.scalars(
        for_update(
            select(Notice)
            .where(Notice.event_id.in_(event_ids), Notice.processed_at.is_(None))
            .order_by(Notice.event_id)
        )
    ).all()


def _note(notice: Notice, error: str, is_passing: bool, now: datetime) -> None:
    notice.last_error = error
    if not error:
        notice.processed_at = now
        notice.next_try_at = notice.given_up_at = None
    elif notice.tries >= TRIES_MAX and not is_passing:
        notice.given_up_at = now
        notice.next_try_at = None
        log.error(
            "a webhook is given up; an operator may replay it",
            extra={"event": notice.event_id, "error": error},
        )
    else:
        delay_s = DELAYS_S[min(notice.tries, len(DELAYS_S) - 1)]
        notice.tries += 1
        notice.next_try_at = now + timedelta(seconds=delay_s)


def _session_changed(till: Till, session_id: str) -> None:
    checkout.settle_session(till, session_id)


def _payment_changed(till: Till, payment_id: str) -> None:
    with till.database.read() as session:
        if outcomes.is_charged(session, payment_id):
            return
    payment = till.processor.get_payment(payment_id)
    if outcomes.record_payment(till, payment) is None:
        log.warning("payment belongs to no user of ours", extra={"payment": payment_id})
    elif payment["status"] == "succeeded":
        with till.database.begin() as session:
            card_changes.keep_of(session, payment, till.clock())


def _card_changed(till: Till, payment_method_id: str) -> None:
    method = till.processor.get_payment_method(payment_method_id)
    with till.database.begin() as session:
        card_changes.keep(session, method, till.clock())


def _customer_deleted(till: Till, customer_id: str) -> None:
    if till.processor.get_customer(customer_id).get("deleted"):
        with till.database.begin() as session:
            card_changes.forget_customer(session, customer_id, till.clock())


@dataclass(frozen=True)
class About:
    """What a notice makes us look at. Notices of one ``subject`` are worked off together."""

    what: str
    object_id: str
    look: Callable[[Till, str], None]

    @property
    def subject(self) -> str:
        return f"{self.what}:{self.object_id}"


def _about(kind: str, subject: Object) -> About | None:
    """What a notice of this type is about; None when it does not concern us.

    Raises ``ValueError`` when it concerns us and does not say what it is about.
    """
    if kind in _SAY_NOTHING:
        return None
    for prefix, what, field, look in _LOOKS:
        if kind.startswith(prefix):
            object_id = subject.get(field)
            if object_id is None and field != "id":
                return None
            if not isinstance(object_id, str) or not 0 < len(object_id) <= 255:
                raise ValueError(f"{kind} without {field}")
            return About(what, object_id, look)
    return None


_SAY_NOTHING = ("payment_intent.created", "payment_intent.requires_action")
_LOOKS: tuple[tuple[str, str, str, Callable[[Till, str], None]], ...] = (
    ("checkout.session.", "session", "id", _session_changed),
    ("payment_intent.", "payment", "id", _payment_changed),
    ("payment_method.", "card", "id", _card_changed),
    ("customer.deleted", "customer", "id", _customer_deleted),
    ("charge.dispute.", "dispute", "id", reversals.take_dispute),
    ("charge.refund", "refunds", "payment_intent", reversals.take_refunds),
    ("refund.", "refunds", "payment_intent", reversals.take_refunds),
)
"""By the head of an event's type: what is looked at, and which field of its object names it."""


GAUGES = {
    "notices_given_up": Gauge(
        "The card processor's notices that could not be worked off and wait for an operator.",
        "SELECT count(*) FROM notices WHERE given_up_at IS NOT NULL",
    ),
}


def sweep_undelivered(till: Till) -> int:
    """Fetch what the processor could not deliver, after an outage of ours; how many were new."""
    since = till.clock() - KEPT_BY_PROCESSOR
    events = till.processor.undelivered_events(int(since.timestamp()))
    return sum(_store_if_possible(till, event) for event in reversed(events))


def _store_if_possible(till: Till, event: Object) -> bool:
    try:
        return store(till, event)
    except BadRequest as error:
        log.error(
            "an event of the card processor's cannot be stored",
            extra={"event": event.get("id"), "why": str(error)},
        )
        return False
