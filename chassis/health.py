"""Health and metrics over HTTP, on a port of their own.

``/healthz`` answers while the process lives; ``/readyz`` when the database answers and the
consumer of the broker is connected, and 503 with what is missing otherwise; ``/metrics`` shows
the gauges of :mod:`chassis.metrics`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import eventlet
import eventlet.wsgi
from nameko.extensions import DependencyProvider
from sqlalchemy import text

from chassis.consumer import QueueConsumer
from chassis.metrics import OUTBOX_GAUGES, Gauge, exposition
from chassis.service_database import DatabaseConnection
from chassis.settings import service_settings


class Health(DependencyProvider):
    """Serves the health of a container on ``HEALTH_PORT``: ``health = Health()``.

    ``gauges`` are a service's own, besides those of its outbox.
    """

    connection = DatabaseConnection()
    queue_consumer = QueueConsumer()

    def __init__(self, gauges: Mapping[str, Gauge] | None = None) -> None:
        self._gauges = {**OUTBOX_GAUGES, **(gauges or {})}
        super().__init__()

    def start(self) -> None:
        settings = service_settings()
        self._greenlet = None
        if settings.health_port:
            address = (settings.health_host, settings.health_port)
            socket = eventlet.listen(address, reuse_addr=True)
            self._greenlet = self.container.spawn_managed_thread(
                lambda: eventlet.wsgi.server(socket, self._application, log_output=False),
                identifier="health",
            )

    def kill(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    stop = kill

    def _application(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            start_response("200 OK", [("Content-Type", "text/plain; version=0.0.4")])
            prefix = f"mycelium_{self.container.service_name}"
            return [exposition(self.connection.connected, prefix, self._gauges)]
        problems = self._problems() if environ["PATH_INFO"] == "/readyz" else {}
        status = "503 Service Unavailable" if problems else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"status": "unready" if problems else "ok", **problems}).encode()]

    def _problems(self) -> dict[str, str]:
        problems = {}
        try:
            with self.connection.connected.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except Exception as error:
            problems["database"] = type(error).__name__
        if not self.queue_consumer.is_consuming:
            problems["broker"] = "not connected"
        return problems
