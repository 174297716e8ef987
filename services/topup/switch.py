"""The operator's switch: one row that stops all automatic charges at once."""

from datetime import datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from contracts.topup import OperatorSwitch, SetOperatorSwitch
from services.topup.models import Switch
from services.topup.policy import Policy

BY_SETTING = "The setting AUTO_TOPUPS_STOPPED"


def turn(session: Session, command: SetOperatorSwitch, now: datetime) -> None:
    """Stop automatic charges, or let them go on. Charges already sent are not taken back."""
    values = {
        "is_stopped": command.is_stopped,
        "reason": command.reason,
        "changed_by": command.changed_by,
        "changed_at": now,
    }
    session.execute(
        insert(Switch)
        .values(id=1, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )


def state(session: Session, policy: Policy) -> OperatorSwitch:
    """How it stands; the setting of the environment wins."""
    row = session.get(Switch, 1)
    if policy.is_stopped:
        return OperatorSwitch(is_stopped=True, reason=BY_SETTING)
    if row is None:
        return OperatorSwitch(is_stopped=False)
    return OperatorSwitch(
        is_stopped=row.is_stopped,
        reason=row.reason,
        changed_by=row.changed_by,
        changed_at=row.changed_at,
    )
