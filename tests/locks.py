"""How a test sees a lock: it holds it elsewhere, and watches the other wait for it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import Connected
from tests.patience import PATIENCE_S, eventually, insist

Result = TypeVar("Result")

_WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE :holder = ANY(pg_blocking_pids(pid))")
# The statement of another login is not shown.
_WAITING_AT = text(
    "SELECT coalesce(query, '') FROM pg_stat_activity WHERE :holder = ANY(pg_blocking_pids(pid))"
)


def done_after(
    database: Connected,
    hold: Callable[[Session], Any],
    work: Callable[[], Result],
    meanwhile: Callable[[], Any] = lambda: None,
) -> Result:
    """What ``work`` comes to that begins while another transaction has done ``hold``.

    It has to wait until that one is committed; ``meanwhile`` looks how it waits. Most of what
    changes a row would wait without a lock of its own as well, and then act on what it read
    before: the result tells.
    """
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as holder:
            hold(holder)
            holder.flush()
            pid = holder.scalar(text("SELECT pg_backend_pid()"))
            begun = pool.submit(insist, work)

            def is_waiting() -> bool:
                with database.read() as session:
                    return bool(session.scalar(_WAITS, {"holder": pid}))

            eventually(lambda: begun.done() or is_waiting(), interval_s=0.01)
            assert not begun.done(), f"it waited for nobody, and came to {begun.exception()!r}"
            meanwhile()
        return begun.result(PATIENCE_S)


def waits_at(
    database: Connected, act: Callable[[], object], statement: str, **values: Any
) -> str | None:
    """The statement at which ``act`` waits while another session holds what ``statement`` locks.

    None when it came to its end without waiting. How it ends afterwards is not looked at.
    """
    with ThreadPoolExecutor(1) as worker:
        with held(database, statement, **values) as session:
            acting = worker.submit(insist, act)
            waiting = until_waiting(database, session, acting)
        acting.exception()
    return waiting


@contextmanager
def held(database: Connected, statement: str, **values: Any) -> Iterator[Session]:
    """Hold what ``statement`` locks for the length of the block, in a session of its own."""
    with database.begin() as session:
        session.execute(text(statement), values)
        yield session


def until_waiting(database: Connected, holder: Session, acting: Future[Any]) -> str | None:
    """Let ``acting`` come to where it waits for ``holder``: the statement there, or None for one
    that came to its end without waiting."""
    process = holder.scalar(text("SELECT pg_backend_pid()"))

    def seen() -> tuple[str | None, bool]:
        is_done = acting.done()
        with database.read() as session:
            return session.scalar(_WAITING_AT, {"holder": process}), is_done

    first, _ = eventually(seen, lambda it: it[0] is not None or it[1], interval_s=0.01)
    # PostgreSQL reads the statements before it asks who waits: the first sight may show the one
    # before that which waits.
    return None if first is None else seen()[0]
