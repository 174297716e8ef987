"""What every request can reach: the settings, the database, the services.

One :class:`Backend` belongs to each application object. The RPC client is made in the process
that uses it, at its first use: its thread and its socket would not survive a fork.
"""

import threading
from typing import TypeVar

from flask import Flask, current_app

from chassis.client import RpcClient
from chassis.database import Connected
from chassis.readiness import Readiness
from contracts.errors import DeadlineExceeded, ServiceError, Unavailable
from contracts.messages import Command, Reply, Request
from services.gateway.purchase_waiters import PurchaseWaiters
from services.gateway.settings import GatewaySettings

ReplyT = TypeVar("ReplyT", bound=Reply)

SILENT_TIMEOUT_S = 1.0
"""How long a question may wait for a service that left the last call unanswered. Without this a
service that hangs would hold every thread of the site, also those that do not need it."""

_EXTENSION = "mycelium"


class Backend:
    """The settings and the connections of one worker process."""

    def __init__(self, settings: GatewaySettings, database: Connected) -> None:
        self.settings = settings
        self.database = database
        self._lock = threading.Lock()
        self._rpc: RpcClient | None = None
        self._waiters: PurchaseWaiters | None = None
        self._silent: set[str] = set()
        self.unlimited_until_s = 0.0
        """Until then, by the monotonic clock, requests are not limited: the database is away."""
        self.readiness: Readiness | None = None

    @property
    def rpc(self) -> RpcClient:
        """The services; safe for threads."""
        return self._open()[0]

    @property
    def waiters(self) -> PurchaseWaiters:
        """The requests of this process that wait for the end of a purchase."""
        return self._open()[1]

    def _open(self) -> tuple[RpcClient, PurchaseWaiters]:
        with self._lock:
            if self._rpc is None or self._waiters is None:
                self._rpc = RpcClient(
                    self.settings.amqp_uri, "gateway", self.settings.broker_heartbeat_s
                )
                # Before the first call: the client listens to events from its start only.
                self._waiters = PurchaseWaiters(self._rpc)
            return self._rpc, self._waiters

    def ask(self, request: Request[ReplyT], timeout_s: float) -> ReplyT:
        """See :func:`call`."""
        is_repeatable = not isinstance(request, Command)
        if is_repeatable and request.service in self._silent:
            timeout_s = min(timeout_s, SILENT_TIMEOUT_S)
        try:
            reply = self.rpc.call(request, timeout_s=timeout_s)
        except DeadlineExceeded as error:
            self._silent.add(request.service)
            if not is_repeatable:
                raise
            # What is no command can be repeated freely: nobody need care how this one ended.
            raise Unavailable(
                f"The {request.service} service does not answer at the moment. Try again in a few"
                " seconds; that is always safe here."
            ) from error
        except Unavailable:
            self._silent.add(request.service)
            raise
        except ServiceError:
            self._silent.discard(request.service)
            raise
        self._silent.discard(request.service)
        return reply

    def close(self) -> None:
        with self._lock:
            if self.readiness is not None:
                self.readiness.stop()
            if self._rpc is not None:
                self._rpc.close()
        self.database.engine.dispose()


def install(app: Flask, backend: Backend) -> None:
    app.extensions[_EXTENSION] = backend


def backend_of(app: Flask) -> Backend:
    backend: Backend = app.extensions[_EXTENSION]
    return backend


def current_backend() -> Backend:
    """The backend of the application that handles this request."""
    return backend_of(current_app)


def database() -> Connected:
    """The gateway's own database."""
    return current_backend().database


def settings() -> GatewaySettings:
    return current_backend().settings


def call(request: Request[ReplyT], timeout_s: float | None = None) -> ReplyT:
    """Ask a service and wait for its answer, as long as its contract says or for ``timeout_s``.

    Raises the errors of :mod:`contracts.errors`, which the application turns into a page or a
    JSON body by itself: ``Unavailable`` when the service is away; for a command
    ``DeadlineExceeded`` when no answer came in time: its outcome is unknown then, and the same
    command with the same key is the way to learn it.
    """
    return current_backend().ask(request, timeout_s or request.answer_within_s)
