"""For roles: users, refunds, automatic charges, dead letters, the numbers, the audit log; the money
is in :mod:`services.gateway.api.finance`.

A token needs the scope ``admin``, and its owner the role and a second step of logging in at the
moment of each call. What is done stands in the audit log as what is done on the pages does.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints

from chassis.clock import utc_now
from contracts import operating
from contracts.analytics import GetKpis, KpiName
from contracts.billing import ListDeployments, ListPurchases, PurchaseStatus
from contracts.errors import NotFound
from contracts.messages import Moment
from contracts.operating import SERVICES, GetDeadLetters
from contracts.topup import GetOperatorSwitch, GetTopupOverview
from contracts.wallet import GetPromotions, GetWallet
from services.gateway.access import STAFF, Role
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, Limit, PlainText, Usd
from services.gateway.backend import ask_all, call, database
from services.gateway.models import User
from services.gateway.staff import acts, commands, desk, grants
from services.gateway.staff.acts import REASON_LENGTH_MAX, REASON_LENGTH_MIN, read_reason
from services.gateway.staff.guard import Staff, readers

blueprint = Blueprint("api_admin", __name__)

SHOWN = 10
KPIS_FOR = timedelta(days=1)

Reason = Annotated[
    PlainText, StringConstraints(min_length=REASON_LENGTH_MIN, max_length=REASON_LENGTH_MAX)
]
SUPPORT = frozenset({Role.SUPPORT})
OPERATORS = frozenset({Role.OPERATOR})


class WhyBody(ApiBody):
    """``reason`` stays in the audit log."""

    reason: Reason


class FindBody(WhyBody):
    """``whom`` is the whole email address, or the id."""

    whom: Annotated[PlainText, StringConstraints(min_length=1, max_length=320)]


class FoundUser(ApiReply):
    user_id: UUID
    email: str
    created_at: AwareDatetime
    is_email_confirmed: bool
    has_second_step: bool
    roles: list[Role]


class BoughtReply(ApiReply):
    purchase_id: UUID
    status: PurchaseStatus
    total_micros: Usd = Field(serialization_alias="total_usd")
    refunded_micros: Usd = Field(serialization_alias="refunded_usd")
    lines: list[str]
    """The names of products: a refund of one line counts them from 0."""
    created_at: AwareDatetime


class RunningReply(ApiReply):
    deployment_id: UUID
    name: str
    status: str


class PromotionLeft(ApiReply):
    """Promotional credit of which something is left."""

    promotion_id: UUID
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    left_micros: Usd = Field(serialization_alias="left_usd")
    expires_at: AwareDatetime


class UserFile(ApiReply):
    """``available_usd``, ``held_usd``, ``promotions`` and ``wallet`` (its status) are null while
    the wallet is away, ``auto_topup`` while topup is, and the other lists, of the newest 10, while
    billing is."""

    user: FoundUser
    wallet: str | None
    available_micros: Usd | None = Field(serialization_alias="available_usd")
    held_micros: Usd | None = Field(serialization_alias="held_usd")
    promotions: list[PromotionLeft] | None
    auto_topup: str | None
    purchases: list[BoughtReply] | None
    deployments: list[RunningReply] | None


class RefundBody(WhyBody):
    """Without a ``line`` it is the whole purchase. The user is told the ``reason`` too."""

    line: Annotated[int, Field(strict=True, ge=0, le=1_000)] | None = None


class RefundedReply(ApiReply):
    """What of the purchase is refunded by now, this refund among it."""

    refunded_micros: Usd = Field(serialization_alias="refunded_usd")


class ChargesReply(ApiReply):
    """Whether all automatic charges are stopped, since when, by which user, and why."""

    is_stopped: bool
    reason: str
    changed_by: str
    changed_at: AwareDatetime | None


class LetterReply(ApiReply):
    message: str
    queue: str
    attempts: int
    error: str
    body: str


class LetterReplies(ApiReply):
    """The oldest first; ``total`` there are."""

    letters: list[LetterReply]
    total: int


class LettersQuery(ApiBody):
    limit: Limit = 50


class LetterDoneReply(ApiReply):
    """How many there were with this id: the same message may have failed several times."""

    count: int


class KpiQuery(ApiBody):
    """A day up to now, unless it says otherwise."""

    since: Moment | None = None
    until: Moment | None = None


class KpiReply(ApiReply):
    """``value_bps`` is ``count`` of ``total`` in basis points, null where that is 0."""

    name: KpiName
    count: int
    total: int
    value_bps: int | None
    target_bps: int
    is_met: bool | None


class KpiReplies(ApiReply):
    since: AwareDatetime
    until: AwareDatetime
    kpis: list[KpiReply]


class AuditQuery(ApiBody):
    after: Annotated[str, StringConstraints(pattern="^[0-9]{1,18}$")] = "0"


class AuditLines(ApiReply):
    """Up to 1,000 acts after the position ``after``, each a line of JSON with its link, as
    ``python -m services.gateway.audit_log check`` checks them. ``next_after`` asks for more; null
    at the end."""

    lines: list[str]
    next_after: int | None


@endpoint(
    blueprint,
    "POST",
    "/api/admin/users",
    body=FindBody,
    reply=FoundUser,
    roles=readers(Role.SUPPORT),
)
def find_user(staff: Staff, body: FindBody) -> FoundUser:
    """Find a user and open what is known of them, for 30 minutes. 404: nobody has this address."""
    with database().begin() as session:
        found = grants.find(session, body.whom)
        reason = read_reason(body.reason)
        desk.open_file(session, utc_now(), staff.actor(), found.user_id, reason)
        return _found(found, grants.roles_of(session, found.user_id))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/users/<uuid:user_id>",
    reply=UserFile,
    roles=readers(Role.SUPPORT),
)
def show_user(staff: Staff, user_id: UUID) -> UserFile:
    """Show what is known of a user whom you have found before, with a reason. 409: you have not, or
    30 minutes have passed."""
    with database().read() as session:
        desk.require_open(session, utc_now(), staff.user.user_id, user_id)
        found = _found(desk.user_of(session, user_id), grants.roles_of(session, user_id))
    wallet, promotional, topups, purchases, deployments = ask_all(
        GetWallet(user_id=user_id),
        GetPromotions(user_id=user_id),
        GetTopupOverview(user_id=user_id, topups=SHOWN),
        ListPurchases(user_id=user_id, limit=SHOWN),
        ListDeployments(user_id=user_id, limit=SHOWN),
    )
    return UserFile(
        user=found,
        wallet=wallet.status if wallet else None,
        available_micros=wallet.available_micros if wallet else None,
        held_micros=wallet.held_micros if wallet else None,
        promotions=[PromotionLeft.of(each) for each in promotional.promotions]
        if promotional
        else None,
        auto_topup=topups.auto_topup.state if topups else None,
        purchases=[
            BoughtReply.of(each, lines=[line.product_name for line in each.lines])
            for each in purchases.purchases
        ]
        if purchases
        else None,
        deployments=[RunningReply.of(each) for each in deployments.deployments]
        if deployments
        else None,
    )


@endpoint(
    blueprint,
    "POST",
    "/api/admin/users/<uuid:user_id>/purchases/<uuid:purchase_id>/refund",
    body=RefundBody,
    reply=RefundedReply,
    command=True,
    roles=SUPPORT,
)
def refund_of_user(
    staff: Staff, user_id: UUID, purchase_id: UUID, body: RefundBody, key: str
) -> RefundedReply:
    """Give a purchase of a user back, or one line of it. 409: you have not found them with a
    reason, it is yourself, or there is nothing left to give back."""
    with database().read() as session:
        desk.require_open(session, utc_now(), staff.user.user_id, user_id)
    actor = staff.actor()
    desk.require_another(actor, user_id)
    reason = read_reason(body.reason)
    refunded = commands.refund(actor, user_id, purchase_id, body.line, key, reason)
    return RefundedReply(refunded_micros=refunded)


@endpoint(
    blueprint,
    "GET",
    "/api/admin/charges",
    reply=ChargesReply,
    roles=readers(Role.OPERATOR, Role.FINANCE),
)
def show_charges(staff: Staff) -> ChargesReply:  # noqa: ARG001
    """Show whether automatic charges go out."""
    return ChargesReply.of(call(GetOperatorSwitch()))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/charges/stop",
    body=WhyBody,
    reply=ChargesReply,
    roles=OPERATORS,
)
def stop_charges(staff: Staff, body: WhyBody) -> ChargesReply:
    """Stop all automatic charges at once."""
    commands.stop_charges(staff.actor(), read_reason(body.reason))
    return ChargesReply.of(call(GetOperatorSwitch()))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/charges/release",
    body=WhyBody,
    reply=ChargesReply,
    roles=OPERATORS,
)
def release_charges(staff: Staff, body: WhyBody) -> ChargesReply:
    """Let automatic charges go out again."""
    commands.release_charges(staff.actor(), read_reason(body.reason))
    return ChargesReply.of(call(GetOperatorSwitch()))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/dead-letters/<string(maxlength=40):service>",
    query=LettersQuery,
    reply=LetterReplies,
    roles=readers(Role.OPERATOR),
)
def list_dead_letters(staff: Staff, service: str, query: LettersQuery) -> LetterReplies:  # noqa: ARG001
    """List the messages that a service could not handle."""
    request = operating.of(_service(service), GetDeadLetters)
    return LetterReplies.of(call(request(limit=query.limit)))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/dead-letters/<string(maxlength=40):service>/<string(maxlength=40):message>/replay",
    body=WhyBody,
    reply=LetterDoneReply,
    roles=OPERATORS,
)
def replay_dead_letter(
    staff: Staff,
    service: str,
    message: str,
    body: WhyBody,
) -> LetterDoneReply:
    """Give a dead letter back to its queue. What it did already does not happen twice. 404: it is
    gone, as for a repetition."""
    actor, reason = staff.actor(), read_reason(body.reason)
    return LetterDoneReply(count=commands.replay(actor, _service(service), message, reason))


@endpoint(
    blueprint,
    "POST",
    "/api/admin/dead-letters/<string(maxlength=40):service>/<string(maxlength=40):message>/discard",
    body=WhyBody,
    reply=LetterDoneReply,
    roles=OPERATORS,
)
def discard_dead_letter(
    staff: Staff,
    service: str,
    message: str,
    body: WhyBody,
) -> LetterDoneReply:
    """Drop a dead letter for good. 404: it is gone, as for a repetition."""
    actor, reason = staff.actor(), read_reason(body.reason)
    return LetterDoneReply(count=commands.discard(actor, _service(service), message, reason))


@endpoint(
    blueprint,
    "GET",
    "/api/admin/kpis",
    query=KpiQuery,
    reply=KpiReplies,
    roles=STAFF,
)
def show_kpis(staff: Staff, query: KpiQuery) -> KpiReplies:  # noqa: ARG001
    """Show the plan's success metrics, in whole hours."""
    until = query.until or utc_now()
    told = call(GetKpis(since=query.since or until - KPIS_FOR, until=until))
    return KpiReplies.of(told, kpis=[KpiReply.of(kpi, total=kpi.of) for kpi in told.kpis])


@endpoint(
    blueprint,
    "GET",
    "/api/admin/audit",
    query=AuditQuery,
    reply=AuditLines,
    roles=readers(Role.OPERATOR),
)
def export_audit(staff: Staff, query: AuditQuery) -> AuditLines:  # noqa: ARG001
    """Export what was done by a role, the oldest first."""
    with database().read() as session:
        lines, last = acts.lines_after(session, int(query.after))
    return AuditLines(lines=lines, next_after=last)


def _found(row: User, roles: Iterable[Role]) -> FoundUser:
    return FoundUser(
        user_id=row.user_id,
        email=row.email,
        created_at=row.created_at,
        is_email_confirmed=row.email_confirmed_at is not None,
        has_second_step=row.second_step_since is not None,
        roles=sorted(roles),
    )


def _service(name: str) -> str:
    if name not in SERVICES:
        raise NotFound("There is no service of this name.")
    return name
