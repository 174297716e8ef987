"""Limits of automatic charges: UTC days and months of a user, hours as the last fuse.

What counts is every attempt that took money or may still take it; an attempt counts in the
window in which it was reserved. Called with the user's settings row locked, the sums are exact.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.database import lock_until_commit
from contracts.topup import TopupKind, TopupStatus
from services.topup.automatic import disputes, pages
from services.topup.models import Switch, Topup
from services.topup.policy import Policy
from services.topup.processor import UNREACHED

IN_FLIGHT = (
    TopupStatus.CREATED,
    TopupStatus.PROCESSING,
    TopupStatus.UNKNOWN,
    TopupStatus.ACTION_REQUIRED,
)
RELEASED = (TopupStatus.FAILED, TopupStatus.CANCELLED)
"""An attempt in these states has moved no money and can move none: it counts no more."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Usage:
    """What automatic top-up has used up to now. Amounts are micro-dollars."""

    day_micros: int = 0
    month_micros: int = 0
    in_flight_topup_id: UUID | None = None
    is_credit_on_its_way: bool = False
    """A paid top-up, also one by hand, that the wallet has not credited yet."""
    user_hour_count: int = 0
    user_hour_micros: int = 0
    system_hour_count: int = 0
    system_hour_micros: int = 0
    has_open_dispute: bool = False
    is_stopped: bool = False
    card_page_until: datetime | None = None
    """Until when a card page is open on which the purchase in question may be paid."""

    def when_at_rest(self) -> "Usage":
        """As it is once nothing is under way any more."""
        return replace(
            self, in_flight_topup_id=None, is_credit_on_its_way=False, card_page_until=None
        )

    def with_charge(self, amount_micros: int) -> "Usage":
        """As it is once this much more is charged."""
        return replace(
            self,
            day_micros=self.day_micros + amount_micros,
            month_micros=self.month_micros + amount_micros,
            user_hour_count=self.user_hour_count + 1,
            user_hour_micros=self.user_hour_micros + amount_micros,
            system_hour_count=self.system_hour_count + 1,
            system_hour_micros=self.system_hour_micros + amount_micros,
        )

    def later(self, now: datetime, until: datetime) -> "Usage":
        """As it is at ``until`` if nothing is charged before."""
        used = self
        if day_start(until) > day_start(now):
            used = replace(used, day_micros=0)
        if month_start(until) > month_start(now):
            used = replace(used, month_micros=0)
        if until - now >= HOUR:
            used = replace(
                used,
                user_hour_count=0,
                user_hour_micros=0,
                system_hour_count=0,
                system_hour_micros=0,
            )
        return used


def day_start(now: datetime) -> datetime:
    """Midnight UTC before ``now``."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def day_end(now: datetime) -> datetime:
    """Midnight UTC after ``now``."""
    return day_start(now) + timedelta(days=1)


def month_start(now: datetime) -> datetime:
    """The first midnight UTC of the month of ``now``."""
    return day_start(now).replace(day=1)


def month_end(now: datetime) -> datetime:
    """The first midnight UTC of the month after ``now``."""
    return (month_start(now) + timedelta(days=32)).replace(day=1)


def used_micros(session: Session, user_id: UUID, since: datetime, until: datetime) -> int:
    """What automatic top-ups reserved or took in [since, until)."""
    return int(
        session.scalar(
            select(func.coalesce(func.sum(Topup.amount_micros), 0)).where(
                Topup.user_id == user_id,
                Topup.kind == TopupKind.AUTO,
                Topup.status.not_in(RELEASED),
                Topup.created_at >= since,
                Topup.created_at < until,
            )
        )
        or 0
    )


def in_flight_topup(session: Session, user_id: UUID) -> Topup | None:
    """The automatic top-up whose end is not known yet."""
    return session.scalar(
        select(Topup).where(
            Topup.user_id == user_id, Topup.kind == TopupKind.AUTO, Topup.status.in_(IN_FLIGHT)
        )
    )


def in_flight_topup_id(session: Session, user_id: UUID) -> UUID | None:
    """Its id."""
    topup = in_flight_topup(session, user_id)
    return topup.topup_id if topup is not None else None


def arriving_micros(session: Session, user_id: UUID, arrived: Collection[UUID] = ()) -> int:
    """What is being charged by itself or was paid, and is not in the wallet yet.

    ``arrived`` are top-ups that are in it though we have not heard of that.
    """
    return int(
        session.scalar(
            select(func.coalesce(func.sum(Topup.amount_micros), 0)).where(
                Topup.user_id == user_id,
                Topup.topup_id.not_in(arrived),
                (Topup.status == TopupStatus.PAID)
                | ((Topup.kind == TopupKind.AUTO) & Topup.status.in_(IN_FLIGHT)),
            )
        )
        or 0
    )


def paid_topups(session: Session, user_id: UUID) -> list[UUID]:
    """What was paid and is not credited as far as we have heard."""
    return list(
        session.scalars(
            select(Topup.topup_id).where(Topup.user_id == user_id, Topup.status == TopupStatus.PAID)
        )
    )


def was_paid_since(session: Session, user_id: UUID, moment: datetime) -> bool:
    """Whether a top-up of this user's was paid then or later: older news of the balance is old."""
    found = session.scalar(
        select(Topup.topup_id).where(Topup.user_id == user_id, Topup.paid_at >= moment).limit(1)
    )
    return found is not None


def usage(
    session: Session,
    user_id: UUID,
    now: datetime,
    policy: Policy,
    purchase: str = "",
) -> Usage:
    """All counters at once. For a reservation, call :func:`fuse_lock` first."""
    page = pages.open_for(session, user_id, purchase) if purchase else None
    user_hour = _hour(session, now, user_id)
    system_hour = _hour(session, now, None)
    return Usage(
        day_micros=used_micros(session, user_id, day_start(now), day_end(now)),
        month_micros=used_micros(session, user_id, month_start(now), month_end(now)),
        in_flight_topup_id=in_flight_topup_id(session, user_id),
        # What was paid after the balance was read is not in it either.
        is_credit_on_its_way=bool(paid_topups(session, user_id))
        or was_paid_since(session, user_id, now),
        user_hour_count=user_hour[0],
        user_hour_micros=user_hour[1],
        system_hour_count=system_hour[0],
        system_hour_micros=system_hour[1],
        has_open_dispute=disputes.has_open(session, user_id),
        is_stopped=is_stopped(session),
        card_page_until=pages.closes_at(page, policy) if page is not None else None,
    )


def fuse_lock(session: Session) -> None:
    """Let one reservation of the whole system through at a time, so that its cap is exact.

    A reservation is two statements long; charges themselves run side by side.
    """
    lock_until_commit(session, "topup.fuse")


def is_stopped(session: Session) -> bool:
    """Whether the operator's switch stops all automatic charges."""
    return bool(session.scalar(select(Switch.is_stopped).where(Switch.id == 1)))


def unsent_count(session: Session, user_id: UUID, now: datetime) -> int:
    """How many attempts of the last hour never left this machine."""
    return int(
        session.scalar(
            select(func.count()).where(
                Topup.user_id == user_id,
                Topup.kind == TopupKind.AUTO,
                Topup.failure_code == UNREACHED,
                Topup.created_at > now - HOUR,
            )
        )
        or 0
    )


def _hour(session: Session, now: datetime, user_id: UUID | None) -> tuple[int, int]:
    """Attempts of the last hour, failed ones too: a fuse has no use for excuses.

    Those that never left this machine are none: an outage must not blow it for everybody.
    """
    query = select(func.count(), func.coalesce(func.sum(Topup.amount_micros), 0)).where(
        Topup.kind == TopupKind.AUTO,
        Topup.failure_code != UNREACHED,
        Topup.created_at > now - HOUR,
    )
    if user_id is not None:
        query = query.where(Topup.user_id == user_id)
    count, total = session.execute(query).one()
    return int(count), int(total)
