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

KNOWN_MAX = 300
"""Questions, of which each process remembers so many answers: the facets of one may be 100 KB."""

_VERSION = select(ProductVersionRow.version)
_known: dict[UUID, dict[Hashable, object]] = {}
"""By the version of the products, of which there is one at a time."""


def count_once(session: Session, question: Hashable, count: Callable[[], CountedT]) -> CountedT:
    """What ``count`` finds for this question, unless it is known of the products as they are.

    The version is read first: what is counted is never older than it. No two databases have the
    same one.
    """
    version = session.scalars(_VERSION).one()
    known = _known.get(version)
    if known is None:
        _known.clear()
        known = _known[version] = {}
    counted = known.get(question)
    if counted is None:
        counted = count()
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[question] = counted
    return cast(CountedT, counted)
