"""What an owner does with a deployment, but for starting it again, which may cost something.

Each is done in one transaction with its line in the history, which knows the command's key: the
same command again returns the deployment as it is by now, and changes nothing.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.idempotency import request_hash
from contracts.billing import (
    CancelDeployment,
    CancelWhen,
    ChangeCause,
    DeploymentStatus,
    RefundCause,
    RenameDeployment,
    ResizeDeployment,
    StartDeployment,
    StopDeployment,
)
from contracts.errors import Conflict, IdempotencyConflict
from services.billing.deployments import ladder, lifecycle, periods, shortages
from services.billing.deployments.queries import own_deployment
from services.billing.models import OVER, ChangeRow, DeploymentRow
from services.billing.refunds.recording import Wish, refund
from services.billing.settings import BillingSettings

NEVER_RAN = "It was cancelled before it ran."

OwnersCommand = (
    RenameDeployment | StopDeployment | StartDeployment | CancelDeployment | ResizeDeployment
)


def is_repeated(session: Session, command: OwnersCommand) -> bool:
    """Whether this command was carried out before. Raises ``IdempotencyConflict``."""
    stored = body_hash(session, command.user_id, command.idempotency_key)
    if stored is not None and stored != request_hash(command).hex():
        raise IdempotencyConflict(
            "This idempotency key was used for something else. Use a new key for a new wish."
        )
    return stored is not None


def body_hash(session: Session, user_id: UUID, key: str) -> str | None:
    """The hash of what was carried out under a key, if anything was."""
    return session.scalar(
        select(ChangeRow.body_hash).where(
            ChangeRow.user_id == user_id, ChangeRow.idempotency_key == key
        )
    )


def rename(session: Session, clock: Clock, command: RenameDeployment) -> DeploymentRow:
    """Give a deployment another name, in every state."""
    row = own_deployment(session, command.user_id, command.deployment_id, locked=True)
    if not is_repeated(session, command):
        row.name = command.name
        lifecycle.note(session, clock(), row, ChangeCause.RENAMED, command)
    return row


def stop(
    session: Session, clock: Clock, command: StopDeployment, rules: BillingSettings
) -> DeploymentRow:
    """Switch a deployment off. Raises ``Conflict`` unless it is active."""
    row = own_deployment(session, command.user_id, command.deployment_id, locked=True)
    if not is_repeated(session, command):
        _require(row, DeploymentStatus.ACTIVE)
        leave(session, clock(), row, DeploymentStatus.STOPPED, ChangeCause.OWNER, rules, command)
    return row


def cancel(
    session: Session, clock: Clock, command: CancelDeployment, rules: BillingSettings
) -> DeploymentRow:
    """End a deployment, with its month or now. Raises ``Conflict`` for one that has ended.

    One that is being set up ends now, and is paid back: it never ran.
    """
    row = own_deployment(session, command.user_id, command.deployment_id, locked=True)
    if is_repeated(session, command):
        return row
    now = clock()
    if row.status == DeploymentStatus.REQUESTED:
        refund(session, now, [row], Wish(RefundCause.CANCELLED, NEVER_RAN, str(row.user_id)))
    _require(row, *(status for status in DeploymentStatus if status not in OVER))
    renews_at = ladder.renews_at(row)
    if command.when is CancelWhen.PERIOD_END and renews_at is not None and renews_at > now:
        row.ends_with_month = True
        ladder.look_again(row, now, rules)
        lifecycle.note(session, now, row, ChangeCause.WILL_END, command)
    elif command.when is CancelWhen.NOW or not row.ends_with_month:
        leave(session, now, row, DeploymentStatus.CANCELLED, ChangeCause.OWNER, rules, command)
    return row


def leave(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    to: DeploymentStatus,
    cause: ChangeCause,
    rules: BillingSettings,
    command: OwnersCommand | None = None,
) -> None:
    """Let it run no more. A month that is due is taken back; what ran of it is owed then, and no
    card is charged for either."""
    has_open, has_waited = periods.close_months(session, now, row), shortages.waits(row)
    lifecycle.change_status(session, now, row, to, cause, rules, command=command)
    if has_waited:
        shortages.tell_less(session, now, row.user_id)
    if has_open:
        row.due_at = now


def _require(row: DeploymentRow, *statuses: DeploymentStatus) -> None:
    if row.status not in statuses:
        raise Conflict(f"This deployment is {row.status}; that cannot be done with it any more.")
