"""What was counted of the products, known until one of them changes.

A list says how many products match, and a filter how many have each value: to count them takes as
long as there are many. The database gives the products another version with each change of what
they can be found by, in the same transaction, so that what is known is exact.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.catalog.models import ProductVersionRow

CountedT = TypeVar("CountedT")

KNOWN_MAX = 10_000
"""Questions, of which each process remembers so many answers."""

_VERSION = select(ProductVersionRow.version)
_known: dict[tuple[UUID, Hashable], object] = {}


def count_once(session: Session, question: Hashable, count: Callable[[], CountedT]) -> CountedT:
    """What ``count`` finds for this question, unless it is known of the products as they are.

    The version is read first: what is counted is never older than it. No two databases have the
    same one.
    """
    key = session.scalars(_VERSION).one(), question
    known = _known.get(key)
    if known is None:
        known = count()
        if len(_known) >= KNOWN_MAX:
            _known.clear()
        _known[key] = known
    return cast(CountedT, known)
