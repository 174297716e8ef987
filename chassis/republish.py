"""Publish again what a service published since a time, for listeners that were restored to it.

::

    python -m chassis.republish wallet --since 2026-11-29T12:00:00Z

Whoever has handled an event knows it, for ``INBOX_KEPT_DAYS``, and does nothing; who was restored
to a moment before has not. An event stays in the outbox for ``OUTBOX_KEPT_DAYS`` after it was sent.
The running service sends what is marked here, over hours where it is much: what listeners may
forget within ``SENT_WITHIN`` is not published again. Needs the service's ``DATABASE_URL``, and
``INBOX_KEPT_DAYS`` where the listeners have one of their own.
"""

import argparse
from datetime import datetime, timedelta

from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import Connected, connect_by_environment
from chassis.settings import InboxSettings, load_settings
from contracts.messages import moment_from

SENT_WITHIN = timedelta(days=1)
"""How long what is marked may take until it has been handled, by whoever listens."""
_UNMARK = text(
    "UPDATE outbox SET published_at = NULL, attempts = 0, next_attempt_at = now()"
    " WHERE created_at >= :since AND published_at IS NOT NULL RETURNING type"
)


def republish(database: Connected, since: datetime) -> dict[str, int]:
    """Mark everything published since then as unsent; how many there are of each type."""
    counts: dict[str, int] = {}
    with database.begin() as session:
        for kind in session.scalars(_UNMARK, {"since": since}):
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chassis.republish")
    parser.add_argument("service", help="whose DATABASE_URL this is")
    parser.add_argument("--since", required=True, help="such as 2026-11-29T12:00:00Z")
    given = parser.parse_args()
    try:
        since = moment_from(given.since)
    except ValueError:
        parser.error("--since: a moment with its zone, such as 2026-11-29T12:00:00Z")
    kept_days = load_settings(InboxSettings).inbox_kept_days
    if since < utc_now() - timedelta(days=kept_days) + SENT_WITHIN:
        parser.error(
            f"--since: listeners know for {kept_days} days what they handled (INBOX_KEPT_DAYS),"
            " and sending may take a day; what is older might have its effect twice"
        )
    database = connect_by_environment(pool_size=2)
    counts = republish(database, since)
    for kind, count in sorted(counts.items()):
        print(f"{given.service}.{kind}: {count}")
    print(f"{sum(counts.values())} events of {given.service} are published again.")


if __name__ == "__main__":
    main()
