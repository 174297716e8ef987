"""Who has which role. An operator gives and takes them, never to or from themself; the first
operator comes from a command (:mod:`services.gateway.roles`)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.locks import locked_or_none
from contracts.errors import Conflict, NotFound
from services.gateway.access import Role
from services.gateway.models import RoleGrant, User
from services.gateway.notifications import storage
from services.gateway.people import tokens
from services.gateway.people.passwords import ACCOUNT_PAGE
from services.gateway.people.users import email_key
from services.gateway.staff import acts
from services.gateway.staff.acts import Actor

GIVEN = tuple(role for role in Role if role is not Role.BUYER)
"""What can be given and taken; a buyer is everybody."""


Change = Callable[[Session, datetime, Actor, UUID, Role, str], None]
""":func:`grant` or :func:`take`."""


@dataclass(frozen=True)
class Holder:
    """A user with roles."""

    user_id: UUID
    email: str
    has_second_step: bool
    roles: tuple[Role, ...]


def roles_of(session: Session, user_id: UUID) -> frozenset[Role]:
    """What somebody is, besides a buyer."""
    found = session.scalars(select(RoleGrant.role).where(RoleGrant.user_id == user_id))
    return frozenset(map(Role, found))


def in_words(roles: Iterable[Role]) -> str:
    """Roles as they are recorded: in the order of the product, separated by commas."""
    held = set(roles)
    return ", ".join(role for role in Role if role in held)


def grant(
    session: Session, now: datetime, actor: Actor, user_id: UUID, role: Role, reason: str
) -> None:
    """Give somebody a role. Raises ``Conflict`` where they have it, or it is one's own doing, and
    ``NotFound``."""
    before = _begin(session, actor, user_id)
    if role in before:
        raise Conflict(f"They already have the {role} role. Nothing was changed.")
    session.add(RoleGrant(user_id=user_id, role=role, granted_at=now, granted_by=actor.user_id))
    _record(session, now, actor, user_id, reason, "role.grant", before, before | {role})
    _tell(session, now, user_id, f"You now have the {role} role", before | {role})


def take(
    session: Session, now: datetime, actor: Actor, user_id: UUID, role: Role, reason: str
) -> None:
    """Take a role from somebody, and end their tokens for roles: given back, it brings none of them
    back. Raises as :func:`grant`."""
    before = _begin(session, actor, user_id)
    if role not in before:
        raise Conflict(f"They don't have the {role} role. Nothing was changed.")
    session.delete(session.get_one(RoleGrant, (user_id, role)))
    tokens.revoke_for_roles(session, now, user_id)
    _record(session, now, actor, user_id, reason, "role.take", before, before - {role})
    _tell(session, now, user_id, f"You no longer have the {role} role", before - {role})


def check_address(user: User, *, sends_mails: bool) -> None:
    """Anybody may register with the address of whoever is to get a role. Raises ``Conflict``."""
    if sends_mails and user.email_confirmed_at is None:
        raise Conflict(
            "They have not confirmed this address, so it may be somebody else's account. Have them"
            " confirm it first: their account page sends the link. Nothing was changed."
        )


def holders(session: Session) -> list[Holder]:
    """Everybody with a role, by address."""
    rows = session.execute(
        select(User.user_id, User.email, User.second_step_since, RoleGrant.role)
        .join(RoleGrant, RoleGrant.user_id == User.user_id)
        .order_by(User.email_key, User.user_id)
    ).all()
    found: dict[UUID, Holder] = {}
    for user_id, email, since, role in rows:
        held = found[user_id].roles if user_id in found else ()
        ordered = tuple(each for each in Role if each in {*held, Role(role)})
        found[user_id] = Holder(user_id, email, since is not None, ordered)
    return list(found.values())


def find(session: Session, whom: str) -> User:
    """Somebody by address, or by id. Raises ``NotFound``."""
    try:
        wanted = User.user_id == UUID(whom.strip())
    except ValueError:
        wanted = User.email_key == email_key(whom)
    user = session.scalar(select(User).where(wanted, User.deleted_at.is_(None)))
    if user is None:
        raise NotFound("Nobody has this address or id: write all of it.")
    return user


def _begin(session: Session, actor: Actor, user_id: UUID) -> frozenset[Role]:
    """The roles of whom it is about, which stay so until the commit. The actor may have stopped
    being an operator a moment ago."""
    acts.lock(session)
    if actor.user_id is not None:
        if actor.user_id == user_id:
            raise Conflict("You can't change your own roles. Ask another operator.")
        if Role.OPERATOR not in roles_of(session, actor.user_id):
            raise Conflict("You are no longer an operator. Nothing was changed.")
    # Who looked them up before saw what was so before a deletion that this waits for.
    user = locked_or_none(session, User, user_id)
    if user is None or user.deleted_at is not None:
        raise NotFound("There is no such user.")
    return roles_of(session, user_id)


def _record(
    session: Session,
    now: datetime,
    actor: Actor,
    user_id: UUID,
    reason: str,
    action: str,
    before: frozenset[Role],
    after: frozenset[Role],
) -> None:
    acts.record(
        session,
        now,
        actor,
        action,
        str(user_id),
        reason,
        before={"roles": in_words(before)},
        after={"roles": in_words(after)},
    )


def _tell(
    session: Session, now: datetime, user_id: UUID, title: str, roles: frozenset[Role]
) -> None:
    needs = " It takes a second step when you log in: switch it on." if roles else ""
    storage.tell(
        session,
        now,
        user_id,
        new_id(),
        storage.Message(
            "role_changed",
            "info",
            title,
            f"An operator changed it.{needs} If you did not expect it, write to support.",
            ACCOUNT_PAGE,
        ),
    )
