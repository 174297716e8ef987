"""What a long random life comes to: what is seen of one user, and the states worth reaching."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, FromClause, Row, select, text
from sqlalchemy.orm import Session

from contracts.topup import RefusalCode, TopupKind, TopupStatus, Trigger
from services.topup.automatic import limits, pages
from services.topup.models import AutoTopupSettings, RefusalRecord, Reversal, Topup, TriggerRecord

Histories = dict[UUID, set[str]]
"""The statuses that each top-up was ever seen in."""


@dataclass
class Sight:
    """One user at one moment, as our tables have it."""

    topups: list[Any] = field(default_factory=list)
    triggers: list[Any] = field(default_factory=list)
    reversals: list[Any] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    settings: Any = None

    @property
    def in_flight(self) -> list[Any]:
        return [t for t in self.topups if t.kind == TopupKind.AUTO and t.status in limits.IN_FLIGHT]

    @property
    def waiting(self) -> list[Any]:
        """Purchases that fell short and have not ended."""
        return [t for t in self.triggers if t.trigger == Trigger.PURCHASE and t.ended_at is None]

    @property
    def is_enabled(self) -> bool:
        return self.settings is not None and self.settings.is_enabled

    @property
    def is_paused(self) -> bool:
        return self.settings is not None and bool(self.settings.paused_code)


def sights(session: Session, user_ids: Iterable[UUID]) -> dict[UUID, Sight]:
    """All of them at this moment, in one query for each table."""
    seen = {user_id: Sight() for user_id in user_ids}
    for row in _rows(session, Topup, Topup.created_at, Topup.topup_id):
        seen[row.user_id].topups.append(row)
    for row in _rows(session, TriggerRecord, TriggerRecord.raised_at):
        seen[row.user_id].triggers.append(row)
    for row in _rows(session, Reversal, Reversal.taken_at):
        seen[row.user_id].reversals.append(row)
    for row in _rows(session, RefusalRecord):
        seen[row.user_id].refusals.add(row.code)
    for row in _rows(session, AutoTopupSettings):
        seen[row.user_id].settings = row
    for kind, payload in session.execute(text("SELECT type, payload FROM outbox ORDER BY id")):
        seen[UUID(payload["user_id"])].events[kind].append(payload)
    return seen


def _rows(session: Session, model: Any, *order: ColumnElement[Any]) -> Iterable[Row[Any]]:
    table: FromClause = model.__table__
    return session.execute(select(table).order_by(*order))


@dataclass
class Moment:
    """One step of a user's life. ``was``: the statuses of top-ups up to then; ``cut_short``:
    top-ups that were under way when a process died."""

    before: Sight
    after: Sight
    was: Histories
    cut_short: set[UUID]

    def moved(self, *statuses: TopupStatus, kind: TopupKind = TopupKind.AUTO) -> list[Any]:
        """Top-ups that came to one of these in this step."""
        return [
            topup
            for topup in self.after.topups
            if topup.kind == kind
            and topup.status in statuses
            and topup.status not in self.was.get(topup.topup_id, ())
        ]

    def came_from(self, status: TopupStatus, *to: TopupStatus) -> bool:
        return any(status in self.was.get(topup.topup_id, ()) for topup in self.moved(*to))

    def is_refused(self, code: RefusalCode) -> bool:
        return code in self.after.refusals - self.before.refusals

    def reversals(self, *, is_dispute: bool) -> list[tuple[Any, Any]]:
        """As they were before this step, None where they are new, and are after it."""
        earlier = {r.reversal_id: r for r in self.before.reversals}
        return [
            (earlier.get(r.reversal_id), r)
            for r in self.after.reversals
            if r.is_dispute == is_dispute
        ]

    def is_decided(self, status: str) -> bool:
        return any(
            old is not None and old.status != status == new.status
            for old, new in self.reversals(is_dispute=True)
        )

    def is_taken(self, *, is_dispute: bool) -> bool:
        return any(old is None for old, _ in self.reversals(is_dispute=is_dispute))

    @property
    def ended(self) -> set[str]:
        """References of purchases that ended in this step."""
        over = {t.reference for t in self.before.waiting}
        return over - {t.reference for t in self.after.waiting}


def _pays_for_two(moment: Moment) -> bool:
    """One charge for the gap of several purchases, larger than each and than usual."""
    waiting = moment.after.waiting
    return any(
        len(waiting) > 1
        and topup.amount_micros > max(trigger.needed_micros for trigger in waiting)
        and topup.amount_micros > moment.after.settings.amount_micros
        for topup in moment.moved(*limits.IN_FLIGHT, TopupStatus.PAID)
    )


S = TopupStatus
GIVEN_UP = (S.FAILED, S.CANCELLED)
STATES: dict[str, Callable[[Moment], bool]] = {
    "a charge of unknown outcome is credited": lambda m: m.came_from(S.UNKNOWN, S.CREDITED),
    "a charge of unknown outcome was not made": lambda m: m.came_from(S.UNKNOWN, *GIVEN_UP),
    "a charge that a crash cut short is credited": lambda m: any(
        topup.topup_id in m.cut_short for topup in m.moved(S.CREDITED)
    ),
    "a charge that the bank wants confirmed is credited": lambda m: m.came_from(
        S.ACTION_REQUIRED, S.CREDITED
    ),
    "a charge that the bank wants confirmed is given up": lambda m: m.came_from(
        S.ACTION_REQUIRED, *GIVEN_UP
    ),
    "a charge is declined": lambda m: bool(m.moved(S.FAILED)),
    "declines pause it": lambda m: (
        m.after.is_paused > m.before.is_paused and bool(m.moved(S.FAILED))
    ),
    "what was reserved is not sent": lambda m: m.came_from(S.CREATED, S.CANCELLED),
    "what was marked as sent does not go out": lambda m: m.came_from(S.PROCESSING, S.CANCELLED),
    "it is switched off while a charge is under way": lambda m: (
        m.before.is_enabled > m.after.is_enabled and bool(m.after.in_flight)
    ),
    "a purchase ends while its charge is under way": lambda m: any(
        topup.trigger_reference in m.ended for topup in m.after.in_flight
    ),
    "two that fall short are paid by one charge": _pays_for_two,
    "a charge would start while another is under way": lambda m: m.is_refused(
        RefusalCode.IN_FLIGHT
    ),
    "a charge would start while a page is open": lambda m: m.is_refused(RefusalCode.CARD_PAGE_OPEN),
    "a charge would start after a decline": lambda m: m.is_refused(RefusalCode.COOL_DOWN),
    "a charge would start while it is paused": lambda m: m.is_refused(RefusalCode.PAUSED),
    "a charge would start while all is stopped": lambda m: m.is_refused(
        RefusalCode.STOPPED_BY_OPERATOR
    ),
    "a charge would exceed the day's limit": lambda m: m.is_refused(RefusalCode.DAILY_LIMIT),
    "a charge would exceed the month's limit": lambda m: m.is_refused(RefusalCode.MONTHLY_LIMIT),
    "a purchase is paid on its page": lambda m: any(
        topup.purchase_id for topup in m.moved(S.CREDITED, kind=TopupKind.MANUAL)
    ),
    "a page is closed because its purchase ended": lambda m: any(
        topup.closing_reason == pages.ENDED for topup in m.moved(S.CANCELLED, kind=TopupKind.MANUAL)
    ),
    "a page that is to be closed is paid": lambda m: any(
        topup.closing_reason for topup in m.moved(S.PAID, S.CREDITED, kind=TopupKind.MANUAL)
    ),
    "a payment is refunded": lambda m: m.is_taken(is_dispute=False),
    "a payment is refunded while it is paused": lambda m: (
        m.is_taken(is_dispute=False) and m.before.is_paused
    ),
    "a payment is refunded while a charge is under way": lambda m: (
        m.is_taken(is_dispute=False) and bool(m.before.in_flight)
    ),
    "a refund fails": lambda m: any(
        new.restored_at and not (old and old.restored_at)
        for old, new in m.reversals(is_dispute=False)
    ),
    "a dispute is opened": lambda m: m.is_taken(is_dispute=True),
    "a dispute is won": lambda m: m.is_decided("won"),
    "a dispute is lost": lambda m: m.is_decided("lost"),
    "a dispute is opened while a charge is under way": lambda m: (
        m.is_taken(is_dispute=True) and bool(m.before.in_flight)
    ),
}
"""A run that does not come to all of these proves little."""
