"""Auto top-up: its settings, what they would do now, and setting it off by hand."""

from typing import Annotated, Self
from uuid import UUID

from flask import Blueprint, request
from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from contracts.errors import BadRequest
from contracts.topup import (
    ConfigureAutoTopup,
    GetAutoTopup,
    RefusalCode,
    Trigger,
    TriggerAutoTopup,
)
from services.gateway.api.endpoint import Answer, endpoint
from services.gateway.api.shapes import (
    ApiBody,
    ApiReply,
    CardUsd,
    PlainText,
    PositiveUsd,
    Usd,
    UsdOrZero,
)
from services.gateway.api.topups import CardId, TopupReply
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_auto_topup", __name__)


# The names of the settings in the document, where those of the services are others.
_SHOWN_AS = {
    "threshold_micros": "threshold_amount",
    "topup_amount_micros": "topup_amount",
    "amount_micros": "topup_amount",
    "daily_limit_micros": "daily_limit",
    "monthly_limit_micros": "monthly_limit",
}


class AutoTopupBody(ApiBody):
    """What is left out stays as it is saved; ``null`` is no limit, or no backup card.

    Switching on, another card, amount or threshold, and a limit that is raised or dropped need
    ``consent: true`` to the text that ``GET /api/wallet/auto-topup/status`` shows. The first time
    needs the amounts as well, in whole cents. Switching off needs ``enabled: false`` only."""

    enabled: bool = Field(strict=True)
    threshold_micros: UsdOrZero | None = Field(default=None, alias="threshold_amount")
    topup_amount_micros: CardUsd | None = Field(default=None, alias="topup_amount")
    payment_method_id: CardId | None = None
    backup_payment_method_id: CardId | None = None
    daily_limit_micros: PositiveUsd | None = Field(default=None, alias="daily_limit")
    monthly_limit_micros: PositiveUsd | None = Field(default=None, alias="monthly_limit")
    consent: bool = Field(default=False, strict=True)
    consent_version: Annotated[PlainText, StringConstraints(max_length=40)] | None = None
    dry_run: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _no_gap(self) -> Self:
        needed = {
            "threshold_amount": self.threshold_micros,
            "topup_amount": self.topup_amount_micros,
            "payment_method_id": self.payment_method_id,
        }
        given = {_SHOWN_AS.get(name, name) for name in self.model_fields_set}
        empty = [name for name, value in needed.items() if value is None and name in given]
        if self.enabled and empty:
            raise ValueError(f"{', '.join(empty)}: give a value, or leave it out.")
        return self


class LimitReply(ApiReply):
    limit_micros: Usd
    used_micros: Usd
    resets_at: AwareDatetime


class CardReply(ApiReply):
    payment_method_id: str
    brand: str
    last4: str


class PlannedChargeReply(ApiReply):
    """``trigger`` says what for; ``at`` is when it can be made, or within seconds of that."""

    amount_micros: Usd
    trigger: Trigger
    at: AwareDatetime
    card_brand: str
    card_last4: str


class AutoTopupReply(ApiReply):
    """``state`` is off, active or paused; ``state_reason`` says why, for a person.
    ``confirm_url`` is where the person confirms a payment that their bank asked about."""

    enabled: bool
    state: str
    state_code: str
    state_reason: str
    threshold_micros: Usd | None = Field(serialization_alias="threshold_amount")
    topup_amount_micros: Usd | None
    topup_amount_min_micros: Usd
    topup_amount_max_micros: Usd
    payment_method: CardReply | None
    backup_payment_method: CardReply | None
    daily_limit: LimitReply | None
    monthly_limit: LimitReply | None
    cool_down_until: AwareDatetime | None
    in_flight_topup_id: UUID | None
    confirm_url: str | None
    consent_version: str
    consent_text: str
    last_topup: TopupReply | None
    charge_now_micros: Usd
    charges: list[PlannedChargeReply]


class ForecastReply(ApiReply):
    """What will be charged by itself, in this order: for a purchase that lacks credits, and
    because the balance is below the threshold after it. ``balance_after`` is what is left when
    all went through. ``more_follow``: there are more charges than these. A charge that is under
    way already is ``in_flight``, and not in the list. ``reason`` says why no more is charged, and
    ``retry_at`` when that has passed by itself."""

    charges: list[PlannedChargeReply]
    more_follow: bool
    in_flight_topup_id: UUID | None
    in_flight_micros: Usd
    balance_after_micros: Usd
    refusal_code: RefusalCode | None = Field(serialization_alias="reason_code")
    reason: str
    retry_at: AwareDatetime | None


class TriggerReply(ApiReply):
    """A top-up on its way, or the reason why none was made."""

    topup: TopupReply | None
    refusal_code: str | None
    refusal_reason: str


@endpoint(blueprint, "GET", "/api/wallet/auto-topup/status", reply=AutoTopupReply)
def auto_topup_status(user: CurrentUser) -> AutoTopupReply:
    """The settings, how much of the limits is used, and the text to consent to."""
    return AutoTopupReply.of(call(GetAutoTopup(user_id=user.user_id)))


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/auto-topup/configure",
    body=AutoTopupBody,
    reply=AutoTopupReply,
    command=True,
)
def configure_auto_topup(user: CurrentUser, body: AutoTopupBody, key: str) -> AutoTopupReply:
    """Save the settings. Switching on while the balance is below the threshold charges now.

    With ``dry_run`` nothing is saved or charged, and ``charges`` says what would be, with
    ``charge_now`` for what of it at once."""
    given = body.model_dump(include=body.model_fields_set)
    if body.consent_version is None:
        given.pop("consent_version", None)
    command = ConfigureAutoTopup(
        idempotency_key=key,
        user_id=user.user_id,
        client_address=(request.remote_addr or "")[:64],
        **given,
    )
    try:
        return AutoTopupReply.of(call(command))
    except BadRequest as error:
        raise BadRequest(
            str(error), *(_SHOWN_AS.get(name, name) for name in error.details)
        ) from None


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/auto-topup/trigger",
    reply=TriggerReply,
    also=(202,),
    command=True,
)
def trigger_auto_topup(user: CurrentUser, key: str) -> Answer:
    """Ask for an automatic top-up now, within the same settings and limits. 202: one is on its
    way. 200: none was made, and why."""
    outcome = call(TriggerAutoTopup(idempotency_key=key, user_id=user.user_id))
    return Answer(TriggerReply.of(outcome), 202 if outcome.topup else 200)
