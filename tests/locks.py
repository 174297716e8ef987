"""How a test sees a lock: it holds it elsewhere, and watches the other wait for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import Connected
from tests.patience import PATIENCE_S, eventually

Result = TypeVar("Result")

_WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE :holder = ANY(pg_blocking_pids(pid))")


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
            begun = pool.submit(work)

            def is_waiting() -> bool:
                with database.read() as session:
                    return bool(session.scalar(_WAITS, {"holder": pid}))

            eventually(lambda: begun.done() or is_waiting(), interval_s=0.01)
            assert not begun.done(), "it waited for nobody"
            meanwhile()
        return begun.result(PATIENCE_S)
