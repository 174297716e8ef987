"""Pauses: when automatic top-up stops by itself, and what lets it go on.

What ends a pause is decided here alone: :func:`card_added`, :func:`saved_again`,
:func:`dispute_closed`, :func:`confirmed`.
"""

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.topup import AutoTopupPaused, AutoTopupResumed, TopupStatus
from services.topup.automatic import disputes, triggers
from services.topup.cards import declines
from services.topup.cards.declines import Verdict
from services.topup.models import AutoTopupSettings, Topup
from services.topup.policy import Policy

AUTHENTICATION = declines.AUTHENTICATION
NOT_CONFIRMED = "not_confirmed"
CARD_REFUSED = "card_refused"
TOO_MANY_DECLINES = "too_many_declines"
CARD_REMOVED = "card_removed"
DISPUTE = "dispute"
ACCOUNT_FROZEN = "account_frozen"
A_NEW_CARD_HELPS = (
    AUTHENTICATION,
    NOT_CONFIRMED,
    CARD_REFUSED,
    TOO_MANY_DECLINES,
    CARD_REMOVED,
)
DISPUTED = (DISPUTE, ACCOUNT_FROZEN)
"""Pauses that end with the dispute; saving again ends them once none is open."""
SAVING_AGAIN_HELPS = (TOO_MANY_DECLINES, NOT_CONFIRMED)
"""Pauses that the same card may end: it may have funds again, or its owner is there now."""


def pause(
    session: Session, settings: AutoTopupSettings, code: str, reason: str, now: datetime
) -> None:
    """Stop until the person acts, and publish it; a pause on top of one keeps the first."""
    if settings.paused_code or not settings.is_enabled:
        return
    settings.paused_code = code
    settings.paused_reason = reason
    settings.paused_at = now
    if code != AUTHENTICATION:
        # That one is published when the link is there on which the person confirms.
        _publish(session, settings, now)


def _publish(session: Session, settings: AutoTopupSettings, now: datetime) -> None:
    """It is paused; with the link to confirm on if there is one."""
    publish(
        session,
        AutoTopupPaused(
            event_id=new_id(),
            occurred_at=now,
            user_id=settings.user_id,
            code=settings.paused_code,
            reason=settings.paused_reason[:200],
            confirm_url=settings.confirm_url,
        ),
    )


def waits_for_person(settings: AutoTopupSettings | None) -> bool:
    """Whether it is paused until its owner confirms a charge with the bank."""
    return settings is not None and settings.paused_code == AUTHENTICATION


def ask_to_confirm(
    session: Session, settings: AutoTopupSettings | None, confirm_url: str | None, now: datetime
) -> None:
    """Publish that a charge waits to be confirmed; the link, if there is none yet, follows."""
    if settings is not None and waits_for_person(settings):
        settings.confirm_url = confirm_url
        _publish(session, settings, now)


def stop_waiting_for_person(session: Session, settings: AutoTopupSettings, now: datetime) -> None:
    """No page is left to confirm the charge on: publish what helps instead."""
    if not waits_for_person(settings):
        return
    settings.paused_code = NOT_CONFIRMED
    settings.paused_reason = (
        "Your bank asked you to confirm a payment, and that is no longer possible. Add another"
        " card, or save the auto top-up settings again to try the same one."
    )
    settings.confirm_url = None
    _publish(session, settings, now)


def card_added(
    session: Session, settings: AutoTopupSettings, payment_method_id: str, now: datetime
) -> None:
    """A new card takes the place of the one that caused the pause."""
    if settings.paused_code in A_NEW_CARD_HELPS:
        settings.payment_method_id = payment_method_id
        _resume(session, settings, "You added a card.", now)


def saved_again(
    session: Session, settings: AutoTopupSettings, now: datetime, *, is_other_card: bool
) -> None:
    """Saving ends a pause if it changes its cause: another card, or patience with the same."""
    if settings.paused_code in DISPUTED:
        is_over = not disputes.has_open(session, settings.user_id)
    else:
        is_over = is_other_card or settings.paused_code in SAVING_AGAIN_HELPS
    if settings.paused_code and is_over:
        _resume(session, settings, "You saved the settings again.", now)


def dispute_closed(session: Session, settings: AutoTopupSettings, now: datetime) -> None:
    """A dispute was won: automatic top-up goes on with the last one that was open."""
    if settings.paused_code in DISPUTED and not disputes.has_open(session, settings.user_id):
        _resume(session, settings, "The dispute was settled in your favour.", now)


def confirmed(session: Session, settings: AutoTopupSettings, now: datetime) -> bool:
    """The charge that waited for its owner is paid; whether it was that which paused it."""
    if not waits_for_person(settings):
        return False
    _resume(session, settings, "You confirmed the payment with your bank.", now)
    return True


def _resume(session: Session, settings: AutoTopupSettings, reason: str, now: datetime) -> None:
    """Forget declines, delays and the pause; what waits for money is due again.

    So is a look at the balance: the wallet speaks once when it falls below the threshold, and
    may have spoken during the pause.
    A charge that waits for the person to confirm it is looked at soon, and given up if the
    person chose another way.
    """
    settings.declines = 0
    settings.declined_payment_method_id = None
    settings.cool_down_until = None
    settings.paused_code = settings.paused_reason = ""
    settings.paused_at = None
    settings.confirm_url = None
    publish(
        session,
        AutoTopupResumed(
            event_id=new_id(), occurred_at=now, user_id=settings.user_id, reason=reason
        ),
    )
    triggers.make_due(session, settings.user_id, now)
    if settings.is_enabled:
        triggers.look_at_balance(session, settings.user_id, now)
    session.execute(
        update(Topup)
        .where(Topup.user_id == settings.user_id, Topup.status == TopupStatus.ACTION_REQUIRED)
        .values(next_look_at=now)
        .execution_options(synchronize_session=False)
    )


def count_decline(
    session: Session,
    settings: AutoTopupSettings,
    topup: Topup,
    verdict: Verdict,
    message: str,
    policy: Policy,
    now: datetime,
) -> None:
    """Wait twice as long as the last time, take the backup card, or pause.

    A card that will not work again is dropped in any case: patience would not help it.
    """
    settings.declines += 1
    if verdict == Verdict.NEEDS_PERSON:
        pause(session, settings, AUTHENTICATION, message, now)
    elif verdict == Verdict.TERMINAL:
        _drop_card(session, settings, topup.payment_method_id, message, now)
    if settings.declines >= policy.declines_max:
        reason = f"{settings.declines} charges in a row were declined. The last time: {message}"
        pause(session, settings, TOO_MANY_DECLINES, reason, now)
    elif verdict == Verdict.RETRY_LATER:
        settings.declined_payment_method_id = topup.payment_method_id
        if not _has_other_card(settings, topup.payment_method_id):
            settings.cool_down_until = now + policy.decline_delay * 2 ** (settings.declines - 1)


def _has_other_card(settings: AutoTopupSettings, declined: str | None) -> bool:
    """Whether the backup card is next: then the ordinary cool-down is enough."""
    return settings.backup_payment_method_id is not None and declined == settings.payment_method_id


def _drop_card(
    session: Session,
    settings: AutoTopupSettings,
    payment_method_id: str | None,
    message: str,
    now: datetime,
) -> None:
    """Never charge this card again: the backup card takes its place, or all is paused."""
    backup = settings.backup_payment_method_id
    if backup is not None and backup != payment_method_id:
        settings.payment_method_id = backup
        settings.backup_payment_method_id = None
    elif backup == payment_method_id and settings.payment_method_id != backup:
        settings.backup_payment_method_id = None
    else:
        pause(session, settings, CARD_REFUSED, message, now)
