"""What runs, and how long the money lasts."""

from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field

from contracts.billing import DeploymentStatus, GetBurnRate, ListDeployments
from contracts.catalog import Category
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CursorText, Limit, Usd
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_deployments", __name__)


class DeploymentReply(ApiReply):
    deployment_id: UUID
    purchase_id: UUID
    product_id: UUID
    name: str
    category: Category
    status: DeploymentStatus
    status_reason: str
    monthly_cost_micros: Usd = Field(serialization_alias="monthly_cost_usd")
    created_at: AwareDatetime
    active_at: AwareDatetime | None
    ended_at: AwareDatetime | None


class DeploymentQuery(ApiBody):
    cursor: CursorText | None = None
    limit: Limit = 200


class DeploymentReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    deployments: list[DeploymentReply]
    next_cursor: str | None


class BurnRateQuery(ApiBody):
    limit: Limit = 100


class DeploymentBurn(ApiReply):
    deployment_id: UUID
    deployment_name: str
    category: Category
    status: DeploymentStatus
    monthly_cost_micros: Usd
    daily_cost_micros: Usd
    share_percent: int


class BurnRateReply(ApiReply):
    """Daily = monthly ÷ 30, hourly = monthly ÷ 720. ``days_until_empty`` and ``empty_at`` are null
    when nothing burns. ``deployments`` are the dearest of those that burn, at most ``limit``, and
    ``deployments_total`` how many they are in all; /api/deployments has every one."""

    balance_micros: Usd
    monthly_burn_micros: Usd = Field(serialization_alias="monthly_burn_rate")
    daily_burn_micros: Usd = Field(serialization_alias="daily_burn_rate")
    hourly_burn_micros: Usd = Field(serialization_alias="hourly_burn_rate")
    deployments: list[DeploymentBurn]
    deployments_total: int
    projected_balance_30_days_micros: Usd
    days_until_empty: int | None
    empty_at: AwareDatetime | None


@endpoint(blueprint, "GET", "/api/deployments", query=DeploymentQuery, reply=DeploymentReplies)
def list_deployments(user: CurrentUser, query: DeploymentQuery) -> DeploymentReplies:
    """Everything the user has deployed."""
    return DeploymentReplies.of(
        call(ListDeployments(user_id=user.user_id, cursor=query.cursor, limit=query.limit))
    )


@endpoint(
    blueprint,
    "GET",
    "/api/wallet/burn-rate-analysis",
    query=BurnRateQuery,
    reply=BurnRateReply,
)
def burn_rate_analysis(user: CurrentUser, query: BurnRateQuery) -> BurnRateReply:
    """What the deployments cost, and how long the balance lasts."""
    return BurnRateReply.of(call(GetBurnRate(user_id=user.user_id, limit=query.limit)))
