"""Deleting an account: what stands against it, and what becomes of what is known of a person.

It is refused while money, or what costs money, is left. Then automatic charges are switched off,
saved cards are removed, and everything that tells who the user was is deleted; the id stays in the
books, which nobody may change: ledger, purchases, receipts as they were issued.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.identifiers import new_id
from chassis.locks import locked
from chassis.money import MICROS_PER_CENT, format_usd
from chassis.outbox import publish
from contracts.billing import (
    Deployment,
    DeploymentStatus,
    ListDeployments,
    ListPayouts,
    ListPurchases,
    PayoutStatus,
    PurchaseStatus,
)
from contracts.gateway import AccountDeleted
from contracts.legacy import GetPools
from contracts.topup import (
    CardRefundStatus,
    ConfigureAutoTopup,
    GetTopupOverview,
    ListCardRefunds,
    ListPaymentMethods,
    RemovePaymentMethod,
    TopupStatus,
)
from contracts.wallet import GetWallet
from services.gateway.backend import call, database, settings
from services.gateway.models import (
    ApiToken,
    BillingDetailsRow,
    Cart,
    CartCheckout,
    Hook,
    Mail,
    MailLink,
    Notification,
    NotificationChoice,
    RecoveryCode,
    RoleGrant,
    TransferRow,
    User,
    UserSession,
)
from services.gateway.notifications import mails

TELL_WHO = (
    UserSession,
    ApiToken,
    RecoveryCode,
    BillingDetailsRow,
    NotificationChoice,
    MailLink,
    Notification,
    Mail,
    Cart,
    CartCheckout,
    Hook,
)
"""What is known of a person by these is deleted with the account."""

_RUNNING = {
    DeploymentStatus.REQUESTED,
    DeploymentStatus.ACTIVE,
    DeploymentStatus.STOPPED,
    DeploymentStatus.SUSPENDED,
}
_PAYOUT_OPEN = [
    PayoutStatus.REQUESTED,
    PayoutStatus.HELD,
    PayoutStatus.PAYING,
    PayoutStatus.REFUSING,
]
_REFUND_OPEN = {
    CardRefundStatus.REQUESTED,
    CardRefundStatus.HELD,
    CardRefundStatus.SENT,
    CardRefundStatus.PENDING,
}
_TOPUP_ENDS = {TopupStatus.CREDITED, TopupStatus.FAILED, TopupStatus.CANCELLED}
TOPUPS_LOOKED_AT = 100
CLOCKS_APART = timedelta(minutes=1)
"""So much at most our machines differ about what time it is."""


@dataclass(frozen=True)
class Reason:
    """Why an account cannot be deleted yet, and the page on which that can be changed."""

    sentence: str
    page: str
    label: str


def reasons_against(user_id: UUID) -> list[Reason]:
    """All of them at once. Raises a service's error where one cannot be asked."""
    # What is under way to the wallet is looked for before the wallet is.
    return [
        *_coming(user_id),
        *in_pools(user_id),
        *_money(user_id),
        *_deployments(user_id),
        *_unfinished(user_id),
        *_held(user_id),
    ]


def close(user_id: UUID) -> list[Reason]:
    """Delete the account, unless something stands against it: then what does.

    Doing it again after a crash does the rest.
    """
    reasons = reasons_against(user_id)
    if reasons:
        return reasons
    _end_charges(user_id)
    # A charge may have begun before it could not any more.
    now = utc_now()
    reasons = reasons_against(user_id)
    if not reasons:
        with database().begin() as session:
            locked(session, User, user_id)
            reasons = [
                *_sent_since(session, user_id, now - CLOCKS_APART),
                *_roles(session, user_id),
            ]
            if not reasons:
                forget(session, now, user_id)
    return reasons


def forget(session: Session, now: datetime, user_id: UUID) -> None:
    """Delete what tells who a user was. The address is free for a new account."""
    user = locked(session, User, user_id)
    if user.deleted_at is not None:
        return
    address = user.email
    for table in TELL_WHO:
        session.execute(delete(table).where(table.user_id == user_id))
    user.email = user.email_key = f"deleted-{user_id}"
    user.password_hash = ""
    user.email_confirmed_at = user.second_step_secret = user.second_step_since = None
    user.second_step_used = user.second_step_used_for = None
    user.time_zone, user.deleted_at = "UTC", now
    publish(session, AccountDeleted(event_id=new_id(), occurred_at=now, user_id=user_id))
    mails.queue_to_address(
        session,
        now,
        user_id,
        address,
        mails.ACCOUNT_DELETED,
        "Your account is deleted",
        "What was known of you is deleted; what was paid stays in our books without your name. If"
        " it was not you, write to support at once.",
    )


def _coming(user_id: UUID) -> list[Reason]:
    with database().read() as session:
        return _sent_since(session, user_id, None)


def _sent_since(session: Session, user_id: UUID, moment: datetime | None) -> list[Reason]:
    """Credits that others send, and of which the wallet has not said that they came; all of those
    since a moment, where the wallet was asked before they could be in it."""
    is_open: ColumnElement[bool] = TransferRow.transaction_id.is_(None)
    if moment is not None:
        is_open |= TransferRow.created_at >= moment
    found = session.scalar(
        select(TransferRow.key).where(TransferRow.to_user_id == user_id, is_open).limit(1)
    )
    if found is None:
        return []
    return [
        Reason(
            "Credits that somebody is sending you may still come. Try again later.",
            "/dashboard/wallet",
            "Open your wallet",
        )
    ]


def in_pools(user_id: UUID) -> Iterator[Reason]:
    """What is in the pools of the old system or under way there, where the site shows them."""
    if not settings().pools_page:
        return
    pools = call(GetPools(user_id=user_id))
    if pools.under_way is not None or any(pool.own_share_units for pool in pools.pools):
        yield Reason(
            "You have liquidity in a pool, or an exchange is under way. Withdraw it, or wait.",
            "/dashboard/pools-advanced",
            "Open the pools",
        )


def _money(user_id: UUID) -> Iterator[Reason]:
    balance = call(GetWallet(user_id=user_id)).balance_micros
    wallet = ("/dashboard/wallet", "Open your wallet")
    if balance >= MICROS_PER_CENT:
        yield Reason(
            f"Your wallet holds {format_usd(balance)}. Spend it, have it paid out or back to your"
            " card, or ask support.",
            *wallet,
        )
    if balance < 0:
        yield Reason(f"You owe {format_usd(-balance)}. Buy at least that much in credits.", *wallet)


def _deployments(user_id: UUID) -> Iterator[Reason]:
    count = sum(each.status in _RUNNING for each in _all_deployments(user_id))
    if count:
        what = "1 deployment is" if count == 1 else f"{count} deployments are"
        yield Reason(
            f"{what} not cancelled. Cancelling deletes the data of each.",
            "/dashboard/deployments",
            "Open deployments",
        )


def _all_deployments(user_id: UUID) -> Iterator[Deployment]:
    cursor = None
    while True:
        page = call(ListDeployments(user_id=user_id, cursor=cursor))
        yield from page.deployments
        cursor = page.next_cursor
        if cursor is None:
            return


def _unfinished(user_id: UUID) -> Iterator[Reason]:
    waiting = [PurchaseStatus.PENDING, PurchaseStatus.AWAITING_FUNDS]
    if call(ListPurchases(user_id=user_id, statuses=waiting, limit=1)).purchases:
        yield Reason(
            "A purchase waits for credits. Cancel it.", "/dashboard/purchases", "Open purchases"
        )
    wallet = ("/dashboard/wallet", "Open your wallet")
    if call(ListPayouts(user_id=user_id, statuses=_PAYOUT_OPEN, limit=1)).payouts:
        yield Reason("A payout is under way. Wait until it has arrived.", *wallet)
    refunds = call(ListCardRefunds(user_id=user_id, limit=TOPUPS_LOOKED_AT)).refunds
    if any(refund.status in _REFUND_OPEN for refund in refunds):
        yield Reason("A refund to your card is under way. Wait until it has arrived.", *wallet)
    overview = call(GetTopupOverview(user_id=user_id, topups=TOPUPS_LOOKED_AT))
    if any(topup.status not in _TOPUP_ENDS for topup in overview.topups.topups):
        yield Reason(
            "A payment is under way, or its card page is open. It ends within a day.", *wallet
        )


def _held(user_id: UUID) -> list[Reason]:
    with database().read() as session:
        return _roles(session, user_id)


def _roles(session: Session, user_id: UUID) -> list[Reason]:
    """Taking a role away is an act of an operator's, which stands in the audit log."""
    if session.scalar(select(RoleGrant.role).where(RoleGrant.user_id == user_id).limit(1)) is None:
        return []
    return [
        Reason(
            "You have a role here. Ask an operator to take it away first.",
            "/docs/support",
            "Open support",
        )
    ]


def _end_charges(user_id: UUID) -> None:
    # Once for each deletion that is tried: it may be refused, and charges be switched on again.
    key = f"{user_id}:close:{new_id()}"
    overview = call(GetTopupOverview(user_id=user_id, topups=1))
    if overview.auto_topup.enabled:
        call(ConfigureAutoTopup(idempotency_key=key, user_id=user_id, enabled=False))
    for card in call(ListPaymentMethods(user_id=user_id)).payment_methods:
        call(RemovePaymentMethod(user_id=user_id, payment_method_id=card.payment_method_id))
