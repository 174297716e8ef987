"""A top-up's lifecycle: one transitions table, and what each step tells the other services.

::

    created ─▶ processing ─▶ paid ─▶ credited
                  │  ▲
                  ├──┴─ unknown ─────────▶ (any of these, once the processor was asked)
                  ├──── action_required ─▶ paid, failed, cancelled
                  └──── failed, cancelled ─▶ paid

The last arrow is for money that the processor proves it took after we had given up: it is
never kept without a credit. Nothing leads back from ``paid``: a refund is another record.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy import Integer, and_, bindparam, func, select, tuple_
from sqlalchemy.orm import Session, object_session

from chassis.bulk import Batch, Bulk
from chassis.cursors import decode_cursor, encode_cursor
from chassis.database import after_commit
from chassis.idempotency import is_retry, request_hash
from chassis.identifiers import new_id
from chassis.instruments import REGISTRY
from chassis.locks import locked_or_none
from chassis.money import MICROS_PER_CENT, format_usd
from chassis.outbox import publish
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, NotFound
from contracts.topup import (
    ListTopups,
    StartTopup,
    TopupFailed,
    TopupKind,
    TopupPage,
    TopupPaid,
    TopupStatus,
    Trigger,
)
from contracts.topup import Topup as TopupReply
from services.topup.models import AutoTopupSettings, Topup
from services.topup.policy import Policy

_MOVES = Counter(
    "mycelium_topup_moves",
    "Steps that top-ups have taken, by the state that they came to.",
    ("kind", "status"),
    registry=REGISTRY,
)
PUBLISHED_AGAIN_AFTER = timedelta(minutes=10)
S = TopupStatus
TRANSITIONS: dict[TopupStatus, frozenset[TopupStatus]] = {
    S.CREATED: frozenset({S.PROCESSING, S.FAILED, S.CANCELLED}),
    S.PROCESSING: frozenset({S.PAID, S.ACTION_REQUIRED, S.FAILED, S.CANCELLED, S.UNKNOWN}),
    S.UNKNOWN: frozenset({S.PROCESSING, S.PAID, S.ACTION_REQUIRED, S.FAILED, S.CANCELLED}),
    S.ACTION_REQUIRED: frozenset({S.PAID, S.FAILED, S.CANCELLED}),
    S.PAID: frozenset({S.CREDITED}),
    S.CREDITED: frozenset(),
    S.FAILED: frozenset({S.PAID}),
    S.CANCELLED: frozenset({S.PAID}),
}


_LOCK_USERS = Bulk(
    "SELECT pg_advisory_xact_lock(key)"
    " FROM (SELECT DISTINCT hashtextextended(name, 0) AS key FROM {rows} ORDER BY key) AS ordered",
    name="text",
)


PAYABLE = (S.CREATED, S.PROCESSING, S.UNKNOWN, S.ACTION_REQUIRED)
"""States in which a top-up may still be paid, or is being paid."""
BY_SAVED_CARD = and_(Topup.kind == TopupKind.MANUAL, Topup.payment_method_id.is_not(None))


class IllegalMove(Exception):
    """A step that the table of transitions does not have."""


def move(topup: Topup, status: TopupStatus, now: datetime) -> None:
    """Take one step. Raises :class:`IllegalMove`; staying where it is changes nothing."""
    if topup.status == status:
        return
    if status not in TRANSITIONS[TopupStatus(topup.status)]:
        raise IllegalMove(f"top-up {topup.topup_id}: {topup.status} → {status}")
    topup.status = status
    topup.updated_at = now
    session = object_session(topup)
    if session is not None:
        after_commit(session, _MOVES.labels(topup.kind, status.value).inc)


def is_by_saved_card(topup: Topup) -> bool:
    """Whether its owner has a saved card charged by hand: there is no page of ours to pay on."""
    return topup.kind == TopupKind.MANUAL and topup.payment_method_id is not None


def paid_count(session: Session, user_id: UUID) -> int:
    """How many top-ups of this user's were paid. It only grows."""
    paid = (S.PAID, S.CREDITED)
    found = session.scalar(
        select(func.count()).where(Topup.user_id == user_id, Topup.status.in_(paid))
    )
    return found or 0


def lock_user(session: Session, user_id: UUID) -> None:
    """Let one command of this user's through at a time: the next one sees what it stored."""
    with Batch(session) as writes:
        lock_users(writes, [user_id])


def lock_users(writes: Batch, users: Iterable[UUID]) -> None:
    """The same for several, all in one order: of two who want some of them, one waits."""
    writes.add(_LOCK_USERS, [(f"topup.user:{user_id}",) for user_id in users])


def lock_settings(session: Session, user_id: UUID) -> AutoTopupSettings | None:
    """The user's settings, locked to the end of the transaction."""
    return locked_or_none(session, AutoTopupSettings, user_id)


def check_amount(amount_micros: int, policy: Policy) -> None:
    """Raises ``BadRequest`` outside the bounds, or for part of a cent."""
    if amount_micros % MICROS_PER_CENT:
        raise BadRequest("A top-up is a whole number of cents.", "amount_micros")
    if not policy.topup_min_micros <= amount_micros <= policy.topup_max_micros:
        raise BadRequest(
            f"A top-up is at least {format_usd(policy.topup_min_micros)}"
            f" and at most {format_usd(policy.topup_max_micros)}.",
            "amount_micros",
        )


def new(
    user_id: UUID, kind: TopupKind, amount_micros: int, idempotency_key: str, now: datetime
) -> Topup:
    """A top-up that nothing has been done about."""
    return Topup(
        topup_id=new_id(),
        user_id=user_id,
        kind=kind,
        status=TopupStatus.CREATED,
        amount_micros=amount_micros,
        idempotency_key=idempotency_key,
        request_hash="",
        is_card_saved=False,
        return_path="/dashboard/wallet",
        closing_reason="",
        card_brand="",
        card_last4="",
        failure_code="",
        failure_message="",
        problem="",
        looks=0,
        created_at=now,
        updated_at=now,
    )


def replay(session: Session, command: StartTopup) -> Topup | None:
    """The top-up that was begun under this key. Raises ``IdempotencyConflict`` (another body)."""
    stored = session.scalar(
        select(Topup).where(
            Topup.user_id == command.user_id,
            Topup.kind == TopupKind.MANUAL,
            Topup.idempotency_key == command.idempotency_key,
        )
    )
    if stored is not None and not is_retry(stored.request_hash, command, _once_hashed(command)):
        raise IdempotencyConflict(
            "This idempotency key was used for another top-up. Nothing was charged; use a new key."
        )
    return stored


def _once_hashed(command: StartTopup) -> dict[str, Any]:
    fields = {"idempotency_key", "user_id", "amount_micros", "save_card", "return_path"}
    return command.model_dump(mode="json", include={*fields, "purchase_id"}, exclude_none=True)


def by_hand(command: StartTopup, policy: Policy, now: datetime) -> Topup:
    """A top-up by hand, as it was asked for. Raises ``BadRequest`` (bounds)."""
    check_amount(command.amount_micros, policy)
    topup = new(
        command.user_id, TopupKind.MANUAL, command.amount_micros, command.idempotency_key, now
    )
    topup.request_hash = request_hash(command).hex()
    topup.is_card_saved = command.save_card
    topup.return_path = command.return_path
    topup.purchase_id = command.purchase_id
    topup.payment_method_id = command.payment_method_id
    return topup


def find(session: Session, topup_id: UUID) -> Topup:
    """Any user's top-up. Raises ``NotFound``."""
    topup = session.get(Topup, topup_id)
    if topup is None:
        raise NotFound("There is no such top-up.")
    return topup


def lock(session: Session, topup_id: UUID) -> Topup:
    """The top-up, locked to the end of the transaction. Raises ``NotFound``."""
    topup = locked_or_none(session, Topup, topup_id)
    if topup is None:
        raise NotFound("There is no such top-up.")
    return topup


def get(session: Session, user_id: UUID, topup_id: UUID) -> Topup:
    """The user's top-up. Raises ``NotFound``, also for somebody else's."""
    topup = session.get(Topup, topup_id)
    if topup is None or topup.user_id != user_id:
        raise NotFound("There is no such top-up.")
    return topup


# Made once: putting a query together takes longer than asking it.
_NEWEST_FIRST = (
    select(Topup)
    .where(Topup.user_id == bindparam("user_id"))
    .order_by(Topup.created_at.desc(), Topup.topup_id.desc())
    .limit(bindparam("limit", type_=Integer))
)


def page(session: Session, request: ListTopups) -> TopupPage:
    """Newest first, stable while new ones are added."""
    query = _NEWEST_FIRST
    if request.cursor is not None:
        place = tuple_(Topup.created_at, Topup.topup_id)
        query = query.where(place < tuple(decode_cursor(request.cursor, datetime, UUID)))
    asked = {"user_id": request.user_id, "limit": request.limit + 1}
    rows = session.scalars(query, asked).all()
    shown = rows[: request.limit]
    more = len(rows) > request.limit
    last = shown[-1] if more else None
    return TopupPage(
        topups=[reply(topup) for topup in shown],
        next_cursor=encode_cursor(last.created_at, last.topup_id) if last else None,
    )


def mark_paid(session: Session, topup: Topup, now: datetime) -> None:
    """The processor has the money: published once, in the transaction that records it."""
    move(topup, TopupStatus.PAID, now)
    topup.paid_at = now
    topup.failure_code = topup.failure_message = topup.problem = ""
    publish_paid(session, topup, now)


def publish_paid(session: Session, topup: Topup, now: datetime) -> None:
    """Publish that it is paid, and again every ten minutes until the wallet has credited it.

    Only a broker that lost its queues makes the second time necessary; the wallet credits once. It
    says the same each time, under another id: who counts by days counts it on the day it was paid.
    """
    topup.next_look_at = now + PUBLISHED_AGAIN_AFTER
    publish(
        session,
        TopupPaid(
            event_id=new_id(),
            occurred_at=topup.paid_at or now,
            user_id=topup.user_id,
            topup_id=topup.topup_id,
            kind=TopupKind(topup.kind),
            amount_micros=topup.amount_micros,
            payment_id=topup.payment_id or "",
            card_brand=topup.card_brand,
            card_last4=topup.card_last4,
            trigger=Trigger(topup.trigger) if topup.trigger else None,
            trigger_reference=topup.trigger_reference,
            threshold_micros=topup.threshold_micros,
        ),
    )


def came_since(session: Session, user_id: UUID, moment: datetime) -> bool:
    """Whether a top-up of this user's was paid, or credited, after that."""
    came = func.greatest(Topup.paid_at, Topup.credited_at) > moment
    query = select(Topup.topup_id).where(Topup.user_id == user_id, came)
    return bool(session.scalar(select(query.exists())))


def mark_credited(session: Session, topup_id: UUID, now: datetime) -> None:
    """The wallet has credited this top-up; again changes nothing."""
    topup = locked_or_none(session, Topup, topup_id)
    if topup is None or topup.status == TopupStatus.CREDITED:
        return
    if topup.status != TopupStatus.PAID:
        raise Conflict(f"Top-up {topup_id} was credited while it is {topup.status}.")
    move(topup, TopupStatus.CREDITED, now)
    topup.credited_at = now
    topup.next_look_at = None


def mark_failed(
    session: Session,
    topup: Topup,
    code: str,
    message: str,
    now: datetime,
    status: TopupStatus = TopupStatus.FAILED,
) -> None:
    """No money moved; ``status`` may be ``cancelled`` or ``action_required`` instead."""
    move(topup, status, now)
    topup.failure_code = code
    topup.failure_message = message
    topup.next_look_at = now if status == TopupStatus.ACTION_REQUIRED else None
    publish(
        session,
        TopupFailed(
            event_id=new_id(),
            occurred_at=now,
            user_id=topup.user_id,
            topup_id=topup.topup_id,
            kind=TopupKind(topup.kind),
            amount_micros=topup.amount_micros,
            failure_code=code,
            message=message,
            trigger=Trigger(topup.trigger) if topup.trigger else None,
            trigger_reference=topup.trigger_reference,
        ),
    )


def cancel(topup: Topup, reason: str, now: datetime) -> None:
    """Given up by its owner, or never begun; nobody needs to be notified."""
    move(topup, TopupStatus.CANCELLED, now)
    topup.failure_code = "cancelled"
    topup.failure_message = reason
    topup.next_look_at = None


def reply(topup: Topup, *, replayed: bool = False) -> TopupReply:
    """The top-up as other services see it."""
    has_page = topup.status in (TopupStatus.PROCESSING, TopupStatus.ACTION_REQUIRED)
    return TopupReply(
        topup_id=topup.topup_id,
        user_id=topup.user_id,
        kind=TopupKind(topup.kind),
        status=TopupStatus(topup.status),
        amount_micros=topup.amount_micros,
        checkout_url=topup.checkout_url if has_page and not topup.closing_reason else None,
        trigger=Trigger(topup.trigger) if topup.trigger else None,
        trigger_reference=topup.trigger_reference,
        failure_code=topup.failure_code,
        failure_message=topup.failure_message,
        card_brand=topup.card_brand,
        card_last4=topup.card_last4,
        receipt_url=topup.receipt_url,
        created_at=topup.created_at,
        updated_at=topup.updated_at,
        replayed=replayed,
        purchase_id=topup.purchase_id,
        is_saved_card=is_by_saved_card(topup),
    )
