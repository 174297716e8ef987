"""Nameko's service container, which tells each worker the call it works on."""

from typing import Any

from nameko.containers import ServiceContainer as NamekoContainer

from chassis.context import DEADLINE_KEY, CallContext, current_call


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
