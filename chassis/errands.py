"""Errands: what another service is to do for a row, one step after the other, whatever crashes.

The row is read, the service is asked while nobody holds it, and what it said is recorded where the
row is still in the status in which it was read. Each step has a key that names the row: what is not
answered stays due, and is asked again under the same key; it is done once.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.orm.util import identity_key

from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.locks import locked
from contracts.errors import (
    NO_ANSWER,
    AccountFrozen,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
    ServiceError,
)

log = logging.getLogger(__name__)

NOT_THERE = (InsufficientFunds, AccountFrozen, NotFound)
"""Why a wallet sets nothing aside."""

RETRY = timedelta(hours=1)
"""How long after a service refused something that has to be done it is asked again."""


RowT = TypeVar("RowT")


@dataclass(frozen=True)
class Errand(Generic[RowT]):
    """How the rows of a table, each in a ``status``, get what they need.

    ``name`` is that of the crash points (``…_asked``, ``…_recorded``). ``ask`` calls, ``record``
    writes what was said into the locked row: a reply, or the error of who refused. ``overtaken``
    hears a reply that came when somebody else had taken the row on.
    """

    name: str
    table: type[RowT]
    status: InstrumentedAttribute[str]
    ask: Callable[[RowT], object]
    record: Callable[[Session, datetime, RowT, object], None]
    overtaken: Callable[[RowT, object], None]

    def read(self, database: Connected, key: Any) -> RowT:
        """The row as it is now. Raises ``NoResultFound``."""
        with database.read() as session:
            return session.get_one(self.table, key)

    def step(self, database: Connected, clock: Clock, asked: RowT) -> bool:
        """Do what a row needs next, as it was read. False when nobody answered."""
        try:
            outcome = self.ask(asked)
        except NO_ANSWER as error:
            log.warning(
                "an errand has to wait",
                extra={"errand": self.name, "error": f"{error.code}: {error}"},
            )
            return False
        except ServiceError as refusal:
            outcome = refusal
        crash_point(f"{self.name}_asked")
        with database.begin() as session:
            row = locked(session, self.table, identity_key(instance=asked)[1])
            is_as_it_was = self._status_of(row) == self._status_of(asked)
            if is_as_it_was:
                self.record(session, clock(), row, outcome)
        if not is_as_it_was:
            self.overtaken(row, outcome)
        crash_point(f"{self.name}_recorded")
        return True

    def _status_of(self, row: RowT) -> object:
        return getattr(row, self.status.key)


def has_ended(outcome: object) -> bool:
    """Whether what was to be released has ended already: its time was over."""
    return isinstance(outcome, Conflict) and not isinstance(outcome, IdempotencyConflict)
