"""Webhooks to an address of the user's own."""

from typing import Annotated, Any, Literal
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, StringConstraints

from chassis.clock import utc_now
from chassis.cursors import decode_cursor, encode_cursor
from contracts.errors import BadRequest
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import AnyText, ApiBody, ApiReply, CursorText, Limit, NoReply
from services.gateway.backend import database, settings
from services.gateway.hooks import addresses, storage
from services.gateway.models import Hook, HookDelivery
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_hooks", __name__)

Url = Annotated[AnyText, StringConstraints(min_length=1, max_length=addresses.URL_LENGTH_MAX)]


class HookBody(ApiBody):
    url: Url


class HookReply(ApiReply):
    webhook_id: UUID
    url: str
    created_at: AwareDatetime
    secret_since: AwareDatetime


class NewHook(HookReply):
    """``secret`` is told now and never again."""

    secret: str


class HookReplies(ApiReply):
    """Newest first."""

    webhooks: list[HookReply]


class DeliveryQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 25


class DeliveryReply(ApiReply):
    """``event_id`` is the ``webhook-id`` under which it is sent, however often. ``answer`` is the
    status of the last answer, or why there was none; ``body`` is what is sent."""

    delivery_id: UUID
    event_id: UUID
    type: str
    status: Literal["waiting", "delivered", "given_up"]
    attempts: int
    answer: str
    created_at: AwareDatetime
    due_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    body: str


class DeliveryReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    deliveries: list[DeliveryReply]
    next_cursor: str | None


_HOOK = "/api/webhooks/<uuid:webhook_id>"


@endpoint(blueprint, "GET", "/api/webhooks", reply=HookReplies)
def list_webhooks(user: CurrentUser) -> HookReplies:
    """The addresses that are told what happens."""
    with database().read() as session:
        found = storage.of_user(session, user.user_id)
    return HookReplies(webhooks=[HookReply.of(hook, **_own(hook)) for hook in found])


@endpoint(blueprint, "POST", "/api/webhooks", body=HookBody, reply=NewHook, status=201)
def add_webhook(user: CurrentUser, body: HookBody) -> NewHook:
    """Have an address be told what happens; a ``ping`` comes first. The secret, by which it knows
    that it was us, is shown this once. 422: it is not a public https address."""
    try:
        addresses.parse(body.url, private_too=settings().webhooks_to_private_addresses)
    except addresses.BadAddress as error:
        raise BadRequest(f"url: {error}", "url") from None
    with database().begin() as session:
        hook = storage.add(session, utc_now(), user.user_id, body.url)
        return _with_secret(hook)


@endpoint(blueprint, "DELETE", _HOOK, reply=NoReply)
def remove_webhook(user: CurrentUser, webhook_id: UUID) -> NoReply:
    """Send nothing there any more."""
    with database().begin() as session:
        session.delete(storage.get(session, user.user_id, webhook_id, to_change=True))
    return NoReply()


@endpoint(blueprint, "POST", f"{_HOOK}/secret", reply=NewHook)
def renew_webhook_secret(user: CurrentUser, webhook_id: UUID) -> NewHook:
    """Another secret, shown this once. For a day everything is signed with the old one too."""
    with database().begin() as session:
        return _with_secret(storage.renew_secret(session, utc_now(), user.user_id, webhook_id))


@endpoint(blueprint, "GET", f"{_HOOK}/deliveries", query=DeliveryQuery, reply=DeliveryReplies)
def list_webhook_deliveries(
    user: CurrentUser, webhook_id: UUID, query: DeliveryQuery
) -> DeliveryReplies:
    """What was sent there, for as long as the site keeps it, and what waits."""
    before = decode_cursor(query.cursor, UUID)[0] if query.cursor else None
    with database().read() as session:
        hook = storage.get(session, user.user_id, webhook_id)
        found = storage.deliveries(session, hook.hook_id, before=before, limit=query.limit + 1)
        shown = [DeliveryReply.of(row, status=row.outcome or "waiting") for row in found]
    more = len(shown) > query.limit
    shown = shown[: query.limit]
    return DeliveryReplies(
        deliveries=shown, next_cursor=encode_cursor(shown[-1].delivery_id) if more else None
    )


@endpoint(blueprint, "POST", f"{_HOOK}/deliveries/<uuid:delivery_id>/replay", reply=DeliveryReply)
def replay_webhook_delivery(
    user: CurrentUser, webhook_id: UUID, delivery_id: UUID
) -> DeliveryReply:
    """Send it once more. 409: it is still being tried."""
    with database().begin() as session:
        row: HookDelivery = storage.replay(
            session, utc_now(), user.user_id, webhook_id, delivery_id
        )
        return DeliveryReply.of(row, status="waiting")


def _with_secret(hook: Hook) -> NewHook:
    return NewHook.of(hook, secret=storage.secret_of(hook, settings().secret_key), **_own(hook))


def _own(hook: Hook) -> dict[str, Any]:
    return {"webhook_id": hook.hook_id}
