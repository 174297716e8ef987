"""What runs, and how long the money lasts."""

from datetime import date
from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints

from contracts.billing import (
    Actor,
    CancelDeployment,
    CancelWhen,
    ChangeCause,
    ChargeKind,
    DeploymentStatus,
    GetBurnRate,
    GetDeployment,
    GetUsage,
    ListDeployments,
    ListResizes,
    RenameDeployment,
    ResizeDeployment,
    StartDeployment,
    StopDeployment,
)
from contracts.catalog import Category
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import (
    ApiBody,
    ApiReply,
    CursorText,
    Days,
    Limit,
    SignedUsd,
    Usd,
    UsdOrZero,
)
from services.gateway.backend import call
from services.gateway.people.users import CurrentUser

blueprint = Blueprint("api_deployments", __name__)


class DeploymentChangeReply(ApiReply):
    changed_at: AwareDatetime
    status: DeploymentStatus
    cause: ChangeCause
    actor: Actor


class AccessReply(ApiReply):
    """How it is reached, as its provisioner told; what it did not tell is empty."""

    address: str
    user_name: str
    url: str
    notes: str


class ChargeReply(ApiReply):
    """Something that was paid beside the purchase; its receipt is at
    ``/api/deployments/<id>/charges/<transaction_id>/receipt``."""

    transaction_id: UUID
    kind: ChargeKind
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    is_refunded: bool


class RungReply(ApiReply):
    """What it becomes unless somebody acts, and when; ``cancelled``: its data is deleted."""

    status: DeploymentStatus
    at: AwareDatetime


class DeploymentReply(ApiReply):
    """``next_renewal_at`` is when ``next_renewal_usd`` is charged for another month; null: it is
    not renewed. ``owed_usd`` is due and not paid: months, time that ran, and what was used, which
    is ``owed_usage_usd`` of it, also what is charged with the next hour. ``start_usd`` is what
    ``…/start`` charges now; null where it cannot be started. ``start_usage_usd`` of it is for what
    was used, also by others that one charge was made for, and has to be paid before: it is, by
    itself, as soon as the wallet covers it, and until then a start is refused. Unless somebody
    acts, the status becomes ``next_status`` at ``next_status_at``, and then what ``ladder``, which
    begins with it, says; it is empty where nothing is going to happen. The first month that begins
    at ``new_price_from`` or later costs ``new_price_usd``. ``access`` is null until it is known.
    ``choices``, made at the purchase, ``history`` and ``charges``, newest first, are empty in
    lists."""

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
    paid_until: AwareDatetime | None
    next_renewal_at: AwareDatetime | None
    next_renewal_micros: Usd = Field(serialization_alias="next_renewal_usd")
    owed_micros: Usd = Field(serialization_alias="owed_usd")
    owed_usage_micros: Usd = Field(serialization_alias="owed_usage_usd")
    start_micros: Usd | None = Field(serialization_alias="start_usd")
    start_usage_micros: Usd = Field(serialization_alias="start_usage_usd")
    next_status: DeploymentStatus | None
    next_status_at: AwareDatetime | None
    ladder: list[RungReply]
    new_price_micros: Usd | None = Field(serialization_alias="new_price_usd")
    new_price_from: AwareDatetime | None
    access: AccessReply | None
    choices: dict[str, str]
    history: list[DeploymentChangeReply]
    charges: list[ChargeReply]


class RenameBody(ApiBody):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class CancelBody(ApiBody):
    when: CancelWhen = CancelWhen.PERIOD_END


class StartBody(ApiBody):
    """``amount_usd`` is what ``start_usd`` said: where it comes to something else by now, the
    answer is 409 ``price_changed``, and nothing is done. Without it, it is whatever it comes to."""

    amount_micros: UsdOrZero | None = Field(default=None, alias="amount_usd")


class ResizeBody(ApiBody):
    """``amount_usd`` is what ``…/sizes`` said that it comes to now, and ``quoted_at`` when it said
    so: it is then just that, for ten minutes, and where it cannot be the answer is 409
    ``price_changed``. Without them it is whatever it comes to."""

    product_id: UUID
    amount_micros: SignedUsd | None = Field(default=None, alias="amount_usd")
    quoted_at: AwareDatetime | None = None


class SizeReply(ApiReply):
    """``amount_usd`` is charged today, or given back where it is negative; ``price_usd`` every
    month from the next one on."""

    product_id: UUID
    name: str
    price_micros: Usd = Field(serialization_alias="price_usd")
    amount_micros: Usd = Field(serialization_alias="amount_usd")


class SizesReply(ApiReply):
    """The cheapest first; none where it cannot be resized. The amounts are as of ``quoted_at``."""

    quoted_at: AwareDatetime
    options: list[SizeReply]


class DeploymentQuery(ApiBody):
    status: DeploymentStatus | None = None
    cursor: CursorText | None = None
    limit: Limit = 200


class DeploymentReplies(ApiReply):
    """Newest first; ``next_cursor`` asks for older ones, null at the end."""

    deployments: list[DeploymentReply]
    next_cursor: str | None


class UsageQuery(ApiBody):
    days: Days = 30


class MeteredDayReply(ApiReply):
    """What was used of a meter on one day (UTC), in its units, and what that comes to: what the
    month costs with the day, less what it cost before it."""

    day: date
    meter: str
    label: str
    unit: str
    quantity: int
    amount_micros: Usd = Field(serialization_alias="amount_usd")


class UsageReply(ApiReply):
    """The newest day first. ``due_usd`` was used, on whatever day, and is not paid yet."""

    days: list[MeteredDayReply]
    due_micros: Usd = Field(serialization_alias="due_usd")


class BurnRateQuery(ApiBody):
    limit: Limit = 100


class DeploymentBurn(ApiReply):
    deployment_id: UUID
    deployment_name: str
    category: Category
    status: DeploymentStatus
    monthly_cost_micros: Usd
    monthly_usage_micros: Usd
    daily_cost_micros: Usd
    share_percent: int


class BurnRateReply(ApiReply):
    """A rate: ``monthly_burn_rate`` is the sum of the monthly prices of what is active and of what
    30 days of its usage cost at its measured rate (``monthly_usage``, within it), daily = monthly
    ÷ 30, hourly = monthly ÷ 720. ``projected_balance_30_days`` = balance − monthly,
    ``days_until_empty`` = the whole days that the balance covers at that rate; it and ``empty_at``
    are null when nothing burns. When money really leaves, /api/wallet/forecast says.
    ``deployments`` are the dearest of those that burn, at most ``limit``, and
    ``deployments_total`` how many they are in all; /api/deployments has every one."""

    balance_micros: Usd
    monthly_burn_micros: Usd = Field(serialization_alias="monthly_burn_rate")
    daily_burn_micros: Usd = Field(serialization_alias="daily_burn_rate")
    hourly_burn_micros: Usd = Field(serialization_alias="hourly_burn_rate")
    monthly_usage_micros: Usd
    deployments: list[DeploymentBurn]
    deployments_total: int
    projected_balance_30_days_micros: Usd
    days_until_empty: int | None
    empty_at: AwareDatetime | None


@endpoint(blueprint, "GET", "/api/deployments", query=DeploymentQuery, reply=DeploymentReplies)
def list_deployments(user: CurrentUser, query: DeploymentQuery) -> DeploymentReplies:
    """Everything the user has deployed, or what of it is in one state."""
    question = ListDeployments(
        user_id=user.user_id,
        statuses=[query.status] if query.status else [],
        cursor=query.cursor,
        limit=query.limit,
    )
    return DeploymentReplies.of(call(question))


@endpoint(blueprint, "GET", "/api/deployments/<uuid:deployment_id>", reply=DeploymentReply)
def get_deployment(user: CurrentUser, deployment_id: UUID) -> DeploymentReply:
    """One deployment, what it is going to cost, and what happened to it."""
    return DeploymentReply.of(
        call(GetDeployment(user_id=user.user_id, deployment_id=deployment_id))
    )


@endpoint(
    blueprint,
    "GET",
    "/api/deployments/<uuid:deployment_id>/usage",
    query=UsageQuery,
    reply=UsageReply,
)
def get_usage(user: CurrentUser, deployment_id: UUID, query: UsageQuery) -> UsageReply:
    """What was used of one deployment on the last ``days`` days, today included."""
    return UsageReply.of(
        call(GetUsage(user_id=user.user_id, deployment_id=deployment_id, days=query.days))
    )


@endpoint(
    blueprint,
    "PATCH",
    "/api/deployments/<uuid:deployment_id>",
    body=RenameBody,
    reply=DeploymentReply,
    command=True,
)
def rename_deployment(
    user: CurrentUser, deployment_id: UUID, body: RenameBody, key: str
) -> DeploymentReply:
    """Give it another name."""
    return DeploymentReply.of(
        call(
            RenameDeployment(
                idempotency_key=key,
                user_id=user.user_id,
                deployment_id=deployment_id,
                name=body.name,
            )
        )
    )


@endpoint(
    blueprint,
    "POST",
    "/api/deployments/<uuid:deployment_id>/stop",
    reply=DeploymentReply,
    command=True,
)
def stop_deployment(user: CurrentUser, deployment_id: UUID, key: str) -> DeploymentReply:
    """Switch it off. The month that is paid runs on, and is not renewed."""
    return DeploymentReply.of(
        call(StopDeployment(idempotency_key=key, user_id=user.user_id, deployment_id=deployment_id))
    )


@endpoint(
    blueprint,
    "POST",
    "/api/deployments/<uuid:deployment_id>/start",
    body=StartBody,
    is_body_optional=True,
    reply=DeploymentReply,
    command=True,
)
def start_deployment(
    user: CurrentUser, deployment_id: UUID, body: StartBody, key: str
) -> DeploymentReply:
    """Let it run again, and be renewed. After the month that was paid this charges what it owes,
    and a month from now; a 402 says what is lacking."""
    return DeploymentReply.of(
        call(
            StartDeployment(
                idempotency_key=key,
                user_id=user.user_id,
                deployment_id=deployment_id,
                expected_amount_micros=body.amount_micros,
            )
        )
    )


@endpoint(
    blueprint,
    "POST",
    "/api/deployments/<uuid:deployment_id>/cancel",
    body=CancelBody,
    is_body_optional=True,
    reply=DeploymentReply,
    command=True,
)
def cancel_deployment(
    user: CurrentUser, deployment_id: UUID, body: CancelBody, key: str
) -> DeploymentReply:
    """End it with the month that is paid, or now and for good; no money comes back. One that does
    not run, or owes its month, ends now; one that is being set up too, and its price comes
    back."""
    return DeploymentReply.of(
        call(
            CancelDeployment(
                idempotency_key=key,
                user_id=user.user_id,
                deployment_id=deployment_id,
                when=body.when,
            )
        )
    )


@endpoint(blueprint, "GET", "/api/deployments/<uuid:deployment_id>/sizes", reply=SizesReply)
def list_sizes(user: CurrentUser, deployment_id: UUID) -> SizesReply:
    """The other sizes that it may become, and what each comes to now."""
    question = ListResizes(user_id=user.user_id, deployment_id=deployment_id)
    return SizesReply.of(call(question))


@endpoint(
    blueprint,
    "POST",
    "/api/deployments/<uuid:deployment_id>/resize",
    body=ResizeBody,
    reply=DeploymentReply,
    command=True,
)
def resize_deployment(
    user: CurrentUser, deployment_id: UUID, body: ResizeBody, key: str
) -> DeploymentReply:
    """Make it another size. The difference for the rest of its month is charged before it is done,
    or given back; a 402 says what is lacking, and nothing is changed then."""
    return DeploymentReply.of(
        call(
            ResizeDeployment(
                idempotency_key=key,
                user_id=user.user_id,
                deployment_id=deployment_id,
                product_id=body.product_id,
                expected_amount_micros=body.amount_micros,
                quoted_at=body.quoted_at,
            )
        )
    )


@endpoint(
    blueprint,
    "GET",
    "/api/wallet/burn-rate-analysis",
    query=BurnRateQuery,
    reply=BurnRateReply,
)
def burn_rate_analysis(user: CurrentUser, query: BurnRateQuery) -> BurnRateReply:
    """What the deployments cost, as a rate."""
    return BurnRateReply.of(call(GetBurnRate(user_id=user.user_id, limit=query.limit)))
