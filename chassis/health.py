"""Health and metrics over HTTP, on a port of their own.

``/healthz`` answers while the process lives; ``/readyz`` when it can query its database, consume
its queues and publish, and 503 with what is missing otherwise; ``/metrics`` shows the gauges of
:mod:`chassis.metrics`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import eventlet
import eventlet.wsgi
from nameko.extensions import DependencyProvider
from sqlalchemy.exc import SQLAlchemyError

from chassis.broker import own_queues
from chassis.broker_check import BrokerCheck
from chassis.consumer import QueueConsumer
from chassis.metrics import OUTBOX_GAUGES, Gauge, exposition
from chassis.outbox import OutboxRelay
from chassis.readiness import Readiness
from chassis.service_database import DatabaseConnection
from chassis.settings import ServiceSettings, service_settings


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
            self._readiness = self._watch(settings)
            socket = eventlet.listen(address, reuse_addr=True)
            self._greenlet = self.container.spawn_managed_thread(
                lambda: eventlet.wsgi.server(socket, self._application, log_output=False),
                identifier="health",
            )

    def kill(self) -> None:
        if self._greenlet is not None:
            self._readiness.stop()
            self._greenlet.kill()

    stop = kill

    def _application(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return [self._metrics(start_response)]
        problems = self._readiness.problems() if environ["PATH_INFO"] == "/readyz" else {}
        status = "503 Service Unavailable" if problems else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"status": "unready" if problems else "ok", **problems}).encode()]

    def _metrics(self, start_response: Callable[..., Any]) -> bytes:
        prefix = f"mycelium_{self.container.service_name}"
        try:
            shown = exposition(self.connection.connected, prefix, self._gauges)
        except SQLAlchemyError:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return b"The database does not answer, and nothing is known.\n"
        start_response("200 OK", [("Content-Type", "text/plain; version=0.0.4")])
        return shown

    def _watch(self, settings: ServiceSettings) -> Readiness:
        own = own_queues(self.container.service_name)
        relays = (each for each in self.container.dependencies if isinstance(each, OutboxRelay))
        check_broker = BrokerCheck(
            settings.amqp_uri,
            settings.broker_heartbeat_s,
            next((relay.exchange for relay in relays), own),
            self.queue_consumer.declare,
        )
        readiness = Readiness(
            {
                "database": self._query,
                "consumer": self._require_consumer,
                "broker": check_broker,
            }
        )
        readiness.start()
        return readiness

    def _query(self) -> None:
        # A connection that was not used a moment ago is tested when it is taken.
        self.connection.connected.engine.connect().close()

    def _require_consumer(self) -> None:
        if not self.queue_consumer.is_consuming:
            raise ConnectionError("not connected to the broker")
