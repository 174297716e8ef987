"""What goes when somebody deletes the account: the archived document, and the address.

What was paid stays in the row of the move, under the hash of the address, so that no other plan of
the same files pays it again, or keeps the document that was deleted.
"""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import lock_until_commit
from chassis.locks import locked_or_none
from services.legacy.models import MoveRow
from services.legacy.planning.judging import Conflict

_HASH = "'deleted:' || encode(sha256(convert_to(email_key, 'UTF8')), 'hex')"
# What was moved keeps its place in the sums of its plan.
_LINES_OF_ONE = text(
    f"UPDATE lines SET email = '', place = '', document = '', services = '[]', decision = '',"  # noqa: S608
    f" email_key = {_HASH}, conflicts = CASE WHEN line_id = :line_id THEN conflicts"
    " ELSE array_append(conflicts, :conflict) END WHERE email_key = :email_key"
)
_MOVE = text(
    f"UPDATE moves SET email = '', services = '[]', email_key = {_HASH}"  # noqa: S608
    " WHERE user_id = :user_id"
)
_LINES_OF_PLAN = text(
    f"UPDATE lines SET email = '', place = '', document = '', services = '[]',"  # noqa: S608
    f" email_key = {_HASH}, conflicts = array_append(conflicts, :conflict)"
    f" WHERE plan_id = :plan_id AND {_HASH} IN"
    " (SELECT email_key FROM moves WHERE email_key LIKE 'deleted:%')"
)
LOCK = "legacy:forgetting"
"""Who reads lines in order to move people waits for who is being forgotten, and the other way."""


def forget_person(session: Session, user_id: UUID) -> None:
    """Delete what is known of somebody, also in plans that were not run. Twice is once."""
    lock_until_commit(session, LOCK)
    move = locked_or_none(session, MoveRow, user_id)
    if move is None or not move.email:
        return
    given = {
        "line_id": move.line_id,
        "email_key": move.email_key,
        "conflict": Conflict.ACCOUNT_DELETED,
    }
    session.execute(_LINES_OF_ONE, given)
    session.execute(_MOVE, {"user_id": user_id})


def forget_again(session: Session, plan_id: UUID) -> None:
    """Delete, from a plan that has just read it, what is known of who has deleted the account."""
    lock_until_commit(session, LOCK)
    given = {"plan_id": plan_id, "conflict": Conflict.ACCOUNT_DELETED}
    session.execute(_LINES_OF_PLAN, given)
