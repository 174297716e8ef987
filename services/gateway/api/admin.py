"""For roles: users and what support does for them, roles, the audit log. What happens is in
:mod:`services.gateway.api.numbers`, what runs in :mod:`~services.gateway.api.operations`, the money
in :mod:`~services.gateway.api.finance`.

A token needs the scope ``admin``, and its owner the role and a second step of logging in at the
moment of each call. What is done stands in the audit log as what is done on the pages does.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from flask import Blueprint
from pydantic import AwareDatetime, Field, StringConstraints
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from contracts.billing import ListDeployments, ListPurchases, PurchaseStatus
from contracts.topup import GetTopupOverview, TopupKind, TopupStatus
from contracts.wallet import GetPromotions, GetWallet, Statement, TransactionKind
from services.gateway.access import Role
from services.gateway.api.endpoint import endpoint
from services.gateway.api.shapes import ApiBody, ApiReply, NoReply, PlainText, Usd
from services.gateway.backend import ask, ask_all, database, settings
from services.gateway.models import Mail, User
from services.gateway.notifications import storage
from services.gateway.people import sessions
from services.gateway.staff import acts, commands, desk, grants
from services.gateway.staff.acts import REASON_LENGTH_MAX, REASON_LENGTH_MIN, Actor, read_reason
from services.gateway.staff.guard import Staff, readers

blueprint = Blueprint("api_admin", __name__)

SHOWN = 10

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


class MovementReply(ApiReply):
    """One line of the statement; negative where it went out of the wallet."""

    transaction_id: UUID
    kind: TransactionKind
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    description: str
    recorded_at: AwareDatetime


class CreditsReply(ApiReply):
    """A top-up of theirs."""

    topup_id: UUID
    kind: TopupKind
    status: TopupStatus
    amount_micros: Usd = Field(serialization_alias="amount_usd")
    failure_message: str
    created_at: AwareDatetime


class ToldReply(ApiReply):
    """A notification; ``read_at`` is null until they have read it."""

    title: str
    created_at: AwareDatetime
    read_at: AwareDatetime | None


class MailedReply(ApiReply):
    """``outcome`` is empty while it waits to be sent. One that ``has_link`` is not sent again."""

    mail_id: UUID
    title: str
    created_at: AwareDatetime
    outcome: str
    error: str
    has_link: bool


class DoneReply(ApiReply):
    """What somebody did by a role."""

    action: str
    occurred_at: AwareDatetime
    actor_id: UUID | None
    reason: str


class UserFile(ApiReply):
    """``available_usd``, ``held_usd``, ``promotions``, ``transactions`` and ``wallet`` (its status)
    are null while the wallet is away, ``auto_topup`` and ``topups`` while topup is, ``purchases``
    and ``deployments`` while billing is. Of each list the newest 10. ``sessions`` are browsers that
    are logged in."""

    user: FoundUser
    wallet: str | None
    available_micros: Usd | None = Field(serialization_alias="available_usd")
    held_micros: Usd | None = Field(serialization_alias="held_usd")
    promotions: list[PromotionLeft] | None
    transactions: list[MovementReply] | None
    auto_topup: str | None
    topups: list[CreditsReply] | None
    purchases: list[BoughtReply] | None
    deployments: list[RunningReply] | None
    notifications: list[ToldReply]
    mails: list[MailedReply]
    sessions: int
    acts: list[DoneReply]


class RefundBody(WhyBody):
    """Without a ``line`` it is the whole purchase. The user is told the ``reason`` too."""

    line: Annotated[int, Field(strict=True, ge=0, le=1_000)] | None = None


class RefundedReply(ApiReply):
    """What of the purchase is refunded by now, this refund among it."""

    refunded_micros: Usd = Field(serialization_alias="refunded_usd")


GivenRole = Literal[Role.SELLER, Role.SUPPORT, Role.FINANCE, Role.OPERATOR, Role.AUDITOR]
"""A buyer is everybody."""


class RoleBody(FindBody):
    role: GivenRole


class HolderReply(ApiReply):
    user_id: UUID
    email: str
    has_second_step: bool
    roles: list[Role]


class HolderReplies(ApiReply):
    """Everybody with a role, by address."""

    holders: list[HolderReply]


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
    now = utc_now()
    with database().read() as session:
        desk.require_open(session, now, staff.user.user_id, user_id)
        found = _found(desk.user_of(session, user_id), grants.roles_of(session, user_id))
        told = storage.newest(session, user_id, limit=SHOWN)
        kept = {
            "notifications": [ToldReply.of(each) for each in told],
            "mails": [_mailed(each) for each in desk.newest_mails(session, user_id, SHOWN)],
            "sessions": len(sessions.open_ones(session, now, user_id)),
            "acts": acts.newest(session, subject=str(user_id), limit=SHOWN),
        }
    wallet, statement, topups, purchases, deployments = ask_all(
        GetWallet(user_id=user_id),
        Statement(user_id=user_id, limit=SHOWN),
        GetTopupOverview(user_id=user_id, topups=SHOWN),
        ListPurchases(user_id=user_id, limit=SHOWN),
        ListDeployments(user_id=user_id, limit=SHOWN),
    )
    promotional = ask(GetPromotions(user_id=user_id))
    bought = [
        BoughtReply.of(each, lines=[line.product_name for line in each.lines])
        for each in (purchases.purchases if purchases else [])
    ]
    known = {
        "user": found,
        "wallet": wallet and wallet.status,
        "available_micros": wallet and wallet.available_micros,
        "held_micros": wallet and wallet.held_micros,
        "promotions": promotional and promotional.promotions,
        "transactions": statement and statement.transactions,
        "auto_topup": topups and topups.auto_topup.state,
        "topups": topups and topups.topups.topups,
        "purchases": bought if purchases else None,
        "deployments": deployments and deployments.deployments,
        **kept,
    }
    return UserFile.model_validate(known, from_attributes=True)


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
    "POST",
    "/api/admin/users/<uuid:user_id>/logins",
    body=WhyBody,
    reply=NoReply,
    roles=SUPPORT,
)
def end_logins_of_user(staff: Staff, user_id: UUID, body: WhyBody) -> NoReply:
    """End all sessions and API tokens of a user. 409: you have not found them with a reason, or it
    is yourself."""
    return _at_desk(staff, user_id, body, desk.end_logins)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/users/<uuid:user_id>/second-step",
    body=WhyBody,
    reply=NoReply,
    roles=SUPPORT,
)
def end_second_step_of_user(staff: Staff, user_id: UUID, body: WhyBody) -> NoReply:
    """Switch the second step off for who has lost it; they are told. 409: as for ending logins, or
    none is on, or a role stands behind it."""
    return _at_desk(staff, user_id, body, desk.end_second_step)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/users/<uuid:user_id>/mails/<uuid:mail_id>",
    body=WhyBody,
    reply=NoReply,
    roles=SUPPORT,
)
def send_mail_again(staff: Staff, user_id: UUID, mail_id: UUID, body: WhyBody) -> NoReply:
    """Send a mail once more, to where it went. 409: as for ending logins, or it waits to be sent,
    or holds a link that works once."""

    def act(session: Session, now: datetime, actor: Actor, user_id: UUID, reason: str) -> None:
        desk.send_again(session, now, actor, user_id, mail_id, reason)

    return _at_desk(staff, user_id, body, act)


@endpoint(
    blueprint,
    "GET",
    "/api/admin/roles",
    reply=HolderReplies,
    roles=readers(Role.OPERATOR),
)
def list_roles(staff: Staff) -> HolderReplies:  # noqa: ARG001
    """List who has which role."""
    with database().read() as session:
        return HolderReplies(holders=[HolderReply.of(each) for each in grants.holders(session)])


@endpoint(
    blueprint,
    "POST",
    "/api/admin/roles/grant",
    body=RoleBody,
    reply=FoundUser,
    roles=OPERATORS,
)
def grant_role(staff: Staff, body: RoleBody) -> FoundUser:
    """Give somebody a role. 404: nobody has this address. 409: they have it, it is yourself, or the
    address is not confirmed."""
    return _change_role(staff, body, grants.grant)


@endpoint(
    blueprint,
    "POST",
    "/api/admin/roles/take",
    body=RoleBody,
    reply=FoundUser,
    roles=OPERATORS,
)
def take_role(staff: Staff, body: RoleBody) -> FoundUser:
    """Take a role from somebody, and end their tokens for roles. 409: they have it not, or it is
    yourself."""
    return _change_role(staff, body, grants.take)


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


def _at_desk(
    staff: Staff,
    user_id: UUID,
    body: WhyBody,
    act: Callable[[Session, datetime, Actor, UUID, str], None],
) -> NoReply:
    """Something for somebody else whose file is open, with its row in the audit log."""
    actor, now, reason = staff.actor(), utc_now(), read_reason(body.reason)
    desk.require_another(actor, user_id)
    with database().begin() as session:
        desk.require_open(session, now, staff.user.user_id, user_id)
        act(session, now, actor, user_id, reason)
    return NoReply()


def _change_role(staff: Staff, body: RoleBody, change: grants.Change) -> FoundUser:
    actor, reason, role = staff.actor(), read_reason(body.reason), Role(body.role)
    with database().begin() as session:
        user = grants.find(session, body.whom)
        if change is grants.grant:
            grants.check_address(user, sends_mails=settings().smtp_url is not None)
        change(session, utc_now(), actor, user.user_id, role, reason)
        return _found(user, grants.roles_of(session, user.user_id))


def _mailed(mail: Mail) -> MailedReply:
    return MailedReply.of(mail, has_link=mail.link_id is not None)


def _found(row: User, roles: Iterable[Role]) -> FoundUser:
    return FoundUser(
        user_id=row.user_id,
        email=row.email,
        created_at=row.created_at,
        is_email_confirmed=row.email_confirmed_at is not None,
        has_second_step=row.second_step_since is not None,
        roles=sorted(roles),
    )
