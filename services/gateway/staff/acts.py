"""The audit log: who did what by a role, when, from where, why, and what it was before and after.

An act inside the gateway's database and its row are one transaction. One that another service
carries out is recorded before it is asked, and its outcome after: an act without an outcome is one
whose answer was lost. Each row is linked to the one before (:mod:`chassis.chain`), and the database
refuses to change or delete one. No row holds an address of a user's: the id stands for them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from chassis.chain import GENESIS, Link, canonical_json, exported_line, link_digest
from chassis.database import lock_until_commit
from services.gateway.models import Act
from services.gateway.people.users import ReasonMissing

REASON_LENGTH_MIN = 5
REASON_LENGTH_MAX = 200
"""As services take it."""
PAGE_SIZE = 1_000

Known = Mapping[str, Any]
"""What was, or is: JSON of texts, whole numbers, booleans and lists of those."""


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where: a user by their roles, or by a command of the machine."""

    user_id: UUID | None
    name: str
    roles: str
    origin: str


def read_reason(text: str) -> str:
    """Why, as somebody typed it. Raises :class:`ReasonMissing`."""
    reason = " ".join(text.split())
    if not REASON_LENGTH_MIN <= len(reason) <= REASON_LENGTH_MAX:
        raise ReasonMissing(
            f"Say why, in {REASON_LENGTH_MIN} to {REASON_LENGTH_MAX} characters: a case number, or"
            " what the user asked for. It stays in the audit log."
        )
    return reason


def record(
    session: Session,
    now: datetime,
    actor: Actor,
    action: str,
    subject: str,
    reason: str,
    *,
    before: Known | None = None,
    after: Known | None = None,
    completes: int | None = None,
) -> int:
    """Append an act; its position. ``action`` is a word like ``role.grant``, ``subject`` the id of
    what it was done to. Others that act wait until this transaction ends."""
    lock(session)
    last = head(session)
    act = Act(
        position=last.position + 1,
        occurred_at=now,
        actor_id=actor.user_id,
        actor=actor.name,
        roles=actor.roles,
        origin=actor.origin,
        action=action,
        subject=subject,
        reason=reason,
        before=None if before is None else dict(before),
        after=None if after is None else dict(after),
        completes=completes,
    )
    act.digest = link_digest(last.digest, canonical(act))
    session.add(act)
    session.flush()
    return act.position


def lock(session: Session) -> None:
    """One act at a time: what is looked up from here on nobody's act changes until the commit."""
    lock_until_commit(session, "gateway.acts")


def canonical(act: Act) -> str:
    """What is linked of an act, as JSON with sorted keys."""
    content = {
        "position": act.position,
        "occurred_at": act.occurred_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor_id": str(act.actor_id or ""),
        "actor": act.actor,
        "roles": act.roles,
        "origin": act.origin,
        "action": act.action,
        "subject": act.subject,
        "reason": act.reason,
        "before": act.before,
        "after": act.after,
        "completes": act.completes,
    }
    return canonical_json(content)


def head(session: Session) -> Link:
    """The last link."""
    last = session.execute(
        select(Act.position, Act.digest).order_by(Act.position.desc()).limit(1)
    ).one_or_none()
    return Link(last.position, last.digest) if last else Link(0, GENESIS)


def lines(session: Session, after: int = 0) -> Iterator[str]:
    """All acts after a position as lines of JSON, each with its link, the oldest first."""
    while page := _page(session, after):
        yield from (exported_line(canonical(act), act.digest) for act in page)
        after = page[-1].position


def lines_after(session: Session, after: int) -> tuple[list[str], int | None]:
    """A page of the same from a position on, and after which position the next one begins."""
    page = _page(session, after)
    found = [exported_line(canonical(act), act.digest) for act in page]
    return found, page[-1].position if len(page) == PAGE_SIZE else None


def _page(session: Session, after: int) -> list[Act]:
    rows = select(Act).where(Act.position > after).order_by(Act.position).limit(PAGE_SIZE)
    page = list(session.scalars(rows))
    session.expunge_all()
    return page


def flaw(content: Mapping[str, Any]) -> str | None:
    """What is wrong with an exported act besides its link."""
    return None if content["action"] and content["reason"] else "it says not what was done, and why"


def newest(
    session: Session,
    *,
    before: int | None = None,
    subject: str = "",
    actor_id: UUID | None = None,
    action: str = "",
    limit: int,
) -> list[Act]:
    """Acts, the newest first: those before a position, of one subject, of one actor, of one kind
    (``role``, or ``role.grant``)."""
    query = select(Act).order_by(Act.position.desc()).limit(limit)
    if before is not None:
        query = query.where(Act.position < before)
    if subject:
        query = query.where(Act.subject == subject)
    if actor_id is not None:
        query = query.where(Act.actor_id == actor_id)
    if action:
        query = query.where((Act.action == action) | Act.action.startswith(action + "."))
    return list(session.scalars(query))


def newest_not_refused(session: Session, action: str, limit: int) -> list[tuple[Act, bool]]:
    """Acts of one kind that another service carries out, the newest first, but for those that it
    refused; and of each whether it answered that it is done. Of those with one key, one."""
    outcome = aliased(Act)
    is_done = outcome.after["outcome"].astext == "done"
    rows = session.execute(
        select(Act, outcome.position)
        .outerjoin(outcome, outcome.completes == Act.position)
        .where(Act.action == action, Act.completes.is_(None))
        .where(or_(outcome.position.is_(None), is_done))
        .order_by(Act.position.desc())
        .limit(limit)
    )
    found: dict[object, tuple[Act, bool]] = {}
    for act, position in rows:
        key = (act.before or {}).get("key", act.position)
        if key not in found or position is not None:
            found[key] = (act, position is not None)
    return list(found.values())
