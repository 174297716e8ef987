"""API tokens: random, shown once, stored as a hash, revocable."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from services.gateway.models import ApiToken, User
from services.gateway.people.bearer_secrets import fingerprint, new_secret
from services.gateway.people.users import DESCRIBED, CurrentUser, describe

PREFIX = "myc_"
USED_EVERY = timedelta(minutes=5)
"""A token in use is noted no more often than this, so that a question writes nothing."""


# Made once: putting a query together takes longer than asking it.
_FIND = (
    select(ApiToken.token_id, ApiToken.last_used_at, *DESCRIBED)
    .join(User, User.user_id == ApiToken.user_id)
    .where(ApiToken.secret_sha256 == bindparam("secret_sha256"), ApiToken.revoked_at.is_(None))
)


@dataclass(frozen=True)
class FoundToken:
    token_id: UUID
    user: CurrentUser
    last_used_at: datetime


def issue(session: Session, now: datetime, user_id: UUID, name: str) -> str:
    """A new token for a user. This is the only moment at which it can be read."""
    secret = new_secret(PREFIX)
    session.add(
        ApiToken(
            token_id=new_id(),
            user_id=user_id,
            secret_sha256=fingerprint(secret),
            name=name,
            created_at=now,
            last_used_at=now,
        )
    )
    return secret


def find(session: Session, secret: str) -> FoundToken | None:
    """The token and its user; None when it is unknown or revoked."""
    row = session.execute(_FIND, {"secret_sha256": fingerprint(secret)}).one_or_none()
    if row is None:
        return None
    return FoundToken(row.token_id, describe(row), row.last_used_at)


def note_used(session: Session, now: datetime, token_id: UUID) -> None:
    session.execute(update(ApiToken).where(ApiToken.token_id == token_id).values(last_used_at=now))


def revoke(session: Session, now: datetime, token_id: UUID) -> None:
    """End a token. Ending it twice changes nothing."""
    session.execute(
        update(ApiToken)
        .where(ApiToken.token_id == token_id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=now)
    )
