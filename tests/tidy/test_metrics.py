"""The names of all metrics, by Prometheus's conventions and ours."""

import re
from collections import Counter
from pathlib import Path

from chassis import instruments
from services.gateway import metrics as website
from tests.monitored import complaints, families, gauges, healths, sample_names

ROOT = Path(__file__).resolve().parents[2]
NAMED = {
    family.name + ("_total" if family.type == "counter" else "")
    for family in families()
    if family.name.startswith("mycelium_")
}
BOUNDED_LABELS = {
    "called",
    "code",
    "error",
    "event",
    "kind",
    "kpi",
    "method",
    "operation",
    "origin",
    "status",
    "timer",
    "trigger",
    "view",
    "work",
}
"""Each has words of ours and no others: see chassis/instruments.py."""


def exposition() -> str:
    """All of them with a sample each, as Prometheus would read them."""
    suffix = {"counter": "_total", "histogram": "_count"}
    lines: list[str] = []
    for family in families():
        name = family.name + ("_total" if family.type == "counter" else "")
        lines += [f"# HELP {name} {family.documentation}", f"# TYPE {name} {family.type}"]
        if family.type == "histogram":
            lines += [f'{name}_bucket{{le="+Inf"}} 1', f"{name}_sum 1"]
        lines.append(f"{family.name}{suffix.get(family.type, '')} 1")
    return "\n".join(lines) + "\n"


def test_names_follow_prometheus_conventions() -> None:
    assert complaints(exposition()) == []
    assert complaints("# TYPE mycelium_waits_ms counter\nmycelium_waits_ms 1\n") != []


def test_each_has_one_meaning_in_a_sentence_and_is_ours() -> None:
    counted = Counter(family.name for family in families())

    assert {name: count for name, count in counted.items() if count > 1} == {}
    for family in families():
        assert re.fullmatch(r"(mycelium|process)_[a-z_]+", family.name)
        assert family.documentation.endswith("."), family.name


def test_the_documentation_names_each() -> None:
    told = (ROOT / "docs/monitoring.md").read_text()
    missing = {name for name in NAMED if f"`{name}" not in told}

    assert {name for name in missing if not name.startswith("mycelium_legacy_moves_")} == set()
    assert set(re.findall(r"mycelium_[a-z_]+", told)) <= NAMED | sample_names()


def test_no_label_can_grow_without_bound() -> None:
    found = {
        label for name in healths() for gauge in gauges(name).values() for label in gauge.labels
    }
    for registry in (instruments.REGISTRY, website.registry):
        for collector in registry._collector_to_names:
            found |= set(getattr(collector, "_labelnames", ()))

    assert found == BOUNDED_LABELS
