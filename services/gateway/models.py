"""The gateway's tables: users, their sessions, tokens and roles, their notifications and mails."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    exists,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column

from services.gateway.access import STAFF, Role


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        str: Text,
        bytes: LargeBinary,
    }


class RoleGrant(Base):
    """A role that a user has: one of :class:`services.gateway.access.Role` but ``buyer``.

    ``granted_by`` is None where a command gave it.
    """

    __tablename__ = "role_grants"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True
    )
    role: Mapped[str] = mapped_column(primary_key=True)
    granted_at: Mapped[datetime]
    granted_by: Mapped[UUID | None]


class SellerAgreement(Base):
    """Which terms and which fee somebody agreed to who sells: :mod:`services.gateway.selling`."""

    __tablename__ = "seller_agreements"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True
    )
    terms_version: Mapped[str]
    fee_bps: Mapped[int] = mapped_column(Integer)
    agreed_at: Mapped[datetime]
    address: Mapped[str]


class Act(Base):
    """What somebody did by a role: :mod:`services.gateway.staff.acts`. The database keeps it so.

    ``actor_id`` is None for a command, and ``actor`` then who ran it. ``roles`` are those that the
    actor had. ``completes`` is the position of the act of which this one tells the outcome.
    """

    __tablename__ = "acts"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    occurred_at: Mapped[datetime]
    actor_id: Mapped[UUID | None]
    actor: Mapped[str]
    roles: Mapped[str]
    origin: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    reason: Mapped[str]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    completes: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[bytes]

    __table_args__ = (
        Index("acts_on_subject", "subject", "position"),
        Index("acts_by_actor", "actor_id", "position"),
        Index("acts_of_kind", "action", "position"),
        Index("acts_completed", "completes", postgresql_where=text("completes IS NOT NULL")),
    )


class PathSecret(Base):
    """What the paths of the day that begins at ``starts_at`` are named by, until it is over: see
    :mod:`services.gateway.paths`. What is not logged is in no backup."""

    __tablename__ = "path_secrets"
    __table_args__ = {"prefixes": ["UNLOGGED"]}  # noqa: RUF012 - SQLAlchemy's own

    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    secret: Mapped[bytes]


class User(Base):
    """``email`` is as the person wrote it, ``email_key`` what makes it unique
    (:func:`services.gateway.people.users.email_key`)."""

    __tablename__ = "users"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    created_at: Mapped[datetime]
    wallet_opened_at: Mapped[datetime | None]
    """None until the wallet service has confirmed that this user's wallet is open."""

    email_confirmed_at: Mapped[datetime | None]
    """When a link that was mailed to ``email`` was opened; None for an address of which that is
    not known."""

    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    """An IANA name. Pages show a time in it beside UTC."""

    second_step_secret: Mapped[str | None]
    """Encrypted: :mod:`services.gateway.people.second_step`."""

    second_step_since: Mapped[datetime | None]
    """None until a first code has shown that the app has the secret."""

    second_step_used: Mapped[int | None] = mapped_column(BigInteger)
    """The interval of the last code that was taken; neither it nor an older one is taken again."""

    second_step_used_for: Mapped[bytes | None]
    """The hash of what that code was taken for: a retry of the same brings the same code."""

    deleted_at: Mapped[datetime | None]
    """The account is gone, and with it what was known of the person; the id stands in the books."""

    is_staff: Mapped[bool] = column_property(
        exists().where(RoleGrant.user_id == user_id, RoleGrant.role.in_(sorted(STAFF)))
    )

    sells: Mapped[bool] = column_property(
        exists().where(RoleGrant.user_id == user_id, RoleGrant.role == Role.SELLER.value)
        | exists().where(SellerAgreement.user_id == user_id)
    )
    """Whether they do, or have."""


class UserSession(Base):
    """A browser that is logged in. Only the hash of what its cookie carries is stored."""

    __tablename__ = "user_sessions"

    session_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"))
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    address: Mapped[str] = mapped_column(server_default="")
    user_agent: Mapped[str] = mapped_column(server_default="")

    __table_args__ = (
        Index("user_sessions_by_user", "user_id"),
        Index("user_sessions_expired", "expires_at"),
    )


class ApiToken(Base):
    """A bearer token. It is shown once; only its hash is stored."""

    __tablename__ = "api_tokens"

    token_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"))
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    name: Mapped[str]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    scopes: Mapped[str] = mapped_column(server_default="read buy money")
    """Words of :class:`services.gateway.people.tokens.Scope`, separated by spaces."""

    expires_at: Mapped[datetime | None]
    is_of_login: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether registering or logging in gave it: with another password it ends, and as a browser's
    session does."""

    __table_args__ = (
        Index("api_tokens_by_user", "user_id"),
        Index("api_tokens_revoked", "revoked_at", postgresql_where=text("revoked_at IS NOT NULL")),
        Index("api_tokens_expired", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    )


class RecoveryCode(Base):
    """Takes the place of a second step, once."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True
    )
    code_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    used_at: Mapped[datetime | None]


class BillingDetailsRow(Base):
    """What a user wants on receipts: see :mod:`services.gateway.people.billing_details`."""

    __tablename__ = "billing_details"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str]
    address: Mapped[str]
    country: Mapped[str]
    tax_id: Mapped[str]
    updated_at: Mapped[datetime]


class Cart(Base):
    """What somebody is collecting: a user, or a browser, whose cookie holds a secret.

    ``added_keys`` are the keys of the last additions, so that one that is sent again adds nothing.
    """

    __tablename__ = "carts"

    cart_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), unique=True
    )
    secret_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    added_keys: Mapped[list[str]] = mapped_column(ARRAY(Text))
    changed_at: Mapped[datetime]

    __table_args__ = (
        Index("carts_of_visitors", "changed_at", postgresql_where=text("user_id IS NULL")),
    )


class CartLine(Base):
    """``seen_price_micros`` is what one cost when it was added or last changed."""

    __tablename__ = "cart_lines"

    line_id: Mapped[UUID] = mapped_column(primary_key=True)
    cart_id: Mapped[UUID] = mapped_column(ForeignKey("carts.cart_id", ondelete="CASCADE"))
    product_id: Mapped[UUID]
    product_name: Mapped[str]
    name: Mapped[str]
    quantity: Mapped[int] = mapped_column(Integer)
    choices: Mapped[dict[str, str]] = mapped_column(JSONB)
    seen_price_micros: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("cart_lines_by_cart", "cart_id", "line_id"),)


class CartCheckout(Base):
    """A cart on its way to a purchase: see :mod:`services.gateway.cart.checkout`.

    ``lines`` left the cart with it, and come back where they are not bought. At most one of a user
    is under way. ``tried_at`` is when billing was last asked to buy.
    """

    __tablename__ = "cart_checkouts"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    checkout_id: Mapped[UUID]
    lines: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    begun_at: Mapped[datetime]
    tried_at: Mapped[datetime]
    purchase_id: Mapped[UUID | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "cart_checkouts_under_way",
            "user_id",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("cart_checkouts_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    )


class TransferRow(Base):
    """What a user sends to another: :mod:`services.gateway.transfers`.

    ``transaction_id`` is None until the wallet has said that it was done; a refusal deletes it all.
    ``asked_sha256`` tells whether a key comes again for the same.
    """

    __tablename__ = "transfers"

    key: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    to_user_id: Mapped[UUID]
    asked_sha256: Mapped[bytes]
    amount_micros: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    transaction_id: Mapped[UUID | None]

    __table_args__ = (
        Index("transfers_by_user", "user_id", "created_at"),
        Index("transfers_made", "created_at"),
        Index("transfers_to_user", "to_user_id", "created_at"),
        Index(
            "transfers_unanswered", "created_at", postgresql_where=text("transaction_id IS NULL")
        ),
    )


class ResponseTime(Base):
    """How many answers of a kind were made in the five minutes from ``starts_at`` on, how many of
    them in time, and how many took over a second: :mod:`services.gateway.response_times`."""

    __tablename__ = "response_times"

    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    answered: Mapped[int] = mapped_column(BigInteger)
    in_time: Mapped[int] = mapped_column(BigInteger)
    slow: Mapped[int] = mapped_column(BigInteger)


class RateLimit(Base):
    """Until when the allowance of a limited thing is used up; see :mod:`rate_limits`."""

    __tablename__ = "rate_limits"

    key: Mapped[bytes] = mapped_column(primary_key=True)
    used_until: Mapped[datetime]

    __table_args__ = ({"prefixes": ["UNLOGGED"]},)


class Notification(Base):
    """Something a user is told. ``event_id`` and ``kind`` keep a repeated event from repeating it.

    ``severity`` is one of ``success``, ``info``, ``warning``, ``danger``. ``link`` is a path on
    this site, or the card processor's address, or empty.
    """

    __tablename__ = "notifications"

    notification_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    event_id: Mapped[UUID]
    kind: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    link: Mapped[str]
    created_at: Mapped[datetime]
    read_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("event_id", "kind", name="notifications_once"),
        Index("notifications_newest", "user_id", "notification_id"),
        Index(
            "notifications_unread",
            "user_id",
            "notification_id",
            postgresql_where=text("read_at IS NULL"),
        ),
        Index("notifications_read", "read_at", postgresql_where=text("read_at IS NOT NULL")),
        Index("notifications_told", "created_at"),
    )


class NotificationChoice(Base):
    """How a user hears of a topic, if not as everybody does: :mod:`notifications.topics`."""

    __tablename__ = "notification_choices"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True
    )
    topic: Mapped[str] = mapped_column(primary_key=True)
    on_page: Mapped[bool]
    by_mail: Mapped[bool]


class MailLink(Base):
    """A link in a mail, which is this id and our signature: :mod:`notifications.links`.

    ``used_at`` is also when it was replaced or taken back. ``email`` is the address that it is
    about, and was sent to.
    """

    __tablename__ = "mail_links"

    link_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"))
    purpose: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]

    __table_args__ = (
        Index("mail_links_by_user", "user_id"),
        Index("mail_links_expired", "expires_at"),
    )


class Mail(Base):
    """A mail that waits until ``due_at``, or what became of it: :mod:`notifications.mails`.

    ``address`` is empty for the user's own, as it is when it is sent. ``outcome`` is empty while it
    waits, then ``sent``, ``refused``, ``given_up`` or ``unwanted``; ``error`` is what a server said
    last.
    """

    __tablename__ = "mails"

    mail_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    kind: Mapped[str]
    address: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    link: Mapped[str]
    link_id: Mapped[UUID | None]
    created_at: Mapped[datetime]
    good_until: Mapped[datetime]
    due_at: Mapped[datetime | None]
    attempts: Mapped[int]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str]
    error: Mapped[str]

    __table_args__ = (
        Index("mails_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("mails_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
        Index("mails_by_user", "user_id", "mail_id"),
    )


class Hook(Base):
    """A webhook: an address of a user's own that is told what happens. Its secret is made of
    ``secret_number`` and our own key, and stands nowhere: :mod:`services.gateway.hooks.storage`."""

    __tablename__ = "hooks"

    hook_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"))
    url: Mapped[str]
    secret_number: Mapped[int] = mapped_column(Integer)
    secret_since: Mapped[datetime]
    created_at: Mapped[datetime]

    __table_args__ = (Index("hooks_by_user", "user_id"),)


class HookDelivery(Base):
    """What waits until ``due_at`` to be sent to a webhook, or what became of it.

    ``outcome`` is empty while it waits, then ``delivered`` or ``given_up``; ``answer`` is the
    status of the last answer, or why there was none. ``queued_at`` is when it was last asked for.
    """

    __tablename__ = "hook_deliveries"

    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    hook_id: Mapped[UUID] = mapped_column(ForeignKey("hooks.hook_id", ondelete="CASCADE"))
    event_id: Mapped[UUID]
    type: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    attempts: Mapped[int]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str]
    answer: Mapped[str]

    __table_args__ = (
        Index("hook_deliveries_by_hook", "hook_id", "delivery_id"),
        Index("hook_deliveries_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("hook_deliveries_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    )
