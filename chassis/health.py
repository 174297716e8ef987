"""Health and metrics over HTTP, on a port of their own.

``/healthz`` answers while the process lives; ``/readyz`` when it can query its database, consume
its queues and publish, and 503 with what is missing otherwise; ``/metrics`` shows the gauges of
:mod:`chassis.metrics` and what :mod:`chassis.instruments` counts, with exemplars for who asks for
OpenMetrics.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import eventlet
import eventlet.wsgi
from nameko.extensions import DependencyProvider
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from chassis import instruments
from chassis.broker import own_queues
from chassis.broker_check import BrokerCheck
from chassis.consumer import CALLS_PER_WORKER, QueueConsumer
from chassis.metrics import (
    OUTBOX_GAUGES,
    Gauge,
    ProcessGauges,
    database_exposition,
    exposed,
    pool_gauges,
    work_gauges,
)
from chassis.outbox import OutboxRelay
from chassis.readiness import Readiness
from chassis.rpc import Rpc
from chassis.service_database import DatabaseConnection
from chassis.settings import ServiceSettings, bad_setting, service_settings

OPEN_METRICS = "application/openmetrics-text"
"""What Prometheus names first among what it accepts."""


class Health(DependencyProvider):
    """Serves the health of a container on ``HEALTH_PORT``: ``health = Health()``.

    ``gauges`` are a service's own, besides those of its outbox. ``work`` is what it takes up when
    it is due: see :func:`chassis.metrics.work_gauges`.
    """

    connection = DatabaseConnection()
    queue_consumer = QueueConsumer()

    def __init__(
        self,
        gauges: Mapping[str, Gauge] | None = None,
        work: Mapping[str, str] | None = None,
    ) -> None:
        self._gauges = gauges or {}
        self._common = OUTBOX_GAUGES | (work_gauges(work) if work else {})
        super().__init__()

    def start(self) -> None:
        settings = service_settings()
        self._greenlet = None
        if settings.health_port:
            address = (settings.health_host, settings.health_port)
            try:
                # By default two services would share a port, and answer for each other.
                socket = eventlet.listen(address, reuse_port=False)
            except OSError as error:
                raise bad_setting("HEALTH_PORT", f"{address[1]}: {error.strerror}") from None
            self._readiness = self._watch(settings)
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
            return [self._metrics(environ.get("HTTP_ACCEPT", ""), start_response)]
        problems = self._readiness.problems() if environ["PATH_INFO"] == "/readyz" else {}
        status = "503 Service Unavailable" if problems else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"status": "unready" if problems else "ok", **problems}).encode()]

    def _metrics(self, accepted: str, start_response: Callable[..., Any]) -> bytes:
        database = self.connection.connected
        gauges = exposed(self.container_gauges(), pool_gauges(database)) + database_exposition(
            database, self.gauges_by_prefix(self.container.service_name)
        )
        # Gauges are written alike in both formats; exemplars have a place in OpenMetrics only,
        # which ends with what is counted.
        is_open = OPEN_METRICS in accepted
        content_type = openmetrics.CONTENT_TYPE_LATEST if is_open else "text/plain; version=0.0.4"
        counted = (openmetrics.generate_latest if is_open else generate_latest)(
            instruments.REGISTRY
        )
        start_response("200 OK", [("Content-Type", content_type)])
        return gauges + counted

    def gauges_by_prefix(self, service: str) -> dict[str, Mapping[str, Gauge]]:
        """What is read from the database, by the beginning of the names."""
        return {"mycelium": self._common, f"mycelium_{service}": self._gauges}

    def container_gauges(self) -> ProcessGauges:
        """What this process has in hand, and how much that may be."""
        container = self.container
        consumers = {each.rpc_consumer for each in container.entrypoints if isinstance(each, Rpc)}
        return ProcessGauges(
            {
                "mycelium_calls_in_hand": (
                    "Calls that are not answered yet, those included that wait for a worker.",
                    lambda: sum(each.in_hand for each in consumers),
                ),
                "mycelium_calls_in_hand_limit": (
                    "At so many calls in hand the next one is refused.",
                    lambda: CALLS_PER_WORKER * container.max_workers,
                ),
                "mycelium_messages_in_hand": (
                    "Calls and events that were taken from the broker and are not done with.",
                    lambda: self.queue_consumer.in_hand,
                ),
                "mycelium_workers_busy": (
                    "Calls and events that a worker is at.",
                    lambda: len(container._worker_threads),  # noqa: SLF001 - nameko tells nobody
                ),
                "mycelium_workers_limit": (
                    "How many workers there may be.",
                    lambda: container.max_workers,
                ),
                "mycelium_consuming": (
                    "Whether the broker is connected and sends messages.",
                    lambda: self.queue_consumer.is_consuming,
                ),
            }
        )

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
