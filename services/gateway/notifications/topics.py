"""What notifications are about, and what each user chose to hear of each topic, and how.

A choice is read when it matters: for the page when something is told, for a mail when it is sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from services.gateway.models import NotificationChoice


@dataclass(frozen=True)
class Topic:
    """``must_mail``: a mail about it is part of what we owe to whoever pays by themselves, or of
    the safety of the account, and cannot be switched off."""

    name: str
    title: str
    about: str
    kinds: tuple[str, ...]
    mails: bool = True
    must_mail: bool = False


TOPICS = (
    Topic(
        "security",
        "Sign-ins and security",
        "A new sign-in; another password, address or second step.",
        (
            "new_sign_in",
            "password_changed",
            "email_changed",
            "second_step_changed",
            "role_changed",
            "api_token_made",
            "password_reset",
            "confirm_email",
            "change_email",
            "invitation",
            "email_in_use",
            "account_deleted",
        ),
        must_mail=True,
    ),
    Topic(
        "charges",
        "Automatic charges",
        "Each charge of auto top-up, with the new balance.",
        ("auto_topup_credited",),
        must_mail=True,
    ),
    Topic(
        "transfers",
        "Transfers and refunds",
        "Credits that you sent to another user, were sent, or had paid back to your card.",
        (
            "transfer_sent",
            "transfer_received",
            "card_refunded",
            "card_refund_refused",
            "card_refund_failed",
        ),
        must_mail=True,
    ),
    Topic(
        "payment_problems",
        "Payment problems",
        "A decline, a bank that asks you to confirm, a dispute, a frozen wallet.",
        (
            "auto_topup_failed",
            "auto_topup_paused",
            "topup_failed",
            "topup_reversed",
            "account_froze",
        ),
        must_mail=True,
    ),
    Topic(
        "unpaid",
        "Unpaid deployments",
        "What could not be renewed, is owed, suspended, stopped or deleted; a new price.",
        (
            "renewal_short_of_funds",
            "owed_short_of_funds",
            "deployment_suspended",
            "deployment_stopped",
            "deployment_deleted",
            "deletion_announced",
            "deployment_failed",
            "price_announced",
        ),
        must_mail=True,
    ),
    Topic(
        "limits",
        "Auto top-up limits",
        "A limit that was reached, and auto top-up that is on again.",
        ("auto_topup_refused", "auto_topup_resumed"),
    ),
    Topic("cards", "Cards", "A saved card that expires soon.", ("card_expiring",)),
    Topic(
        "runway",
        "Low balance",
        "7, 3 and 1 days before credits run out, and your balance alert.",
        ("runway_low", "runway_restored", "balance_low", "balance_restored"),
    ),
    Topic(
        "renewals",
        "Renewals",
        "Three days before a renewal, and when it is paid.",
        ("renewal_announced", "deployment_renewed", "deployment_ended"),
    ),
    Topic(
        "purchases",
        "Purchases",
        "What is complete, waits for credits, was not made or was refunded.",
        ("purchase_completed", "purchase_short_of_funds", "purchase_ended", "purchase_refunded"),
    ),
    Topic(
        "sales",
        "Sales and payouts",
        "What became of a payout, and sales that were refunded.",
        ("payout_paid", "payout_refused", "sale_refunded"),
    ),
    Topic(
        "credits",
        "Credits that arrive",
        "Credits that you bought, or that came back.",
        (
            "topup_credited",
            "topup_restored",
            "refund_credited",
            "transfer_credited",
            "promotion_credited",
        ),
        mails=False,
    ),
)
"""In the order in which they are shown. ``mails``: whether there are mails before a choice."""

BY_NAME = {topic.name: topic for topic in TOPICS}
BY_KIND = {kind: topic for topic in TOPICS for kind in topic.kinds}
"""Every kind of notification has one topic; a test holds it complete."""


@dataclass(frozen=True)
class Choice:
    on_page: bool
    by_mail: bool


def choices(session: Session, user_id: UUID) -> dict[str, Choice]:
    """What a user hears of each topic, by its name."""
    rows = session.scalars(select(NotificationChoice).where(NotificationChoice.user_id == user_id))
    chosen = {row.topic: row for row in rows}
    return {topic.name: _choice(topic, chosen.get(topic.name)) for topic in TOPICS}


def wants_mail(session: Session, user_id: UUID, kind: str) -> bool:
    """Whether a user is sent mails of this kind."""
    topic = BY_KIND[kind]
    return _choice(topic, session.get(NotificationChoice, (user_id, topic.name))).by_mail


def choose(session: Session, user_id: UUID, wanted: Mapping[str, Choice]) -> None:
    """Keep what a user wants. What must be mailed is mailed whatever they say."""
    for name, choice in wanted.items():
        said = {"on_page": choice.on_page, "by_mail": choice.by_mail or BY_NAME[name].must_mail}
        session.execute(
            insert(NotificationChoice)
            .values(user_id=user_id, topic=name, **said)
            .on_conflict_do_update(
                index_elements=[NotificationChoice.user_id, NotificationChoice.topic], set_=said
            )
        )


_SILENCED = Bulk(
    "SELECT user_id, topic FROM {rows} JOIN notification_choices USING (user_id, topic)"
    " WHERE NOT on_page",
    user_id="uuid",
    topic="text",
)


def quiet(session: Session, kinds_of_users: Iterable[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Of these users and kinds those that are not to count as unread."""
    topics = {(user, kind): (user, BY_KIND[kind].name) for user, kind in kinds_of_users}
    if not topics:
        return set()
    silenced = {tuple(row) for row in _SILENCED.execute(session, set(topics.values()))}
    return {pair for pair, topic in topics.items() if topic in silenced}


def _choice(topic: Topic, row: NotificationChoice | None) -> Choice:
    if row is None:
        return Choice(on_page=True, by_mail=topic.mails)
    return Choice(row.on_page, row.by_mail or topic.must_mail)
