"""Browser sessions: a row for each browser that is logged in, which can be revoked."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from contracts.errors import NotFound
from services.gateway.models import User, UserSession
from services.gateway.people.bearer_secrets import fingerprint, new_secret
from services.gateway.people.users import DESCRIBED, CurrentUser, describe

SEEN_EVERY = timedelta(minutes=5)
"""A session in use is noted no more often than this, so that reading a page writes nothing."""

LIVES_FOR = timedelta(days=180)
"""However much it is used: then the person logs in again."""


_FIND = (
    select(UserSession.session_id, UserSession.last_seen_at, *DESCRIBED)
    .join(User, User.user_id == UserSession.user_id)
    .where(
        UserSession.secret_sha256 == bindparam("secret_sha256"),
        UserSession.revoked_at.is_(None),
        UserSession.expires_at > bindparam("now"),
        User.deleted_at.is_(None),
    )
)


@dataclass(frozen=True)
class FoundSession:
    session_id: UUID
    user: CurrentUser
    last_seen_at: datetime


def start(
    session: Session,
    now: datetime,
    user_id: UUID,
    lifetime: timedelta,
    *,
    address: str = "",
    user_agent: str = "",
) -> str:
    """Begin a session and return the secret for the cookie: a new one for each login."""
    secret = new_secret()
    session.add(
        UserSession(
            session_id=new_id(),
            user_id=user_id,
            secret_sha256=fingerprint(secret),
            created_at=now,
            last_seen_at=now,
            expires_at=now + lifetime,
            address=address[:64],
            user_agent=user_agent.replace("\x00", "")[:300],
        )
    )
    return secret


def find(session: Session, now: datetime, secret: str) -> FoundSession | None:
    """The session of a cookie; None when it is unknown, revoked or expired."""
    given = {"secret_sha256": fingerprint(secret), "now": now}
    row = session.execute(_FIND, given).one_or_none()
    if row is None:
        return None
    return FoundSession(row.session_id, describe(row), row.last_seen_at)


def note_seen(session: Session, now: datetime, session_id: UUID, lifetime: timedelta) -> None:
    """A session in use lives on: its end moves with its last use, ``LIVES_FOR`` at most."""
    last = UserSession.created_at + LIVES_FOR
    session.execute(
        update(UserSession)
        .where(UserSession.session_id == session_id)
        .values(last_seen_at=now, expires_at=func.least(now + lifetime, last))
    )


def open_ones(session: Session, now: datetime, user_id: UUID) -> list[UserSession]:
    """A user's sessions that live, the one that was used last first."""
    return list(
        session.scalars(
            select(UserSession)
            .where(
                UserSession.user_id == user_id,
                UserSession.revoked_at.is_(None),
                UserSession.expires_at > now,
            )
            .order_by(UserSession.last_seen_at.desc(), UserSession.session_id)
        )
    )


def end(session: Session, now: datetime, user_id: UUID, session_id: UUID) -> None:
    """End one session of a user's. Raises ``NotFound`` where it is not theirs, or has ended."""
    ended = session.scalar(
        update(UserSession)
        .where(
            UserSession.user_id == user_id,
            UserSession.session_id == session_id,
            UserSession.revoked_at.is_(None),
        )
        .values(revoked_at=now)
        .returning(UserSession.session_id)
    )
    if ended is None:
        raise NotFound("There is no such session, or it has ended.")


def end_all(session: Session, now: datetime, user_id: UUID, *, but: UUID | None = None) -> None:
    """End all sessions of a user's, but for one."""
    ending = update(UserSession).where(
        UserSession.user_id == user_id, UserSession.revoked_at.is_(None)
    )
    if but is not None:
        ending = ending.where(UserSession.session_id != but)
    session.execute(ending.values(revoked_at=now))


def revoke(session: Session, now: datetime, secret: str) -> None:
    """End the session of a cookie. Ending it twice changes nothing."""
    session.execute(
        update(UserSession)
        .where(UserSession.secret_sha256 == fingerprint(secret), UserSession.revoked_at.is_(None))
        .values(revoked_at=now)
    )
