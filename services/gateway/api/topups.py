"""Buying credits by hand, on the card processor's hosted page."""

from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints

from contracts.topup import GetTopup, StartTopup, TopupKind, TopupStatus, Trigger
from services.gateway.api.endpoint import Answer, endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CardUsd, PlainText, Usd
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_topups", __name__)

CardId = Annotated[PlainText, StringConstraints(min_length=1, max_length=255)]


class TopupBody(ApiBody):
    """``amount`` is a whole number of cents. ``save_card`` keeps the card for auto top-up.

    ``purchase_id`` is the purchase that the credits are to pay for: then auto top-up leaves it
    alone while the page is open, a page that was open for it closes, and this one closes when the
    purchase is paid otherwise or ends. 409: it needs no money any more, or a payment for it is
    being confirmed.

    ``payment_method_id`` is a saved card, which is charged at once, as its owner is there: no page
    is opened, and the answer says what became of it. ``action_required``: the bank wants it
    confirmed at ``checkout_url``. 409: another such charge is under way."""

    amount_micros: CardUsd = Field(alias="amount")
    save_card: bool = Field(default=False, strict=True)
    purchase_id: UUID | None = None
    payment_method_id: CardId | None = None


class TopupReply(ApiReply):
    """``checkout_url`` is where the person pays; null once nothing is to be paid there."""

    topup_id: UUID
    kind: TopupKind
    status: TopupStatus
    amount_micros: Usd
    checkout_url: str | None
    trigger: Trigger | None
    trigger_reference: str | None
    failure_code: str
    failure_message: str
    card_brand: str
    card_last4: str
    receipt_url: str | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/topups",
    body=TopupBody,
    reply=TopupReply,
    status=201,
    command=True,
)
def start_topup(user: CurrentUser, body: TopupBody, key: str) -> Answer:
    """Begin to buy credits: send the person to ``checkout_url``, where there is one, then ask for
    the top-up."""
    topup = call(
        StartTopup(
            idempotency_key=key,
            user_id=user.user_id,
            email=user.email,
            amount_micros=body.amount_micros,
            save_card=body.save_card,
            purchase_id=body.purchase_id,
            payment_method_id=body.payment_method_id,
        ),
    )
    return Answer(TopupReply.of(topup), 201, {"Location": f"/api/wallet/topups/{topup.topup_id}"})


@endpoint(blueprint, "GET", "/api/wallet/topups/<uuid:topup_id>", reply=TopupReply)
def get_topup(user: CurrentUser, topup_id: UUID) -> TopupReply:
    """One top-up, by hand or automatic."""
    return TopupReply.of(call(GetTopup(user_id=user.user_id, topup_id=topup_id)))
