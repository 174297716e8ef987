"""The wallet: balance, statement, cards, whether it covers an amount."""

from typing import Self
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, model_validator

from chassis.money import format_usd
from contracts.messages import Moment
from contracts.topup import (
    AutoTopupPreview,
    ForecastCharges,
    ListPaymentMethods,
    PreviewAutoTopup,
    StartCardSetup,
)
from contracts.wallet import (
    AccountStatus,
    Affordability,
    CheckAffordability,
    GetLevel,
    SetLevel,
    Statement,
    TransactionKind,
)
from services.gateway.api.auto_topup import ForecastReply
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import (
    ApiBody,
    ApiReply,
    CursorText,
    Limit,
    PositiveUsdText,
    Usd,
    UsdOrZero,
)
from services.gateway.backend import ask, call, standing_of
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_wallet", __name__)


class WalletInfo(ApiReply):
    """``balance`` includes what is held; ``available`` can be spent. The auto top-up fields are
    null while that service cannot be reached."""

    balance_micros: Usd
    available_micros: Usd
    currency: str = "USD"
    status: AccountStatus
    auto_topup_enabled: bool | None
    auto_topup_threshold_micros: Usd | None


class TransactionQuery(ApiBody):
    kind: TransactionKind | None = None
    since: Moment | None = None
    until: Moment | None = None
    cursor: CursorText | None = None
    limit: Limit = 25

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.since > self.until:
            raise ValueError("since must not be after until.")
        return self


class TransactionReply(ApiReply):
    """``amount_usd`` is positive where money came in."""

    transaction_id: UUID
    kind: TransactionKind
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    balance_after_micros: Usd
    description: str
    metadata: dict[str, str]
    effective_at: AwareDatetime = Field(serialization_alias="created_at")


class TransactionList(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    transactions: list[TransactionReply]
    next_cursor: str | None


class PaymentMethodReply(ApiReply):
    payment_method_id: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    expires_soon: bool
    is_default: bool
    is_auto_topup: bool
    is_backup: bool


class PaymentMethodQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 100


class PaymentMethodReplies(ApiReply):
    """The default one first, then the newest; ``next_cursor`` asks for more, null at the end."""

    payment_methods: list[PaymentMethodReply]
    next_cursor: str | None


class CardSetupReply(ApiReply):
    checkout_url: str


class AffordabilityQuery(ApiBody):
    amount_micros: PositiveUsdText = Field(alias="amount")


class ShortfallInfo(ApiReply):
    """What is lacking, and what auto top-up would do: charge ``topup_amount``, or why not.

    ``retry_at`` is there for a reason that passes by itself, and says when: ``topup_amount`` is
    charged then, null where a payment that is under way may cover it or the last one was declined.
    A reason without it stays until somebody does something."""

    shortfall_micros: Usd
    would_topup: bool = Field(serialization_alias="would_auto_topup")
    topup_amount_micros: Usd | None
    balance_after_purchase_micros: Usd | None
    refusal_code: str | None = Field(serialization_alias="reason_code")
    reason: str
    retry_at: AwareDatetime | None
    card_brand: str | None
    card_last4: str | None


class AffordabilityReply(ApiReply):
    """``shortfall_info`` is null when the wallet covers the amount. ``auto_topup`` is every charge
    that spending it would set off, also below the threshold afterwards; null while unknown."""

    can_afford: bool
    amount_micros: Usd
    available_micros: Usd
    shortfall_info: ShortfallInfo | None
    auto_topup: ForecastReply | None


class AlertBody(ApiBody):
    """``threshold`` null: no alert."""

    threshold_micros: UsdOrZero | None = Field(alias="threshold")


class AlertReply(ApiReply):
    """The balance below which the user is told, once per dip, and once when it is back; null: it
    is not told."""

    threshold_micros: Usd | None


class NavbarData(ApiReply):
    """``auto_topup_status`` is one of Active, Paused, Off, Unavailable.

    ``available_balance_formatted`` is the balance without what is held.
    """

    wallet_balance_formatted: str
    available_balance_formatted: str
    display_currency: str = "USD"
    auto_topup_enabled: bool | None
    auto_topup_status: str


@endpoint(blueprint, "GET", "/api/wallet/info", reply=WalletInfo)
def wallet_info(user: CurrentUser) -> WalletInfo:
    """The balance, and whether auto top-up is on. It waits 3 seconds at most for the wallet, and
    then answers 503; without auto top-up, null, where that is away."""
    wallet, automatic = standing_of(user.user_id)
    return WalletInfo.of(
        wallet,
        auto_topup_enabled=automatic.enabled if automatic else None,
        auto_topup_threshold_micros=automatic.threshold_micros if automatic else None,
    )


@endpoint(
    blueprint,
    "GET",
    "/api/wallet/transactions",
    query=TransactionQuery,
    reply=TransactionList,
)
def list_transactions(user: CurrentUser, query: TransactionQuery) -> TransactionList:
    """The statement, newest first, stable while new transactions are written."""
    return TransactionList.of(
        call(
            Statement(
                user_id=user.user_id,
                kinds=[query.kind] if query.kind else [],
                since=query.since,
                until=query.until,
                cursor=query.cursor,
                limit=query.limit,
            )
        )
    )


@endpoint(
    blueprint,
    "GET",
    "/api/wallet/payment-methods",
    query=PaymentMethodQuery,
    reply=PaymentMethodReplies,
)
def list_payment_methods(user: CurrentUser, query: PaymentMethodQuery) -> PaymentMethodReplies:
    """The saved cards."""
    return PaymentMethodReplies.of(
        call(ListPaymentMethods(user_id=user.user_id, cursor=query.cursor, limit=query.limit))
    )


@endpoint(
    blueprint,
    "POST",
    "/api/wallet/payment-methods",
    reply=CardSetupReply,
    status=201,
    command=True,
)
def start_card_setup(user: CurrentUser, key: str) -> CardSetupReply:
    """Begin to save a card without a payment: send the person to ``checkout_url``."""
    command = StartCardSetup(idempotency_key=key, user_id=user.user_id, email=user.email)
    return CardSetupReply.of(call(command))


@endpoint(
    blueprint,
    "GET",
    "/api/wallet/check-affordability",
    query=AffordabilityQuery,
    reply=AffordabilityReply,
)
def check_affordability(user: CurrentUser, query: AffordabilityQuery) -> AffordabilityReply:
    """Whether the wallet covers an amount, and what auto top-up would charge if it is spent."""
    found = call(CheckAffordability(user_id=user.user_id, amount_micros=query.amount_micros))
    shortfall = None
    if not found.can_afford:
        shortfall = _shortfall(user, found)
    forecast = ask(ForecastCharges(user_id=user.user_id, spend_micros=query.amount_micros))
    return AffordabilityReply.of(
        found, amount_micros=query.amount_micros, shortfall_info=shortfall, auto_topup=forecast
    )


@endpoint(blueprint, "GET", "/api/wallet/alert", reply=AlertReply)
def get_alert(user: CurrentUser) -> AlertReply:
    """The balance below which the user is told."""
    return AlertReply.of(call(GetLevel(user_id=user.user_id)))


@endpoint(blueprint, "PUT", "/api/wallet/alert", body=AlertBody, reply=AlertReply, command=True)
def set_alert(user: CurrentUser, body: AlertBody, key: str) -> AlertReply:
    """Be told below another balance, or not at all."""
    command = SetLevel(
        idempotency_key=key, user_id=user.user_id, threshold_micros=body.threshold_micros
    )
    return AlertReply.of(call(command))


@endpoint(blueprint, "GET", "/api/navbar/dropdown-data", reply=NavbarData)
def navbar_data(user: CurrentUser) -> NavbarData:
    """What the navigation bar shows on every page."""
    wallet, automatic = standing_of(user.user_id)
    return NavbarData(
        wallet_balance_formatted=format_usd(wallet.balance_micros),
        available_balance_formatted=format_usd(wallet.available_micros),
        auto_topup_enabled=automatic.enabled if automatic else None,
        auto_topup_status=automatic.state.capitalize() if automatic else "Unavailable",
    )


_UNKNOWN = {
    "refusal_code": "unavailable",
    "reason": "What auto top-up would do is not known at the moment.",
}
_FROZEN = {
    "refusal_code": "account_frozen",
    "reason": "The wallet is frozen: nothing can be paid from it. Please contact support.",
}


def _shortfall(user: CurrentUser, found: Affordability) -> ShortfallInfo:
    shortfall_micros = found.shortfall_micros
    preview, why = None, _UNKNOWN
    if found.status is AccountStatus.FROZEN:
        why = _FROZEN
    elif preview := ask(PreviewAutoTopup(user_id=user.user_id, shortfall_micros=shortfall_micros)):
        why = {}
    preview = preview or AutoTopupPreview(would_topup=False, amount_micros=0)
    amount_micros = preview.amount_micros or None
    return ShortfallInfo.of(
        preview,
        shortfall_micros=shortfall_micros,
        topup_amount_micros=amount_micros,
        balance_after_purchase_micros=amount_micros and amount_micros - shortfall_micros,
        card_brand=preview.card_brand or None,
        card_last4=preview.card_last4 or None,
        **why,
    )
