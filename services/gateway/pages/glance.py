"""What a user's pages show of the site's own database, in one look for each page: how many
notifications are unread, whether one of them asks for something, how much is in the cart."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from flask import g
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from services.gateway.backend import database
from services.gateway.pages.attention import EVENTS_WITHOUT_A_STATE

UNREAD_SHOWN_MAX = 99


class Glance(NamedTuple):
    """``unread`` is counted no further than it is shown; ``in_cart`` are units."""

    unread: int
    asks_for_something: bool
    in_cart: int


_UNREAD = "FROM notifications AS found WHERE found.user_id = new.user_id AND read_at IS NULL"
_ASKING = ", ".join(f"'{kind}'" for kind in EVENTS_WITHOUT_A_STATE)
_LOOK = Bulk(
    "SELECT new.user_id,"  # noqa: S608 - our words
    f" (SELECT count(*) FROM (SELECT {_UNREAD} LIMIT {UNREAD_SHOWN_MAX + 1}) AS counted),"
    f" EXISTS (SELECT {_UNREAD} AND kind IN ({_ASKING})),"
    " (SELECT coalesce(sum(quantity), 0) FROM carts JOIN cart_lines USING (cart_id)"
    " WHERE carts.user_id = new.user_id) FROM {rows}",
    user_id="uuid",
)


def look(session: Session, users: Sequence[UUID]) -> list[Any]:
    """The glance of each user."""
    rows = _LOOK.execute(session, [(user_id,) for user_id in set(users)])
    found = {row.user_id: Glance._make(row[1:]) for row in rows}
    return [found[user_id] for user_id in users]


def glance(user_id: UUID) -> Glance:
    """The glance of who asks, once in a request."""
    if "glance" not in g:
        g.glance = database().answer(look, user_id)
    found: Glance = g.glance
    return found


def forget_glance() -> None:
    """Something of it was changed by this request."""
    g.pop("glance", None)
