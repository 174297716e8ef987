"""Who may use a route: said where it is declared.

``login_required`` and ``endpoint`` say it for what they declare; every other view says it itself.
:mod:`services.gateway.routes` lists all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

ViewT = TypeVar("ViewT", bound=Callable[..., Any])

_SAID = "access"


class Who(StrEnum):
    EVERYBODY = "everybody"
    USERS = "users"
    LINK_HOLDERS = "who holds the link of a mail"
    PROCESSOR = "the card processor, by its signature"
    OPERATORS = "operators: the proxy refuses it to others"


@dataclass(frozen=True)
class Access:
    """``scopes`` are what a token must be allowed, where the API asks for users."""

    who: Who
    scopes: frozenset[str] | None = None


def open_to(who: Who, scopes: frozenset[str] | None = None) -> Callable[[ViewT], ViewT]:
    """Say who may use a view."""

    def say(view: ViewT) -> ViewT:
        setattr(view, _SAID, Access(who, scopes))
        return view

    return say


def said_of(view: Callable[..., Any]) -> Access | None:
    """What was said of a view; None where nobody has thought about it."""
    return getattr(view, _SAID, None)
