"""Usage that a wallet does not pay: its deployments go down the ladder, as by an unpaid month."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.locks import for_update
from chassis.money import format_usd
from contracts.billing import DeploymentStatus
from contracts.errors import AccountFrozen, InsufficientFunds
from contracts.wallet import BatchError
from services.billing.deployments import ladder, shortages
from services.billing.deployments.available import Settled, entry_count
from services.billing.deployments.meters import unpaid_charges_micros
from services.billing.deployments.shortages import Refused
from services.billing.models import DeploymentRow, UsageChargeLineRow, UsageChargeRow
from services.billing.settings import BillingSettings


def begin(
    session: Session,
    clock: Clock,
    charge: UsageChargeRow,
    error: BatchError,
    rules: BillingSettings,
    asked_at: datetime,
    settled: Settled | None,
) -> None:
    """The wallet refused a charge: what runs of it has its days of grace, and its owner is told
    once, also where nothing of it runs any more, and again where money came that something else
    took first. What is paid after the wallet was asked makes that old news. Where nothing else is
    ``settled`` whoever settles this tells them of all, ``asked_at`` being theirs; where
    nobody has when it is asked for again, it is news."""
    charged = _charged(session, charge.charge_id)
    running = [row for row in charged if row.status == DeploymentStatus.ACTIVE]
    fresh = [row for row in running if row.usage_short_since is None]
    is_untold = not running and charge.told_at is None and charge.money_came_at is None
    if not (fresh or is_untold or charge.money_came_at):
        return
    now = clock()
    for row in fresh:
        row.usage_short_since = now
        ladder.look_again(row, now, rules)
    if settled is None:
        charge.money_came_at = asked_at - shortages.TICK
        return
    left_micros = settled.left_micros(charge.user_id, error)
    is_frozen = error.code == AccountFrozen.code
    refused = Refused(asked_at, left_micros, is_frozen, entry_count(error))
    since = None if fresh or is_untold else charge.money_came_at
    shortages.tell(session, now, charge.user_id, refused, rules, since)
    charge.told_at, charge.money_came_at = asked_at, None


def waiting(session: Session, charge_ids: Collection[UUID]) -> set[UUID]:
    """Those of these charges of which something is short of money."""
    line, row = UsageChargeLineRow, DeploymentRow
    return set(
        session.scalars(
            select(line.charge_id)
            .join(row, row.deployment_id == line.deployment_id)
            .where(line.charge_id.in_(charge_ids), row.usage_short_since.is_not(None))
        )
    )


def end(session: Session, now: datetime, charge: UsageChargeRow, rules: BillingSettings) -> None:
    """A charge is paid: what ran on in its days of grace goes on."""
    for row in _charged(session, charge.charge_id):
        if row.usage_short_since is not None:
            row.usage_short_since = None
            ladder.look_again(row, now, rules)


def refuse_unpaid_usage(session: Session, row: DeploymentRow) -> None:
    """What used something is started again when that is paid. Raises ``InsufficientFunds``."""
    micros = unpaid_charges_micros(session, [row.deployment_id]).get(row.deployment_id)
    if micros:
        raise InsufficientFunds(
            f"{format_usd(micros)} for what was used is not paid. It is paid by itself as soon as"
            " your wallet covers it, and then this can be started.",
            "0",
            str(micros),
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
