"""The webhooks of a user, and what waits to be sent to them.

A delivery is written in the transaction of what it tells, as mails are.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import simplejson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import for_update, locked, locked_or_none
from chassis.money import usd_number
from contracts.errors import Conflict, NotFound
from contracts.messages import UserEvent
from services.gateway.models import Hook, HookDelivery, User
from services.gateway.people.users import TooMany

HOOKS_MAX = 5
OLD_SECRET_FOR = timedelta(days=1)
"""After another secret was asked for, what is sent is signed with both for so long."""

PING = "ping"


def of_user(session: Session, user_id: UUID) -> list[Hook]:
    """The newest first."""
    query = select(Hook).where(Hook.user_id == user_id).order_by(Hook.hook_id.desc())
    return list(session.scalars(query))


def add(session: Session, now: datetime, user_id: UUID, url: str) -> Hook:
    """A webhook to this address, which is sent a ``ping`` first. Raises :class:`TooMany`."""
    # One at a time for each user, so that the bound is exact.
    locked(session, User, user_id)
    count = session.scalar(select(func.count()).where(Hook.user_id == user_id)) or 0
    if count >= HOOKS_MAX:
        raise TooMany(f"You have {HOOKS_MAX} webhooks: remove one that you do not use.")
    hook = Hook(
        hook_id=new_id(),
        user_id=user_id,
        url=url,
        secret_number=1,
        secret_since=now,
        created_at=now,
    )
    session.add(hook)
    session.flush()
    _deliver(session, now, [hook], new_id(), PING, now, {})
    return hook


def get(session: Session, user_id: UUID, hook_id: UUID, *, to_change: bool = False) -> Hook:
    """Locked ``to_change`` it. Raises ``NotFound``, for somebody else's too."""
    query = select(Hook).where(Hook.user_id == user_id, Hook.hook_id == hook_id)
    hook = session.scalar(for_update(query) if to_change else query)
    if hook is None:
        raise NotFound("You have no such webhook.")
    return hook


def renew_secret(session: Session, now: datetime, user_id: UUID, hook_id: UUID) -> Hook:
    """Another secret from now on; the old one is good for ``OLD_SECRET_FOR`` beside it."""
    hook = get(session, user_id, hook_id, to_change=True)
    hook.secret_number += 1
    hook.secret_since = now
    return hook


def secret_of(hook: Hook, secret_key: str, number: int | None = None) -> str:
    """A webhook's secret, as its user gets it once. It is made of the site's own key each time, and
    stands nowhere."""
    name = f"webhook {hook.hook_id} {number or hook.secret_number}"
    made = hmac.digest(secret_key.encode(), name.encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(made).decode()


def deliveries(
    session: Session, hook_id: UUID, *, before: UUID | None = None, limit: int
) -> list[HookDelivery]:
    """What was sent or waits, newest first."""
    query = select(HookDelivery).where(HookDelivery.hook_id == hook_id)
    if before is not None:
        query = query.where(HookDelivery.delivery_id < before)
    return list(session.scalars(query.order_by(HookDelivery.delivery_id.desc()).limit(limit)))


def replay(
    session: Session, now: datetime, user_id: UUID, hook_id: UUID, delivery_id: UUID
) -> HookDelivery:
    """Send it once more, whatever became of it. Raises ``NotFound``, and ``Conflict`` while it
    waits."""
    hook = get(session, user_id, hook_id, to_change=True)
    delivery = locked_or_none(session, HookDelivery, delivery_id)
    if delivery is None or delivery.hook_id != hook.hook_id:
        raise NotFound("This webhook has no such delivery.")
    if delivery.ended_at is None:
        raise Conflict("It is still being tried.")
    delivery.due_at, delivery.queued_at, delivery.ended_at = now, now, None
    delivery.attempts, delivery.outcome = 0, ""
    return delivery


def queue(session: Session, now: datetime, events: Sequence[UserEvent]) -> None:
    """Have these events be sent to the webhooks of those whom they are about."""
    users = {event.user_id for event in events}
    hooks = session.scalars(select(Hook).where(Hook.user_id.in_(users))).all()
    for event in events:
        theirs = [hook for hook in hooks if hook.user_id == event.user_id]
        if not theirs:
            continue
        beside = {"event_id", "occurred_at", "version", *event.inside}
        data = event.model_dump(mode="json", exclude=beside)
        _deliver(
            session, now, theirs, event.event_id, type(event).type, event.occurred_at, _shown(data)
        )


def _deliver(
    session: Session,
    now: datetime,
    hooks: Sequence[Hook],
    event_id: UUID,
    type_: str,
    occurred_at: datetime,
    data: dict[str, Any],
) -> None:
    said = {"type": type_, "timestamp": occurred_at.isoformat(), "data": data}
    body = simplejson.dumps(said, use_decimal=True)
    for hook in hooks:
        session.add(
            HookDelivery(
                delivery_id=new_id(),
                hook_id=hook.hook_id,
                event_id=event_id,
                type=type_,
                body=body,
                created_at=now,
                queued_at=now,
                due_at=now,
                attempts=0,
                outcome="",
                answer="",
            )
        )


def _shown(value: Any) -> Any:
    """Amounts in dollars, as the API has them: ``amount_micros`` becomes ``amount_usd``."""
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if not isinstance(value, dict):
        return value
    shown = {}
    for name, each in value.items():
        if name.endswith("_micros"):
            dollars = usd_number(each) if isinstance(each, int) else each
            shown[name.removesuffix("_micros") + "_usd"] = dollars
        else:
            shown[name] = _shown(each)
    return shown
