"""Warnings before credits run out: once per dip, and the good news after it.

A user is looked at when something has changed what is to come, and at the beginning of each day
(UTC) on which something is due within a week, or charged by use. What the forecast says decides::

    covered ─ short within 7 days ─▶ warned at 7 ─ 3 days ─▶ at 3 ─ 1 day ─▶ at 1
    warned ─ covered again ─▶ told so; in silence where what was short has been suspended since
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.client import RpcClient
from chassis.clock import Clock, midnight
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.leases import Leases
from chassis.locks import locked_or_none
from chassis.outbox import publish
from contracts.billing import (
    DeploymentStatus,
    Forecast,
    GetForecast,
    RunwayLow,
    RunwayRestored,
)
from contracts.errors import ServiceError
from services.billing.forecast.forecast import DUE_NEXT_MAX, foretell
from services.billing.models import DeploymentRow, PurchaseLineRow, RunwayRow
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

LEVELS = (1, 3, 7)
"""The days of runway at which a user is warned."""

DAYS = 32
"""A month, whichever: everything that is renewed is due within them."""

AFTER_A_PURCHASE = timedelta(minutes=10)
"""Several purchases in a row are one look; what they deliver is due in a month."""

AFTER_A_CHANGE = timedelta(seconds=5)
UNKNOWN_AGAIN_AFTER = timedelta(minutes=10)
SPREAD_S = 3_600
"""Within the first hour of a day, each user at a time of their own."""

ROUNDS_MAX = 50

DUE = Leases(RunwayRow.due_at, RunwayRow.user_id, lease=timedelta(seconds=60))

_LOOK = Bulk(
    "INSERT INTO runways AS known (user_id, due_at) SELECT user_id, due_at FROM {rows}"
    " ON CONFLICT (user_id) DO UPDATE SET due_at = least(known.due_at, excluded.due_at)",
    user_id="uuid",
    due_at="timestamptz",
)


def look_after_purchases(writes: Batch, now: datetime, users: Iterable[UUID]) -> None:
    """They have less now, and more that is renewed."""
    writes.add(_LOOK, [(user_id, now + AFTER_A_PURCHASE) for user_id in sorted(set(users))])


def look_soon(session: Session, now: datetime, user_id: UUID) -> None:
    """Something changed what is to come for this user."""
    _LOOK.execute(session, [(user_id, now + AFTER_A_CHANGE)])


AWAITS_MONEY = (
    "EXISTS (SELECT FROM runways WHERE user_id = new.user_id AND warned_days IS NOT NULL)"
)
"""Whether :func:`look_whether_restored` would find any, as SQL over users named ``new``."""


def look_whether_restored(session: Session, now: datetime, user_id: UUID) -> None:
    """Something may have made good what this user was warned of."""
    session.execute(
        update(RunwayRow)
        .where(RunwayRow.user_id == user_id, RunwayRow.warned_days.is_not(None))
        .values(due_at=func.least(RunwayRow.due_at, now + AFTER_A_CHANGE))
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True)
class Lookout:
    """What it takes to look: a database, the wallet and the top-up service, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def run(self) -> None:
        """Look at everybody who is due."""
        for _ in range(ROUNDS_MAX):
            now = self.clock()
            with self.database.begin() as session:
                taken = list(DUE.take(session, now))
            if not taken:
                return
            for user_id in taken:
                self._look(user_id, now + DUE.lease)

    def _look(self, user_id: UUID, leased_until: datetime) -> None:
        """One user; where the wallet does not answer, again when the lease has run out."""
        now, question = self.clock(), GetForecast(user_id=user_id, days=DAYS, events_max=0)
        try:
            forecast = foretell(self.database, self.rpc, question, now, self.rules)
        except ServiceError as error:
            log.warning("a runway could not be looked at", extra={"reason": str(error)})
            return
        crash_point("billing.runway_foretold")
        with self.database.begin() as session:
            row = locked_or_none(session, RunwayRow, user_id)
            # If it is due at another moment by now, something has changed, and is looked at then.
            if row is not None and row.due_at == leased_until:
                _record(session, now, row, forecast)
        crash_point("billing.runway_recorded")


def _record(session: Session, now: datetime, row: RunwayRow, forecast: Forecast) -> None:
    if not forecast.is_auto_topup_known:
        row.due_at = now + UNKNOWN_AGAIN_AFTER
        return
    row.due_at = _next_look_at(session, now, row.user_id, forecast)
    level = _level(forecast)
    if level is None and row.warned_days is not None:
        row.warned_days = None
        if not _has(session, row.user_id, DeploymentStatus.SUSPENDED):
            publish(
                session,
                RunwayRestored(event_id=new_id(), occurred_at=now, user_id=row.user_id),
            )
    elif level is not None and (row.warned_days is None or level < row.warned_days):
        row.warned_days = level
        _warn(session, now, row.user_id, forecast)


def _level(forecast: Forecast) -> int | None:
    """The warning that is due, by the days of runway; None where they are more than a week."""
    days = forecast.days_until_empty
    return next((level for level in LEVELS if days is not None and days <= level), None)


def _warn(session: Session, now: datetime, user_id: UUID, forecast: Forecast) -> None:
    if forecast.short_on is None or forecast.days_until_empty is None:
        raise AssertionError("a warning without a day on which it is short")
    publish(
        session,
        RunwayLow(
            event_id=new_id(),
            occurred_at=now,
            user_id=user_id,
            days=forecast.days_until_empty,
            short_on=forecast.short_on,
            shortfall_micros=forecast.short_by_micros,
            auto_topup_refusal=forecast.auto_topup_refusal,
            short_at=forecast.short_at,
        ),
    )


def _next_look_at(
    session: Session, now: datetime, user_id: UUID, forecast: Forecast
) -> datetime | None:
    """The beginning of a day on which something may have to be told; None where nothing can."""
    tomorrow = now.date() + timedelta(days=1)
    later = [due.at.date() for due in forecast.due_next if due.at > now]
    is_full = len(forecast.due_next) == DUE_NEXT_MAX
    if _level(forecast) is not None or is_full or _is_measured(session, user_id):
        day = tomorrow
    elif later:
        day = max(tomorrow, later[0] - timedelta(days=LEVELS[-1]))
    elif _has(session, user_id, DeploymentStatus.REQUESTED):
        day = tomorrow
    else:
        return None
    return midnight(day) + timedelta(seconds=user_id.int % SPREAD_S)


def _has(session: Session, user_id: UUID, status: DeploymentStatus) -> bool:
    """Whether a deployment of this user's is in this state."""
    found = select(DeploymentRow.deployment_id).where(
        DeploymentRow.user_id == user_id, DeploymentRow.status == status
    )
    return session.scalar(found.limit(1)) is not None


def _is_measured(session: Session, user_id: UUID) -> bool:
    """Whether something runs of this user's that is charged by use, and may be used any day."""
    found = (
        select(DeploymentRow.deployment_id)
        .join(
            PurchaseLineRow,
            (PurchaseLineRow.purchase_id == DeploymentRow.purchase_id)
            & (PurchaseLineRow.position == DeploymentRow.line_position),
        )
        .where(
            DeploymentRow.user_id == user_id,
            DeploymentRow.status == DeploymentStatus.ACTIVE,
            PurchaseLineRow.meters != [],
        )
    )
    return session.scalar(found.limit(1)) is not None
