"""Sending what waits for users' webhooks: at least once each, and again until it is taken."""

import base64
import hashlib
import hmac
import logging
from datetime import datetime, timedelta
from uuid import UUID

from eventlet import GreenPool, Timeout

from chassis.clock import Clock
from chassis.database import Connected
from chassis.leases import Leases
from chassis.locks import locked_or_none
from services.gateway.hooks import addresses, storage
from services.gateway.hooks.addresses import BadAddress, Unreachable
from services.gateway.models import Hook, HookDelivery
from services.gateway.settings import NotifierSettings

log = logging.getLogger(__name__)

RETRIES_S = (10, 60, 300, 1_800, 7_200, 18_000, 36_000)
"""After each failed attempt; the last one again and again, for ``TRIED_FOR``."""

TRIED_FOR = timedelta(days=3)
STEP_TIMEOUT_S, TIMEOUT_S = 10.0, 15.0
"""For each step of a try, and for the whole of it: a slow receiver holds nobody up for longer."""

AT_ONCE = 10
ROUNDS_MAX = 50
WAITING = Leases(
    HookDelivery.due_at, HookDelivery.hook_id, lease=timedelta(minutes=10), limit=AT_ONCE
)


def send_due(database: Connected, settings: NotifierSettings, clock: Clock) -> datetime | None:
    """Send what is due, some at once; when something is due next."""
    pool = GreenPool(AT_ONCE)
    for delivery_ids in WAITING.rounds(database, clock, ROUNDS_MAX):
        for delivery_id in delivery_ids:
            pool.spawn_n(_send, database, settings, clock, delivery_id)
        pool.waitall()
    with database.read() as session:
        return WAITING.next_at(session)


def _send(
    database: Connected,
    settings: NotifierSettings,
    clock: Clock,
    delivery_id: UUID,
) -> None:
    with database.read() as session:
        delivery = session.get(HookDelivery, delivery_id)
        hook = session.get(Hook, delivery.hook_id) if delivery else None
        if delivery is None or hook is None:
            return
        session.expunge_all()
    is_taken, answer = _tried(settings, hook, delivery, clock())
    with database.begin() as session:
        now = clock()
        row = locked_or_none(session, HookDelivery, delivery_id)
        if row is None or row.ended_at is not None:
            return
        row.attempts += 1
        row.answer = answer
        if is_taken or now >= row.queued_at + TRIED_FOR:
            row.due_at, row.ended_at = None, now
            row.outcome = "delivered" if is_taken else "given_up"
        else:
            delay_s = RETRIES_S[min(row.attempts, len(RETRIES_S)) - 1]
            row.due_at = now + timedelta(seconds=delay_s)


def _tried(
    settings: NotifierSettings, hook: Hook, delivery: HookDelivery, now: datetime
) -> tuple[bool, str]:
    """Whether it was taken, and what was answered."""
    private_too = settings.webhooks_to_private_addresses
    body = delivery.body.encode()
    try:
        target = addresses.parse(hook.url, private_too=private_too)
        headers = _headers(hook, delivery, settings.secret_key, now, body)
        with Timeout(TIMEOUT_S):
            status = addresses.send(
                target, headers, body, private_too=private_too, timeout_s=STEP_TIMEOUT_S
            )
    except (BadAddress, Unreachable) as error:
        return False, str(error)
    except Timeout:
        return False, "There was no answer in time."
    except Exception:
        # A fault of ours must not stop the others.
        log.exception("a webhook could not be sent", extra={"delivery": str(delivery.delivery_id)})
        return False, "It could not be sent."
    return 200 <= status < 300, str(status)


def _headers(
    hook: Hook, delivery: HookDelivery, secret_key: str, now: datetime, body: bytes
) -> dict[str, str]:
    seconds = str(int(now.timestamp()))
    signed = f"{delivery.event_id}.{seconds}.".encode() + body
    numbers = [hook.secret_number]
    if hook.secret_number > 1 and now < hook.secret_since + storage.OLD_SECRET_FOR:
        numbers.append(hook.secret_number - 1)
    signatures = [
        signature(storage.secret_of(hook, secret_key, number), signed) for number in numbers
    ]
    return {
        "Content-Type": "application/json",
        "User-Agent": "Mycelium-Webhooks/1",
        "webhook-id": str(delivery.event_id),
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(signatures),
    }


def signature(secret: str, signed: bytes) -> str:
    """``v1,`` and the HMAC-SHA256 with what stands after ``whsec_``."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
