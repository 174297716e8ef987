"""How pages write money, dates and the words of the contracts."""

import math
from calendar import month_abbr
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from jinja2 import Environment
from markupsafe import Markup

from chassis.clock import utc_now
from chassis.money import (
    MICROS_PER_CENT,
    MINUS,
    divide_half_even,
    format_usd,
    from_cents,
    whole_cents,
)
from contracts.billing import (
    ChangeCause,
    DeploymentChange,
    DeploymentStatus,
    Forecast,
    ForecastKind,
    PurchaseStatus,
)
from contracts.catalog import BillingPeriod, Category, Meter, Product, SortOrder
from contracts.topup import TopupStatus, Trigger, brand_name
from contracts.wallet import Noted, Transaction, TransactionKind
from services.gateway.backend import database
from services.gateway.people import users
from services.gateway.people.identity import current_user

SOON = timedelta(seconds=15)
MONTHS = tuple(month_abbr)
"""Known once: the calendar asks for the name of the locale each time, and a list has dozens."""
CATEGORY_NAMES = {
    Category.COMPUTE: "Compute",
    Category.NODES: "3Nodes",
    Category.GATEWAYS: "Gateways",
    Category.APPLICATIONS: "Applications",
    Category.SERVICES: "Services",
}
CATEGORY_SUMMARIES = {
    Category.COMPUTE: "Virtual machines, storage and containers",
    Category.NODES: "Whole machines, yours alone",
    Category.GATEWAYS: "A public address for what you run",
    Category.APPLICATIONS: "Ready to use a minute from now",
    Category.SERVICES: "People who know how it is done",
}
SORT_NAMES = {
    SortOrder.FEATURED: "Featured",
    SortOrder.PRICE: "Price, low to high",
    SortOrder.PRICE_DESCENDING: "Price, high to low",
    SortOrder.NAME: "Name",
    SortOrder.NEWEST: "Newest",
}
KIND_NAMES = {
    TransactionKind.PURCHASE: "Purchase",
    TransactionKind.TOPUP: "Credits bought",
    TransactionKind.AUTO_TOPUP: "Auto top-up",
    TransactionKind.TRANSFER: "Transfer",
    TransactionKind.EARNING: "Earning",
    TransactionKind.REFUND: "Refund",
    TransactionKind.RENEWAL: "Renewal",
    TransactionKind.USAGE: "Usage",
    TransactionKind.ADJUSTMENT: "Adjustment",
    TransactionKind.MIGRATION: "Migration",
    TransactionKind.CHARGEBACK: "Chargeback",
    TransactionKind.PAYOUT: "Payout",
    TransactionKind.EXCHANGE: "Exchange",
    TransactionKind.PROMOTION: "Promotional credit",
}
CHANGES = {
    ChangeCause.RENAMED: "You renamed it.",
    ChangeCause.WILL_END: "You cancelled it: it ends with its month.",
    ChangeCause.WILL_GO_ON: "You took that back: it goes on.",
    ChangeCause.RESIZED: "You resized it.",
}
CAUSES = {
    ChangeCause.OWNER: "You wanted it so.",
    ChangeCause.PROVISIONER: "Whoever runs it said so.",
    ChangeCause.UNPAID: "It was not paid.",
    ChangeCause.MONTH_ENDED: "Its last month was over.",
    ChangeCause.KEPT_LONG_ENOUGH: "Its data was kept as long as announced.",
    ChangeCause.REFUNDED: "It was refunded.",
}
# What a state is called, and whether it is good news, a wait, bad news or none of these.
STATES: dict[str, tuple[str, str]] = {
    PurchaseStatus.PENDING: ("In progress", "wait"),
    PurchaseStatus.AWAITING_FUNDS: ("Waiting for credits", "wait"),
    PurchaseStatus.COMPLETED: ("Completed", "good"),
    PurchaseStatus.EXPIRED: ("Expired", "none"),
    DeploymentStatus.REQUESTED: ("Starting", "wait"),
    DeploymentStatus.ACTIVE: ("Active", "good"),
    DeploymentStatus.STOPPED: ("Stopped", "none"),
    DeploymentStatus.SUSPENDED: ("Suspended", "bad"),
    DeploymentStatus.CANCELLED: ("Cancelled", "none"),
    DeploymentStatus.FAILED: ("Failed", "bad"),
    TopupStatus.CREATED: ("Waiting for the card", "wait"),
    TopupStatus.PROCESSING: ("Charging", "wait"),
    TopupStatus.ACTION_REQUIRED: ("Needs confirmation", "wait"),
    TopupStatus.UNKNOWN: ("Being checked", "wait"),
    TopupStatus.PAID: ("Paid", "wait"),
    TopupStatus.CREDITED: ("Credited", "good"),
    "off": ("Off", "none"),
    "paused": ("Paused", "bad"),
}
_TRIGGERS = {
    Trigger.PURCHASE: "a purchase was short of credits",
    Trigger.RENEWAL: "a renewal was short of credits",
    Trigger.LOW_BALANCE: "the balance fell below the threshold",
    Trigger.SETTINGS_SAVED: "auto top-up was switched on below the threshold",
    Trigger.BY_HAND: "you asked for it",
}


def money(amount_micros: int) -> str:
    """``$25.00``; an amount is in micro-dollars."""
    return format_usd(amount_micros)


def units(amount_units: int) -> str:
    """``1,250.5``: millionths of a coin that is no dollar, all of its digits."""
    whole, millionths = divmod(abs(amount_units), 1_000_000)
    written = f"{whole:,}.{millionths:06}".rstrip("0").rstrip(".")
    return f"{MINUS if amount_units < 0 else ''}{written}"


def percent(amount_ppm: int) -> str:
    """``0.5%``: millionths as a percentage with two decimals, rounded up."""
    hundredths = -(-amount_ppm // 100)
    return f"{hundredths // 100}.{hundredths % 100:02}".rstrip("0").rstrip(".") + "%"


def signed_money(amount_micros: int) -> str:
    """``+$25.00`` or ``−$5.00``, as a statement writes money in and out."""
    sign = "+" if amount_micros > 0 else MINUS if amount_micros < 0 else ""
    return sign + format_usd(abs(amount_micros))


def rounded_money(amount_micros: int) -> str:
    """An average such as a daily burn in whole cents, halves to the even cent."""
    return format_usd(from_cents(divide_half_even(amount_micros, MICROS_PER_CENT)))


def lacking(amount_micros: int) -> str:
    """What has to come: up to the whole cent."""
    return format_usd(whole_cents(amount_micros))


def dollars(amount_micros: int) -> str:
    """``$1,250``: a whole number of dollars on a scale."""
    return format_usd(amount_micros).removesuffix(".00")


def plain_dollars(amount_micros: int) -> str:
    """``25`` or ``25.50``: an amount as the value of a number field."""
    text = format_usd(amount_micros).replace("$", "").replace(",", "")
    return text.removesuffix(".00")


def price(product: Product) -> str:
    """``$5.00/month``, or ``$40.00`` for what is paid once."""
    return format_usd(product.price_micros) + period_suffix(product.billing_period)


def period_suffix(period: BillingPeriod) -> str:
    return "/month" if period is BillingPeriod.MONTH else ""


def meter_price(meter: Meter) -> str:
    """``100 GB free, then $0.02 per GB; above 1,000 GB $0.01 per GB``, each month."""
    per = f"{meter.per_units:,} {meter.unit}" if meter.per_units > 1 else meter.unit
    text = f"{format_usd(meter.price_micros)} per {per}"
    if meter.included_units:
        text = f"{meter.included_units:,} {meter.unit} free, then {text}"
    tiers = [
        f"; above {tier.above_units:,} {meter.unit} {format_usd(tier.price_micros)} per {per}"
        for tier in meter.tiers
    ]
    return f"{text}{''.join(tiers)}, each month"


def day(moment: date | None) -> str:
    """``22 Nov 2026``."""
    return f"{moment.day} {MONTHS[moment.month]} {moment.year}" if moment else ""


def day_for_reader(moment: date | None) -> str:
    """The same on one line, of a moment in the time zone of who asks. A day is that day
    everywhere."""
    there = moment.astimezone(reader_zone()) if isinstance(moment, datetime) else moment
    return _on_one_line(day(there))


def _on_one_line(written: str) -> str:
    """No line of a page ends within a date or a time."""
    return written.replace(" ", "\N{NO-BREAK SPACE}")


def when_short(forecast: Forecast) -> str:
    """``today`` or ``on 28 December``: when credits do not cover what is due, for who asks."""
    when, days = _day_short(forecast), forecast.days_until_empty
    if when is not None and forecast.short_at is not None:
        days = (when - utc_now().astimezone(reader_zone()).date()).days
    return "today" if when is None or not days else f"on {_on_one_line(f'{when.day} {when:%B}')}"


def days_longer(without: Forecast, forecast: Forecast) -> str:
    """``+5 days``: how much longer credits last without something, between the days that are shown;
    ``+61 days or more`` where they last beyond what was foretold. Empty: no longer."""
    until, short = _day_short(without), _day_short(forecast)
    if short is None:
        return ""
    days = ((until or without.days[-1].date) - short).days
    return f"+{duration(days * 86_400)}{'' if until else ' or more'}" if days > 0 else ""


def saved_micros(without: Forecast, forecast: Forecast) -> int:
    """How much less would be spent without something, in all that was foretold."""
    return _spent_micros(forecast) - _spent_micros(without)


def _spent_micros(forecast: Forecast) -> int:
    bought_micros = sum(
        event.amount_micros
        for day in forecast.days
        for event in day.events
        if event.kind is ForecastKind.AUTO_TOPUP
    )
    return forecast.available_micros + bought_micros - forecast.days[-1].balance_micros


def _day_short(forecast: Forecast) -> date | None:
    """On which day of who asks credits do not cover what is due; None: on none of them."""
    if forecast.short_at is None:
        return forecast.short_on
    return forecast.short_at.astimezone(reader_zone()).date()


def minute(moment: datetime | None, time_zone: str = "UTC") -> str:
    """``22 Nov 2026, 14:05 UTC``: every time on the pages is UTC and says so.

    It is marked up as a time. The reader's own stands beside it, ``(15:05 in Berlin)``: by the time
    zone that they chose, or where scripts run by that of their browser.
    """
    if moment is None:
        return ""
    moment = moment.astimezone(UTC)
    time = _on_one_line(f"{moment.hour:02}:{moment.minute:02} UTC")
    written = f"{_on_one_line(day(moment))}, {time}"
    at = f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
    if time_zone == "UTC":
        # Nothing but digits and the names of months is in it, and a list has dozens.
        return Markup(f'<time datetime="{at}">{written}</time>')  # noqa: S704
    local = moment.astimezone(ZoneInfo(time_zone))
    day_there = "" if local.date() == moment.date() else f"{local.day} {local:%b}, "
    place = time_zone.rpartition("/")[2].replace("_", " ")
    written = f"{written} {_on_one_line(f'({day_there}{local:%H:%M} in {place})')}"
    return Markup('<time datetime="{}" data-local="yes">{}</time>').format(at, written)


def minute_for_reader(moment: datetime | None) -> str:
    """The same in the time zone of who asks."""
    return minute(moment, reader_zone().key)


def reader_zone() -> ZoneInfo:
    """That of who asks; UTC for who has chosen none."""
    user = current_user()
    return ZoneInfo(user.time_zone if user else "UTC")


def clock(moment: datetime) -> str:
    """``14:05:40 UTC``: a time within the next minutes."""
    return f"{moment.astimezone(UTC):%H:%M:%S} UTC"


def seconds_left(moment: datetime) -> int:
    """How many seconds lie between now and then; never below one."""
    return max(1, math.ceil((moment - utc_now()).total_seconds()))


def not_now(moment: datetime) -> str:
    """`` at 14:05:30 UTC`` for what begins later than within seconds; else empty."""
    if moment - utc_now() < SOON:
        return ""
    return f" at {clock(moment)}"


def state_name(state: str) -> str:
    return STATES.get(state, (str(state).replace("_", " ").capitalize(), "none"))[0]


def state_tone(state: str) -> str:
    return STATES.get(state, ("", "none"))[1]


def change_sentence(change: DeploymentChange) -> str:
    """What happened to a deployment."""
    return CHANGES.get(change.cause) or f"{state_name(change.status)}. {CAUSES[change.cause]}"


def trigger_sentence(transaction: Transaction) -> str:
    """Why an automatic charge was made, from what the wallet recorded with it; else empty."""
    if transaction.kind is not TransactionKind.AUTO_TOPUP:
        return ""
    trigger = transaction.metadata.get(Noted.TRIGGER, "")
    try:
        reason = _TRIGGERS[Trigger(trigger)]
    except ValueError:
        return ""
    threshold = transaction.metadata.get(Noted.THRESHOLD_MICROS, "")
    below = f" (threshold {format_usd(int(threshold))})" if threshold.isdecimal() else ""
    return f"Charged because {reason}{below}"


def triggering_purchase(transaction: Transaction) -> str:
    """The id of the purchase that started an automatic charge; else empty."""
    if transaction.metadata.get(Noted.TRIGGER) != Trigger.PURCHASE:
        return ""
    return transaction.metadata.get(Noted.TRIGGER_REFERENCE, "")


def duration(seconds: int) -> str:
    """``5 minutes``, in the largest unit that leaves a whole number."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def titled(transactions: Sequence[Transaction]) -> list[tuple[str, Transaction]]:
    """Each with what the ledger says of it; of a transfer also with whom, which the ledger does not
    name."""
    others = [_other(transaction) for transaction in transactions]
    known = {other for other in others if other is not None}
    emails = {}
    if known:
        with database().read() as session:
            emails = users.emails(session, known)

    def title(transaction: Transaction, other: UUID | None) -> str:
        if other is None:
            return transaction.description
        way = "to" if transaction.amount_micros < 0 else "from"
        return f"Transfer {way} {emails.get(other, 'another user')}"

    return [(title(each, other), each) for each, other in zip(transactions, others, strict=True)]


def _other(transaction: Transaction) -> UUID | None:
    """Whom a transfer went to, or came from."""
    is_sent = transaction.amount_micros < 0
    other = transaction.metadata.get(Noted.TO_USER_ID if is_sent else Noted.FROM_USER_ID)
    is_transfer = transaction.kind is TransactionKind.TRANSFER and other is not None
    return UUID(other) if is_transfer else None


def short_id(identifier: UUID) -> str:
    """``#a1b2c3``: the end of an id, which tells what was made at the same moment apart."""
    return f"#{identifier.hex[-6:]}"


def card_name(brand: str, last4: str) -> str:
    """``Visa •••• 4242``."""
    return f"{brand_name(brand)} •••• {last4}"


def install(templates: Environment) -> None:
    """Give the templates these filters and names."""
    templates.filters.update(
        money=money,
        units=units,
        percent=percent,
        signed_money=signed_money,
        money_rounded=rounded_money,
        lacking=lacking,
        plain_dollars=plain_dollars,
        price=price,
        duration=duration,
        period_suffix=period_suffix,
        meter_price=meter_price,
        day=day_for_reader,
        when_short=when_short,
        days_longer=days_longer,
        saved_micros=saved_micros,
        dollars=dollars,
        minute=minute_for_reader,
        clock=clock,
        seconds_left=seconds_left,
        not_now=not_now,
        state_name=state_name,
        state_tone=state_tone,
        trigger_sentence=trigger_sentence,
        change_sentence=change_sentence,
        triggering_purchase=triggering_purchase,
        category_name=CATEGORY_NAMES.__getitem__,
        short_id=short_id,
        titled=titled,
        kind_name=KIND_NAMES.__getitem__,
    )
    names: dict[str, Any] = {
        "CATEGORY_NAMES": CATEGORY_NAMES,
        "CATEGORY_SUMMARIES": CATEGORY_SUMMARIES,
        "SORT_NAMES": SORT_NAMES,
        "KIND_NAMES": KIND_NAMES,
        "card_name": card_name,
    }
    templates.globals.update(names)
