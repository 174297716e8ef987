"""Nameko's service container: it tells each call whose it is, and it always ends."""

import logging
import os
import sys
from functools import cached_property
from typing import Any

import eventlet
from nameko.containers import ServiceContainer as NamekoContainer
from nameko.containers import WorkerContext
from nameko.exceptions import ContainerBeingKilled

from chassis import garbage, traces
from chassis.context import CALLER_KEY, CallContext, current_call
from chassis.settings import service_settings
from contracts.calls import DEADLINE_KEY, TRACE_KEY

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30


class ServiceContainer(NamekoContainer):
    """Named in ``chassis/nameko.yaml``; ``nameko run`` starts every service in one."""

    def start(self) -> None:
        traces.start(self.service_name, service_settings())
        super().start()
        garbage.look_rarely()

    def run_at_once(self, entrypoint: Any, args: tuple[Any, ...], context_data: Any) -> Any:
        """Call a method that never waits right here, without a worker; what it returns.

        Raises what the method raises, and ``DeadlineExceeded`` for a call that came too late.
        """
        if self._being_killed:
            raise ContainerBeingKilled
        context = WorkerContext(self, self._shared_instance, entrypoint, args, data=context_data)
        token = current_call.set(_call_context(context))
        try:
            return _call_method(context)
        finally:
            current_call.reset(token)

    @cached_property
    def _shared_instance(self) -> Any:
        """An instance of the service for all calls that need no worker of their own."""
        service = self.service_cls()
        for provider in self.dependencies:
            setattr(service, provider.attr_name, provider.get_dependency(None))
        return service

    def _run_worker(self, worker_ctx: Any, handle_result: Any) -> None:
        """What nameko does, without its timings and log lines, which nobody reads."""
        # Every worker is a greenlet of its own with a context of its own: nothing to reset.
        current_call.set(_call_context(worker_ctx))
        self._inject_dependencies(worker_ctx)
        self._worker_setup(worker_ctx)
        result = exc_info = None
        try:
            result = _call_method(worker_ctx)
        except Exception:
            exc_info = sys.exc_info()
        if handle_result is not None:
            result, exc_info = handle_result(worker_ctx, result, exc_info)
        self._worker_result(worker_ctx, result, exc_info)
        del exc_info  # it refers to this frame: a cycle
        self._worker_teardown(worker_ctx)

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

    def wait(self) -> Any:
        """Until it has ended, and what it recorded is sent: with this the process ends."""
        try:
            return super().wait()
        finally:
            traces.stop()


def _call_context(worker_ctx: Any) -> CallContext:
    return CallContext(
        chain=tuple(worker_ctx.call_id_stack),
        deadline_ms=worker_ctx.data.get(DEADLINE_KEY),
        caller=worker_ctx.data.get(CALLER_KEY),
        trace=worker_ctx.data.get(TRACE_KEY),
    )


def _call_method(worker_ctx: Any) -> Any:
    current_call.get().require_time()
    method = getattr(worker_ctx.service, worker_ctx.entrypoint.method_name)
    return method(*worker_ctx.args, **worker_ctx.kwargs)
