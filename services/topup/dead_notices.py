"""The operator's view of the processor's notices that could not be worked off.

    python -m services.topup.dead_notices list
    python -m services.topup.dead_notices replay EVENT…    (or --all)
    python -m services.topup.dead_notices discard EVENT…   (or --all)

``replay`` lets the service try again, with the tries counted anew; ``discard`` says that nothing
is to be done. It writes to the database directly, and exits with 2 when that does not answer.
"""

import argparse
import sys
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import connect
from services.topup.models import Notice
from services.topup.settings import get_settings

LIST, REPLAY, DISCARD = "list", "replay", "discard"
UNREADABLE = 2


def given_up(session: Session) -> list[Notice]:
    """The oldest first."""
    return list(
        session.scalars(
            select(Notice).where(Notice.given_up_at.is_not(None)).order_by(Notice.received_at)
        )
    )


def end(session: Session, action: str, event_ids: list[str], now: datetime) -> int:
    """Try these again, or be done with them; how many there were."""
    values = (
        {"next_try_at": now, "tries": 0}
        if action == REPLAY
        else {"processed_at": now, "next_try_at": None}
    )
    ended = session.scalars(
        update(Notice)
        .where(Notice.event_id.in_(event_ids), Notice.given_up_at.is_not(None))
        .values(given_up_at=None, **values)
        .returning(Notice.event_id)
        .execution_options(synchronize_session=False)
    )
    return len(ended.all())


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dead_notices", description="Notices that were given up.")
    parser.add_argument("action", choices=[LIST, REPLAY, DISCARD])
    parser.add_argument("events", nargs="*", metavar="EVENT")
    parser.add_argument("--all", action="store_true", help="every one that was given up")
    given = parser.parse_args(arguments)
    if given.action != LIST and not given.all and not given.events:
        parser.error("name the events, as `list` shows them, or say --all")
    return given


def main(arguments: list[str] | None = None) -> int:
    """See the head of this file."""
    given = _arguments(arguments)
    database = connect(get_settings().database_url, pool_size=1)
    try:
        with database.begin() as session:
            notices = given_up(session)
            if given.action != LIST:
                chosen = [notice.event_id for notice in notices] if given.all else given.events
                print(f"{given.action}: {end(session, given.action, chosen, utc_now())} notices")
                return 0
    except SQLAlchemyError as error:
        print(f"The database does not answer: {error}", file=sys.stderr)
        return UNREADABLE
    for notice in notices:
        print(f"{notice.event_id}  {notice.type}  {notice.object_id}  {notice.last_error}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
