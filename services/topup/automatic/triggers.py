"""Triggers: what asks for an automatic top-up, until it is charged, refused, or needed no more.

A row is written in the transaction that handles the event, so that a crash loses none. It is
due until somebody decided about it; a refusal that passes by itself (a cool-down, a limit that
starts anew) makes it due again at that time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Text, and_, cast, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from chassis.bulk import Batch, Bulk
from chassis.identifiers import new_id
from chassis.leases import Leases
from contracts.billing import PurchaseShortOfFunds
from contracts.topup import RefusalCode, TopupKind, Trigger
from contracts.wallet import BalanceLow, LowBalanceLevel
from services.topup.models import Topup, TriggerRecord
from services.topup.topups import PAYABLE

DUE = Leases(TriggerRecord.due_at, TriggerRecord.user_id, lease=timedelta(seconds=10))
"""Triggers that nobody has decided about."""
PURCHASES_FIRST = timedelta(seconds=5)
"""After a credit, waiting purchases take their money before we look what is still lacking."""
WAITS_AT_MOST = {
    Trigger.PURCHASE: timedelta(hours=25),
    Trigger.RENEWAL: timedelta(days=3),
    Trigger.LOW_BALANCE: timedelta(days=32),
    Trigger.SETTINGS_SAVED: timedelta(days=32),
    Trigger.BY_HAND: timedelta(0),
}
"""How long a refused trigger may be tried again. A purchase ends after 24 hours anyway; a limit
starts anew after a month at the latest; what a person asked for by hand is for them to repeat."""


WAITING = (Trigger.PURCHASE, Trigger.RENEWAL)
"""What waits for money; the others ask for a look at the balance."""


_END = Bulk(
    "INSERT INTO triggers (trigger_id, user_id, trigger, reference, needed_micros,"
    " shortfall_micros, raised_at, tries, refusal_code, ended_at)"
    " SELECT trigger_id, user_id, trigger, reference, 0, 0, ended_at, 0, '', ended_at FROM {rows}"
    " ON CONFLICT (user_id, trigger, reference) DO UPDATE"
    " SET ended_at = excluded.ended_at, due_at = NULL",
    trigger_id="uuid",
    user_id="uuid",
    trigger="text",
    reference="text",
    ended_at="timestamptz",
)
_END_IDLENESS = Bulk(
    "UPDATE triggers SET due_at = new.due_at, raised_at = new.due_at, tries = tries + 1"
    " FROM {rows} WHERE triggers.user_id = new.user_id"
    " AND trigger = 'low_balance' AND refusal_code = 'idle'"
    " AND ended_at IS NULL",
    user_id="uuid",
    due_at="timestamptz",
)


@dataclass(frozen=True)
class Pending:
    """A trigger that may still lead to a charge. ``is_due``: it is decided about (again).

    ``needed_micros`` is the price of a purchase that waits; 0 asks for a look at the balance.
    ``has_card_page``: it is left to that page, and takes credits that come otherwise all the same.
    """

    trigger: Trigger
    reference: str
    needed_micros: int
    is_due: bool
    has_card_page: bool = False
    raised_at: datetime | None = None


def raise_for_purchase(
    session: Session, event: PurchaseShortOfFunds, now: datetime
) -> TriggerRecord | None:
    """A purchase lacks money; see :func:`raise_trigger`."""
    return raise_trigger(
        session,
        event.user_id,
        Trigger.PURCHASE,
        str(event.purchase_id),
        now,
        raised_at=event.occurred_at,
        needed_micros=event.total_micros,
        shortfall_micros=event.total_shortfall_micros,
        available_micros=event.available_micros,
    )


def raise_for_low_balance(
    session: Session, event: BalanceLow, now: datetime
) -> TriggerRecord | None:
    """The balance fell below the threshold of auto top-up; other levels are none of its."""
    if event.level != LowBalanceLevel.AUTO_TOPUP:
        return None
    return raise_trigger(
        session,
        event.user_id,
        Trigger.LOW_BALANCE,
        str(event.event_id),
        now,
        raised_at=event.occurred_at,
    )


def raise_trigger(
    session: Session,
    user_id: UUID,
    trigger: Trigger,
    reference: str,
    now: datetime,
    *,
    raised_at: datetime,
    needed_micros: int = 0,
    shortfall_micros: int = 0,
    available_micros: int | None = None,
) -> TriggerRecord | None:
    """Store a trigger as due, and hold it; None when nothing newer is told of it.

    Newer news of a purchase or a renewal replaces what was known, unless it has ended; of a renewal
    also whatever needs nothing any more. What a person asks for by hand is asked once: its key
    again is a repetition, not news.
    """
    row = {
        "trigger_id": new_id(),
        "user_id": user_id,
        "trigger": trigger,
        "reference": reference,
        "needed_micros": needed_micros,
        "shortfall_micros": shortfall_micros,
        "available_micros": available_micros,
        "raised_at": raised_at,
        "due_at": now,
        "tries": 0,
        "topup_id": None,
        "refusal_code": "",
    }
    return session.scalar(_RAISE, row, execution_options={"populate_existing": True})


_NEEDS_NO_MORE = (TriggerRecord.trigger == Trigger.RENEWAL) & (TriggerRecord.needed_micros == 0)
"""A renewal that is paid, or was stopped, or that newer news has taken the place of."""


def _raising() -> ReturningInsert[TriggerRecord]:
    raised = insert(TriggerRecord)
    news = (
        "needed_micros",
        "shortfall_micros",
        "available_micros",
        "raised_at",
        "due_at",
        "tries",
        "topup_id",
        "refusal_code",
    )
    return raised.on_conflict_do_update(
        index_elements=["user_id", "trigger", "reference"],
        set_={name: raised.excluded[name] for name in news},
        where=TriggerRecord.ended_at.is_(None)
        & (TriggerRecord.trigger != Trigger.BY_HAND)
        & ((TriggerRecord.raised_at < raised.excluded.raised_at) | _NEEDS_NO_MORE),
    ).returning(TriggerRecord)


# Made once: putting it together takes longer than carrying it out.
_RAISE = _raising()


def ask_by_hand(session: Session, user_id: UUID, key: str, now: datetime) -> UUID:
    """Store that a person asks for a top-up; the trigger's id, also when the key is repeated."""
    raise_trigger(session, user_id, Trigger.BY_HAND, key, now, raised_at=now)
    return session.scalars(
        select(TriggerRecord.trigger_id).where(
            TriggerRecord.user_id == user_id,
            TriggerRecord.trigger == Trigger.BY_HAND,
            TriggerRecord.reference == key,
        )
    ).one()


def look_at_balance(session: Session, user_id: UUID, now: datetime) -> None:
    """As if the wallet had just said that it is low, once purchases had their turn."""
    soon = now + PURCHASES_FIRST
    raise_trigger(session, user_id, Trigger.LOW_BALANCE, str(new_id()), soon, raised_at=now)


def end(writes: Batch, trigger: Trigger, ended: Iterable[tuple[UUID, str]], now: datetime) -> None:
    """Users and references that need no money any more: paid, cancelled, expired. Also when their
    news comes later."""
    writes.add(_END, [(new_id(), user_id, trigger, name, now) for user_id, name in sorted(ended)])


def purchase_of(record: TriggerRecord) -> str:
    """The id of the purchase that this trigger asks for; empty where it is none's."""
    return record.reference if record.trigger == Trigger.PURCHASE else ""


def is_over(session: Session, user_id: UUID, purchase_id: UUID) -> bool:
    """Whether this purchase needs no money any more."""
    return _needs_nothing(session, user_id, Trigger.PURCHASE, str(purchase_id))


def has_ended(session: Session, topup: Topup) -> bool:
    """Whether what asked for this top-up needs no money any more."""
    return _needs_nothing(session, topup.user_id, topup.trigger, topup.trigger_reference)


def _needs_nothing(
    session: Session, user_id: UUID, trigger: str | None, reference: str | None
) -> bool:
    found = session.scalar(
        select(TriggerRecord.trigger_id).where(
            TriggerRecord.user_id == user_id,
            TriggerRecord.trigger == trigger,
            TriggerRecord.reference == reference,
            TriggerRecord.ended_at.is_not(None) | _NEEDS_NO_MORE,
        )
    )
    return found is not None


def waiting_micros(session: Session, user_id: UUID, now: datetime) -> int:
    """What all purchases and renewals cost together that wait for money, and for no card page."""
    return to_charge_for(pending(session, user_id, now))


def to_charge_for(waiting: list[Pending]) -> int:
    """What those of them cost together that are left to no card page, in micro-dollars."""
    return sum(item.needed_micros for item in waiting if not item.has_card_page)


def pending(session: Session, user_id: UUID, now: datetime) -> list[Pending]:
    """What waits for money, and what asks for a look at the balance; the oldest first.

    Of renewals the newest: it asks for all that is due by then, what was asked before included.
    An idle account's look is due with the next purchase: see :func:`end_idleness`.
    """
    waits = _still_waits(now) & (TriggerRecord.needed_micros > 0)
    looks = TriggerRecord.trigger.in_((Trigger.LOW_BALANCE, Trigger.SETTINGS_SAVED)) & (
        TriggerRecord.due_at.is_not(None) | (TriggerRecord.refusal_code == RefusalCode.IDLE)
    )
    rows = session.execute(
        select(TriggerRecord, _has_card_page())
        .where(TriggerRecord.user_id == user_id, TriggerRecord.ended_at.is_(None), waits | looks)
        .order_by(TriggerRecord.trigger_id)
    ).all()
    renewed = [row.raised_at for row, _ in rows if row.trigger == Trigger.RENEWAL]
    return [
        Pending(
            Trigger(row.trigger),
            row.reference,
            row.needed_micros if row.trigger in WAITING else 0,
            is_due=row.due_at is not None
            and row.refusal_code != RefusalCode.IDLE
            and not has_card_page,
            has_card_page=has_card_page,
            raised_at=row.raised_at,
        )
        for row, has_card_page in rows
        if row.trigger != Trigger.RENEWAL or row.raised_at == max(renewed)
    ]


def waits_since(now: datetime) -> datetime:
    """What was raised before this waits no more, whatever it is."""
    return now - max(WAITS_AT_MOST[each] for each in WAITING)


def _still_waits(now: datetime) -> ColumnElement[bool]:
    """Whether a trigger asks for money that it has not waited for too long."""
    return or_(
        *(
            and_(TriggerRecord.trigger == each, TriggerRecord.raised_at > now - WAITS_AT_MOST[each])
            for each in WAITING
        )
    )


def end_idleness(writes: Batch, users: Iterable[UUID], now: datetime) -> None:
    """They bought something: a low balance that was left alone until now is looked at.

    The wallet speaks once when it falls below the threshold, and has spoken already.
    """
    writes.add(_END_IDLENESS, [(user_id, now) for user_id in users])


def _has_card_page() -> ColumnElement[bool]:
    """Whether a page is open on which the purchase of a trigger may be paid."""
    return (
        select(Topup.topup_id)
        .where(
            Topup.user_id == TriggerRecord.user_id,
            cast(Topup.purchase_id, Text) == TriggerRecord.reference,
            Topup.kind == TopupKind.MANUAL,
            Topup.status.in_(PAYABLE),
        )
        .exists()
    )


def card_page_closed(
    session: Session, user_id: UUID, purchase_id: UUID | None, now: datetime
) -> None:
    """What left a purchase to its card page is decided about anew, unless another one is opened."""
    soon = now + PURCHASES_FIRST
    session.execute(
        update(TriggerRecord)
        .where(
            TriggerRecord.user_id == user_id,
            TriggerRecord.trigger == Trigger.PURCHASE,
            TriggerRecord.reference == str(purchase_id),
            TriggerRecord.refusal_code == RefusalCode.CARD_PAGE_OPEN,
            TriggerRecord.due_at > soon,
        )
        .values(due_at=soon)
    )


def end_renewals(session: Session, user_id: UUID, before: datetime) -> None:
    """Money came: renewals that lacked it until then are paid, or say so again."""
    lower_renewals(session, user_id, 0, before)


def lower_renewals(
    session: Session, user_id: UUID, needed_micros: int, before: datetime | None = None
) -> None:
    """Renewals that asked for more, until then, ask for this. What the wallet has is asked."""
    lowered = (
        update(TriggerRecord)
        .where(
            TriggerRecord.user_id == user_id,
            TriggerRecord.trigger == Trigger.RENEWAL,
            TriggerRecord.ended_at.is_(None),
            TriggerRecord.needed_micros > needed_micros,
        )
        .values(
            needed_micros=needed_micros,
            available_micros=None,
            due_at=TriggerRecord.due_at if needed_micros else None,
        )
    )
    session.execute(lowered if before is None else lowered.where(TriggerRecord.raised_at <= before))


def make_due(session: Session, user_id: UUID, now: datetime) -> None:
    """Decide again about everything of this user's that still waits, as it is now."""
    session.execute(
        update(TriggerRecord)
        .where(
            TriggerRecord.user_id == user_id,
            _still_waits(now),
            TriggerRecord.needed_micros > 0,
            TriggerRecord.ended_at.is_(None),
        )
        .values(due_at=now, tries=TriggerRecord.tries + 1)
    )


_AWAIT_CREDIT = Bulk(
    "SELECT user_id FROM {rows} WHERE EXISTS (SELECT FROM triggers WHERE user_id = new.user_id"
    " AND (refusal_code IN ('in_flight', 'card_page_open')"
    " OR trigger = 'renewal' AND needed_micros > 0) AND ended_at IS NULL)",
    user_id="uuid",
)


def await_credit(session: Session, users: Sequence[UUID]) -> list[bool | Exception]:
    """Whether :func:`credit_arrived` may find anything of each of them."""
    found = set(_AWAIT_CREDIT.scalars(session, [(user_id,) for user_id in set(users)]))
    return [user_id in found for user_id in users]


def credit_arrived(session: Session, user_id: UUID, now: datetime) -> None:
    """What waited for a charge in flight is decided about once purchases had their turn."""
    soon = now + PURCHASES_FIRST
    session.execute(
        update(TriggerRecord)
        .where(
            TriggerRecord.user_id == user_id,
            TriggerRecord.refusal_code.in_((RefusalCode.IN_FLIGHT, RefusalCode.CARD_PAGE_OPEN)),
            TriggerRecord.due_at > soon,
        )
        .values(due_at=soon)
    )


def postpone(record: TriggerRecord, until: datetime | None) -> None:
    """Decide again at ``until``, if it may still wait by then; never when None or ended."""
    may_wait = WAITS_AT_MOST[Trigger(record.trigger)]
    is_wanted = until is not None and until < record.raised_at + may_wait
    record.tries += 1
    record.due_at = until if is_wanted and record.ended_at is None else None
