"""Work that waits for the card processor, kept away from the workers that answer calls.

What is submitted may be lost with the process: everything here has a row in the database that
a timer finds. So nothing needs to be stored, and a full pool refuses nothing for ever.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import eventlet
from eventlet.greenpool import GreenPool
from nameko.extensions import DependencyProvider

from services.topup.settings import get_settings

log = logging.getLogger(__name__)

PATIENCE_S = 25
"""How long a stopping process waits for its charges: longer than one answer may take."""


class Background(DependencyProvider):
    """Injects a function: ``later(work, *arguments)``."""

    def setup(self) -> None:
        self._pool = GreenPool(get_settings().charge_workers)

    def stop(self) -> None:
        """Let charges that are under way end; the janitor finds those that take too long."""
        with eventlet.Timeout(PATIENCE_S, exception=False):
            self._pool.waitall()

    def get_dependency(self, worker_ctx: object) -> Callable[..., None]:
        return self.submit

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Run it soon. When the pool is full, a timer will find the work instead."""
        if self._pool.free() <= 0:
            log.info("too much is waiting for the card processor; it is left to the timer")
            return
        self._pool.spawn_n(partial(self._run, work, arguments))

    def _run(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            work(*arguments)
        except Exception:
            log.exception("work in the background failed; a timer takes it up again")
