"""Automatic top-up: whether to charge, how much, and the reservation that makes it the only one.

:func:`decide` is the whole rule, free of database and clock. :func:`reserve` applies it in one
transaction with the user's settings row locked, so that whoever comes second sees the first.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.crash_points import crash_point
from chassis.database import after_commit
from chassis.identifiers import new_id
from chassis.instruments import REGISTRY
from chassis.locks import locked
from chassis.money import format_usd, whole_cents
from chassis.outbox import publish
from contracts.errors import NotFound
from contracts.topup import AutoTopupOutcome, AutoTopupRefused, RefusalCode, TopupKind, Trigger
from services.topup import topups
from services.topup.automatic import disputes, limits, triggers
from services.topup.automatic.limits import Usage
from services.topup.models import AutoTopupSettings, RefusalRecord, Topup, TriggerRecord
from services.topup.policy import Policy
from services.topup.wallet_questions import Funds

_REFUSALS = Counter(
    "mycelium_topup_refusals",
    "Automatic top-ups that were asked for and not made, once for each reason.",
    ("trigger", "code"),
    registry=REGISTRY,
)
STOPPED = "Automatic charges are stopped for everybody at present. You can still buy credits."
RETRY_STOPPED = timedelta(minutes=5)
RETRY_DISPUTED = timedelta(hours=1)
RETRY_CAPPED = timedelta(minutes=10)
RETRY_DAILY = timedelta(days=1)
RETRY_WALLET = timedelta(seconds=20)
TOO_MUCH = (
    RefusalCode.AMOUNT_TOO_LARGE,
    RefusalCode.DAILY_LIMIT,
    RefusalCode.MONTHLY_LIMIT,
)
HELD_UP = (RefusalCode.CARD_PAGE_OPEN, RefusalCode.COOL_DOWN)
PASSING = (RefusalCode.IN_FLIGHT, *HELD_UP)
"""Refusals that pass within minutes, whatever the person does."""
RESUMED_AFTER = timedelta(seconds=10)
"""A reserved charge that nobody sends by then was interrupted, and is taken up again."""
RETRY_IN_FLIGHT = timedelta(seconds=30)


@dataclass(frozen=True)
class Charge:
    """Charge this card this much, a whole number of cents.

    ``is_part``: more is lacking, and is looked at again after the cool-down.
    """

    amount_micros: int
    payment_method_id: str
    is_part: bool = False


@dataclass(frozen=True)
class Refusal:
    """No charge, and why. ``retry_at``: when the reason will have passed by itself."""

    code: RefusalCode
    reason: str
    retry_at: datetime | None = None


@dataclass(frozen=True)
class Situation:
    """All that the rule looks at, as it stands at ``now``. Amounts are micro-dollars.

    ``waiting_micros`` is what all purchases that wait for money cost, ``needed_micros`` the one
    that the trigger is about; 0 where it is about the balance.
    """

    policy: Policy
    settings: AutoTopupSettings | None
    usage: Usage
    funds: Funds
    trigger: Trigger
    waiting_micros: int
    now: datetime
    needed_micros: int = 0

    @property
    def available_micros(self) -> int:
        return self.funds.available_micros

    @property
    def is_waiting(self) -> bool:
        """Whether more waits for money than there is."""
        return self.waiting_micros > self.available_micros

    @property
    def is_for_purchase(self) -> bool:
        """Whether a purchase or a renewal asks, and not a look at the balance."""
        return self.trigger in triggers.WAITING


def decide(situation: Situation) -> Charge | Refusal:
    """Charge or refuse: close the whole gap; where a limit forbids that, at least the one that the
    trigger is about.

    Else one purchase that is too large for the limits would keep all small ones waiting.
    """
    decision = _close_gap(situation)
    is_too_much = isinstance(decision, Refusal) and decision.code in TOO_MUCH
    if is_too_much and 0 < situation.needed_micros < situation.waiting_micros:
        return _close_gap(replace(situation, waiting_micros=situation.needed_micros))
    return decision


def _close_gap(situation: Situation) -> Charge | Refusal:
    """One charge closes the whole gap: max(configured amount, what is lacking), rounded up to a
    whole cent. Where that is too much for a limit, a low balance is brought towards the threshold
    by the configured amount; a purchase is not, as part of its price buys nothing.

    Reasons are checked from the lasting to the passing, so that a person hears the one that they
    can do something about.
    """
    settings = situation.settings
    refusal = switched_off(
        settings,
        situation.now,
        has_open_dispute=situation.usage.has_open_dispute,
        is_stopped=situation.policy.is_stopped or situation.usage.is_stopped,
    )
    if refusal is not None or settings is None:
        return refusal or _disabled()
    refusal = (
        _left_to_card_page(situation)
        or _not_needed(situation, settings)
        or _too_soon(situation, settings)
    )
    if refusal is not None:
        return refusal
    amount_micros = charge_micros(situation, settings)
    refusal = _over_a_limit(situation, settings, amount_micros)
    is_part = (
        refusal is not None and refusal.code in TOO_MUCH and _is_about_balance(situation, settings)
    )
    if is_part:
        amount_micros = settings.amount_micros
        refusal = _over_a_limit(situation, settings, amount_micros)
    if refusal is not None:
        return refusal
    card = card_to_charge(settings)
    if card is None:
        return Refusal(RefusalCode.NO_CARD, "No card is saved for auto top-up. Add one.")
    return Charge(amount_micros, card, is_part)


def _is_about_balance(situation: Situation, settings: AutoTopupSettings) -> bool:
    """Whether the balance itself is what is topped up, and not a purchase."""
    return situation.trigger == Trigger.BY_HAND or (
        not situation.is_for_purchase and _is_low(situation, settings)
    )


def _is_low(situation: Situation, settings: AutoTopupSettings) -> bool:
    return situation.available_micros < settings.threshold_micros


def charge_micros(situation: Situation, settings: AutoTopupSettings) -> int:
    """max(configured amount, gap), up to the next whole cent.

    The gap is to what waits for money, or to the threshold where a low balance was the reason.
    """
    goal = situation.waiting_micros
    if not situation.is_for_purchase:
        goal = max(goal, settings.threshold_micros)
    return whole_cents(max(settings.amount_micros, goal - situation.available_micros))


def card_to_charge(settings: AutoTopupSettings) -> str | None:
    """The card for automatic top-up; the backup card right after the first was declined."""
    backup = settings.backup_payment_method_id
    if backup and settings.declined_payment_method_id == settings.payment_method_id:
        return backup
    return settings.payment_method_id or backup


def _disabled() -> Refusal:
    return Refusal(RefusalCode.DISABLED, "Auto top-up is off. Buy credits, or switch it on.")


def switched_off(
    settings: AutoTopupSettings | None,
    now: datetime,
    *,
    has_open_dispute: bool,
    is_stopped: bool,
) -> Refusal | None:
    """What stops every charge of this user's: asked before one is reserved, and at the door."""
    if settings is None or not settings.is_enabled or settings.consent_id is None:
        return _disabled()
    if settings.paused_code:
        return Refusal(RefusalCode.PAUSED, settings.paused_reason)
    if has_open_dispute:
        return Refusal(RefusalCode.PAUSED, disputes.REASON, now + RETRY_DISPUTED)
    if is_stopped:
        return Refusal(RefusalCode.STOPPED_BY_OPERATOR, STOPPED, now + RETRY_STOPPED)
    return None


def _left_to_card_page(situation: Situation) -> Refusal | None:
    until = situation.usage.card_page_until
    if until is None:
        return None
    return Refusal(
        RefusalCode.CARD_PAGE_OPEN,
        "A card page is open for this purchase. If it is not paid there, auto top-up goes on at"
        f" {until:%H:%M:%S} UTC.",
        max(until, situation.now + RETRY_IN_FLIGHT),
    )


def _not_needed(situation: Situation, settings: AutoTopupSettings) -> Refusal | None:
    if situation.funds.is_frozen:
        return Refusal(
            RefusalCode.ACCOUNT_FROZEN,
            "The account is frozen. Write to support to settle it.",
            situation.now + RETRY_DAILY,
        )
    if situation.is_waiting or situation.trigger == Trigger.BY_HAND:
        return None
    if situation.is_for_purchase:
        return Refusal(RefusalCode.NOT_NEEDED, "The balance covers what was waiting for money.")
    if not _is_low(situation, settings):
        return Refusal(RefusalCode.NOT_NEEDED, "The balance is not below the threshold.")
    if situation.trigger == Trigger.LOW_BALANCE and situation.funds.is_idle:
        return Refusal(
            RefusalCode.IDLE,
            "Nothing is running and no purchase waits, so the card is left alone.",
            situation.now + RETRY_DAILY,
        )
    return None


def _too_soon(situation: Situation, settings: AutoTopupSettings) -> Refusal | None:
    cool, now, usage = settings.cool_down_until, situation.now, situation.usage
    if usage.in_flight_topup_id is not None:
        return Refusal(
            RefusalCode.IN_FLIGHT,
            "Auto top-up is charging your card.",
            max(cool or now, now + RETRY_IN_FLIGHT),
        )
    if usage.is_credit_on_its_way:
        return Refusal(
            RefusalCode.IN_FLIGHT, "Credits that were paid are on their way.", now + RETRY_IN_FLIGHT
        )
    if cool is not None and now < cool:
        return Refusal(
            RefusalCode.COOL_DOWN,
            f"{_what_was_before(settings)} at {cool:%H:%M:%S} UTC.",
            cool,
        )
    return None


def _what_was_before(settings: AutoTopupSettings) -> str:
    if settings.declines:
        return "The last charge was declined. Auto top-up tries again"
    return "Auto top-up goes on by itself"


def _over_a_limit(
    situation: Situation, settings: AutoTopupSettings, amount_micros: int
) -> Refusal | None:
    policy, usage, now = situation.policy, situation.usage, situation.now
    asked = format_usd(amount_micros)
    if amount_micros > policy.topup_max_micros:
        return Refusal(
            RefusalCode.AMOUNT_TOO_LARGE,
            f"{asked} is lacking, and an auto top-up is at most"
            f" {format_usd(policy.topup_max_micros)}. Buy credits now.",
        )
    daily, monthly = settings.daily_limit_micros, settings.monthly_limit_micros
    if daily is not None and usage.day_micros + amount_micros > daily:
        return Refusal(
            RefusalCode.DAILY_LIMIT,
            _limit_sentence(asked, "daily", daily, usage.day_micros, limits.day_end(now)),
            limits.day_end(now),
        )
    if monthly is not None and usage.month_micros + amount_micros > monthly:
        return Refusal(
            RefusalCode.MONTHLY_LIMIT,
            _limit_sentence(asked, "monthly", monthly, usage.month_micros, limits.month_end(now)),
            limits.month_end(now),
        )
    if _blows_fuse(policy, usage, amount_micros):
        return Refusal(
            RefusalCode.SYSTEM_CAP,
            "There were unusually many automatic charges within an hour. It is tried again soon.",
            now + RETRY_CAPPED,
        )
    return None


def _limit_sentence(
    asked: str, name: str, limit_micros: int, used_micros: int, resets_at: datetime
) -> str:
    return (
        f"A charge of {asked} would exceed the {name} limit of {format_usd(limit_micros)}:"
        f" {format_usd(used_micros)} is used. It resets on {resets_at:%Y-%m-%d} at 00:00 UTC."
    )


def _blows_fuse(policy: Policy, usage: Usage, amount_micros: int) -> bool:
    return (
        usage.user_hour_count >= policy.user_charges_per_hour_max
        or usage.user_hour_micros + amount_micros > policy.user_hourly_cap_micros
        or usage.system_hour_count >= policy.system_charges_per_hour_max
        or usage.system_hour_micros + amount_micros > policy.system_hourly_cap_micros
    )


def reserve(
    session: Session,
    now: datetime,
    trigger_id: UUID,
    funds: Funds | None,
    policy: Policy,
    waiting_micros: int | None = None,
) -> Topup | Refusal | None:
    """Decide about a due trigger and store the outcome: a reserved top-up, or a refusal.

    None when somebody else decided first. ``funds`` is None when the wallet did not answer;
    ``waiting_micros`` is what a fresh event said, None to add up what waits.
    """
    user_id = session.get_one(TriggerRecord, trigger_id).user_id
    settings = topups.lock_settings(session, user_id)
    record = locked(session, TriggerRecord, trigger_id)
    if record.due_at is None:
        return None
    return reserve_held(session, now, settings, record, funds, policy, waiting_micros)


def reserve_held(
    session: Session,
    now: datetime,
    settings: AutoTopupSettings | None,
    record: TriggerRecord,
    funds: Funds | None,
    policy: Policy,
    waiting_micros: int | None,
) -> Topup | Refusal:
    """:func:`reserve` for who holds the settings and the trigger, which is due."""
    user_id = record.user_id
    if funds is None:
        decision: Charge | Refusal = _wallet_silent(record, now)
    else:
        limits.fuse_lock(session)
        usage = limits.usage(session, user_id, now, policy, triggers.purchase_of(record))
        if waiting_micros is None or usage.has_card_page:
            waiting_micros = triggers.waiting_micros(session, user_id, now)
        decision = decide(
            Situation(
                policy=policy,
                settings=settings,
                usage=usage,
                funds=funds,
                trigger=Trigger(record.trigger),
                waiting_micros=waiting_micros,
                now=now,
                needed_micros=record.needed_micros,
            )
        )
    if isinstance(decision, Refusal):
        refuse(session, record, decision, now)
        return decision
    if settings is None:
        raise AssertionError("a charge was decided without settings")
    crash_point("topup.before_reserve")
    return _reserve(session, now, settings, record, decision, policy)


def _wallet_silent(record: TriggerRecord, now: datetime) -> Refusal:
    wait = min(RETRY_WALLET * 2 ** min(record.tries, 6), timedelta(minutes=10))
    return Refusal(
        RefusalCode.WALLET_UNAVAILABLE,
        "The balance could not be read, so nothing was charged. It is tried again soon.",
        now + wait,
    )


def _reserve(
    session: Session,
    now: datetime,
    settings: AutoTopupSettings,
    record: TriggerRecord,
    charge: Charge,
    policy: Policy,
) -> Topup:
    topup = topups.new(settings.user_id, TopupKind.AUTO, charge.amount_micros, str(new_id()), now)
    topup.payment_method_id = charge.payment_method_id
    topup.trigger = record.trigger
    topup.trigger_reference = record.reference
    topup.threshold_micros = settings.threshold_micros
    topup.settings_version = settings.settings_version
    topup.next_look_at = now + min(policy.check_again_after(0), RESUMED_AFTER)
    session.add(topup)
    settings.cool_down_until = now + policy.cool_down
    record.topup_id = topup.topup_id
    record.refusal_code = ""
    triggers.postpone(record, settings.cool_down_until if charge.is_part else None)
    return topup


def refuse(session: Session, record: TriggerRecord, refusal: Refusal, now: datetime) -> None:
    """Record why nothing is charged; published once per trigger and reason."""
    triggers.postpone(record, refusal.retry_at)
    record.refusal_code = refusal.code
    is_new = session.scalar(
        insert(RefusalRecord)
        .values(
            refusal_id=new_id(),
            user_id=record.user_id,
            code=refusal.code,
            reason=refusal.reason,
            trigger=record.trigger,
            reference=record.reference,
            refused_at=now,
        )
        .on_conflict_do_nothing(index_elements=["user_id", "trigger", "reference", "code"])
        .returning(RefusalRecord.refusal_id)
    )
    if is_new is not None:
        after_commit(session, _REFUSALS.labels(record.trigger, refusal.code).inc)
    if refusal.code == RefusalCode.NOT_NEEDED:
        # Published every time where something waits, so that it takes the money that is there;
        # and never after a look of ours that nothing waits for.
        is_published = record.trigger in triggers.WAITING
    else:
        is_published = is_new is not None
    if not is_published:
        return
    publish(
        session,
        AutoTopupRefused(
            event_id=new_id(),
            occurred_at=now,
            user_id=record.user_id,
            refusal_code=refusal.code,
            reason=refusal.reason[:200],
            trigger=Trigger(record.trigger),
            trigger_reference=record.reference,
        ),
    )


def outcome(session: Session, user_id: UUID, reference: str) -> AutoTopupOutcome:
    """What became of asking by hand under this key: the top-up, or the reason why none."""
    record = session.scalar(
        select(TriggerRecord).where(
            TriggerRecord.user_id == user_id,
            TriggerRecord.trigger == Trigger.BY_HAND,
            TriggerRecord.reference == reference,
        )
    )
    if record is None:
        raise NotFound("Nothing was asked for under this key.")
    topup = session.scalar(
        select(Topup)
        .where(
            Topup.user_id == user_id,
            Topup.trigger == Trigger.BY_HAND,
            Topup.trigger_reference == reference,
        )
        .order_by(Topup.created_at.desc())
        .limit(1)
    )
    if topup is not None:
        return AutoTopupOutcome(topup=topups.reply(topup))
    refusal = session.scalar(
        select(RefusalRecord)
        .where(
            RefusalRecord.user_id == user_id,
            RefusalRecord.trigger == Trigger.BY_HAND,
            RefusalRecord.reference == reference,
        )
        .order_by(RefusalRecord.refused_at.desc())
        .limit(1)
    )
    if refusal is None:
        return AutoTopupOutcome()
    return AutoTopupOutcome(refusal_code=RefusalCode(refusal.code), refusal_reason=refusal.reason)
