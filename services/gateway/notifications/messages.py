"""What users are told about each fact. None where a fact needs no message.

A message says what happened, what was kept, and what to do. Its dates are those of its reader's
time zone.
"""

from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from chassis.money import format_usd
from contracts.billing import (
    ChangeCause,
    DeletionAnnounced,
    DeploymentChanged,
    DeploymentFailed,
    DeploymentRenewed,
    DeploymentStatus,
    OwedShortOfFunds,
    PayoutPaid,
    PayoutRefused,
    PriceAnnounced,
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseRefunded,
    PurchaseShortOfFunds,
    PurchaseStatus,
    RenewalAnnounced,
    RenewalShortOfFunds,
    RunwayLow,
    RunwayRestored,
    SaleRefunded,
)
from contracts.topup import (
    AutoTopupPaused,
    AutoTopupRefused,
    AutoTopupResumed,
    CardExpiring,
    CardRefundRefused,
    RefusalCode,
    TopupFailed,
    TopupKind,
    TopupRestored,
    TopupReversed,
    Trigger,
    brand_name,
)
from contracts.wallet import (
    AccountFroze,
    BalanceLow,
    BalanceRestored,
    LowBalanceLevel,
    TransactionKind,
    WalletCredited,
)
from services.gateway.notifications.storage import Message

WALLET = "/dashboard/wallet"
REFUNDS = "/dashboard/wallet/refunds"
AUTO_TOPUP = "/dashboard/wallet/auto-topup"
DEPLOYMENTS = "/dashboard/deployments"

_SILENT_REFUSALS = {
    RefusalCode.DISABLED,
    RefusalCode.IN_FLIGHT,
    RefusalCode.COOL_DOWN,
    RefusalCode.CARD_PAGE_OPEN,
    RefusalCode.NOT_NEEDED,
    RefusalCode.IDLE,
}
"""Refusals that leave the user nothing to do, or that they chose themselves."""


def purchase_completed(event: PurchaseCompleted) -> Message:
    price = format_usd(event.total_micros)
    return Message(
        "purchase_completed",
        "success",
        f"{event.description} is yours",
        f"The purchase is complete. {price} was taken from your wallet.",
        DEPLOYMENTS if event.deployment_ids else _purchase(event),
    )


def purchase_ended(event: PurchaseEnded) -> Message | None:
    # Its buyer's own doing, and nobody else's.
    if event.status is PurchaseStatus.CANCELLED:
        return None
    return Message(
        "purchase_ended",
        "warning",
        "A purchase was not made",
        event.reason,
        _purchase(event),
    )


def purchase_short_of_funds(event: PurchaseShortOfFunds) -> Message:
    return Message(
        "purchase_short_of_funds",
        "info",
        "A purchase is waiting for credits",
        f"It costs {format_usd(event.total_micros)} and you lack"
        f" {format_usd(event.shortfall_micros)}. It completes by itself as soon as your wallet"
        " covers it.",
        _purchase(event),
    )


def purchase_refunded(event: PurchaseRefunded) -> Message | None:
    if not event.amount_micros:
        return None
    amount = format_usd(event.amount_micros)
    return Message(
        "purchase_refunded",
        "info",
        f"{amount} was refunded for {event.description}",
        f"{_sentence(event.reason)} The credits are in your wallet.",
        _purchase(event),
    )


def sale_refunded(event: SaleRefunded) -> Message:
    net, owed = format_usd(event.net_micros), format_usd(event.owed_micros)
    what = ", ".join(event.product_names) + (f" ×{event.units}" if event.units > 1 else "")
    if event.owed_micros:
        lacking = (
            f" {owed} of it was not in your wallet: you owe it, and it is taken as soon as your"
            " wallet covers it."
        )
    else:
        lacking = ""
    return Message(
        "sale_refunded",
        "warning" if event.owed_micros else "info",
        f"A sale of {what} was refunded",
        f"{net} that you earned by it went back.{lacking}",
        WALLET,
    )


def payout_paid(event: PayoutPaid) -> Message:
    return Message(
        "payout_paid",
        "success",
        f"{format_usd(event.amount_micros)} was paid out",
        f"It was sent to you and left your wallet. Reference: {event.reference}",
        WALLET,
    )


def payout_refused(event: PayoutRefused) -> Message:
    return Message(
        "payout_refused",
        "warning",
        f"Your payout of {format_usd(event.amount_micros)} was not made",
        f"{_sentence(event.reason)} The money is in your wallet, and can be spent again.",
        WALLET,
    )


def deployment_failed(event: DeploymentFailed) -> Message:
    return Message(
        "deployment_failed",
        "danger",
        f"{event.name} could not be set up",
        f"{_sentence(event.reason)} What is refunded arrives in your wallet by itself.",
        DEPLOYMENTS,
    )


def renewal_announced(event: RenewalAnnounced, zone: ZoneInfo) -> Message:
    return Message(
        "renewal_announced",
        "info",
        f"{event.name} renews on {_day(event.renews_at, zone)}",
        f"{format_usd(event.amount_micros)} is then taken from your wallet for another month."
        " Cancel it before that if you do not need it any more.",
        DEPLOYMENTS,
    )


def deployment_renewed(event: DeploymentRenewed, zone: ZoneInfo) -> Message:
    return Message(
        "deployment_renewed",
        "success",
        f"{event.name} is paid until {_day(event.ends_at, zone)}",
        f"{format_usd(event.amount_micros)} was taken from your wallet for the month from"
        f" {_day(event.starts_at, zone)}.",
        DEPLOYMENTS,
    )


def price_announced(event: PriceAnnounced, zone: ZoneInfo) -> Message:
    old, new = format_usd(event.old_price_micros), format_usd(event.new_price_micros)
    if event.old_price_micros == event.new_price_micros:
        return Message(
            "price_announced",
            "info",
            f"{event.name} keeps its price",
            f"It goes on costing {old} a month. The change that you were told of does not come.",
            _deployment(event.deployment_id),
        )
    is_dearer = event.new_price_micros > event.old_price_micros
    since = _day(event.applies_from, zone)
    way_out = " Cancel it before that if you do not want it." if is_dearer else ""
    return Message(
        "price_announced",
        "warning" if is_dearer else "info",
        f"{event.name} will cost {new} a month",
        f"It costs {old} now. The first month that begins after {since} costs the new price."
        f"{way_out}",
        _deployment(event.deployment_id),
    )


def renewal_short_of_funds(event: RenewalShortOfFunds, zone: ZoneInfo) -> Message:
    until = "" if event.suspended_at is None else f" until {_day(event.suspended_at, zone)}"
    whose = _whose(event)
    return Message(
        "renewal_short_of_funds",
        "danger",
        f"What {whose} used is not paid" if event.is_usage else f"{whose} could not be renewed",
        f"{_lacking(event)} Everything keeps running{until}; after that it is suspended. It is paid"
        f" by itself as soon as the wallet {_pays(event)}.",
        WALLET,
    )


def owed_short_of_funds(event: OwedShortOfFunds) -> Message:
    buy = "" if event.is_frozen else " Buy credits."
    return Message(
        "owed_short_of_funds",
        "danger",
        f"You owe {format_usd(event.owed_micros)} for {_whose(event)}",
        f"It ran, or was used, before it stopped, and that is not paid. {_lacking(event)}"
        f"{buy} What you owe is paid by itself as soon as the wallet {_pays(event)}.",
        WALLET,
    )


def _whose(event: RenewalShortOfFunds | OwedShortOfFunds) -> str:
    others = "" if event.deployments == 1 else f" and {event.deployments - 1} more"
    return f"{event.name or 'A deployment'}{others}"


def _lacking(event: RenewalShortOfFunds | OwedShortOfFunds) -> str:
    if event.is_frozen:
        # It sells no credits but for its debt, of which billing knows nothing.
        return (
            "Your wallet is frozen, so that nothing can be paid with it. Pay by card what it is"
            " below zero, if it is; otherwise write to support."
        )
    return f"Your wallet lacks {format_usd(event.shortfall_micros)} for what is due now."


def _pays(event: RenewalShortOfFunds | OwedShortOfFunds) -> str:
    return "is open again and covers it" if event.is_frozen else "covers it"


def runway_low(event: RunwayLow, zone: ZoneInfo) -> Message:
    day, count = event.short_on, event.days
    if event.short_at is not None:
        day = event.short_at.astimezone(zone).date()
        count = (day - event.occurred_at.astimezone(zone).date()).days
    when = "today" if count == 0 else f"on {day:%-d %B}"
    left = "" if count == 0 else f", in {'1 day' if count == 1 else f'{count} days'}"
    return Message(
        "runway_low",
        "danger" if count <= 1 else "warning",
        f"Short by {format_usd(event.shortfall_micros)} {when}",
        f"Your credits do not cover what is due by then{left}. Buy credits, so that nothing is"
        f" suspended. {event.auto_topup_refusal}".strip(),
        WALLET,
    )


def runway_restored(_event: RunwayRestored) -> Message:
    return Message(
        "runway_restored",
        "success",
        "Your credits cover what is due",
        "What renews in the next 7 days is covered again.",
        "/dashboard",
    )


def deployment_changed(event: DeploymentChanged, zone: ZoneInfo) -> Message | None:
    if event.cause in (ChangeCause.OWNER, ChangeCause.RESIZED, ChangeCause.REFUNDED):
        # The last is told with the refund.
        return None
    if event.status is DeploymentStatus.SUSPENDED:
        return Message(
            "deployment_suspended",
            "danger",
            f"{event.name} is suspended",
            f"It was not paid. It does not run, and its data is kept{_next(event, zone)} Start"
            " it again when your wallet covers what it owes, and a month from then on unless this"
            " one is paid.",
            DEPLOYMENTS,
        )
    if event.status is DeploymentStatus.STOPPED:
        return Message(
            "deployment_stopped",
            "danger",
            f"{event.name} was stopped",
            f"It stayed unpaid. Its data is kept{_next(event, zone)} Start it again to keep it.",
            DEPLOYMENTS,
        )
    if event.status is DeploymentStatus.CANCELLED and event.cause is ChangeCause.MONTH_ENDED:
        return Message(
            "deployment_ended",
            "info",
            f"{event.name} has ended",
            "Its last month is over, as you wished. No other month is charged.",
            DEPLOYMENTS,
        )
    if event.status is DeploymentStatus.CANCELLED:
        return Message(
            "deployment_deleted",
            "danger",
            f"{event.name} was deleted",
            "Its data was kept as long as announced. It costs nothing more; if it still owes"
            " anything, that stays due.",
            DEPLOYMENTS,
        )
    return None


def deletion_announced(event: DeletionAnnounced, zone: ZoneInfo) -> Message:
    return Message(
        "deletion_announced",
        "danger",
        f"{event.name} will be deleted on {_day(event.deleted_at, zone)}",
        "It does not run, and its data is kept until then. Start it again to keep it.",
        DEPLOYMENTS,
    )


def wallet_credited(event: WalletCredited) -> Message | None:
    amount, balance = format_usd(event.amount_micros), format_usd(event.balance_micros)
    if event.kind is TransactionKind.AUTO_TOPUP:
        return Message(
            "auto_topup_credited",
            "success",
            f"Auto top-up charged {amount}",
            f"Your card was charged {amount} automatically. Your balance is now {balance}.",
            WALLET,
        )
    if event.kind is TransactionKind.TOPUP:
        return Message(
            "topup_credited",
            "success",
            f"{amount} of credits arrived",
            f"Your balance is now {balance}.",
            WALLET,
        )
    if event.kind in (TransactionKind.REFUND, TransactionKind.TRANSFER):
        return Message(
            f"{event.kind}_credited",
            "info",
            f"{amount} came into your wallet",
            f"Your balance is now {balance}.",
            WALLET,
        )
    if event.kind is TransactionKind.PROMOTION:
        return Message(
            "promotion_credited",
            "success",
            f"You got {amount} of promotional credit",
            "It pays for what you buy before your other credits do. Your wallet shows until when.",
            WALLET,
        )
    return None


def transfer_sent(event: WalletCredited, receiver: str) -> Message:
    amount = format_usd(event.amount_micros)
    return Message(
        "transfer_sent",
        "info",
        f"You sent {amount} to {receiver}",
        "It is in their wallet. If it was not you, set a new password and write to support.",
        WALLET,
    )


def transfer_received(event: WalletCredited, sender: str) -> Message:
    return Message(
        "transfer_received",
        "success",
        f"{sender} sent you {format_usd(event.amount_micros)}",
        f"Your balance is now {format_usd(event.balance_micros)}.",
        WALLET,
    )


def balance_low(event: BalanceLow) -> Message | None:
    if event.level != LowBalanceLevel.ALERT:
        return None
    return Message(
        "balance_low",
        "warning",
        f"Your balance is {format_usd(event.available_micros)}",
        f"That is below the {format_usd(event.threshold_micros)} at which you asked to be told."
        " Buy credits, or switch on auto top-up.",
        WALLET,
    )


def balance_restored(event: BalanceRestored) -> Message:
    return Message(
        "balance_restored",
        "success",
        f"Your balance is {format_usd(event.available_micros)} again",
        f"That is not below the {format_usd(event.threshold_micros)} of your alert any more.",
        WALLET,
    )


def account_froze(event: AccountFroze) -> Message:
    if event.balance_micros < 0:
        return Message(
            "account_froze",
            "danger",
            "Your wallet is frozen",
            f"{event.reason}, after its credits were spent: {format_usd(-event.balance_micros)} is"
            " owed. Buy at least that much in credits. The wallet then opens by itself, unless a"
            " dispute with your bank is still open.",
            WALLET,
        )
    return Message(
        "account_froze",
        "danger",
        "Your wallet is frozen",
        f"{_sentence(event.reason)} Nothing can be bought with it until this is settled; your"
        " credits are kept.",
        WALLET,
    )


def topup_failed(event: TopupFailed) -> Message:
    amount = format_usd(event.amount_micros)
    if event.kind is TopupKind.MANUAL:
        return Message(
            "topup_failed",
            "warning",
            f"Your payment of {amount} did not go through",
            f"{event.message} No money moved. Try again, perhaps with another card.",
            WALLET,
        )
    waiting = (
        " The purchase waits: buy credits now and it completes by itself."
        if event.trigger is Trigger.PURCHASE
        else ""
    )
    return Message(
        "auto_topup_failed",
        "danger",
        f"Auto top-up could not charge {amount}",
        f"{event.message} No money moved.{waiting}",
        WALLET,
    )


def topup_reversed(event: TopupReversed) -> Message:
    amount = format_usd(event.amount_micros)
    if event.refund_id is not None:
        return Message(
            "card_refunded",
            "success",
            f"{amount} is on its way to your card",
            f"You had {amount} of unused credits paid back. Your bank may take up to ten days to"
            " show it. If it was not you, set a new password and write to support.",
            REFUNDS,
        )
    what = "disputed" if event.is_dispute else "refunded"
    return Message(
        "topup_reversed",
        "warning",
        f"A payment of {amount} was {what}",
        f"{amount} went back to your card, and the same amount of credits left your wallet.",
        WALLET,
    )


def topup_restored(event: TopupRestored) -> Message:
    amount = format_usd(event.amount_micros)
    if event.refund_id is not None:
        return Message(
            "card_refund_failed",
            "warning",
            f"Your bank sent {amount} back",
            "It did not take the refund, perhaps because the card is closed. The credits are in"
            " your wallet again. Write to support to have them paid back otherwise.",
            REFUNDS,
        )
    return Message(
        "topup_restored",
        "success",
        f"{amount} of credits came back",
        f"{_sentence(event.description)} The credits that were taken out of your wallet are in it"
        " again.",
        WALLET,
    )


def card_refund_refused(event: CardRefundRefused) -> Message:
    return Message(
        "card_refund_refused",
        "warning",
        f"{format_usd(event.amount_micros)} was not paid back to your card",
        f"{_sentence(event.reason)} The credits are in your wallet, as they were before.",
        REFUNDS,
    )


def auto_topup_refused(event: AutoTopupRefused) -> Message | None:
    if event.refusal_code in _SILENT_REFUSALS:
        return None
    return Message(
        "auto_topup_refused",
        "warning",
        "Auto top-up did not charge your card",
        event.reason,
        AUTO_TOPUP,
    )


def auto_topup_paused(event: AutoTopupPaused) -> Message:
    return Message(
        "auto_topup_paused",
        "danger",
        "Auto top-up is paused",
        event.reason,
        event.confirm_url or AUTO_TOPUP,
    )


def auto_topup_resumed(event: AutoTopupResumed) -> Message:
    return Message(
        "auto_topup_resumed", "success", "Auto top-up is on again", event.reason, AUTO_TOPUP
    )


def card_expiring(event: CardExpiring) -> Message:
    use = " It is the card of your auto top-up." if event.is_auto_topup else ""
    return Message(
        "card_expiring",
        "warning",
        f"Your {brand_name(event.brand)} ending in {event.last4} expires soon",
        f"It is valid until {event.exp_month:02d}/{event.exp_year}.{use} Add another one in time.",
        WALLET,
    )


def _next(event: DeploymentChanged, zone: ZoneInfo) -> str:
    return "." if event.next_status_at is None else f" until {_day(event.next_status_at, zone)}."


def _day(moment: datetime, zone: ZoneInfo) -> str:
    """The reader's own day, in which the moment lies."""
    return f"{moment.astimezone(zone):%-d %B %Y}"


def _deployment(deployment_id: UUID) -> str:
    return f"{DEPLOYMENTS}/{deployment_id}"


def _purchase(
    event: PurchaseCompleted | PurchaseEnded | PurchaseRefunded | PurchaseShortOfFunds,
) -> str:
    return f"/purchases/{event.purchase_id}"


def _sentence(said: str) -> str:
    """What a person or another service wrote, for a sentence to follow it."""
    return said if said.endswith((".", "!", "?")) else f"{said}."
