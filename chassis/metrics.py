"""Metrics for an operator's monitoring: gauges that are read from the database when asked for.

A number that lives in the database is right after a restart and the same in every replica.
``/metrics`` of each service shows them in Prometheus's text format.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text

from chassis.clock import utc_now
from chassis.database import Connected


@dataclass(frozen=True)
class Gauge:
    """A number, what it means in a sentence, and the query that returns it.

    A query that returns NULL has nothing to tell: there is no sample then, rather than a zero.
    ``:now`` in it is the present moment by the clock of the process.
    """

    meaning: str
    query: str


OUTBOX_GAUGES = {
    "outbox_unsent_events": Gauge(
        "Events that are stored and not yet published.",
        "SELECT count(*) FROM outbox WHERE published_at IS NULL",
    ),
    "outbox_oldest_unsent_seconds": Gauge(
        "How long the oldest of them has been waiting.",
        "SELECT extract(epoch FROM now() - min(created_at)) FROM outbox WHERE published_at IS NULL",
    ),
}
"""Every service has these: a number that only grows means that the broker does not take them."""


class DatabaseGauges(Collector):
    """Reads gauges when they are collected."""

    def __init__(self, database: Connected, prefix: str, gauges: Mapping[str, Gauge]) -> None:
        self._database = database
        self._prefix = prefix
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._database.read() as session:
            for name, gauge in self._gauges.items():
                given = {"now": utc_now()} if ":now" in gauge.query else {}
                value = session.scalar(text(gauge.query), given)
                yield GaugeMetricFamily(f"{self._prefix}_{name}", gauge.meaning, value=value)


def exposition(database: Connected, prefix: str, gauges: Mapping[str, Gauge]) -> bytes:
    """All gauges in Prometheus's text format, their names beginning with ``prefix``."""
    registry = CollectorRegistry()
    registry.register(DatabaseGauges(database, prefix, gauges))
    return generate_latest(registry)
