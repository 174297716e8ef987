"""The operator's switch: one row that stops all automatic charges at once.

    python -m services.topup.switch stop --by NAME --reason TEXT
    python -m services.topup.switch release --by NAME --reason TEXT
    python -m services.topup.switch

It writes to the database directly, so that it works while the broker is away. The last form
says how the switch stands. It exits with 2 when the database does not answer: then nothing was
changed.
"""

import argparse
import logging
import sys
from datetime import datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import connect, is_held
from contracts.topup import OperatorSwitch, SetOperatorSwitch
from services.topup.automatic import limits
from services.topup.models import Switch
from services.topup.policy import Policy
from services.topup.settings import get_settings

log = logging.getLogger(__name__)

BY_SETTING = "The setting AUTO_TOPUPS_STOPPED"


def turn(session: Session, command: SetOperatorSwitch, now: datetime) -> None:
    """Stop automatic charges, or let them go on. Charges already sent are not taken back, and with
    the commit nobody decides any more who has not seen this."""
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
    _await_decisions(session)


def _await_decisions(session: Session) -> None:
    """Until whoever looked at the switch before has committed. One that is stuck keeps nobody from
    turning it."""
    try:
        with session.begin_nested():
            limits.fuse_lock(session)
    except DBAPIError as error:
        if not is_held(error):
            raise
        log.warning("a charge that was being decided about may go out after the switch was turned")


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


def sentence(state: OperatorSwitch) -> str:
    """How the switch stands, for a terminal."""
    stands = "All automatic charges are stopped" if state.is_stopped else "Automatic charges go out"
    by = (
        f" by {state.changed_by} at {state.changed_at:%Y-%m-%d %H:%M} UTC"
        if state.changed_at
        else ""
    )
    return f"{stands}{by}{f': {state.reason}' if state.reason else ''}"


def main(arguments: list[str] | None = None) -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="switch", description="Stop all automatic charges.")
    actions = parser.add_subparsers(dest="action")
    for action in ("stop", "release"):
        turning = actions.add_parser(action)
        turning.add_argument("--by", required=True, help="who decided it")
        turning.add_argument("--reason", required=True, help="why; users do not see it")
    given = parser.parse_args(arguments)
    settings = get_settings()
    database = connect(settings.database_url, pool_size=1)
    try:
        with database.begin() as session:
            if given.action:
                command = SetOperatorSwitch(
                    is_stopped=given.action == "stop", reason=given.reason, changed_by=given.by
                )
                turn(session, command, utc_now())
            stands = state(session, Policy.from_settings(settings))
    except SQLAlchemyError as error:
        print(f"The switch was not turned, the database does not answer: {error}", file=sys.stderr)
        return 2
    print(sentence(stands))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
