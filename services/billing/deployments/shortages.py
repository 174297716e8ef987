"""What a user's wallet lacks for all that is due: one gap, whatever of it was refused first.

What runs and is not paid waits for its money on the ladder, and automatic top-up is asked for all
that is due. Where nothing waits, what is owed is for something that does not run any more: its
owner is told, and no card is charged for that by itself.
"""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.database import lock_until_commit
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.billing import OwedShortOfFunds, RenewalShortOfFunds, ShortageLessened
from contracts.messages import MAX_AMOUNT_MICROS
from services.billing.deployments.ladder import Standing
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.models import (
    DeploymentRow,
    PeriodRow,
    ShortageRow,
    UsageChargeLineRow,
    UsageChargeRow,
)
from services.billing.settings import BillingSettings

TICK = timedelta(microseconds=1)


class Refused(NamedTuple):
    """A wallet refused to pay: as of when, what it had, in micro-dollars, and how many entries,
    where it says that."""

    asked_at: datetime
    available_micros: int
    is_frozen: bool
    entry_count: int | None


class _First(NamedTuple):
    """The first of so many deployments."""

    deployment_id: UUID
    name: str
    deployments: int


class _Waiting(NamedTuple):
    """What runs and waits for money: since when the first does, and what their months cost."""

    since: datetime | None
    months_micros: int


def tell(
    session: Session,
    now: datetime,
    user_id: UUID,
    refused: Refused,
    rules: BillingSettings,
    since: datetime | None,
) -> None:
    """Say how much this user lacks for everything that is due now. The caller has settled what else
    is due, and noted what became of what it asked for.

    ``since``: all that is new was to be told then. Whoever told anything after that told of it.
    """
    _lock(session, user_id)
    if since is not None and _is_told(session, user_id, since):
        return
    waiting = _waiting(session, user_id)
    due_micros = _due_micros(session, user_id, waiting)
    shortfall_micros = min(max(due_micros - refused.available_micros, 1), MAX_AMOUNT_MICROS)
    if waiting.since is None:
        owing = _owing(session, user_id)
        if owing is not None:
            publish(session, _owed_event(user_id, refused, owing, due_micros, shortfall_micros))
        return
    oldest = _longest_waiting(session, user_id)
    publish(
        session,
        RenewalShortOfFunds(
            event_id=new_id(),
            # What is paid from then on makes this old news.
            occurred_at=refused.asked_at,
            user_id=user_id,
            deployment_id=oldest.deployment_id,
            shortfall_micros=shortfall_micros,
            available_micros=refused.available_micros,
            name=oldest.name,
            deployments=oldest.deployments,
            suspended_at=waiting.since + rules.grace,
            is_frozen=refused.is_frozen,
            is_usage=not waiting.months_micros,
            counted_at=_count(session, now, user_id),
            entry_count=refused.entry_count,
        ),
    )


def waits(row: Standing) -> bool:
    """Whether automatic top-up was asked for what a deployment needs."""
    return row.short_since is not None or row.usage_short_since is not None


def is_part(due: PeriodRow | UsageChargeRow) -> bool:
    """Whether this was part of a gap that was told, or may have been."""
    return due.told_at is not None or due.money_came_at is not None


def tell_less(session: Session, now: datetime, user_id: UUID) -> None:
    """Something of this user's that waited is paid, or runs no more, and is held by the caller: no
    card is charged for it, whatever keeps automatic top-up from charging at this moment. Not all
    that pays is a credit: a wallet is opened again, a hold ends, a record is corrected."""
    _lock(session, user_id)
    waiting = _waiting(session, user_id)
    due_micros = 0 if waiting.since is None else _due_micros(session, user_id, waiting)
    publish(
        session,
        ShortageLessened(
            event_id=new_id(),
            occurred_at=now,
            user_id=user_id,
            needed_micros=min(due_micros, MAX_AMOUNT_MICROS),
            counted_at=_count(session, now, user_id),
        ),
    )


def _lock(session: Session, user_id: UUID) -> None:
    """One at a time for each user, so that the last one to say it has counted all."""
    lock_until_commit(session, f"renewals:{user_id}")


def _count(session: Session, now: datetime, user_id: UUID) -> datetime:
    """When this is counted: later than what was told of this user before, by whichever clock."""
    first = insert(ShortageRow).values(user_id=user_id, counted_at=now)
    later = func.greatest(first.excluded.counted_at, ShortageRow.counted_at + TICK)
    counted = first.on_conflict_do_update(
        index_elements=["user_id"], set_={"counted_at": later}
    ).returning(ShortageRow.counted_at)
    return session.scalars(counted).one()


def _due_micros(session: Session, user_id: UUID, waiting: _Waiting) -> int:
    owed_micros = _arrears_micros(session, user_id) + _usage_micros(session, user_id)
    return waiting.months_micros + owed_micros


def _owed_event(
    user_id: UUID, refused: Refused, owing: _First, owed_micros: int, shortfall_micros: int
) -> OwedShortOfFunds:
    return OwedShortOfFunds(
        event_id=new_id(),
        occurred_at=refused.asked_at,
        user_id=user_id,
        deployment_id=owing.deployment_id,
        name=owing.name,
        deployments=owing.deployments,
        owed_micros=min(owed_micros, MAX_AMOUNT_MICROS),
        shortfall_micros=shortfall_micros,
        available_micros=refused.available_micros,
        is_frozen=refused.is_frozen,
    )


# A deployment waits with its month, which was refused, or for its usage.
_MONTH_WAITS = and_(
    PeriodRow.deployment_id == DeploymentRow.deployment_id,
    PeriodRow.status == PeriodStatus.DUE,
    PeriodRow.kind == PeriodKind.MONTH,
    DeploymentRow.short_since.is_not(None),
)
_WAITS = or_(PeriodRow.deployment_id.is_not(None), DeploymentRow.usage_short_since.is_not(None))
# What is closed is written anew, with what is due by then.
_CHARGE_IS_UNPAID = and_(UsageChargeRow.paid_at.is_(None), UsageChargeRow.closing_since.is_(None))


def _waiting(session: Session, user_id: UUID) -> _Waiting:
    row = DeploymentRow
    # It leaves out what is NULL.
    first = func.least(row.short_since, row.usage_short_since)
    query = (
        select(
            func.min(first),
            func.coalesce(func.sum(PeriodRow.amount_micros), 0),
        )
        .select_from(row)
        .outerjoin(PeriodRow, _MONTH_WAITS)
        .where(row.user_id == user_id, _WAITS)
    )
    since, months_micros = session.execute(query).one()
    return _Waiting(since, int(months_micros))


def _is_told(session: Session, user_id: UUID, since: datetime) -> bool:
    """Whether anything that is due was told after that."""
    told_months = select(PeriodRow.told_at).where(
        PeriodRow.user_id == user_id,
        PeriodRow.status == PeriodStatus.DUE,
        PeriodRow.told_at > since,
    )
    told_usage = select(UsageChargeRow.told_at).where(
        UsageChargeRow.user_id == user_id, _CHARGE_IS_UNPAID, UsageChargeRow.told_at > since
    )
    return bool(session.scalar(select(or_(told_months.exists(), told_usage.exists()))))


def _longest_waiting(session: Session, user_id: UUID) -> _First:
    """What has waited longest, of all that wait."""
    since = func.least(PeriodRow.starts_at, DeploymentRow.usage_short_since)
    found = session.execute(
        select(DeploymentRow.deployment_id, DeploymentRow.name, func.count().over())
        .outerjoin(PeriodRow, _MONTH_WAITS)
        .where(DeploymentRow.user_id == user_id, _WAITS)
        .order_by(since, DeploymentRow.deployment_id)
        .limit(1)
    ).one()
    return _First(*found)


def _arrears_micros(session: Session, user_id: UUID) -> int:
    """What is owed for time that ran; what comes pays that before it pays a month."""
    micros = session.scalar(
        select(func.sum(PeriodRow.amount_micros)).where(
            PeriodRow.user_id == user_id,
            PeriodRow.status == PeriodStatus.DUE,
            PeriodRow.kind == PeriodKind.ARREARS,
        )
    )
    return int(micros or 0)


def _usage_micros(session: Session, user_id: UUID) -> int:
    """What was charged for use and is not paid."""
    micros = session.scalar(
        select(func.sum(UsageChargeRow.amount_micros)).where(
            UsageChargeRow.user_id == user_id, _CHARGE_IS_UNPAID
        )
    )
    return int(micros or 0)


def _owing(session: Session, user_id: UUID) -> _First | None:
    """The first deployment of this user's that owes something, and how many do."""
    arrears = select(PeriodRow.deployment_id).where(
        PeriodRow.user_id == user_id,
        PeriodRow.status == PeriodStatus.DUE,
        PeriodRow.kind == PeriodKind.ARREARS,
    )
    used = (
        select(UsageChargeLineRow.deployment_id)
        .join(UsageChargeRow, UsageChargeRow.charge_id == UsageChargeLineRow.charge_id)
        .where(UsageChargeRow.user_id == user_id, _CHARGE_IS_UNPAID)
    )
    found = session.execute(
        select(DeploymentRow.deployment_id, DeploymentRow.name, func.count().over())
        .where(DeploymentRow.deployment_id.in_(arrears.union(used)))
        .order_by(DeploymentRow.deployment_id)
        .limit(1)
    ).first()
    return _First(*found) if found else None
