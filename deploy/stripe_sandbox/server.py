"""The sandbox as a process: a threaded WSGI server on the loopback, and the webhook thread."""

import logging
import socket
import threading
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from . import idempotency, params, routes
from .app import create_app
from .sandbox import Sandbox
from .settings import Settings
from .store import Store
from .webhooks import Dispatcher

_log = logging.getLogger("stripe_sandbox")


class _Handler(WSGIRequestHandler):
    """HTTP/1.1 without a line of log per request, and without waiting to fill packets."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  (werkzeug's)
        """Errors only."""
        if type == "error":
            _log.error(message, *args)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a sandbox under test answers thousands."""


class SandboxServer:
    """One sandbox with its server; port 0 takes a free one."""

    def __init__(self, settings: Settings) -> None:
        listening = socket.create_server((settings.host, settings.port), backlog=256)
        port = listening.getsockname()[1]
        self.sandbox = Sandbox(settings.model_copy(update={"port": port}), Store(settings.data))
        with self.sandbox.store.transaction():
            idempotency.forget_interrupted(self.sandbox)
        self._dispatcher = Dispatcher(self.sandbox)
        self._server: BaseWSGIServer = make_server(
            settings.host,
            port,
            create_app(self.sandbox),
            threaded=True,
            request_handler=_Handler,
            fd=listening.detach(),
        )

    @property
    def url(self) -> str:
        """Where the server answers."""
        return f"http://{self.sandbox.settings.host}:{self.sandbox.settings.port}"

    def serve(self) -> None:
        """Answer requests until `stop`."""
        self._dispatcher.start()
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
        self._server.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """End the server and the webhook thread; the memory stays in its file."""
        self._server.shutdown()
        self._dispatcher.stop()
        self._server.server_close()
        self.sandbox.store.close()


def warm_up() -> None:
    """Load what the first requests need, so that they do not wait for it."""
    for route in routes.ROUTES:
        params.load(route.params)
