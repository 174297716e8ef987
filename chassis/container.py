"""Nameko's service container: it tells each worker the call it works on, and it always ends."""

import logging
import os
from typing import Any

import eventlet
from nameko.containers import ServiceContainer as NamekoContainer

from chassis.context import DEADLINE_KEY, CallContext, current_call

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30


class ServiceContainer(NamekoContainer):
    """Named in ``chassis/nameko.yaml``; ``nameko run`` starts every service in one."""

    def _worker_setup(self, worker_ctx: Any) -> None:
        # Every worker is a greenlet of its own with a context of its own: nothing to reset.
        current_call.set(
            CallContext(
                chain=tuple(worker_ctx.call_id_stack),
                deadline_ms=worker_ctx.data.get(DEADLINE_KEY),
            )
        )
        super()._worker_setup(worker_ctx)

    def stop(self) -> None:
        """Finish the work in hand, then end.

        Nameko waits for its consumer to let go of every queue, which never happens while the
        broker is away. All state is in the database, so that leaving at once loses nothing.
        """
        timeout = eventlet.Timeout(STOP_TIMEOUT_S)
        try:
            super().stop()
        except eventlet.Timeout:
            log.error("the service did not stop in time; it ends as in a crash")
            os._exit(1)
        finally:
            timeout.cancel()
