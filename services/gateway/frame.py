"""What every request can reach: the settings, the database, the services.

One :class:`Frame` belongs to each application object. The RPC client is made in the process
that uses it, at its first use: its thread and its socket would not survive a fork.
"""

import threading
from typing import TypeVar

from flask import Flask, current_app

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.messages import Reply, Request
from services.gateway.purchase_waiters import PurchaseWaiters
from services.gateway.settings import GatewaySettings

ReplyT = TypeVar("ReplyT", bound=Reply)

_EXTENSION = "mycelium"


class Frame:
    """The settings and the connections of one worker process."""

    def __init__(self, settings: GatewaySettings, database: Connected) -> None:
        self.settings = settings
        self.database = database
        self._lock = threading.Lock()
        self._rpc: RpcClient | None = None
        self._waiters: PurchaseWaiters | None = None

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
                self._rpc = RpcClient(self.settings.amqp_uri, name="gateway")
                # Before the first call: the client listens to events from its start only.
                self._waiters = PurchaseWaiters(self._rpc)
            return self._rpc, self._waiters

    def close(self) -> None:
        with self._lock:
            if self._rpc is not None:
                self._rpc.close()
        self.database.engine.dispose()


def install(app: Flask, frame: Frame) -> None:
    app.extensions[_EXTENSION] = frame


def current_frame() -> Frame:
    """The frame of the application that handles this request."""
    frame: Frame = current_app.extensions[_EXTENSION]
    return frame


def database() -> Connected:
    """The gateway's own database."""
    return current_frame().database


def settings() -> GatewaySettings:
    return current_frame().settings


def call(request: Request[ReplyT], timeout_s: float | None = None) -> ReplyT:
    """Ask a service and wait for its answer.

    Raises the errors of :mod:`contracts.errors`, which the application turns into a page or a
    JSON body by itself: ``Unavailable`` when the service is away, ``DeadlineExceeded`` when no
    answer came in time, in which case the outcome of a command is unknown and the same
    command with the same key is the way to learn it.
    """
    frame = current_frame()
    return frame.rpc.call(request, timeout_s=timeout_s or frame.settings.rpc_timeout_s)
