"""Shortages: what billing tells of months, and what was used, that a wallet does not pay.

It tells the whole gap, and that it is smaller where something was paid or stopped. Each has a queue
of its own, and one that could not be handled comes later: whatever the order in which they come,
what billing counted last is what counts.

Money that comes ends what lacked it before: that is paid by then, or told again. Which was before
is told by the entries of the wallet, that refused, and that was credited: no clock is asked. What
versions before tell names none, and is compared by their clocks.
"""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.locks import locked
from contracts.billing import RenewalShortOfFunds, ShortageLessened
from contracts.topup import Trigger
from services.topup.automatic import triggers
from services.topup.models import ShortageRecord, TriggerRecord
from services.topup.topups import came_since

LATE = timedelta(seconds=1)
"""What is heard so long after the wallet refused it waits for what was told since, and the wallet
is asked: credits of others pay months, too, and are told by another queue. By clocks that are
apart it waits for nothing, or not at all."""


def hear(session: Session, event: RenewalShortOfFunds, now: datetime) -> TriggerRecord | None:
    """Months lack money: raise a trigger for all that does; see :func:`triggers.raise_trigger`.

    None where newer news is known, or money has come since. A frozen wallet says nothing of what it
    has: it is asked, and keeps the card from being charged.
    """
    needed_micros = event.shortfall_micros + event.available_micros
    is_late = now - event.occurred_at > LATE
    available_micros = None if event.is_frozen or is_late else event.available_micros
    has_come = event.entry_count is None and came_since(session, event.user_id, event.occurred_at)
    if event.counted_at is not None:
        known = _known(session, event.user_id, now)
        if known.told_at is not None and known.told_at >= event.counted_at:
            return None
        known.told_at, known.entry_count = event.counted_at, event.entry_count
        has_come = has_come or _is_before(event.entry_count, known.credited_entry)
        if known.lessened_at is not None and known.lessened_at > event.counted_at:
            # Since then something was paid or stopped. What the wallet has is asked for the rest.
            needed_micros = min(needed_micros, known.lessened_micros)
            available_micros = None
    if needed_micros <= 0 or has_come:
        return None
    if event.counted_at is not None:
        triggers.lower_renewals(session, event.user_id, 0)
    return triggers.raise_trigger(
        session,
        event.user_id,
        Trigger.RENEWAL,
        str(event.deployment_id),
        now + triggers.PURCHASES_FIRST if is_late else now,
        raised_at=event.occurred_at,
        needed_micros=needed_micros,
        shortfall_micros=event.shortfall_micros,
        available_micros=available_micros,
    )


def lessen(session: Session, event: ShortageLessened, now: datetime) -> None:
    """Something that lacked money is paid, or does not run any more: all that still lacks it needs
    no more than this, as far as it was counted before. What it has is asked of the wallet."""
    if event.counted_at is None:
        # A version before told this, which says no more of the order.
        triggers.lower_renewals(session, event.user_id, event.needed_micros, event.occurred_at)
        return
    known = _known(session, event.user_id, now)
    if known.lessened_at is not None and known.lessened_at >= event.counted_at:
        return
    known.lessened_at, known.lessened_micros = event.counted_at, event.needed_micros
    if known.told_at is None or known.told_at < event.counted_at:
        triggers.lower_renewals(session, event.user_id, event.needed_micros)


def money_came(
    session: Session, user_id: UUID, entry_number: int | None, came_at: datetime, now: datetime
) -> None:
    """A wallet was credited: what lacked money before needs none of a card any more."""
    if entry_number is None:
        triggers.end_renewals(session, user_id, came_at)
        return
    known = _known(session, user_id, now)
    known.credited_entry = max(entry_number, known.credited_entry or 0)
    if known.entry_count is None:
        triggers.end_renewals(session, user_id, came_at)
    elif _is_before(known.entry_count, entry_number):
        triggers.lower_renewals(session, user_id, 0)


def _is_before(entry_count: int | None, entry_number: int | None) -> bool:
    """Whether a wallet of so many entries was asked before it was credited by this one."""
    return entry_count is not None and entry_number is not None and entry_count < entry_number


def _known(session: Session, user_id: UUID, now: datetime) -> ShortageRecord:
    """What is known of this user, held: of two who hear at once one waits."""
    missing = insert(ShortageRecord).values(user_id=user_id, lessened_micros=0, heard_at=now)
    session.execute(missing.on_conflict_do_nothing())
    known = locked(session, ShortageRecord, user_id)
    known.heard_at = now
    return known
