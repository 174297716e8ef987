"""When the ledger is verified: each night, and when somebody asks; what was found is kept.

Who asks leaves a row, and a timer carries it out: verifying takes minutes, and a process that dies
in between leaves the row open for the next one. One that fails is tried again later and later,
unless somebody asks anew. Each result also keeps what every house account came to up to a sealed
position, so that a trial balance adds up no more than what came after it.
"""

import json
import logging
from contextlib import suppress
from datetime import datetime, time, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import Connected, lock_until_commit
from chassis.identifiers import new_id
from chassis.metrics import Gauge
from contracts.errors import Conflict
from contracts.wallet import AskVerification, Verdict, Verification
from services.wallet import chain, verification

log = logging.getLogger(__name__)

NIGHTLY = time(3)
"""UTC."""
FIRST_PAUSE = timedelta(minutes=1)
"""After a verification that failed; it doubles each time."""
PAUSE_MAX = timedelta(hours=1)

_LOCK = "wallet.verifications"
_ASKED = text("SELECT * FROM verifications WHERE asked_key = :key")
_OPEN = text("SELECT * FROM verifications WHERE ended_at IS NULL")
_FAIL = text(
    "UPDATE verifications SET failures = failures + 1,"
    " due_at = :now + least(:first * power(2, least(failures, 20)), :most)"
    " WHERE verification_id = :id"
)
_AT_ONCE = text("UPDATE verifications SET due_at = NULL WHERE ended_at IS NULL")
_ASK = text(
    "INSERT INTO verifications (verification_id, asked_key, asked_by, asked_at)"
    " VALUES (:id, :key, :by, :now) RETURNING *"
)
_NEWEST = text("SELECT * FROM verifications ORDER BY asked_at DESC LIMIT :limit")
_IS_DUE = text(
    "SELECT EXISTS (SELECT FROM accounts WHERE user_id IS NOT NULL AND opened_at < :night)"
    " AND NOT EXISTS (SELECT FROM verifications WHERE asked_at >= :night)"
)
_HOUSE = text(
    "SELECT e.account_id, sum(e.amount_micros)::bigint AS micros FROM transactions AS t"
    " JOIN entries AS e ON e.transaction_id = t.transaction_id AND e.account_id < 1000"
    " WHERE t.position > :after AND t.position <= :until GROUP BY 1"
)
_END = text(
    "UPDATE verifications SET ended_at = :now, clean = :clean,"
    " first_difference = :first_difference, account_count = :account_count,"
    " transaction_count = :transaction_count, entry_count = :entry_count,"
    " sealed_count = :sealed_count, position = :position,"
    " house = CAST(:house AS jsonb) WHERE verification_id = :id"
)
_LAST = text("SELECT position, house FROM verifications WHERE clean ORDER BY ended_at DESC LIMIT 1")
END = 2**62

# One is open at a time, so that they end in the order in which they were asked for.
_LAST_ENDED = "FROM verifications WHERE ended_at IS NOT NULL ORDER BY asked_at DESC LIMIT 1"
GAUGES = {
    "ledger_is_right": Gauge(
        "Whether the last verification that came to its end found no difference.",
        f"SELECT clean::integer {_LAST_ENDED}",
    ),
    "ledger_verified_timestamp_seconds": Gauge(
        "When that verification came to its end.",
        f"SELECT extract(epoch FROM ended_at) {_LAST_ENDED}",  # noqa: S608
    ),
}


def ask(session: Session, now: datetime, command: AskVerification) -> Verification:
    """Have the ledger verified soon; one that is asked for and has not ended is that one, and does
    not wait any more."""
    session.execute(_AT_ONCE)
    return _asked(session, now, command.idempotency_key, command.asked_by)


def _asked(session: Session, now: datetime, key: str | None, by: UUID | None) -> Verification:
    lock_until_commit(session, _LOCK)
    row = session.execute(_ASKED, {"key": key}).one_or_none() if key else None
    row = row or session.execute(_OPEN).one_or_none()
    if row is None:
        asked = {"id": new_id(), "key": key, "by": by, "now": now}
        row = session.execute(_ASK, asked).one()
    return _verification(row)


def newest(session: Session, limit: int) -> list[Verification]:
    return [_verification(row) for row in session.execute(_NEWEST, {"limit": limit})]


def _verification(row: Any) -> Verification:
    return Verification.model_validate(dict(row._mapping))  # noqa: SLF001


def tick(database: Connected, clock: Clock) -> None:
    """Carry out what is asked for, or what a night asks for: once each night."""
    now = clock()
    night = datetime.combine(now.date(), NIGHTLY, now.tzinfo)
    with database.read() as session:
        is_due = now >= night and session.scalar(_IS_DUE, {"night": night})
        is_open = session.execute(_OPEN).one_or_none()
    if not (is_due or is_open) or (is_open and is_open.due_at and is_open.due_at > now):
        return
    with database.exclusively("wallet.verification") as is_ours:
        if is_ours:
            _run(database, clock)


def now_and_here(database: Connected, clock: Clock) -> Verdict:
    """Verify, for a caller who waits. Raises ``Conflict`` while somebody else does."""
    with database.exclusively("wallet.verification") as is_ours:
        if not is_ours:
            raise Conflict("A verification is running already. Ask again when it has ended.")
        return _run(database, clock)


def _run(database: Connected, clock: Clock) -> Verdict:
    with database.begin() as session:
        asked = _asked(session, clock(), None, None)
    try:
        with database.snapshot() as session:
            found = verification.verdict(session)
            position = chain.head(session).position
            house = house_between(session, 0, position)
    except Exception:
        _put_off(database, clock(), asked.verification_id)
        raise
    with database.begin() as session:
        ended = {
            **found.model_dump(),
            "id": asked.verification_id,
            "now": clock(),
            "position": position,
            "house": json.dumps(house),
        }
        session.execute(_END, ended)
    if not found.clean:
        log.error("the ledger is wrong", extra={"difference": found.first_difference})
    return found


def _put_off(database: Connected, now: datetime, verification_id: UUID) -> None:
    pauses = {"first": FIRST_PAUSE, "most": PAUSE_MAX}
    # What failed is raised, and not that this could not be noted of it.
    with suppress(SQLAlchemyError), database.begin() as session:
        session.execute(_FAIL, {"id": verification_id, "now": now, **pauses})


def house_between(session: Session, after: int, until: int) -> dict[int, int]:
    """What the house accounts got and gave by transactions after one position, up to another."""
    rows = session.execute(_HOUSE, {"after": after, "until": until})
    return {row.account_id: row.micros for row in rows}


def house_now(session: Session) -> dict[int, int]:
    """What each house account comes to."""
    last = session.execute(_LAST).one_or_none()
    known = {int(account_id): micros for account_id, micros in last.house.items()} if last else {}
    since = house_between(session, last.position if last else 0, END)
    return {each: known.get(each, 0) + since.get(each, 0) for each in known.keys() | since.keys()}
