"""Alerts, runbooks and what they name: metrics, commands, pages and each other."""

import json
import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.dashboards import dashboards, written
from deploy.parts import LISTENERS
from tests.monitored import sample_names

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
WORDS = re.compile(r"\b(mycelium|process|probe|kube|kubelet|node|pg|rabbitmq|cnpg|up)(_[a-z_]+)?\b")


@cache
def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def foreign() -> set[str]:
    lines = (PROMETHEUS / "foreign_metrics.txt").read_text().splitlines()
    return {line.split()[1] for line in lines if not line.startswith("#")}


def metrics_in(query: str) -> set[str]:
    """The names of metrics in a query: what stands in quotes or is a label is none."""
    bare = re.sub(r'"[^"]*"|\b(by|on|without) \([^)]*\)', "", query)
    return {found[0] for found in WORDS.finditer(bare)}


def promtool(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_alerts_fire_when_they_should() -> None:
    code, said = promtool("test", "rules", "tests/monitoring/alerts.yml")

    assert code == 0, said


def test_prometheus_takes_the_configuration_and_asks_every_process() -> None:
    code, said = promtool("check", "config", "deploy/prometheus/prometheus.yml")
    configured = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())

    assert code == 0, said
    jobs = {each["job_name"] for each in configured["scrape_configs"]}
    assert {*LISTENERS, "gateway"} <= jobs


def test_every_alert_is_played_by_a_test() -> None:
    played = yaml.safe_load((ROOT / "tests/monitoring/alerts.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for each in played
        for case in each["alert_rule_test"]
        if case.get("exp_alerts")
    }

    assert {rule["alert"] for rule in alerts()} == fired


def test_every_metric_in_an_alert_exists() -> None:
    asked = set().union(*(metrics_in(rule["expr"]) for rule in alerts()))

    assert {name for name in asked if name.startswith("mycelium_")} > {"mycelium_topup_moves_total"}
    assert asked <= sample_names() | foreign()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)

    assert sections == [rule["alert"] for rule in alerts()]
    assert all(rule["labels"]["severity"] in ("page", "ticket") for rule in alerts())


@pytest.mark.parametrize("document", ["runbooks", "backups", "kubernetes", "monitoring"])
def test_what_an_operator_is_told_to_run_exists(document: str) -> None:
    told = (ROOT / f"docs/{document}.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = set(re.findall(r"`make ([a-z-]+)", told))
    modules = set(re.findall(r"python -m ([a-z_.]+)", told))

    assert made | modules
    assert made <= targets
    assert {name for name in modules if find_spec(name) is None} == set()


def test_what_a_runbook_says_to_look_at_exists() -> None:
    named = set(re.findall(r"`((?:mycelium|rabbitmq|process)_[a-z_]+)`", RUNBOOKS))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in sample_names()}

    assert named <= families | sample_names() | foreign()


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_is_what_its_description_makes(name: str) -> None:
    assert (ROOT / "deploy/grafana" / f"{name}.json").read_text() == written(name)


def test_there_is_no_other_dashboard_and_one_for_each_service() -> None:
    found = {file.stem for file in (ROOT / "deploy/grafana").glob("*.json")}

    assert found == set(dashboards())
    assert found > {*LISTENERS, "gateway"}


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_asks_for_metrics_that_exist_in_queries_that_prometheus_takes(
    name: str, tmp_path: Path
) -> None:
    panels = json.loads(written(name))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]

    assert set().union(*map(metrics_in, queries)) <= sample_names() | foreign()
    as_rules = [
        {
            "record": "asked",
            "expr": query.replace("$__rate_interval", "5m"),
            "labels": {"n": str(n)},
        }
        for n, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": as_rules}]}))
    code, said = promtool("check", "rules", str(file))
    assert code == 0, said
