"""What it costs to start a deployment again: as its owner is shown, and as it is charged."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.money import format_usd
from contracts.billing import DeploymentStatus
from contracts.errors import PriceChanged
from services.billing.deployments.ladder import Standing
from services.billing.deployments.meters import charges_paid_since
from services.billing.deployments.periods import PeriodKind, PeriodStatus, owed_micros
from services.billing.deployments.prices import price_at
from services.billing.models import DeploymentRow, PeriodRow

STARTABLE = (DeploymentStatus.STOPPED, DeploymentStatus.SUSPENDED)


def start_micros(
    row: Standing, arrears_micros: int, usage_micros: int, now: datetime
) -> int | None:
    """What a start takes from the wallet now: what was charged for use and has to be paid before,
    what is owed for time that ran, and a month from now on. Of the last two nothing in a month that
    is paid, or of what costs nothing; nothing at all of what runs. None where there is no start."""
    if row.status == DeploymentStatus.ACTIVE:
        return 0
    if row.status not in STARTABLE:
        return None
    month_micros = price_at(row, now)
    if row.paid_until is None or row.paid_until > now or month_micros == 0:
        return usage_micros
    return usage_micros + arrears_micros + month_micros


def check_amount(
    session: Session, row: DeploymentRow, expected_micros: int | None, now: datetime
) -> None:
    """Raises ``PriceChanged`` where a start of a locked deployment, whose use is paid, does not
    come to what its owner saw. What is owed is paid by itself when money comes: what was paid of it
    since the deployment stopped makes no difference."""
    if expected_micros is None:
        return
    owed = owed_micros(session, [row.deployment_id])
    paid_micros = arrears_paid_micros(session, row)
    amount_micros = start_micros(row, owed.get((row.deployment_id, PeriodKind.ARREARS), 0), 0, now)
    if amount_micros is None:
        return
    used = charges_paid_since(session, row.user_id, row.deployment_id, row.status_changed_at)
    # One charge at most was unpaid when it was seen.
    if expected_micros - amount_micros in {
        time + use for time in (0, paid_micros) for use in (0, *used)
    }:
        return
    raise PriceChanged(
        f"Starting it now costs {format_usd(amount_micros)}, not {format_usd(expected_micros)}."
        f" {what_was_charged(paid_micros)} Look at the amount and start it again.",
        str(amount_micros),
    )


def what_was_charged(arrears_micros: int) -> str:
    """The sentence for who hears that it was not started, with what is paid for time that ran."""
    paid = (
        f"{format_usd(arrears_micros)} that it owed for time that ran is paid"
        if arrears_micros
        else "Nothing was charged"
    )
    return f"{paid}, and it was not started."


def arrears_paid_micros(session: Session, row: DeploymentRow) -> int:
    """What was paid for time that ran since it stopped."""
    query = select(func.sum(PeriodRow.amount_micros)).where(
        PeriodRow.deployment_id == row.deployment_id,
        PeriodRow.kind == PeriodKind.ARREARS,
        PeriodRow.status == PeriodStatus.PAID,
        PeriodRow.changed_at >= row.status_changed_at,
    )
    return int(session.scalar(query) or 0)
