"""Work that waits for the card processor, kept away from the workers that answer calls.

What is submitted may be lost with the process: everything here has a row in the database that
a timer finds. So nothing is stored here, and a full queue may leave work to the timer.
"""

import logging
from collections.abc import Callable
from typing import Any

import eventlet
from eventlet.greenpool import GreenPool
from eventlet.queue import Full, Queue
from nameko.extensions import DependencyProvider

from services.topup.settings import get_settings

log = logging.getLogger(__name__)

PATIENCE_S = 25
"""How long a stopping process waits for its charges: longer than one answer may take."""
WAITING_MAX = 1_000


class Background(DependencyProvider):
    """Injects a function: ``later(work, *arguments)``."""

    def setup(self) -> None:
        workers = get_settings().charge_workers
        self._waiting: Queue = Queue(WAITING_MAX)
        self._pool = GreenPool(workers)
        for _ in range(workers):
            self._pool.spawn_n(self._work)

    def stop(self) -> None:
        """Let what is under way end; the timers of the next process find the rest."""
        with eventlet.Timeout(PATIENCE_S, exception=False):
            self._waiting.join()

    def get_dependency(self, _worker_ctx: object) -> Callable[..., None]:
        return self.submit

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Run it soon. When too much waits, a timer will find the work instead."""
        try:
            self._waiting.put_nowait((work, arguments))
        except Full:
            log.warning("too much waits for the card processor; it is left to the timers")

    def _work(self) -> None:
        while True:
            work, arguments = self._waiting.get()
            try:
                work(*arguments)
            except Exception:
                log.exception("work in the background failed; a timer takes it up again")
            finally:
                self._waiting.task_done()
