"""Usage that a wallet does not pay: its deployments go down the ladder, as by an unpaid month."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.identifiers import new_id
from chassis.locks import for_update
from chassis.money import format_usd
from chassis.outbox import publish
from contracts.billing import DeploymentStatus, RenewalShortOfFunds
from contracts.errors import AccountFrozen, InsufficientFunds
from contracts.wallet import BatchError
from services.billing.deployments import ladder
from services.billing.models import DeploymentRow, UsageChargeLineRow, UsageChargeRow
from services.billing.settings import BillingSettings


def begin(
    session: Session,
    clock: Clock,
    charge: UsageChargeRow,
    error: BatchError,
    rules: BillingSettings,
    asked_at: datetime,
) -> None:
    """The wallet refused a charge: what runs of it has its days of grace, and its owner is told
    once, and again where money came that something else took first. What is paid after the wallet
    was asked makes that old news."""
    charged = _charged(session, charge.charge_id)
    running = [row for row in charged if row.status == DeploymentStatus.ACTIVE]
    fresh = [row for row in running if row.usage_short_since is None]
    if not running or not (fresh or charge.money_came_at):
        return
    now = clock()
    charge.money_came_at = None
    for row in fresh:
        row.usage_short_since = now
        ladder.look_again(row, now, rules)
    is_known = error.code == InsufficientFunds.code and error.details
    available_micros = int(error.details[0]) if is_known else 0
    publish(
        session,
        RenewalShortOfFunds(
            event_id=new_id(),
            occurred_at=asked_at,
            user_id=charge.user_id,
            deployment_id=running[0].deployment_id,
            shortfall_micros=max(charge.amount_micros - available_micros, 1),
            available_micros=available_micros,
            name=running[0].name,
            deployments=len(running),
            suspended_at=min(row.usage_short_since or now for row in running) + rules.grace,
            is_frozen=error.code == AccountFrozen.code,
            is_usage=True,
        ),
    )


def end(session: Session, now: datetime, charge: UsageChargeRow, rules: BillingSettings) -> None:
    """A charge is paid: what ran on in its days of grace goes on."""
    for row in _charged(session, charge.charge_id):
        if row.usage_short_since is not None:
            row.usage_short_since = None
            ladder.look_again(row, now, rules)


def refuse_unpaid_usage(session: Session, row: DeploymentRow) -> None:
    """What used something is started again when that is paid. Raises ``InsufficientFunds``."""
    line, charge = UsageChargeLineRow, UsageChargeRow
    micros = session.scalar(
        select(func.sum(charge.amount_micros)).where(
            charge.user_id == row.user_id,
            charge.paid_at.is_(None),
            charge.charge_id.in_(
                select(line.charge_id).where(line.deployment_id == row.deployment_id)
            ),
        )
    )
    if micros:
        raise InsufficientFunds(
            f"{format_usd(int(micros))} for what was used is not paid. Buy credits: it is paid by"
            " itself as soon as they cover it, and then this can be started.",
            "0",
            str(int(micros)),
        )


def _charged(session: Session, charge_id: UUID) -> Sequence[DeploymentRow]:
    charged = select(UsageChargeLineRow.deployment_id).where(
        UsageChargeLineRow.charge_id == charge_id
    )
    return session.scalars(
        for_update(
            select(DeploymentRow)
            .where(DeploymentRow.deployment_id.in_(charged))
            .order_by(DeploymentRow.deployment_id)
        )
    ).all()
