"""Auto top-up: its settings, what they would do now, and setting it off by hand."""

from decimal import Decimal
from typing import Annotated, Self

from flask import Blueprint, request
from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from chassis.money import from_cents, usd_number
from contracts.topup import (
    AutoTopupStatus,
    ConfigureAutoTopup,
    GetAutoTopup,
    PaymentMethod,
    SpendingLimit,
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
from services.gateway.api.topups import TopupReply, shown_topup
from services.gateway.frame import call
from services.gateway.identity import CurrentUser

blueprint = Blueprint("api_auto_topup", __name__)

CardId = Annotated[PlainText, StringConstraints(min_length=1, max_length=255)]

# What is stored when auto top-up is switched off before it ever had settings.
_UNSET_THRESHOLD_MICROS = from_cents(10_00)
_UNSET_AMOUNT_MICROS = from_cents(25_00)


class AutoTopupBody(ApiBody):
    """Switching on needs the amounts, a saved card and ``consent: true`` to the text that
    ``GET /api/wallet/auto-topup/status`` shows. Switching off needs ``enabled: false`` only."""

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
    def _complete(self) -> Self:
        needed = {
            "threshold_amount": self.threshold_micros,
            "topup_amount": self.topup_amount_micros,
            "payment_method_id": self.payment_method_id,
        }
        missing = [name for name, value in needed.items() if value is None]
        if self.enabled and missing:
            raise ValueError(f"Switching auto top-up on needs {', '.join(missing)} as well.")
        if self.enabled and not self.consent:
            raise ValueError("Switching auto top-up on needs consent: true.")
        return self


class LimitReply(ApiReply):
    limit: Usd
    used: Usd
    resets_at: AwareDatetime


class CardReply(ApiReply):
    payment_method_id: str
    brand: str
    last4: str


class AutoTopupReply(ApiReply):
    """``state`` is off, active or paused; ``state_reason`` says why, for a person.
    ``confirm_url`` is where the person confirms a payment that their bank asked about."""

    enabled: bool
    state: str
    state_code: str
    state_reason: str
    threshold_amount: Usd | None
    topup_amount: Usd | None
    topup_amount_min: Usd
    topup_amount_max: Usd
    payment_method: CardReply | None
    backup_payment_method: CardReply | None
    daily_limit: LimitReply | None
    monthly_limit: LimitReply | None
    cool_down_until: AwareDatetime | None
    in_flight_topup_id: str | None
    confirm_url: str | None
    consent_version: str
    consent_text: str
    last_topup: TopupReply | None
    charge_now: Usd


class TriggerReply(ApiReply):
    """A top-up on its way, or the reason why none was made."""

    topup: TopupReply | None
    refusal_code: str | None
    refusal_reason: str


@endpoint(blueprint, "GET", "/api/wallet/auto-topup/status", reply=AutoTopupReply)
def auto_topup_status(user: CurrentUser) -> AutoTopupReply:
    """The settings, how much of the limits is used, and the text to consent to."""
    return _shown(call(GetAutoTopup(user_id=user.user_id)))


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

    With ``dry_run`` nothing is saved or charged, and ``charge_now`` says what would be."""
    threshold_micros, amount_micros = body.threshold_micros, body.topup_amount_micros
    consent_version = body.consent_version or ""
    if threshold_micros is None or amount_micros is None or not consent_version:
        now = call(GetAutoTopup(user_id=user.user_id))
        if threshold_micros is None:
            threshold_micros = now.threshold_micros
        amount_micros = amount_micros or now.topup_amount_micros
        consent_version = consent_version or now.consent_version
    if threshold_micros is None:
        threshold_micros = _UNSET_THRESHOLD_MICROS
    status = call(
        ConfigureAutoTopup(
            idempotency_key=key,
            user_id=user.user_id,
            enabled=body.enabled,
            threshold_micros=threshold_micros,
            topup_amount_micros=amount_micros or _UNSET_AMOUNT_MICROS,
            payment_method_id=body.payment_method_id,
            backup_payment_method_id=body.backup_payment_method_id,
            daily_limit_micros=body.daily_limit_micros,
            monthly_limit_micros=body.monthly_limit_micros,
            consent=body.consent,
            consent_version=consent_version,
            client_address=(request.remote_addr or "")[:64],
            dry_run=body.dry_run,
        ),
        timeout_s=25,
    )
    return _shown(status)


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
    outcome = call(TriggerAutoTopup(idempotency_key=key, user_id=user.user_id), timeout_s=25)
    reply = TriggerReply(
        topup=shown_topup(outcome.topup) if outcome.topup else None,
        refusal_code=outcome.refusal_code,
        refusal_reason=outcome.refusal_reason,
    )
    return Answer(reply, 202 if outcome.topup else 200)


def _shown(status: AutoTopupStatus) -> AutoTopupReply:
    first, backup = status.payment_method, status.backup_payment_method
    return AutoTopupReply(
        enabled=status.enabled,
        state=status.state,
        state_code=status.state_code,
        state_reason=status.state_reason,
        threshold_amount=_usd(status.threshold_micros),
        topup_amount=_usd(status.topup_amount_micros),
        topup_amount_min=usd_number(status.topup_amount_min_micros),
        topup_amount_max=usd_number(status.topup_amount_max_micros),
        payment_method=_card(first) if first else None,
        backup_payment_method=_card(backup) if backup else None,
        daily_limit=_limit(status.daily_limit),
        monthly_limit=_limit(status.monthly_limit),
        cool_down_until=status.cool_down_until,
        in_flight_topup_id=str(status.in_flight_topup_id) if status.in_flight_topup_id else None,
        confirm_url=status.confirm_url,
        consent_version=status.consent_version,
        consent_text=status.consent_text,
        last_topup=shown_topup(status.last_topup) if status.last_topup else None,
        charge_now=usd_number(status.charge_now_micros),
    )


def _usd(amount_micros: int | None) -> Decimal | None:
    return None if amount_micros is None else usd_number(amount_micros)


def _card(card: PaymentMethod) -> CardReply:
    return CardReply(payment_method_id=card.payment_method_id, brand=card.brand, last4=card.last4)


def _limit(limit: SpendingLimit | None) -> LimitReply | None:
    if limit is None:
        return None
    return LimitReply(
        limit=usd_number(limit.limit_micros),
        used=usd_number(limit.used_micros),
        resets_at=limit.resets_at,
    )
