"""Buy Now, and following a purchase to its end."""

import time
from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, ValidationError

from chassis.clock import utc_now
from contracts.billing import (
    CHOICE_LENGTH_MAX,
    CancelPurchase,
    GetPurchase,
    ListPurchases,
    Purchase,
    PurchaseCompleted,
    PurchaseLine,
    PurchaseStatus,
    PurchaseWay,
    ReturnPurchase,
    StartPurchase,
)
from contracts.catalog import QUANTITY_MAX, FieldKey, Meter
from contracts.topup import ChargeForecast, ForecastCharges
from services.gateway.api.auto_topup import ForecastReply
from services.gateway.api.endpoint import Answer, endpoint
from services.gateway.api.products import MeterReply
from services.gateway.api.shapes import (
    AnyText,
    ApiBody,
    ApiReply,
    CursorText,
    Limit,
    Quantity,
    Usd,
    UsdOrZero,
)
from services.gateway.backend import (
    call,
    current_backend,
    database,
    forecast_charges,
)
from services.gateway.cart import checkout
from services.gateway.errors import Problem
from services.gateway.people.users import CurrentUser
from services.gateway.purchase_waiters import Setback, Waiter

blueprint = Blueprint("api_purchases", __name__)

WAIT_FOR_TOPUP_S = 10.0
_UNSETTLED = {PurchaseStatus.PENDING, PurchaseStatus.AWAITING_FUNDS}


ChosenText = Annotated[AnyText, Field(max_length=CHOICE_LENGTH_MAX)]


class TierBody(ApiBody):
    above_units: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX)]
    price_micros: UsdOrZero = Field(alias="price_usd")


class MeterBody(ApiBody):
    """What is charged by use: of a purchase as it was shown with the product, of a product that is
    sold as it is to be charged."""

    key: FieldKey
    label: Annotated[AnyText, Field(max_length=200)]
    unit: Annotated[AnyText, Field(max_length=20)]
    price_micros: UsdOrZero = Field(alias="price_usd")
    per_units: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)] = 1
    included_units: Annotated[int, Field(strict=True, ge=0, le=QUANTITY_MAX)] = 0
    tiers: Annotated[list[TierBody], Field(max_length=20)] = Field(default_factory=list)


class PurchaseBody(ApiBody):
    """``unit_price_usd`` is the catalog's price that the person saw, ``unit_discount_usd`` what a
    staking discount takes off each, and ``meters`` what they saw is charged by use: where one is
    another now, nothing is bought and the answer is 409 ``price_changed``. ``GET /api/cart`` tells
    the discount, which is taken off unsaid as well. ``product_name`` is not used. ``choices`` are
    said in the product's ``fields``, by their keys."""

    product_id: UUID
    product_name: Annotated[AnyText, Field(max_length=500)] | None = None
    quantity: Quantity = 1
    unit_price_micros: UsdOrZero | None = Field(default=None, alias="unit_price_usd")
    unit_discount_micros: UsdOrZero | None = Field(default=None, alias="unit_discount_usd")
    choices: Annotated[dict[FieldKey, ChosenText], Field(max_length=20)] = Field(
        default_factory=dict
    )
    meters: Annotated[list[MeterBody], Field(max_length=20)] | None = None


class PurchasedLineReply(ApiReply):
    """``unit_price_usd`` is charged for each: the catalog's price less ``unit_discount_usd``, which
    a staking discount takes off. ``meters`` are charged by use, at these prices for good."""

    product_id: UUID
    product_name: str
    quantity: int
    unit_price_micros: Usd = Field(serialization_alias="unit_price_usd")
    unit_discount_micros: Usd = Field(serialization_alias="unit_discount_usd")
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    choices: dict[str, str]
    name: str
    meters: list[MeterReply]


class PurchaseReply(ApiReply):
    """``status_code`` and ``status_reason`` say what the purchase waits for, or why it ended. While
    it waits for something of which there is an end (``is_stock_limited``), that is set aside for
    it until ``stock_held_until``; null: it is not, and may be gone when the money comes.
    ``refunded_usd`` went back of it, and it can be given back until ``returnable_until``.
    ``auto_topup`` is what is charged by itself because of it, also below the threshold after it:
    in the answer to buying alone, and null while that is unknown."""

    purchase_id: UUID
    status: PurchaseStatus
    status_code: str
    status_reason: str
    total_micros: Usd = Field(serialization_alias="total_usd")
    shortfall_micros: Usd = Field(serialization_alias="shortfall_usd")
    lines: list[PurchasedLineReply]
    deployment_ids: list[UUID]
    transaction_id: UUID | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    expires_at: AwareDatetime | None
    is_stock_limited: bool
    stock_held_until: AwareDatetime | None
    refunded_micros: Usd = Field(serialization_alias="refunded_usd")
    returnable_until: AwareDatetime | None
    auto_topup: ForecastReply | None = None


class PurchaseQuery(ApiBody):
    status: PurchaseStatus | None = None
    cursor: CursorText | None = None
    limit: Limit = 25


class PurchaseList(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    purchases: list[PurchaseReply]
    next_cursor: str | None


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/instant-purchase",
    body=PurchaseBody,
    reply=PurchaseReply,
    also=(202,),
    command=True,
)
def instant_purchase(user: CurrentUser, body: PurchaseBody, key: str) -> Answer:
    """Buy at the catalog's price. 200: it is settled. 202: it waits for funds, and completes by
    itself when they come."""
    return answer(_start(user, body, key))


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/purchase-with-topup",
    body=PurchaseBody,
    reply=PurchaseReply,
    also=(202,),
    command=True,
)
def purchase_with_topup(user: CurrentUser, body: PurchaseBody, key: str) -> Answer:
    """The same, waiting up to 10 seconds for an automatic top-up to pay for it. 202 with a
    ``status_reason``: no money came; the purchase still waits."""
    deadline = time.monotonic() + WAIT_FOR_TOPUP_S
    with current_backend().waiters.place_of(user.user_id) as waiter:
        purchase = _start(user, body, key)
        if waiter is None:
            return answer(purchase)
        return _wait(purchase, waiter, deadline)


@endpoint(blueprint, "GET", "/api/purchases", query=PurchaseQuery, reply=PurchaseList)
def list_purchases(user: CurrentUser, query: PurchaseQuery) -> PurchaseList:
    """The user's purchases."""
    return PurchaseList.of(
        call(
            ListPurchases(
                user_id=user.user_id,
                statuses=[query.status] if query.status else [],
                cursor=query.cursor,
                limit=query.limit,
            )
        )
    )


@endpoint(blueprint, "GET", "/api/purchases/<uuid:purchase_id>", reply=PurchaseReply)
def get_purchase(user: CurrentUser, purchase_id: UUID) -> PurchaseReply:
    """One purchase and where it stands."""
    return PurchaseReply.of(call(GetPurchase(user_id=user.user_id, purchase_id=purchase_id)))


@endpoint(blueprint, "POST", "/api/purchases/<uuid:purchase_id>/cancel", reply=PurchaseReply)
def cancel_purchase(user: CurrentUser, purchase_id: UUID) -> PurchaseReply:
    """Give up a purchase that waits for funds; one that is paid stays, with a 409. What came of a
    cart is in the cart again."""
    cancelled = call(CancelPurchase(user_id=user.user_id, purchase_id=purchase_id))
    with database().begin() as session:
        checkout.put_back(session, utc_now(), user.user_id, purchase_id)
    return PurchaseReply.of(cancelled)


@endpoint(
    blueprint,
    "POST",
    "/api/purchases/<uuid:purchase_id>/refund",
    reply=PurchaseReply,
    command=True,
)
def return_purchase(user: CurrentUser, purchase_id: UUID, key: str) -> PurchaseReply:
    """Give it back: possible until ``returnable_until``, while nothing of it has run; a 409 after
    that. What is not in ``refunded_usd`` yet comes back by itself, in a minute or so."""
    return PurchaseReply.of(
        call(ReturnPurchase(idempotency_key=key, user_id=user.user_id, purchase_id=purchase_id))
    )


def _start(user: CurrentUser, body: PurchaseBody, key: str) -> Purchase:
    line = PurchaseLine(
        product_id=body.product_id,
        quantity=body.quantity,
        expected_unit_price_micros=body.unit_price_micros,
        expected_unit_discount_micros=body.unit_discount_micros,
        choices=body.choices,
        expected_meters=_meters(body),
    )
    return call(
        StartPurchase(
            idempotency_key=key, user_id=user.user_id, lines=[line], way=PurchaseWay.BUY_NOW
        )
    )


def _meters(body: PurchaseBody) -> list[Meter] | None:
    if body.meters is None:
        return None
    try:
        return [Meter.model_validate(meter.model_dump()) for meter in body.meters]
    except ValidationError:
        raise Problem(
            422, "bad_request", "These are no meters of a product. Send them as they were shown."
        ) from None


def _wait(purchase: Purchase, waiter: Waiter, deadline: float) -> Answer:
    """Look again whenever something happened to this user, until the purchase is settled."""
    reference = str(purchase.purchase_id)
    while purchase.status in _UNSETTLED:
        setback = waiter.setbacks.get(reference)
        if setback is not None:
            return answer(purchase, setback)
        if not waiter.wait(max(deadline - time.monotonic(), 0)):
            break
        completed = waiter.completed.get(purchase.purchase_id)
        if completed is not None and completed.transaction_id is not None:
            purchase = _completed(purchase, completed)
        else:
            look = GetPurchase(user_id=purchase.user_id, purchase_id=purchase.purchase_id)
            purchase = call(look)
    return answer(purchase)


def _completed(purchase: Purchase, event: PurchaseCompleted) -> Purchase:
    """A purchase that waited, as billing would tell it now."""
    return purchase.model_copy(
        update={
            "status": PurchaseStatus.COMPLETED,
            "status_code": "",
            "status_reason": "",
            "shortfall_micros": 0,
            "deployment_ids": event.deployment_ids,
            "transaction_id": event.transaction_id,
            "updated_at": event.occurred_at,
            "expires_at": None,
            "stock_held_until": None,
            "returnable_until": event.returnable_until,
        }
    )


def answer(purchase: Purchase, setback: Setback | None = None) -> Answer:
    if setback is not None and not purchase.status_code:
        code, reason = setback
        purchase = purchase.model_copy(update={"status_code": str(code), "status_reason": reason})
    return Answer(
        PurchaseReply.of(purchase, auto_topup=_forecast(purchase)),
        202 if purchase.status in _UNSETTLED else 200,
        {"Location": f"/api/purchases/{purchase.purchase_id}"},
    )


def _forecast(purchase: Purchase) -> ChargeForecast | None:
    is_spent = purchase.status is PurchaseStatus.COMPLETED
    if not purchase.total_micros or not (is_spent or purchase.status in _UNSETTLED):
        return None
    return forecast_charges(
        ForecastCharges(
            user_id=purchase.user_id,
            spend_micros=purchase.total_micros,
            purchase_id=purchase.purchase_id,
            is_spent=is_spent,
        )
    )
