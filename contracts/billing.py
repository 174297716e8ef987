"""Billing: purchases, deployments, the burn rate."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from contracts.catalog import BillingPeriod, Category
from contracts.messages import (
    AmountMicros,
    Command,
    Cursor,
    Moment,
    PageLimit,
    PriceMicros,
    Reply,
    Request,
    ShortText,
    SignedMicros,
    Storable,
    UserEvent,
    Value,
)

SERVICE = "billing"


class PurchaseStatus(StrEnum):
    """The lifecycle of a purchase; the last four are its ends."""

    PENDING = "pending"
    AWAITING_FUNDS = "awaiting_funds"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"


class DeploymentStatus(StrEnum):
    REQUESTED = "requested"
    ACTIVE = "active"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PurchaseLine(Value):
    """What to buy. ``expected_unit_price_micros`` is the price the person saw, if known."""

    product_id: UUID
    quantity: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    expected_unit_price_micros: PriceMicros | None = None


class PurchasedLine(Value):
    product_id: UUID
    product_name: str
    category: Category
    billing_period: BillingPeriod
    quantity: int
    unit_price_micros: PriceMicros
    amount_micros: PriceMicros


class Purchase(Reply):
    """One purchase. ``shortfall_micros`` is what was lacking at the last try, 0 when paid.

    ``status_reason`` is a sentence for the buyer; ``status_code`` the same for a program
    (for example ``card_declined``, ``out_of_stock``), both empty when all is well.
    ``is_stock_limited``: others may buy the last of it. While the purchase waits, stock is set
    aside for it until ``stock_held_until``; None: it is not, and may be gone when the money comes.
    """

    purchase_id: UUID
    user_id: UUID
    status: PurchaseStatus
    status_code: str = ""
    status_reason: str = ""
    total_micros: PriceMicros
    shortfall_micros: PriceMicros
    lines: list[PurchasedLine]
    deployment_ids: list[UUID]
    transaction_id: UUID | None = None
    created_at: Moment
    updated_at: Moment
    expires_at: Moment | None = None
    is_stock_limited: bool = False
    stock_held_until: Moment | None = None
    replayed: bool = False


class StartPurchase(Command[Purchase], service=SERVICE, method="start_purchase"):
    """Buy, at the catalog's price. Short of funds it waits, and completes by itself.

    Errors: ``PriceChanged``, ``OutOfStock``, ``NotFound``, ``AccountFrozen``,
    ``IdempotencyConflict``, ``LimitExceeded`` (too many purchases wait already, or too many
    deployments that cost nothing).
    """

    user_id: UUID
    lines: Annotated[list[PurchaseLine], Field(min_length=1, max_length=50)]


class GetPurchase(Request[Purchase], service=SERVICE, method="get_purchase"):
    user_id: UUID
    purchase_id: UUID


class CancelPurchase(Request[Purchase], service=SERVICE, method="cancel_purchase"):
    """Give up a purchase that waits for funds. One that is paid raises ``Conflict``."""

    user_id: UUID
    purchase_id: UUID


class PurchasePage(Reply):
    purchases: list[Purchase]
    next_cursor: Cursor | None = None


class ListPurchases(Request[PurchasePage], service=SERVICE, method="list_purchases"):
    user_id: UUID
    statuses: Annotated[list[PurchaseStatus], Field(max_length=10)] = Field(default_factory=list)
    cursor: Cursor | None = None
    limit: PageLimit = 25


class Deployment(Reply):
    """A thing that runs. ``monthly_cost_micros`` is 0 for what was paid once."""

    deployment_id: UUID
    purchase_id: UUID
    product_id: UUID
    name: str
    category: Category
    status: DeploymentStatus
    status_reason: str = ""
    monthly_cost_micros: PriceMicros
    created_at: Moment
    active_at: Moment | None = None
    ended_at: Moment | None = None


class DeploymentList(Reply):
    """Newest first."""

    deployments: list[Deployment]
    next_cursor: Cursor | None = None


class ListDeployments(Request[DeploymentList], service=SERVICE, method="list_deployments"):
    user_id: UUID
    cursor: Cursor | None = None
    limit: PageLimit = 200


class ReportDeployment(Request[Deployment], service=SERVICE, method="report_deployment"):
    """A provisioner's answer to ``deployment_requested``; the same answer twice changes nothing."""

    deployment_id: UUID
    status: DeploymentStatus
    reason: Annotated[str, StringConstraints(max_length=500), Storable] = ""


class DeploymentBurnRate(Value):
    """One deployment's part. ``share_percent`` is of the whole monthly burn, rounded half-even."""

    deployment_id: UUID
    deployment_name: str
    category: Category
    status: DeploymentStatus
    monthly_cost_micros: PriceMicros
    daily_cost_micros: PriceMicros
    share_percent: int


class BurnRate(Reply):
    """What a user's deployments cost and how long the balance lasts.

    Daily = monthly ÷ 30 and hourly = monthly ÷ 720, each rounded half-even once.
    ``projected_balance_30_days_micros`` = balance − monthly burn. ``days_until_empty`` =
    floor(balance ÷ daily burn) by the exact daily burn, None when nothing burns.
    ``deployments`` holds those that burn, active ones with a monthly price, dearest first and
    at most ``limit``; ``deployments_total`` says how many they are in all, and the other figures
    are of them all. :class:`ListDeployments` has every one.
    """

    balance_micros: SignedMicros
    monthly_burn_micros: PriceMicros
    daily_burn_micros: PriceMicros
    hourly_burn_micros: PriceMicros
    deployments: list[DeploymentBurnRate]
    deployments_total: int = 0
    projected_balance_30_days_micros: SignedMicros
    days_until_empty: int | None
    empty_at: Moment | None


class GetBurnRate(Request[BurnRate], service=SERVICE, method="get_burn_rate"):
    user_id: UUID
    limit: PageLimit = 100


class PurchaseShortOfFunds(UserEvent, source=SERVICE, type="purchase_short_of_funds"):
    """A purchase waits for money. ``shortfall_micros`` closes the gap of this purchase alone;

    ``total_shortfall_micros`` that of everything this user waits for.
    """

    purchase_id: UUID
    total_micros: AmountMicros
    shortfall_micros: AmountMicros
    total_shortfall_micros: AmountMicros
    available_micros: SignedMicros


class RenewalShortOfFunds(UserEvent, source=SERVICE, type="renewal_short_of_funds"):
    deployment_id: UUID
    shortfall_micros: AmountMicros
    available_micros: SignedMicros


class PurchaseCompleted(UserEvent, source=SERVICE, type="purchase_completed"):
    purchase_id: UUID
    total_micros: PriceMicros
    description: ShortText
    deployment_ids: list[UUID]


class PurchaseEnded(UserEvent, source=SERVICE, type="purchase_ended"):
    """A purchase ended without a payment: cancelled, expired or failed; nothing was charged."""

    purchase_id: UUID
    status: PurchaseStatus
    status_code: str
    reason: str


class DeploymentRequested(
    UserEvent, source=SERVICE, type="deployment_requested", needs_listener=False
):
    """Something to provision; whoever does it answers with ``billing.report_deployment``."""

    deployment_id: UUID
    product_id: UUID
    name: str


class DeploymentActivated(
    UserEvent, source=SERVICE, type="deployment_activated", needs_listener=False
):
    deployment_id: UUID
    name: str
    monthly_cost_micros: PriceMicros


class DeploymentFailed(UserEvent, source=SERVICE, type="deployment_failed", needs_listener=False):
    """What was paid for could not be provisioned."""

    deployment_id: UUID
    purchase_id: UUID
    name: str
    reason: str
