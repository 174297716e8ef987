"""Metrics for an operator's monitoring: gauges that are read when they are asked for.

What is read from the database is right after a restart and the same in every replica; the rest is
of one process, as what it counts is (:mod:`chassis.instruments`). ``/metrics`` of each service
shows all of it in Prometheus's text format.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine, QueuePool, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import Connected

log = logging.getLogger(__name__)


Ask = Callable[[Session, datetime], Sequence[tuple[Any, ...]]]
"""Rows as a query returns them, by the present moment."""


@dataclass(frozen=True)
class Gauge:
    """A number, what it means in a sentence, and the query that returns it, or a rule that asks.

    A query that returns NULL has nothing to tell: there is no sample then, rather than a zero.
    ``:now`` in it is the present moment by the clock of the process. With a ``label`` it returns
    rows: a word of ours for the label, and its number.
    """

    meaning: str
    query: str | Ask
    label: str = ""

    @property
    def labels(self) -> list[str]:
        return [self.label] if self.label else []

    def rows(self, session: Session, now: datetime) -> Sequence[tuple[Any, ...]]:
        """What it asks for: words for the labels, and the number last."""
        if not isinstance(self.query, str):
            return self.query(session, now)
        given = {"now": now} if ":now" in self.query else {}
        return [tuple(row) for row in session.execute(text(self.query), given)]


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

ANSWERS = (
    "mycelium_database_answers",
    "Whether the database answered when it was asked for these numbers.",
)


def work_gauges(work: Mapping[str, str]) -> dict[str, Gauge]:
    """How much is due, and since when: for each kind of work, whence to select when each is."""

    def each(told: str) -> str:
        return " UNION ALL ".join(
            f"SELECT '{name}', {told} FROM (SELECT {due}) AS due (at) WHERE at <= :now"  # noqa: S608
            for name, due in work.items()
        )

    return {
        "work_due": Gauge(
            "Work that is due and that nobody has taken up.", each("count(*)"), "work"
        ),
        "work_oldest_due_seconds": Gauge(
            "For how long the oldest of it has been due.",
            each("extract(epoch FROM :now - min(at))"),
            "work",
        ),
    }


class DatabaseGauges(Collector):
    """Reads gauges when they are collected."""

    def __init__(self, database: Connected, prefix: str, gauges: Mapping[str, Gauge]) -> None:
        self._database = database
        self._prefix = prefix
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = utc_now()
        with self._database.read() as session:
            for name, gauge in self._gauges.items():
                yield _family(f"{self._prefix}_{name}", gauge, gauge.rows(session, now))


def _family(name: str, gauge: Gauge, rows: Sequence[tuple[Any, ...]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, gauge.meaning, labels=gauge.labels)
    for row in rows:
        if row[-1] is not None:
            family.add_metric(row[:-1], float(row[-1]))
    return family


class ProcessGauges(Collector):
    """Numbers of this process, by name: what each means, and how it is read."""

    def __init__(self, numbers: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, (meaning, read) in self._numbers.items():
            yield GaugeMetricFamily(name, meaning, value=read())


def pool_gauges(database: Connected) -> ProcessGauges:
    """How many connections this process has in use, and how many it may have."""
    write, read = _pool(database.engine), _pool(database.readers)
    return ProcessGauges(
        {
            "mycelium_database_write_connections": (
                "Connections to write that are in use; who finds none free waits for one.",
                write.checkedout,
            ),
            "mycelium_database_read_connections": (
                "Connections to read that are in use.",
                read.checkedout,
            ),
            "mycelium_database_write_connections_limit": (
                "How many connections to write there may be, and as many to read.",
                write.size,
            ),
        }
    )


def _pool(engine: Engine) -> QueuePool:
    if not isinstance(engine.pool, QueuePool):
        raise TypeError("chassis.database makes engines with a pool of a size")
    return engine.pool


def exposition(database: Connected, prefix: str, gauges: Mapping[str, Gauge]) -> bytes:
    """All gauges in Prometheus's text format, their names beginning with ``prefix``."""
    return exposed(DatabaseGauges(database, prefix, gauges))


def exposed(*collectors: Collector) -> bytes:
    """What these tell, in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry)


def database_exposition(database: Connected, prefixes: Mapping[str, Mapping[str, Gauge]]) -> bytes:
    """The gauges of a database by their prefix; where it does not answer, that alone."""
    try:
        told = b"".join(exposition(database, *each) for each in prefixes.items())
    except SQLAlchemyError as error:
        log.warning("the gauges of the database are not known", extra={"error": str(error)[:500]})
        return _answers(0)
    return told + _answers(1)


def _answers(whether: int) -> bytes:
    name, meaning = ANSWERS
    return exposed(ProcessGauges({name: (meaning, lambda: whether)}))
