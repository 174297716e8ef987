"""Limits of automatic charges: UTC days and months of a user, hours as the last fuse.

What counts is every attempt that took money or may still take it; an attempt counts in the
window in which it was reserved. Called with the user's settings row locked, the sums are exact.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    DateTime,
    Select,
    Uuid,
    bindparam,
    cast,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.orm import Session

from chassis.clock import midnight
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
    has_card_page: bool = False
    """Whether one is open for any purchase: what a fresh event adds up counts that as well."""

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
    return midnight(now.astimezone(UTC))


def day_end(now: datetime) -> datetime:
    """Midnight UTC after ``now``."""
    return day_start(now) + timedelta(days=1)


def month_start(now: datetime) -> datetime:
    """The first midnight UTC of the month of ``now``."""
    return day_start(now).replace(day=1)


def month_end(now: datetime) -> datetime:
    """The first midnight UTC of the month after ``now``."""
    return (month_start(now) + timedelta(days=32)).replace(day=1)


def _used(since: str, until: str) -> Select[int]:
    return select(_SUM).where(
        Topup.user_id == _USER,
        Topup.kind == TopupKind.AUTO,
        Topup.status.not_in(RELEASED),
        Topup.created_at >= _moment(since),
        Topup.created_at < _moment(until),
    )


def _attempts(*whose: ColumnElement[bool]) -> Select[int, int]:
    """Failed ones too: a fuse has no use for excuses.

    Those that never left this machine are none: an outage must not blow it for everybody.
    """
    return select(func.count().label("attempts"), _SUM.label("micros")).where(
        *whose,
        Topup.kind == TopupKind.AUTO,
        Topup.failure_code != UNREACHED,
        Topup.created_at > _moment("hour_since"),
    )


def _moment(name: str) -> BindParameter[datetime]:
    return bindparam(name, type_=DateTime(timezone=True))


# Put together once, which takes longer than asking.
_USER: BindParameter[UUID] = bindparam("user_id", type_=Uuid())
_SUM = cast(func.coalesce(func.sum(Topup.amount_micros), 0), BigInteger)
_USED = _used("since", "until")
_IN_FLIGHT = select(Topup).where(
    Topup.user_id == _USER, Topup.kind == TopupKind.AUTO, Topup.status.in_(IN_FLIGHT)
)
_PAID = select(Topup.topup_id).where(Topup.user_id == _USER, Topup.status == TopupStatus.PAID)
_PAID_SINCE = select(Topup.topup_id).where(
    Topup.user_id == _USER, Topup.paid_at >= _moment("paid_since")
)
_WAS_PAID_SINCE = select(_PAID_SINCE.exists())
_IS_STOPPED = select(Switch.is_stopped).where(Switch.id == 1)
_OF_USER = _attempts(Topup.user_id == _USER).subquery("of_user")
_OF_ALL = _attempts().subquery("of_all")
_USAGE = select(
    _used("day_since", "day_until").scalar_subquery().label("day_micros"),
    _used("month_since", "month_until").scalar_subquery().label("month_micros"),
    _IN_FLIGHT.with_only_columns(Topup.topup_id).scalar_subquery().label("in_flight_topup_id"),
    # What was paid after the balance was read is not in it either.
    or_(_PAID.exists(), _PAID_SINCE.exists()).label("is_credit_on_its_way"),
    _OF_USER.c.attempts.label("user_hour_count"),
    _OF_USER.c.micros.label("user_hour_micros"),
    _OF_ALL.c.attempts.label("system_hour_count"),
    _OF_ALL.c.micros.label("system_hour_micros"),
    disputes.OPEN.exists().label("has_open_dispute"),
    func.coalesce(_IS_STOPPED.scalar_subquery(), False).label("is_stopped"),
    pages.OPENED_AT.scalar_subquery().label("card_page_opened_at"),
    pages.ANY_OPEN.exists().label("has_card_page"),
).join_from(_OF_USER, _OF_ALL, true())


def used_micros(session: Session, user_id: UUID, since: datetime, until: datetime) -> int:
    """What automatic top-ups reserved or took in [since, until)."""
    asked = {"user_id": user_id, "since": since, "until": until}
    return session.scalars(_USED, asked).one()


def in_flight_topup(session: Session, user_id: UUID) -> Topup | None:
    """The automatic top-up whose end is not known yet."""
    return session.scalar(_IN_FLIGHT, {"user_id": user_id})


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
    return list(session.scalars(_PAID, {"user_id": user_id}))


def was_paid_since(session: Session, user_id: UUID, moment: datetime) -> bool:
    """Whether a top-up of this user's was paid then or later: older news of the balance is old."""
    asked = {"user_id": user_id, "paid_since": moment}
    return bool(session.scalar(_WAS_PAID_SINCE, asked))


def usage(
    session: Session,
    user_id: UUID,
    now: datetime,
    policy: Policy,
    purchase: str = "",
) -> Usage:
    """All counters at once. For a reservation, call :func:`fuse_lock` first."""
    asked = {
        "user_id": user_id,
        "purchase": purchase,
        "day_since": day_start(now),
        "day_until": day_end(now),
        "month_since": month_start(now),
        "month_until": month_end(now),
        "hour_since": now - HOUR,
        "paid_since": now,
    }
    found = dict(session.execute(_USAGE, asked).mappings().one())
    opened_at = found.pop("card_page_opened_at")
    return Usage(**found, card_page_until=opened_at and opened_at + policy.page_life)


def fuse_lock(session: Session) -> None:
    """Let one reservation of the whole system through at a time, so that its cap is exact, and
    none goes out that has not seen the operator's stop.

    A reservation is a few statements long; charges themselves run side by side.
    """
    lock_until_commit(session, "topup.fuse")


def is_stopped(session: Session) -> bool:
    """Whether the operator's switch stops all automatic charges."""
    return bool(session.scalar(_IS_STOPPED))


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
