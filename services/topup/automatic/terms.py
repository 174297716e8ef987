"""The terms of automatic top-up: what a person sets, and how it stands."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.idempotency import is_retry, request_hash
from chassis.identifiers import new_id
from chassis.money import MICROS_PER_CENT, format_usd
from chassis.outbox import publish
from contracts.errors import BadRequest, IdempotencyConflict
from contracts.topup import (
    AutoTopupPreview,
    AutoTopupSettingsChanged,
    AutoTopupState,
    AutoTopupStatus,
    ConfigureAutoTopup,
    ForecastCharges,
    PaymentMethod,
    PreviewAutoTopup,
    Refusal,
    RefusalCode,
    SpendingLimit,
    TopupKind,
    Trigger,
)
from contracts.topup import Topup as TopupReply
from services.topup import topups
from services.topup.automatic import (
    consent,
    forecast,
    limits,
    pages,
    pauses,
    rule,
    triggers,
)
from services.topup.automatic.consent import Terms
from services.topup.cards import saved_cards
from services.topup.models import (
    AutoTopupSettings,
    Card,
    Command,
    RefusalRecord,
    Topup,
)
from services.topup.policy import Policy
from services.topup.wallet_questions import Funds

QUIET = (
    RefusalCode.DISABLED,
    RefusalCode.NOT_NEEDED,
    RefusalCode.COOL_DOWN,
    RefusalCode.IN_FLIGHT,
    RefusalCode.CARD_PAGE_OPEN,
)
"""Refusals that need no banner: nothing is wrong, or it passes within minutes by itself."""


def configure(
    session: Session, now: datetime, command: ConfigureAutoTopup, policy: Policy
) -> UUID | None:
    """Save the settings; the trigger that looks at once whether the balance is below them.

    Switching off keeps the other settings as they were, so that none can stand in its way. A
    replay of the key changes nothing. Errors: ``BadRequest`` (bounds, consent, no card),
    ``NotFound`` (the card), ``IdempotencyConflict``.
    """
    topups.lock_user(session, command.user_id)
    if _was_done(session, command, now):
        return None
    if not command.enabled:
        switch_off(session, command.user_id, now)
        return None
    settings = _locked_or_new(session, command.user_id, now)
    wanted = _wanted(session, command, settings)
    _check(session, command, settings, wanted, policy)
    was_enabled, old_card = settings.is_enabled, settings.payment_method_id
    settings.is_enabled = True
    settings.threshold_micros = wanted.threshold_micros
    settings.amount_micros = wanted.topup_amount_micros
    settings.payment_method_id = wanted.payment_method_id
    settings.backup_payment_method_id = wanted.backup_payment_method_id
    settings.daily_limit_micros = wanted.daily_limit_micros
    settings.monthly_limit_micros = wanted.monthly_limit_micros
    if command.consent:
        settings.consent_id = consent.record(
            session, command.user_id, command.client_address, wanted, now
        )
    if settings.paused_code:
        is_other_card = settings.payment_method_id != old_card
        pauses.saved_again(session, settings, now, is_other_card=is_other_card)
    elif not was_enabled:
        triggers.make_due(session, command.user_id, now)
    session.flush()
    _publish_new_version(session, settings, now)
    if settings.paused_code:
        return None
    raised = triggers.raise_trigger(
        session,
        command.user_id,
        Trigger.SETTINGS_SAVED,
        str(settings.settings_version),
        now,
        raised_at=now,
    )
    return raised.trigger_id if raised is not None else None


def rehearse(
    session: Session, now: datetime, command: ConfigureAutoTopup, funds: Funds, policy: Policy
) -> AutoTopupStatus:
    """What :func:`configure` would lead to; the caller undoes it."""
    configure(session, now, command, policy)
    question = ForecastCharges(user_id=command.user_id)
    charges = forecast.foresee(session, now, question, funds, policy).charges
    at_once_micros = sum(charge.amount_micros for charge in charges if charge.at <= now)
    saved = status(session, command.user_id, policy, now)
    return saved.model_copy(update={"charges": charges, "charge_now_micros": at_once_micros})


def _was_done(session: Session, command: ConfigureAutoTopup, now: datetime) -> bool:
    key = (command.user_id, command.method, command.idempotency_key)
    stored = session.get(Command, key)
    if stored is None:
        session.add(
            Command(
                user_id=command.user_id,
                method=command.method,
                idempotency_key=command.idempotency_key,
                request_hash=request_hash(command).hex(),
                outcome={},
                created_at=now,
            )
        )
        session.flush()
        return False
    if not is_retry(stored.request_hash, command, _once_hashed(command)):
        raise IdempotencyConflict(
            "This idempotency key was used to save other settings. Nothing was changed;"
            " use a new key."
        )
    return True


def _once_hashed(command: ConfigureAutoTopup) -> dict[str, Any]:
    uncompared = {"client_address", "dry_run"}
    return command.model_dump(mode="json", exclude=uncompared, exclude_unset=True)


def switch_off(session: Session, user_id: UUID, now: datetime) -> None:
    """Charge nothing by itself any more; the other settings stay as they are."""
    settings = topups.lock_settings(session, user_id)
    if settings is not None:
        settings.is_enabled = False
        _publish_new_version(session, settings, now)


def account_froze(
    session: Session, user_id: UUID, reason: str, froze_at: datetime, now: datetime
) -> None:
    """Nothing is charged for a wallet that cannot spend it, and no page is left to pay on."""
    topups.lock_user(session, user_id)
    settings = topups.lock_settings(session, user_id)
    pages.close_frozen(session, user_id, froze_at, now)
    if settings is not None:
        sentence = f"The account is frozen: {reason}"
        pauses.pause(session, settings, pauses.ACCOUNT_FROZEN, sentence, now)


def _locked_or_new(session: Session, user_id: UUID, now: datetime) -> AutoTopupSettings:
    settings = topups.lock_settings(session, user_id)
    if settings is None:
        settings = AutoTopupSettings(
            user_id=user_id,
            is_enabled=False,
            threshold_micros=0,
            amount_micros=1,
            settings_version=0,
            paused_code="",
            paused_reason="",
            declines=0,
            updated_at=now,
        )
        session.add(settings)
    return settings


def _wanted(session: Session, command: ConfigureAutoTopup, settings: AutoTopupSettings) -> Terms:
    """What is to be saved: what the command gives, and the rest as it is."""
    given = command.model_dump(include=command.model_fields_set & Terms.__dataclass_fields__.keys())
    is_first = settings.consent_id is None
    for name in ("threshold_micros", "topup_amount_micros"):
        if given.get(name) is None and (is_first or name in given):
            raise BadRequest("Auto top-up needs an amount here.", name)
    if given.get("payment_method_id") is None:
        given["payment_method_id"] = _usual_card(session, command.user_id, settings)
    return replace(consent.terms_of(settings), **given)


def _check(
    session: Session,
    command: ConfigureAutoTopup,
    settings: AutoTopupSettings,
    wanted: Terms,
    policy: Policy,
) -> None:
    """Raises for whatever does not make sense."""
    topups.check_amount(wanted.topup_amount_micros, policy)
    if wanted.threshold_micros > policy.threshold_max_micros:
        raise BadRequest(
            f"The threshold is at most {format_usd(policy.threshold_max_micros)}.",
            "threshold_micros",
        )
    for name in ("threshold_micros", "daily_limit_micros", "monthly_limit_micros"):
        if (getattr(wanted, name) or 0) % MICROS_PER_CENT:
            raise BadRequest("A threshold and a limit are whole cents.", name)
    _check_limits(wanted)
    is_needed = consent.is_needed(session, settings, wanted)
    consent.require(command.consent, command.consent_version, is_needed=is_needed)
    for chosen in (command.payment_method_id, command.backup_payment_method_id):
        if chosen is not None:
            saved_cards.get(session, command.user_id, chosen)
    backup = wanted.backup_payment_method_id
    if backup is not None and backup == wanted.payment_method_id:
        raise BadRequest(
            "The backup card is another card than the first.", "backup_payment_method_id"
        )
    if wanted.payment_method_id is None:
        raise BadRequest("Save a card first: auto top-up charges it.", "payment_method_id")


def _check_limits(wanted: Terms) -> None:
    amount, daily = wanted.topup_amount_micros, wanted.daily_limit_micros
    monthly = wanted.monthly_limit_micros
    if daily is not None and daily < amount:
        raise BadRequest(
            "The daily limit is at least one top-up amount, or none could ever be made.",
            "daily_limit_micros",
        )
    if monthly is not None and monthly < max(amount, daily or 0):
        raise BadRequest(
            "The monthly limit is at least one top-up amount and the daily limit.",
            "monthly_limit_micros",
        )


def _usual_card(session: Session, user_id: UUID, settings: AutoTopupSettings) -> str | None:
    if settings.payment_method_id is not None:
        return settings.payment_method_id
    default = saved_cards.default_of(session, user_id)
    return default.payment_method_id if default else None


def _publish_new_version(session: Session, settings: AutoTopupSettings, now: datetime) -> None:
    settings.settings_version += 1
    settings.updated_at = now
    publish(
        session,
        AutoTopupSettingsChanged(
            event_id=new_id(),
            occurred_at=now,
            user_id=settings.user_id,
            settings_version=settings.settings_version,
            threshold_micros=settings.threshold_micros if settings.is_enabled else None,
        ),
    )


def preview(
    session: Session, now: datetime, request: PreviewAutoTopup, policy: Policy
) -> AutoTopupPreview:
    """What would be done about a shortfall now, as :func:`rule.decide` decides it.

    Behind what only holds a charge up we look: a limit that comes then is what counts.
    """
    user_id, purchase = request.user_id, str(request.purchase_id or "")
    settings = session.get(AutoTopupSettings, user_id)
    situation = rule.Situation(
        policy=policy,
        settings=settings,
        usage=limits.usage(session, user_id, now, policy, purchase),
        funds=Funds(available_micros=0),
        trigger=Trigger.PURCHASE,
        waiting_micros=request.shortfall_micros,
        now=now,
    )
    refusal, then = None, rule.decide(situation)
    if isinstance(then, rule.Refusal):
        refusal = then
        is_sure = settings is None or not settings.declines
        if refusal.code in rule.HELD_UP and refusal.retry_at is not None and is_sure:
            later = replace(situation, usage=situation.usage.when_at_rest(), now=refusal.retry_at)
            then = rule.decide(later)
            refusal = then if isinstance(then, rule.Refusal) else refusal
    charge = then if isinstance(then, rule.Charge) else None
    card = session.get(Card, charge.payment_method_id) if charge is not None else None
    has_page = situation.usage.card_page_until is not None
    page = pages.open_for(session, user_id, purchase) if has_page else None
    amount_micros = charge.amount_micros if charge is not None else 0
    said = f"Auto top-up charges {format_usd(amount_micros)}."
    return AutoTopupPreview(
        would_topup=refusal is None,
        amount_micros=amount_micros,
        refusal_code=refusal.code if refusal is not None else None,
        reason=refusal.reason if refusal is not None else said,
        card_brand=card.brand if card else "",
        card_last4=card.last4 if card else "",
        confirm_url=settings.confirm_url if settings is not None and refusal is not None else None,
        retry_at=refusal.retry_at if refusal and refusal.code in rule.PASSING else None,
        is_being_confirmed=bool(purchase) and pages.is_being_confirmed(session, user_id, purchase),
        card_page_url=topups.reply(page).checkout_url if page is not None else None,
    )


_STATE = Bulk(
    "SELECT new.user_id, is_enabled, threshold_micros, paused_code, paused_reason,"
    " coalesce((SELECT is_stopped FROM operator_switch WHERE id = 1), false) AS is_stopped"
    " FROM {rows} JOIN auto_topup_settings USING (user_id)",
    user_id="uuid",
)


def states(
    session: Session, questions: Sequence[tuple[UUID, bool]]
) -> list[AutoTopupState | Exception]:
    """Of the status what every page of the website shows, for each of these users.

    With each user comes whether the operator's settings stop all automatic charges.
    """
    users = {user_id for user_id, _ in questions}
    found = {row.user_id: row for row in _STATE.execute(session, [(user,) for user in users])}
    return [_state_of(found.get(user_id), is_stopped) for user_id, is_stopped in questions]


def _state_of(settings: Any, is_stopped: bool) -> AutoTopupState:
    if settings is None:
        return AutoTopupState(enabled=False, state="off")
    name, _, _ = _state(settings, is_stopped or settings.is_stopped)
    return AutoTopupState(
        enabled=settings.is_enabled, state=name, threshold_micros=settings.threshold_micros
    )


def status(session: Session, user_id: UUID, policy: Policy, now: datetime) -> AutoTopupStatus:
    """The settings and how they stand: limits with what is used, pause, last top-up, refusal."""
    settings = session.get(AutoTopupSettings, user_id)
    is_stopped = limits.is_stopped(session)
    if settings is None:
        return never_set(policy, is_stopped=is_stopped)
    is_stopped = policy.is_stopped or is_stopped
    state, code, reason = _state(settings, is_stopped)
    return AutoTopupStatus(
        enabled=settings.is_enabled,
        state=state,
        state_code=code,
        state_reason=reason,
        threshold_micros=settings.threshold_micros,
        topup_amount_micros=settings.amount_micros,
        payment_method=_card(session, settings.payment_method_id, settings, now),
        backup_payment_method=_card(session, settings.backup_payment_method_id, settings, now),
        daily_limit=_limit(
            session,
            user_id,
            settings.daily_limit_micros,
            limits.day_start(now),
            limits.day_end(now),
        ),
        monthly_limit=_limit(
            session,
            user_id,
            settings.monthly_limit_micros,
            limits.month_start(now),
            limits.month_end(now),
        ),
        cool_down_until=_later_than(settings.cool_down_until, now),
        in_flight_topup_id=limits.in_flight_topup_id(session, user_id),
        confirm_url=settings.confirm_url,
        last_refusal=_last_refusal(session, user_id),
        last_topup=_last_topup(session, user_id),
        **_bounds(policy, is_stopped=is_stopped),
    )


def never_set(policy: Policy, *, is_stopped: bool) -> AutoTopupStatus:
    """The status of who never set any terms. ``is_stopped``: by the operator's switch."""
    bounds = _bounds(policy, is_stopped=policy.is_stopped or is_stopped)
    return AutoTopupStatus(enabled=False, state="off", **bounds)


def _bounds(policy: Policy, *, is_stopped: bool) -> dict[str, Any]:
    return {
        "consent_version": consent.VERSION,
        "consent_text": consent.TEXT,
        "is_stopped_by_operator": is_stopped,
        "cool_down_s": int(policy.cool_down.total_seconds()),
        "topup_amount_min_micros": policy.topup_min_micros,
        "topup_amount_max_micros": policy.topup_max_micros,
    }


def _state(settings: AutoTopupSettings | Any, is_stopped: bool) -> tuple[str, str, str]:
    if not settings.is_enabled:
        return "off", "", ""
    if settings.paused_code:
        return "paused", settings.paused_code, settings.paused_reason
    if is_stopped:
        return "paused", RefusalCode.STOPPED_BY_OPERATOR, rule.STOPPED
    return "active", "", ""


def _later_than(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment is not None and moment > now else None


def _card(
    session: Session, payment_method_id: str | None, settings: AutoTopupSettings, now: datetime
) -> PaymentMethod | None:
    card = session.get(Card, payment_method_id) if payment_method_id else None
    return saved_cards.reply(card, settings, now) if card is not None else None


def _limit(
    session: Session, user_id: UUID, limit_micros: int | None, since: datetime, until: datetime
) -> SpendingLimit | None:
    if limit_micros is None:
        return None
    used = limits.used_micros(session, user_id, since, until)
    return SpendingLimit(limit_micros=limit_micros, used_micros=used, resets_at=until)


def _last_topup(session: Session, user_id: UUID) -> TopupReply | None:
    topup = session.scalar(
        select(Topup)
        .where(Topup.user_id == user_id, Topup.kind == TopupKind.AUTO)
        .order_by(Topup.created_at.desc())
        .limit(1)
    )
    return topups.reply(topup) if topup is not None else None


def _last_refusal(session: Session, user_id: UUID) -> Refusal | None:
    """The newest refusal worth a banner, unless a top-up has succeeded since."""
    refusal = session.scalar(
        select(RefusalRecord)
        .where(RefusalRecord.user_id == user_id, RefusalRecord.code.not_in(QUIET))
        .order_by(RefusalRecord.refused_at.desc())
        .limit(1)
    )
    if refusal is None:
        return None
    paid_since = session.scalar(
        select(Topup.topup_id)
        .where(Topup.user_id == user_id, Topup.paid_at > refusal.refused_at)
        .limit(1)
    )
    if paid_since is not None:
        return None
    return Refusal(
        refusal_code=RefusalCode(refusal.code),
        reason=refusal.reason,
        trigger=Trigger(refusal.trigger),
        trigger_reference=refusal.reference,
        refused_at=refusal.refused_at,
    )
