"""Who may use a route: said where it is declared.

``login_required``, ``endpoint`` and, for roles, ``reads`` and ``acts`` say it for what they
declare; every other view says it itself.
:mod:`services.gateway.routes` lists all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

ViewT = TypeVar("ViewT", bound=Callable[..., Any])

_SAID = "access"


class Role(StrEnum):
    """What somebody is here. Everybody with an account is a buyer; the others are given out by
    operators (:mod:`services.gateway.staff.grants`). An auditor reads, and changes nothing."""

    BUYER = "buyer"
    SELLER = "seller"
    SUPPORT = "support"
    FINANCE = "finance"
    OPERATOR = "operator"
    AUDITOR = "auditor"


STAFF = frozenset({Role.SUPPORT, Role.FINANCE, Role.OPERATOR, Role.AUDITOR})
"""Who sees more than what is their own."""


class Who(StrEnum):
    EVERYBODY = "everybody"
    USERS = "users"
    ROLES = "users with one of these roles, and a second step"
    LINK_HOLDERS = "who holds the link of a mail"
    PROCESSOR = "the card processor, by its signature"
    INSIDE = "inside: the proxy refuses it to others"


@dataclass(frozen=True)
class Access:
    """``scopes`` are what a token must be allowed, where the API asks for users; ``roles`` of which
    one is needed, where roles are."""

    who: Who
    scopes: frozenset[str] | None = None
    roles: frozenset[Role] = frozenset()


def open_to(
    who: Who, scopes: frozenset[str] | None = None, roles: frozenset[Role] = frozenset()
) -> Callable[[ViewT], ViewT]:
    """Say who may use a view."""

    def say(view: ViewT) -> ViewT:
        setattr(view, _SAID, Access(who, scopes, roles))
        return view

    return say


def said_of(view: Callable[..., Any]) -> Access | None:
    """What was said of a view; None where nobody has thought about it."""
    return getattr(view, _SAID, None)
