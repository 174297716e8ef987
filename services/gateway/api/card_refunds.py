"""Unused credit back to the card that paid for it."""

from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from contracts.topup import (
    CardRefundStatus,
    GetCardRefund,
    ListCardRefunds,
    ListRefundable,
    TopupKind,
)
from services.gateway import card_refunds
from services.gateway.api.accounts import Code
from services.gateway.api.endpoint import Answer, endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CardUsd, CursorText, Limit, Usd
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_card_refunds", __name__)


class CardRefundBody(ApiBody):
    """``amount`` is a whole number of cents; null: all that is unused. ``code`` is of the second
    step, for who has switched it on. A retry with the same key brings one that is valid then: the
    same in its half minute, a new one later, and never a recovery code twice."""

    topup_id: UUID
    amount_micros: CardUsd | None = Field(default=None, alias="amount")
    code: Code = ""


class CardRefundQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 25


class CardRefundReply(ApiReply):
    """``requested``, ``held`` and ``sent`` go on by themselves. ``pending``: your bank takes its
    time. ``reason`` says why it was ``declined``, ``refused`` or ``failed``: then the credits are
    in the wallet."""

    refund_id: UUID
    topup_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    status: CardRefundStatus
    reason: str
    card_brand: str
    card_last4: str
    created_at: AwareDatetime
    updated_at: AwareDatetime


class CardRefundReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    refunds: list[CardRefundReply]
    next_cursor: str | None


class RefundableReply(ApiReply):
    topup_id: UUID
    kind: TopupKind
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    refundable_micros: Usd = Field(serialization_alias="refundable_usd")
    paid_at: AwareDatetime
    refundable_until: AwareDatetime
    card_brand: str
    card_last4: str


class RefundableReplies(ApiReply):
    """The newest first. ``blocked_reason`` says why nothing can be paid back at present; empty:
    it can. ``switches_off_auto_topup``: it is on, and a refund switches it off."""

    topups: list[RefundableReply]
    blocked_reason: str
    switches_off_auto_topup: bool


@endpoint(blueprint, "GET", "/api/wallet/refundable", reply=RefundableReplies)
def list_refundable(user: CurrentUser) -> RefundableReplies:
    """The purchases of credits of which something can be paid back to the card. The oldest credits
    in a wallet are spent first."""
    return RefundableReplies.of(call(ListRefundable(user_id=user.user_id)))


@endpoint(blueprint, "GET", "/api/wallet/refunds", query=CardRefundQuery, reply=CardRefundReplies)
def list_card_refunds(user: CurrentUser, query: CardRefundQuery) -> CardRefundReplies:
    """What was paid back to cards, as the user asked."""
    asked = ListCardRefunds(user_id=user.user_id, cursor=query.cursor, limit=query.limit)
    return CardRefundReplies.of(call(asked))


@endpoint(blueprint, "GET", "/api/wallet/refunds/<uuid:refund_id>", reply=CardRefundReply)
def get_card_refund(user: CurrentUser, refund_id: UUID) -> CardRefundReply:
    """One refund to a card."""
    return CardRefundReply.of(call(GetCardRefund(user_id=user.user_id, refund_id=refund_id)))


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/refunds",
    body=CardRefundBody,
    reply=CardRefundReply,
    status=201,
    command=True,
)
def refund_to_card(user: CurrentUser, body: CardRefundBody, key: str) -> Answer:
    """Have unused credits paid back to the card that paid for them. Auto top-up is switched off
    with it. 409: it is too late, not so much is unused, or another refund is being made. 402: the
    card processor refused it, or the credits were spent meanwhile; nothing moved."""
    made = card_refunds.give_back(user, body.topup_id, body.amount_micros, key, body.code)
    place = {"Location": f"/api/wallet/refunds/{made.refund_id}"}
    return Answer(CardRefundReply.of(made), 201, place)
