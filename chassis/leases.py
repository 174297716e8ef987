"""Leases: what is due is taken up by one worker at a time, and for each owner in turn.

A row is due when its moment has come. Whoever takes it moves that moment to the end of a lease and
works without holding the row; what it does then sets the moment anew, or removes it. A worker
that dies leaves a lease that runs out, and the row is due again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import UpdateBase, bindparam, func, inspect, select, update
from sqlalchemy.orm import InstrumentedAttribute, Mapper, Session

from chassis.clock import Clock
from chassis.database import Connected
from chassis.locks import for_update


@dataclass(frozen=True, eq=False)
class Leases:
    """Rows of one table, by the column that says when each is due; None is never.

    A worker has a row for ``lease``, and gets ``limit`` rows at once at most.
    """

    due_at: InstrumentedAttribute[datetime | None]
    owner: InstrumentedAttribute[Any]
    lease: timedelta
    limit: int = 100

    def next_at(self, session: Session) -> datetime | None:
        """When something is due next; a moment that has passed: now."""
        found: datetime | None = session.scalar(select(func.min(self.due_at)))
        return found

    def take(self, session: Session, now: datetime) -> dict[Any, Any]:
        """Lease what is due: the oldest row of every owner, then the second of every owner, …

        Whose each is, by its key. What somebody else holds is left out. What is due at once goes
        by its key, which grows with time.
        """
        return {key: owner for key, owner, *_ in self.take_with(session, now)}

    def take_with(self, session: Session, now: datetime, *columns: Any) -> Sequence[Sequence[Any]]:
        """The same with more of each row, as it is leased: its key, its owner, since when it was
        due, and these columns. Whoever goes on in this transaction holds the rows."""
        moments = {"now": now, "until": now + self.lease}
        return sorted(session.execute(self._taking(columns), moments), key=itemgetter(2, 0))

    # There is one of these for each kind of lease, and it lives as long as the program. To put the
    # statement together takes longer than to find that nothing is due.
    @lru_cache(maxsize=64)  # noqa: B019
    def _taking(self, columns: Sequence[Any]) -> UpdateBase:
        """The statement that leases what is due at ``now``, to ``until``."""
        table: Mapper[Any] = inspect(self.due_at.class_)
        (key,) = table.primary_key
        is_due = self.due_at <= bindparam("now", type_=self.due_at.type)
        turn = func.row_number().over(partition_by=self.owner, order_by=(self.due_at, key))
        waiting = select(key.label("key"), self.due_at.label("due_at"), turn.label("turn"))
        queue = waiting.where(is_due).subquery()
        chosen = select(queue.c.key).order_by(queue.c.turn, queue.c.due_at).limit(self.limit)
        held = for_update(
            select(key.label("key"), self.owner.label("owner"), self.due_at.label("due_at"))
            .where(key.in_(chosen), is_due)
            .order_by(self.due_at, key),
            skip_locked=True,
        ).cte("held")
        return (
            update(table)
            .where(key == held.c.key)
            .values({self.due_at: bindparam("until", type_=self.due_at.type)})
            .returning(held.c.key, held.c.owner, held.c.due_at.label("due_since"), *columns)
            .execution_options(synchronize_session=False)
        )

    def rounds(self, database: Connected, clock: Clock, at_most: int) -> Iterator[list[Any]]:
        """The keys of what is due, one :meth:`take` after the other until nothing is.

        ``at_most`` so many; what is left then is for the next time.
        """
        for _ in range(at_most):
            with database.begin() as session:
                taken = list(self.take(session, clock()))
            if not taken:
                return
            yield taken

    def each(self, database: Connected, clock: Clock, at_most: int) -> Iterator[Any]:
        """The same, one key after the other: more is taken when those before are worked off."""
        return chain.from_iterable(self.rounds(database, clock, at_most))
