"""What runs, and how long the money lasts."""

from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime

from chassis.money import usd_number
from contracts.billing import DeploymentStatus, GetBurnRate, ListDeployments
from contracts.catalog import Category
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, CursorText, Limit, Usd
from services.gateway.backend import call
from services.gateway.people.identity import CurrentUser

blueprint = Blueprint("api_deployments", __name__)


class DeploymentReply(ApiReply):
    deployment_id: UUID
    purchase_id: UUID
    product_id: UUID
    name: str
    category: Category
    status: DeploymentStatus
    status_reason: str
    monthly_cost_usd: Usd
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
    monthly_cost: Usd
    daily_cost: Usd
    share_percent: int


class BurnRateReply(ApiReply):
    """Daily = monthly ÷ 30, hourly = monthly ÷ 720. ``days_until_empty`` and ``empty_at`` are null
    when nothing burns. ``deployments`` are the dearest of those that burn, at most ``limit``, and
    ``deployments_total`` how many they are in all; /api/deployments has every one."""

    balance: Usd
    monthly_burn: Usd
    daily_burn: Usd
    hourly_burn: Usd
    deployments: list[DeploymentBurn]
    deployments_total: int
    projected_balance_30_days: Usd
    days_until_empty: int | None
    empty_at: AwareDatetime | None


@endpoint(blueprint, "GET", "/api/deployments", query=DeploymentQuery, reply=DeploymentReplies)
def list_deployments(user: CurrentUser, query: DeploymentQuery) -> DeploymentReplies:
    """Everything the user has deployed."""
    found = call(ListDeployments(user_id=user.user_id, cursor=query.cursor, limit=query.limit))
    return DeploymentReplies(
        deployments=[
            DeploymentReply(
                deployment_id=deployment.deployment_id,
                purchase_id=deployment.purchase_id,
                product_id=deployment.product_id,
                name=deployment.name,
                category=deployment.category,
                status=deployment.status,
                status_reason=deployment.status_reason,
                monthly_cost_usd=usd_number(deployment.monthly_cost_micros),
                created_at=deployment.created_at,
                active_at=deployment.active_at,
                ended_at=deployment.ended_at,
            )
            for deployment in found.deployments
        ],
        next_cursor=found.next_cursor,
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
    rate = call(GetBurnRate(user_id=user.user_id, limit=query.limit))
    return BurnRateReply(
        balance=usd_number(rate.balance_micros),
        monthly_burn=usd_number(rate.monthly_burn_micros),
        daily_burn=usd_number(rate.daily_burn_micros),
        hourly_burn=usd_number(rate.hourly_burn_micros),
        deployments=[
            DeploymentBurn(
                deployment_id=part.deployment_id,
                deployment_name=part.deployment_name,
                category=part.category,
                status=part.status,
                monthly_cost=usd_number(part.monthly_cost_micros),
                daily_cost=usd_number(part.daily_cost_micros),
                share_percent=part.share_percent,
            )
            for part in rate.deployments
        ],
        deployments_total=rate.deployments_total,
        projected_balance_30_days=usd_number(rate.projected_balance_30_days_micros),
        days_until_empty=rate.days_until_empty,
        empty_at=rate.empty_at,
    )
