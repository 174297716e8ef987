"""The database of a service: one engine for each process, one session for each piece of work.

::

    with self.database.begin() as session:     # commits at the end, rolls back on an error
        ...
        after_commit(session, wake_the_payer)  # runs once the money is safe

``begin`` commits state and outgoing events together (:mod:`chassis.outbox`) and then
wakes the relay. What runs after the commit can fail without harm: a sweeper finds what
it left.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg2
from psycopg2.errors import LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from chassis import instruments
from chassis.bulk import run
from chassis.together import Together

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 15_000
LOCK_TIMEOUT_MS = 2_000
"""Below the patience of callers, so that they hear why: a row that is held for longer than a
transaction of ours lasts occupies its own callers, and no worker for long."""
IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000
POOL_TIMEOUT_S = 10
SINGLES_MAX = 2
SILENT_MS_MAX = 20_000
"""A machine that lost its power or its network says no farewell. Its connections end after so long;
Linux by itself would wait for hours."""
_LINK = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENT_MS_MAX,
}

_SNAPSHOT = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0;"
    " SET LOCAL idle_in_transaction_session_timeout = 0"
)
_AFTER_COMMIT = "chassis.after_commit"
PUBLISHED = "chassis.published"
"""In ``session.info``: a list of what was put into the outbox."""
HAS_RELAY = "chassis.has_relay"
"""In ``session.info``: whether that is sent by this process, right after the commit."""


AskedT = TypeVar("AskedT")
FoundT = TypeVar("FoundT")
Look = Callable[[Session, Sequence[AskedT]], Sequence[FoundT | Exception]]
"""Answers questions of one kind, each with what was found or with what is to be raised."""


class Connected:
    """An open database: the engine, its pool, and the ways to get a session."""

    def __init__(self, engine: Engine, readers: Engine, singles: Engine) -> None:
        """The connections of ``readers`` may not write; they and ``singles`` begin no transactions:
        each statement is one, and costs no round trip besides."""
        self.engine = engine
        self.readers = readers
        self.singles = singles
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        event.listen(self._sessions, "after_soft_rollback", _forget_undone)
        event.listen(engine, "engine_disposed", lambda _engine: readers.dispose())
        event.listen(engine, "engine_disposed", lambda _engine: singles.dispose())
        self.on_publish: list[Callable[[list[Any]], None]] = []
        """Called after a commit of :meth:`begin` with the events in it, which are sent then."""
        self.on_change: list[Callable[[], None]] = []
        """Called after every commit of :meth:`begin`: timers look what has become due."""
        self._looks: dict[Any, Together[Any, Any]] = {}

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A session in one transaction, committed at the end of the block."""
        with self._sessions(info={HAS_RELAY: bool(self.on_publish)}) as session:
            with session.begin():
                yield session
            callbacks = [callback for _, callback in session.info.pop(_AFTER_COMMIT, [])]
            published = session.info.pop(PUBLISHED, None)
        if published:
            for each in published:
                instruments.committed(f"{each.source}.{each.type}").inc()
            for send in self.on_publish:
                send(published)
        for listener in self.on_change:
            listener()
        for callback in callbacks:
            _run_quietly(callback)

    @contextmanager
    def rehearse(self) -> Iterator[Session]:
        """A session whose changes are undone at the end of the block; no callback is run."""
        with self._sessions() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that may not write. Each question sees what is committed by then.

        It has no transaction, which would see no more and takes three round trips beside the one
        of the question.
        """
        with self.readers.connect() as connection, _Reading(connection) as session:
            yield session

    def answer(self, look: Look[AskedT, FoundT], question: AskedT) -> FoundT:
        """What ``look`` finds for a question, in one :meth:`read` with those of the same moment."""
        together = self._looks.get(look)
        if together is None:
            new = Together(partial(self._look, look), partial(self._look_once, look))
            together = self._looks.setdefault(look, new)
        found: FoundT = together.do(question)
        return found

    def _look(
        self, look: Look[AskedT, FoundT], questions: Sequence[AskedT]
    ) -> Sequence[FoundT | Exception]:
        with self.read() as session:
            return look(session, questions)

    def _look_once(self, look: Look[AskedT, FoundT], question: AskedT) -> FoundT:
        (answer,) = self._look(look, [question])
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextmanager
    def snapshot(self, exported: str | None = None) -> Iterator[Session]:
        """A session that sees one moment and may take its time; it may not write.

        ``exported`` is the moment of another, which ``pg_export_snapshot()`` named in there.
        """
        with self._sessions() as session, session.begin():
            session.execute(text(_SNAPSHOT))
            if exported is not None:
                session.execute(text("SET TRANSACTION SNAPSHOT :exported"), {"exported": exported})
            yield session

    @contextmanager
    def exclusively(self, name: str) -> Iterator[bool]:
        """Hold the advisory lock ``name``; the block learns whether it is the only holder.

        The lock belongs to a connection, so that it goes with a process that dies.
        """
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            key = {"name": name}
            mine = connection.scalar(
                text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), key
            )
            try:
                yield bool(mine)
            finally:
                if mine:
                    connection.execute(
                        text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), key
                    )


class _Reading(Session):
    """On a connection that begins no transactions: there is none to be in before it is used, and
    to look for one takes longer than a statement."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, expire_on_commit=False)
        self._connection = connection

    def connection(self, *_: Any, **__: Any) -> Connection:
        return self._connection


def _forget_undone(session: Session, undone: object) -> None:
    """Who undoes a part and goes on may have undone an event: what stays is found in the table.
    Nor is anything run that was to follow that part."""
    session.info.pop(PUBLISHED, None)
    callbacks = session.info.get(_AFTER_COMMIT, [])
    callbacks[:] = [each for each in callbacks if each[0] is not undone]


def lock_until_commit(session: Session, name: str) -> None:
    """Let one transaction at a time go on from here under this name, until it ends."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
    )


def commit_unhurried(session: Session) -> None:
    """Let the commit of this transaction not wait until it is on the disk, as a moment later it is.

    For what the loss of the database's machine may undo without harm: somebody finds it as it was
    before, and comes to the same. Never for what makes a message count as handled, or for a step
    that has to be known before the next one.
    """
    # Not by the session, which would write what was changed so far, and the rest once more.
    run(session.connection(), "SET LOCAL synchronous_commit = off", {})


def after_commit(session: Session, callback: Callable[[], None]) -> None:
    """Run ``callback`` right after the transaction of ``session`` is committed, unless the part of
    it (``begin_nested``) in which this is asked for is undone.

    Its failure is logged and changes nothing that was committed. A crash may keep it from
    running at all: whatever must happen needs a sweeper as well.
    """
    part = session.get_nested_transaction()
    session.info.setdefault(_AFTER_COMMIT, []).append((part, callback))


def _run_quietly(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("work after a commit failed; a sweeper resumes it")


def connect(url: str, pool_size: int = 5) -> Connected:
    """Open a database. Connections are made when they are first needed: at most ``pool_size`` to
    write, as many to read, and ``SINGLES_MAX`` for statements that need no transaction."""
    # What is asked again and again of a few rows takes longer to plan than to answer.
    reads = "-c default_transaction_read_only=on -c plan_cache_mode=force_generic_plan"
    writers = _engine(url, pool_size)
    singles = _engine(url, min(pool_size, SINGLES_MAX), isolation_level="AUTOCOMMIT")
    for engine in (writers, singles):
        event.listen(engine, "handle_error", _leave_a_standby)
    return Connected(writers, _engine(url, pool_size, reads, isolation_level="AUTOCOMMIT"), singles)


def connect_by_environment(pool_size: int) -> Connected:
    """For a command: the database that ``DATABASE_URL`` names, or the end with a sentence."""
    try:
        return connect(os.environ["DATABASE_URL"], pool_size)
    except KeyError:
        raise SystemExit("Set DATABASE_URL to the service's database.") from None


def _engine(url: str, pool_size: int, option: str = "", **options: str) -> Engine:
    server_options = (
        f"-c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT_MS}"
        f" -c lock_timeout={LOCK_TIMEOUT_MS}"
        f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} {option}"
    )
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        # The few that are in use know their statements.
        pool_use_lifo=True,
        connect_args={"options": server_options, **_LINK},
        # Changes of many rows are a few round trips and not one for each.
        executemany_mode="values_plus_batch",
        **options,
    )
    event.listen(engine, "checkout", _see_whether_it_lives)
    return engine


def is_lost(error: BaseException) -> bool:
    """Whether the connection went, or there was none: a commit may have come through."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeout)
    cause = error.orig
    is_cut = isinstance(cause, psycopg2.OperationalError) and cause.pgcode is None
    return error.connection_invalidated or is_cut


def is_held(error: BaseException) -> bool:
    """Whether somebody else has held a row for too long: the transaction was rolled back."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, LockNotAvailable)


def _leave_a_standby(context: ExceptionContext) -> OperationalError | None:
    """A server that takes no writes is the primary no longer. It lives, and passes every test of
    the pool: its connections count as lost, so that whoever comes next finds the one that is."""
    refused = context.original_exception
    if not isinstance(refused, ReadOnlySqlTransaction):
        return None
    context.is_disconnect = True
    return OperationalError(
        context.statement, context.parameters, refused, connection_invalidated=True
    )


def _see_whether_it_lives(connection: Any, _record: object, _proxy: object) -> None:
    """Read what has arrived on a pooled connection before it is used.

    ``pool_pre_ping`` asks the server, which is a round trip for each transaction, or three. But a
    server that goes says so, or its machine's kernel does, and one that vanishes without a word is
    given up by ours (``_LINK``).
    """
    try:
        # The first reading may bring the farewell, and only the next one the end.
        connection.poll()
        connection.poll()
    except psycopg2.Error:
        raise InvalidatePoolError from None
