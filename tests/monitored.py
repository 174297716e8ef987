"""Every metric that our processes have, by what they are made of and not by running them."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from chassis.database import connect
from chassis.health import Health
from chassis.instruments import REGISTRY
from chassis.metrics import ANSWERS, Gauge, pool_gauges
from deploy.local.processes import ROOT
from deploy.parts import SERVICES
from services.gateway import metrics as website
from services.gateway.notifier import NotifierService


@cache
def healths() -> dict[str, Health]:
    """The health of each service's class, by the name of the service."""
    found: dict[str, Health] = {"notifier": NotifierService.health}
    for name in SERVICES:
        module = import_module(f"services.{name}.service")
        [found[name]] = {
            each.health
            for each in vars(module).values()
            if isinstance(each, type) and getattr(each, "name", None) == name
        }
    return found


def gauges(service: str) -> dict[str, Gauge]:
    """What a service reads from its database, by the whole name."""
    health = healths()[service]
    return {
        f"{prefix}_{name}": gauge
        for prefix, each in health.gauges_by_prefix(service).items()
        for name, gauge in each.items()
    }


def _in_a_container() -> Iterator[Metric]:
    health: Any = Health()
    health.container = SimpleNamespace(entrypoints=[], max_workers=10, _worker_threads={})
    health.queue_consumer = SimpleNamespace(in_hand=0, is_consuming=True)
    yield from health.container_gauges().collect()
    yield from pool_gauges(connect("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")).collect()


def _of_backups() -> Iterator[Metric]:
    script = (ROOT / "deploy/backup/backup.sh").read_text()
    for what, meaning in re.findall(r'succeeded "\$\w+" (\w+) "([^"]+)"', script):
        yield GaugeMetricFamily(f"mycelium_{what}_last_success_timestamp_seconds", meaning)


@cache
def families() -> list[Metric]:
    """All of them, without samples."""
    read = {name: gauge for service in healths() for name, gauge in gauges(service).items()}
    registry: CollectorRegistry = website.registry  # has those of the chassis and the services too
    return [
        *registry.collect(),
        *_in_a_container(),
        *_of_backups(),
        *(GaugeMetricFamily(name, gauge.meaning) for name, gauge in read.items()),
        GaugeMetricFamily(*ANSWERS),
    ]


@cache
def sample_names() -> frozenset[str]:
    """What a query may ask for."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return frozenset(
        f"{family.name}{suffix}"
        for family in families()
        for suffix in suffixes.get(family.type, ("",))
    )


def complaints(exposition: str) -> list[str]:
    """What `promtool check metrics` has against a text as Prometheus reads it."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition,
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"{checked.stdout}{checked.stderr}".splitlines()
    assert checked.returncode == 0 or told, f"promtool ended with {checked.returncode}"
    return told


def bucket_edges() -> dict[str, list[float]]:
    """Of each histogram, by its name."""
    return {
        collector._name: collector._upper_bounds
        for collector in website.registry._collector_to_names | REGISTRY._collector_to_names
        if isinstance(collector, Histogram)
    }
