"""What stands above the dashboard: one box for each subject, made of how things are now.

A message about what happened stays among the notifications. A box goes as soon as what it
tells of is over, whoever ended it, and says it once however many messages came of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flask import url_for

from chassis.money import format_usd, whole_cents
from contracts.billing import Forecast, Purchase, PurchaseStatus
from contracts.topup import AutoTopupStatus
from contracts.wallet import AccountStatus, Wallet
from services.gateway.models import Notification
from services.gateway.notifications.storage import Severity
from services.gateway.pages.formats import when_short
from services.gateway.people.users import CurrentUser

RUNWAY_WARNING_DAYS = 7

CONFIRM_EMAIL_AFTER = timedelta(days=1)
"""An account is so old when its owner is reminded of the link; the first day is for looking."""

EVENTS_WITHOUT_A_STATE = (
    "purchase_ended",
    "deployment_failed",
    "topup_failed",
    "topup_reversed",
    "card_expiring",
)
"""Kinds of notifications that no state of today shows: they stay until they are dismissed."""


@dataclass(frozen=True)
class Action:
    label: str
    address: str


@dataclass(frozen=True)
class Box:
    """The first action is the one to take. ``notification`` is what a dismissal marks as read."""

    tone: Severity
    title: str
    body: str
    actions: Sequence[Action] = ()
    notification: Notification | None = None


def boxes(
    wallet: Wallet | None,
    auto_topup: AutoTopupStatus | None,
    waiting: Sequence[Purchase],
    forecast: Forecast | None,
    unread: Iterable[Notification],
) -> list[Box]:
    """The boxes, the most pressing first; None stands for what could not be asked.

    ``unread`` are the notifications of ``EVENTS_WITHOUT_A_STATE``, newest first.
    """
    subjects = (
        _wallet(wallet),
        _auto_topup(auto_topup, wallet, waiting),
        _purchases(auto_topup, waiting),
        _runway(auto_topup, forecast),
    )
    found = [box for box in subjects if box is not None]
    if _is_frozen(wallet):
        found = [replace(box, actions=_without_buying(box.actions)) for box in found]
    return found + list(_events(unread))


def reminders(user: CurrentUser, now: datetime) -> list[Box]:
    """What can wait, below the others."""
    if user.is_email_confirmed or now < user.created_at + CONFIRM_EMAIL_AFTER:
        return []
    return [
        Box(
            "info",
            "Confirm your email address",
            f"Messages about your money go to {user.email}. It is asked for before a payout.",
            [Action("Open your account", url_for("account.overview"))],
        )
    ]


def _is_frozen(wallet: Wallet | None) -> bool:
    return wallet is not None and wallet.status is AccountStatus.FROZEN


def _without_buying(actions: Sequence[Action]) -> list[Action]:
    """A frozen wallet sells no credits, so nobody is sent to buy any."""
    return [action for action in actions if action != _buy_credits()]


def _buy_credits() -> Action:
    return Action("Buy credits now", url_for("wallet.overview") + "#buy-credits")


def _wallet(wallet: Wallet | None) -> Box | None:
    if not _is_frozen(wallet):
        return None
    return Box(
        "danger",
        "Your wallet is frozen",
        "A payment was disputed or taken back. Nothing can be bought until this is settled;"
        " active deployments keep running.",
        [Action("Open your wallet", url_for("wallet.overview"))],
    )


def _auto_topup(
    auto_topup: AutoTopupStatus | None, wallet: Wallet | None, waiting: Sequence[Purchase]
) -> Box | None:
    if auto_topup is None or not auto_topup.enabled:
        return None
    settings = Action("Open auto top-up", url_for("auto_topup.settings"))
    if auto_topup.state == "paused":
        first = settings
        if auto_topup.confirm_url:
            first = Action("Confirm with your bank", auto_topup.confirm_url)
        return Box(
            "danger", "Auto top-up is paused", auto_topup.state_reason, [first, _buy_credits()]
        )
    refusal = auto_topup.last_refusal
    is_paying = auto_topup.in_flight_topup_id is not None
    if refusal is None or is_paying or not (waiting or _is_low(auto_topup, wallet)):
        return None
    return Box(
        "warning", "Auto top-up can't charge yet", refusal.reason, [settings, _buy_credits()]
    )


def _is_low(auto_topup: AutoTopupStatus, wallet: Wallet | None) -> bool:
    threshold_micros = auto_topup.threshold_micros
    return (
        wallet is not None
        and threshold_micros is not None
        and wallet.available_micros < threshold_micros
    )


def _purchases(auto_topup: AutoTopupStatus | None, waiting: Sequence[Purchase]) -> Box | None:
    if not waiting:
        return None
    lacking = [p for p in waiting if p.status is PurchaseStatus.AWAITING_FUNDS]
    named = lacking[0] if lacking else waiting[0]
    what = f"{named.lines[0].product_name}, {format_usd(named.total_micros)}"
    if len(waiting) > 1:
        what = f"{what}, and {len(waiting) - 1} more"
    if not lacking:
        title, body = "A purchase is in progress", f"{what}. It completes by itself."
    elif auto_topup is not None and auto_topup.in_flight_topup_id is not None:
        title, body = "Auto top-up is paying", f"{what}. It completes by itself."
    else:
        title = "A purchase is waiting for credits"
        body = f"{what}. You need {format_usd(named.shortfall_micros)} more."
    page = url_for("purchases.listing")
    if len(waiting) == 1:
        page = url_for("purchases.follow", purchase_id=named.purchase_id)
    label = "Open the purchase" if len(waiting) == 1 else "Open purchases"
    return Box("warning" if lacking else "info", title, body, [Action(label, page)])


def _runway(auto_topup: AutoTopupStatus | None, forecast: Forecast | None) -> Box | None:
    days = forecast.days_until_empty if forecast is not None else None
    if forecast is None or forecast.short_on is None or days is None or days > RUNWAY_WARNING_DAYS:
        return None
    is_off = auto_topup is not None and auto_topup.state == "off"
    settings = Action("Set up auto top-up", url_for("auto_topup.settings"))
    helps = forecast.auto_topup_refusal
    if is_off:
        helps = "Auto top-up can buy more in time, within limits you set."
    return Box(
        "warning",
        f"Short by {format_usd(whole_cents(forecast.short_by_micros))} {when_short(forecast)}",
        f"Your credits do not cover what is due by then. {helps}".strip(),
        [settings, _buy_credits()] if is_off else [_buy_credits()],
    )


def _events(unread: Iterable[Notification]) -> Iterable[Box]:
    """The newest of each kind; the notifications page has the others."""
    newest: dict[str, list[Notification]] = {}
    for notification in unread:
        newest.setdefault(notification.kind, []).append(notification)
    for notification, *older in newest.values():
        actions = [Action("Open", notification.link)] if notification.link else []
        if older:
            actions.append(Action(f"{len(older)} more like this", url_for("notifications.listing")))
        severity: Severity = "danger" if notification.severity == "danger" else "warning"
        yield Box(severity, notification.title, notification.body, actions, notification)
