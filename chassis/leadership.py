"""Which of a service's replicas does the periodic work: the one that holds an advisory lock.

It holds the lock on a connection of its own for as long as it lives, so that a leader asks
nothing and the others ask seldom. The lock goes with the connection: when the leader dies or is
cut off, another replica leads within ``ASKED_EVERY_S``. For so long, too, both may believe that
they lead, which costs nothing: whatever timers take up they lock or lease.
"""

import logging
import time

from eventlet.semaphore import Semaphore
from nameko.extensions import SharedExtension
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from chassis.service_database import DatabaseConnection

log = logging.getLogger(__name__)

ASKED_EVERY_S = 10.0
_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended('timers', 0))")


class Leadership(SharedExtension):
    """Asked by every timer before it works."""

    connection = DatabaseConnection()

    def setup(self) -> None:
        self._turn = Semaphore()
        self._held: Connection | None = None
        self._asked_at = -ASKED_EVERY_S

    def stop(self) -> None:
        """Let another one lead at once."""
        self._let_go()

    def is_ours(self) -> bool:
        """Whether this process leads. A database that does not answer has no leader."""
        with self._turn:
            if time.monotonic() - self._asked_at >= ASKED_EVERY_S:
                self._ask()
            return self._held is not None

    def _ask(self) -> None:
        try:
            if self._held is None:
                self._held = self._take()
            else:
                self._held.execute(text("SELECT 1"))
            self._asked_at = time.monotonic()
        except SQLAlchemyError as error:
            # Asked again at the next tick: a leader that was cut off wants its place back.
            self._let_go()
            log.warning("the database does not answer the timers", extra={"error": str(error)})

    def _take(self) -> Connection | None:
        connection = self.connection.connected.engine.connect()
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            if connection.scalar(_LOCK):
                # It is not one of the pool's any more, which opens another one.
                connection.detach()
                return connection
        except SQLAlchemyError:
            connection.close()
            raise
        connection.close()
        return None

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()
