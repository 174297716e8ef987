"""API tokens: random, shown once, stored as a hash, revocable; for some things and for a time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, case, func, or_, select, update
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import for_update
from contracts.errors import NotFound
from services.gateway.models import ApiToken, User
from services.gateway.people.bearer_secrets import fingerprint, new_secret
from services.gateway.people.sessions import LIVES_FOR
from services.gateway.people.users import DESCRIBED, CurrentUser, TooMany, describe

PREFIX = "myc_"
USED_EVERY = timedelta(minutes=5)
"""A token in use is noted no more often than this, so that a question writes nothing."""

NAME_LENGTH_MAX = 60
NAMED_MAX = 50
"""Tokens of one user that live, besides those that logins give."""


class Scope(StrEnum):
    """What a token may do. Every token may read; which route needs what: api/scopes.py."""

    READ = "read"
    BUY = "buy"
    MONEY = "money"
    SELL = "sell"
    """What a seller does with products and the profile. As ``admin`` it takes its role, and ends
    with it."""
    ADMIN = "admin"
    """What its owner's roles allow: only who has one may make it (staff/guard.py). It ends with any
    role that is taken, with the second step and with the password."""


EVERYTHING = frozenset({Scope.READ, Scope.BUY, Scope.MONEY})
"""All that is one's own: what a token may do that a login gives."""

ADMIN_FOR = timedelta(days=30)
"""How long a token with the scope ``admin`` works at most."""

# Made once: putting a query together takes longer than asking it.
_FIND = (
    select(
        ApiToken.secret_sha256,
        ApiToken.token_id,
        ApiToken.last_used_at,
        ApiToken.scopes,
        *DESCRIBED,
    )
    .join(User, User.user_id == ApiToken.user_id)
    .where(
        ApiToken.secret_sha256.in_(bindparam("secrets_sha256", expanding=True)),
        ApiToken.revoked_at.is_(None),
        or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > bindparam("now")),
        User.deleted_at.is_(None),
    )
)


@dataclass(frozen=True)
class FoundToken:
    token_id: UUID
    user: CurrentUser
    last_used_at: datetime
    scopes: frozenset[Scope]


def issue(
    session: Session,
    now: datetime,
    user_id: UUID,
    name: str,
    scopes: Collection[Scope] = EVERYTHING,
    expires_at: datetime | None = None,
    *,
    is_of_login: bool = False,
) -> str:
    """A new token for a user. This is the only moment at which it can be read.

    Raises :class:`TooMany`.
    """
    if Scope.ADMIN in scopes:
        expires_at = min(expires_at or now + ADMIN_FOR, now + ADMIN_FOR)
    if not is_of_login:
        # One at a time for each user, so that the bound is exact.
        session.execute(for_update(select(User.user_id).where(User.user_id == user_id)))
        named = select(func.count()).where(*_living(now, user_id), ApiToken.is_of_login.is_(False))
        if (session.scalar(named) or 0) >= NAMED_MAX:
            raise TooMany(f"You have {NAMED_MAX} API tokens: revoke one that you do not use.")
    secret = new_secret(PREFIX)
    session.add(
        ApiToken(
            token_id=new_id(),
            user_id=user_id,
            secret_sha256=fingerprint(secret),
            name=name,
            created_at=now,
            last_used_at=now,
            scopes=" ".join(scope for scope in Scope if scope in {*scopes, Scope.READ}),
            expires_at=expires_at,
            is_of_login=is_of_login,
        )
    )
    return secret


def find(session: Session, now: datetime, secret: str) -> FoundToken | None:
    """The token and its user; None when it is unknown, revoked or expired."""
    return find_all(session, [(fingerprint(secret), now)])[0]


def find_all(
    session: Session, questions: Sequence[tuple[bytes, datetime]]
) -> list[FoundToken | None]:
    """The same of several secrets, by their fingerprints, as of the last of these moments."""
    now = max(moment for _, moment in questions)
    given = {"secrets_sha256": list({secret for secret, _ in questions}), "now": now}
    found = {
        bytes(row.secret_sha256): FoundToken(
            row.token_id, describe(row), row.last_used_at, frozenset(read_scopes(row.scopes))
        )
        for row in session.execute(_FIND, given)
    }
    return [found.get(secret) for secret, _ in questions]


def read_scopes(words: str) -> list[Scope]:
    """Those of a row; without what only a later version knows, which runs beside this one."""
    return [scope for scope in Scope if scope in words.split()]


def living(session: Session, now: datetime, user_id: UUID) -> list[ApiToken]:
    """A user's tokens that work, newest first."""
    return list(
        session.scalars(
            select(ApiToken)
            .where(*_living(now, user_id))
            .order_by(ApiToken.created_at.desc(), ApiToken.token_id)
        )
    )


def get(session: Session, now: datetime, user_id: UUID, token_id: UUID) -> ApiToken:
    """One of a user's tokens that work. Raises ``NotFound``."""
    found = session.scalar(
        select(ApiToken).where(*_living(now, user_id), ApiToken.token_id == token_id)
    )
    if found is None:
        raise NotFound("There is no such token, or it has ended.")
    return found


def note_used(session: Session, now: datetime, token_id: UUID, lifetime: timedelta) -> None:
    """A token that a login gave lives on as a browser's session does; any other has its end."""
    # The migration 0017 gave those from before a later end.
    last = func.greatest(ApiToken.created_at + LIVES_FOR, ApiToken.expires_at)
    lives_on = case(
        (ApiToken.is_of_login, func.least(now + lifetime, last)), else_=ApiToken.expires_at
    )
    session.execute(
        update(ApiToken)
        .where(ApiToken.token_id == token_id)
        .values(last_used_at=now, expires_at=lives_on)
    )


def revoke(session: Session, now: datetime, token_id: UUID) -> None:
    """End a token. Ending it twice changes nothing."""
    session.execute(
        update(ApiToken)
        .where(ApiToken.token_id == token_id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=now)
    )


def revoke_all(
    session: Session,
    now: datetime,
    user_id: UUID,
    *,
    of_logins_only: bool = False,
    but: UUID | None = None,
) -> None:
    """End a user's tokens: all, or those that logins gave; but for one."""
    ending = update(ApiToken).where(ApiToken.user_id == user_id, ApiToken.revoked_at.is_(None))
    if of_logins_only:
        ending = ending.where(ApiToken.is_of_login)
    if but is not None:
        ending = ending.where(ApiToken.token_id != but)
    session.execute(ending.values(revoked_at=now))


def revoke_for_roles(
    session: Session, now: datetime, user_id: UUID, *, but: UUID | None = None
) -> None:
    """End a user's tokens with the scope ``admin`` or ``sell``, but for one."""
    ending = update(ApiToken).where(
        ApiToken.user_id == user_id,
        ApiToken.revoked_at.is_(None),
        or_(*(ApiToken.scopes.contains(scope.value) for scope in (Scope.SELL, Scope.ADMIN))),
    )
    if but is not None:
        ending = ending.where(ApiToken.token_id != but)
    session.execute(ending.values(revoked_at=now))


def _living(now: datetime, user_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return (
        ApiToken.user_id == user_id,
        ApiToken.revoked_at.is_(None),
        or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > now),
    )
