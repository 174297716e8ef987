"""What is kept for a time only: rows that are old enough are deleted, a few at a time.

::

    def kept(settings: BillingSettings) -> list[Kept]:
        return messages(settings)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        forget(self.database, utc_now(), kept(get_settings()))

Each batch is a short transaction of its own, finds its rows by an index, and passes over what
somebody else has locked: it waits for nobody, and nobody waits for long for it.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from chassis.database import Connected
from chassis.settings import ServiceSettings

log = logging.getLogger(__name__)

FORGET_EVERY_S = 600
BATCH_SIZE = 2_000
SECONDS_MAX = 30.0
"""For each table and call, so that years of old rows are spread over some hours, and a service that
is busy all day can forget as fast as it writes."""


@dataclass(frozen=True)
class Kept:
    """Rows of ``table`` stay for ``days`` after the moment in their column ``since``.

    ``unless`` is the SQL of an exception: such rows stay for ever. An index on ``since`` should
    find the rest.
    """

    table: str
    since: str
    days: float
    unless: str = "false"

    @property
    def statement(self) -> str:
        """The deletion of one batch, of at most ``:limit`` rows from before ``:before``."""
        # Names and exceptions are written in our code. The row's place finds it without a key,
        # and is good for this statement: until its end the row is locked.
        return (
            f"DELETE FROM {self.table} WHERE ctid = ANY(ARRAY("  # noqa: S608
            f"SELECT ctid FROM {self.table} WHERE {self.since} < :before AND NOT ({self.unless})"
            f" ORDER BY {self.since} LIMIT :limit FOR UPDATE SKIP LOCKED))"
        )


def messages(settings: ServiceSettings) -> list[Kept]:
    """The inbox and the outbox of a service. What was not sent stays until it is."""
    return [
        Kept("inbox", "handled_at", settings.inbox_kept_days),
        Kept("outbox", "published_at", settings.outbox_kept_days),
    ]


def forget(database: Connected, now: datetime, rules: Iterable[Kept]) -> dict[str, int]:
    """Delete what is kept no longer; how many rows of each table went.

    A table that fails is logged and keeps no other one waiting.
    """
    gone: dict[str, int] = {}
    for kept in rules:
        try:
            gone[kept.table] = gone.get(kept.table, 0) + _forget(database, now, kept)
        except Exception:
            log.exception("old rows could not be deleted", extra={"table": kept.table})
    return gone


def _forget(database: Connected, now: datetime, kept: Kept) -> int:
    given = {"before": now - timedelta(days=kept.days), "limit": BATCH_SIZE}
    total = 0
    until = time.monotonic() + SECONDS_MAX
    while True:
        with database.engine.begin() as connection:
            count = connection.execute(text(kept.statement), given).rowcount
        total += count
        if count < BATCH_SIZE or time.monotonic() >= until:
            return total
