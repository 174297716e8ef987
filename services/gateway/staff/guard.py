"""Who may open a page for roles: ``@reads(Role.SUPPORT)``, ``@acts(Role.FINANCE)``.

An auditor reads whatever anybody reads. What somebody is, and whether their second step is on, is
asked of the database each time: a role that was taken opens nothing any more.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import ParamSpec, TypeVar
from uuid import UUID

from flask import current_app, g, request
from sqlalchemy.orm import Session

from services.gateway.access import STAFF, Role, Who, open_to, said_of
from services.gateway.backend import database
from services.gateway.errors import Problem, wants_json
from services.gateway.models import User
from services.gateway.people import tokens
from services.gateway.people.identity import current_identity, signed_in_user
from services.gateway.people.signing_in import check_second_step
from services.gateway.people.tokens import Scope
from services.gateway.people.users import CurrentUser
from services.gateway.people.way_back import to_login
from services.gateway.security import throttle
from services.gateway.staff import acts as audit
from services.gateway.staff.acts import Actor
from services.gateway.staff.grants import in_words, roles_of

P = ParamSpec("P")
R = TypeVar("R")
WHY = "for a program of their own"
FOR_ROLES = {Scope.SELL: frozenset({Role.SELLER}), Scope.ADMIN: STAFF}
"""The scopes that take a role, and which."""
View = Callable[P, R]


@dataclass(frozen=True)
class Staff:
    """Who asks, by which roles."""

    user: CurrentUser
    roles: frozenset[Role]

    @property
    def in_words(self) -> str:
        return in_words(self.roles)

    def actor(self) -> Actor:
        """As the audit log knows them."""
        return Actor(self.user.user_id, "", in_words(self.roles), request.remote_addr or "unknown")


def reads(*roles: Role) -> Callable[[View[P, R]], View[P, R]]:
    """Only for these roles and auditors: a page that changes nothing."""
    return _only(readers(*roles))


def readers(*roles: Role) -> frozenset[Role]:
    """These roles and auditors."""
    return frozenset({*roles, Role.AUDITOR})


def acts(*roles: Role) -> Callable[[View[P, R]], View[P, R]]:
    """Only for these roles: a form that changes something."""
    return _only(frozenset(roles))


def current_staff() -> Staff:
    """Who was let in."""
    staff: Staff = g.staff
    return staff


def may(endpoint: str) -> bool:
    """Whether who was let in may use another page or form for roles, by what that says itself."""
    access = said_of(current_app.view_functions[endpoint])
    return access is not None and bool(access.roles & current_staff().roles)


def _only(roles: frozenset[Role]) -> Callable[[View[P, R]], View[P, R]]:
    def guard(view: View[P, R]) -> View[P, R]:
        @open_to(Who.ROLES, roles=roles)
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            identity = current_identity()
            if identity is None and not wants_json():
                return to_login()  # type: ignore[return-value]
            user = signed_in_user()
            if identity is None or identity.via == "token":
                raise Problem(
                    403, "scope_missing", "An API token can't open this page. Log in instead."
                )
            admit(user, roles)
            return view(*args, **kwargs)

        return guarded

    return guard


def check_scopes(user: CurrentUser, scopes: Collection[Scope], code: str) -> None:
    """Whether this user may make a token with these scopes, here and now. Those of ``FOR_ROLES``
    take the role, and a code of the second step, as money that leaves does: whoever has come by a
    session makes no token of it. Of a program they take a token that has the scope, too.

    Raises a 403, a 429 and ``SecondStepRequired``.
    """
    wanted = [scope for scope in FOR_ROLES if scope in scopes]
    if not wanted:
        return
    identity = current_identity()
    if identity is None or not identity.scopes.issuperset(wanted):
        raise Problem(
            403,
            "scope_missing",
            "A token can't make another one with more scopes. Log in to make it.",
        )
    for scope in wanted:
        admit(user, FOR_ROLES[scope])
    throttle("password", str(user.user_id))
    check_second_step(user.user_id, code)


def make_token(
    session: Session,
    now: datetime,
    user_id: UUID,
    name: str,
    scopes: Collection[Scope],
    until: datetime | None,
) -> str:
    """The token that :func:`check_scopes` let this user make; one for roles is recorded.

    Raises a 403 where the role was taken meanwhile.
    """
    wanted = [scope for scope in FOR_ROLES if scope in scopes]
    if not wanted:
        return tokens.issue(session, now, user_id, name, scopes, until)
    # Before the user's row, as whoever takes the role does.
    audit.lock(session)
    held = roles_of(session, user_id)
    if not all(held & FOR_ROLES[scope] for scope in wanted):
        raise Problem(
            403, "role_missing", "You no longer have the role that this takes. No token was made."
        )
    secret = tokens.issue(session, now, user_id, name, scopes, until)
    session.flush()
    made = tokens.find(session, now, secret)
    said = {
        "token_id": str(made.token_id) if made else "",
        "scopes": [scope for scope in Scope if scope in scopes],
    }
    actor, subject = current_staff().actor(), str(user_id)
    audit.record(session, now, actor, "token.make", subject, WHY, after=said)
    return secret


def admit(user: CurrentUser, roles: frozenset[Role]) -> Staff:
    """Let somebody in, so that :func:`current_staff` is them. Raises a 403 for who lacks the role,
    or the second step."""
    staff: Staff = _admitted(user, roles)
    g.staff = staff
    return staff


def _admitted(user: CurrentUser, roles: frozenset[Role]) -> Staff:
    with database().read() as session:
        held = roles_of(session, user.user_id)
        since = session.get_one(User, user.user_id).second_step_since
    if not held & roles:
        raise Problem(
            403,
            "role_missing",
            _lacking(roles),
        )
    if since is None:
        raise Problem(
            403,
            "second_step_missing",
            "Your role takes a second step when you log in. Switch it on on your account page.",
            {"address": "/dashboard/account#second-step"},
        )
    return Staff(user, held)


def _lacking(roles: frozenset[Role]) -> str:
    """What is said to who has none of these roles. To sell, nobody has to be asked."""
    if roles == {Role.SELLER}:
        return "You need the seller role for this. Become a seller on your account page."
    wanted = [role for role in Role if role in roles]
    named = " or ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)
    return f"You need the {named} role for this. Ask an operator for it."
