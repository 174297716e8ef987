"""On which ways people come to a purchase, and where they turn back: told without saying who.

A path is what one browser that is logged in does on one day (UTC). It is known by a name that is
made of its session and of a secret of that day. The secret is thrown away with the day, and stands
in no backup, as its table is not logged: after that the name leads to nobody, nor to a path of
another day. Of when a step was taken the hour is told, and of the order nothing, so that no line of
a log and no purchase is found by it (docs/decisions/0030-a-path-is-nobodys.md says how far).
"""

import hmac
import logging
import secrets
from collections.abc import Mapping
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.clock import midnight, utc_now
from chassis.outbox import publish
from chassis.retention import Kept
from contracts.billing import PurchaseWay
from contracts.gateway import STEPS_MAX, PathStep, StepsTaken, StepTaken
from services.gateway.gathering import Gathering

log = logging.getLogger(__name__)

SECRETS_KEPT = Kept("path_secrets", "starts_at", days=1)
"""Until the day is over; the first step of another day ends it, too."""
EVENTS_KEPT = Kept("outbox", "published_at", days=1 / 24, unless="type <> 'steps_taken'")
"""Its row knows to the second when it was sent."""

SECRET_BYTES = 32

_FIND = text("SELECT secret FROM path_secrets WHERE starts_at = :starts_at")
_END_OTHERS = text("DELETE FROM path_secrets WHERE starts_at < :starts_at")
# None for a day that is over: a later one has begun.
_MAKE = text(
    "INSERT INTO path_secrets (starts_at, secret) SELECT :starts_at, :secret"
    " WHERE NOT EXISTS (SELECT FROM path_secrets WHERE starts_at > :starts_at)"
    " ON CONFLICT DO NOTHING"
)


class Gathered(NamedTuple):
    """Of whom stays in this process."""

    day: date
    session_id: UUID
    way: PurchaseWay
    step: PathStep


class Paths(Gathering[Gathered, datetime]):
    """The steps of one process that it has not told yet. Safe for threads."""

    def take(self, session_id: UUID, way: PurchaseWay, step: PathStep, now: datetime) -> None:
        """A browser came to a step: its first time counts."""
        self._gather(Gathered(now.date(), session_id, way, step), now)

    def _joined(self, known: datetime, more: datetime) -> datetime:
        return min(known, more)

    def _write(self, session: Session, gathered: Mapping[Gathered, datetime]) -> None:
        # The day that is over first: the secret of the next one ends its own.
        secret_of = {day: _secret_of(session, day) for day in sorted({one.day for one in gathered})}
        taken = [
            StepTaken(
                path_id=path_id(secret, one.session_id), way=one.way, step=one.step, taken_at=at
            )
            for one, at in gathered.items()
            if (secret := secret_of[one.day]) is not None
        ]
        if len(taken) < len(gathered):
            log.info("steps of a day that is over are not told")
        # By their names, which says nothing of when: they were gathered in the order of time.
        taken.sort(key=lambda one: (one.path_id, one.way, one.step))
        now = utc_now()
        publish(
            session,
            *(
                # Its id holds no time, as others do.
                StepsTaken(
                    event_id=uuid4(), occurred_at=now, steps=taken[start : start + STEPS_MAX]
                )
                for start in range(0, len(taken), STEPS_MAX)
            ),
        )


def path_id(secret: bytes, session_id: UUID) -> UUID:
    """What stands for a session as long as the secret does."""
    return UUID(bytes=hmac.digest(secret, session_id.bytes, "sha256")[:16])


def _secret_of(session: Session, day: date) -> bytes | None:
    """One for all processes, made by the first that needs it, and remembered by none. None: the day
    is over."""
    given = {"starts_at": midnight(day)}
    found: bytes | None = session.scalar(_FIND, given)
    if found is None:
        session.execute(_END_OTHERS, given)
        session.execute(_MAKE, {**given, "secret": secrets.token_bytes(SECRET_BYTES)})
        found = session.scalar(_FIND, given)
    return bytes(found) if found else None
