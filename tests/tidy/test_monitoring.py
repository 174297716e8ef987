"""Alerts, runbooks and what they name: metrics, commands, pages and each other."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.dashboards import dashboards, written
from deploy.parts import LISTENERS
from tests.monitored import bucket_edges, gauges, sample_names

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
PLAYED = sorted((ROOT / "tests/monitoring").glob("*.yml"))
PLAN = {0.5, 0.2}
"""In seconds: a page of wallet and marketplace; a balance check, a purchase."""
FIRING = 'ALERTS{alertname="%s", alertstate="firing"}'
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
WORDS = re.compile(
    r"\b(mycelium|process|probe|kube|kubelet|node|pg|rabbitmq|cnpg|barman|up)(_[a-z_]+)?\b"
)


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


@pytest.mark.parametrize("file", PLAYED, ids=lambda file: str(file.stem))
def test_alerts_fire_when_they_should(file: Path) -> None:
    code, said = promtool("test", "rules", str(file))

    assert code == 0, said


def played_in(file: Path) -> dict[str, Any]:
    """All as text, as promtool reads it: 0x60 is a zero, sixty times."""
    found: dict[str, Any] = yaml.load(file.read_text(), Loader=yaml.BaseLoader)  # noqa: S506
    return found


def values(told: str) -> list[str]:
    """What promtool's notation of a series comes to, a value for each moment."""
    found = []
    for each in told.split():
        if match := re.fullmatch(r"(-?[\d.]+)(?:\+([\d.]+))?x(\d+)", each):
            start, step, times = float(match[1]), float(match[2] or 0), int(match[3])
            found += [f"{start + step * n:.10g}" for n in range(times + 1)]
        elif match := re.fullmatch(r"_x(\d+)", each):
            found += ["_"] * int(match[1])
        else:
            found.append(each)
    return found


def with_holes(series: Mapping[str, str], *moments: int) -> dict[str, str]:
    """The same, but for scrapes that failed: a sample is stale then, and 0 of what tells of it."""
    missed = "0" if series["series"].startswith("up{") else "stale"
    there = values(series["values"])
    for moment in moments:
        if moment < len(there) and there[moment] != "_":
            there[moment] = missed
    return {"series": series["series"], "values": " ".join(there)}


def minutes(told: str) -> float:
    return sum(int(n) * {"h": 60, "m": 1}[unit] for n, unit in re.findall(r"(\d+)([hm])", told))


def missing_scrapes(file: Path) -> Iterator[dict[str, Any]]:
    """Each case in which alerts fire, where the last scrape failed, and one a while before."""
    for test in played_in(file)["tests"]:
        cases = [case for case in test["alert_rule_test"] if case.get("exp_alerts")]
        moments = {int(minutes(each["eval_time"]) // minutes(test["interval"])) for each in cases}
        missed = moments | {moment - 3 for moment in moments}
        if cases:
            yield {
                "name": test["name"],
                "interval": test["interval"],
                "input_series": [with_holes(each, *missed) for each in test["input_series"]],
                "promql_expr_test": [
                    {
                        "expr": f"count({FIRING % case['alertname']})",
                        "eval_time": case["eval_time"],
                        "exp_samples": [{"labels": "{}", "value": len(case["exp_alerts"])}],
                    }
                    for case in cases
                ],
            }


@pytest.mark.parametrize("file", PLAYED, ids=lambda file: str(file.stem))
def test_an_alert_goes_on_over_a_scrape_that_failed(file: Path, tmp_path: Path) -> None:
    played = played_in(file)
    rules = [str((file.parent / name).resolve()) for name in played["rule_files"]]
    tests = list(missing_scrapes(file))
    holed = tmp_path / "holed.yml"
    holed.write_text(yaml.safe_dump({**played, "rule_files": rules, "tests": tests}))

    code, said = promtool("test", "rules", str(holed))

    assert tests
    assert code == 0, said


def test_prometheus_takes_the_configuration_and_asks_every_process() -> None:
    code, said = promtool("check", "config", "deploy/prometheus/prometheus.yml")
    configured = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())

    assert code == 0, said
    jobs = {each["job_name"] for each in configured["scrape_configs"]}
    assert {*LISTENERS, "gateway"} <= jobs


def test_a_service_is_missed_by_its_name_where_discovery_finds_none_of_it() -> None:
    [gone] = [rule["expr"] for rule in alerts() if rule["alert"] == "ServiceIsGone"]
    [known] = re.findall(r'job=~"([^"]+)"', gone)

    assert set(re.findall(r'absent\(up{job="(\w+)"}\)', gone)) == {*LISTENERS, "gateway"}
    assert set(known.split("|")) == {*LISTENERS, "gateway"}


def test_every_alert_is_played_by_a_test() -> None:
    fired = {
        case["alertname"]
        for file in PLAYED
        for each in yaml.safe_load(file.read_text())["tests"]
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
    named = set(re.findall(r"`((?:mycelium|rabbitmq|process|cnpg|barman)_[a-z_]+)`", RUNBOOKS))
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


def bounded() -> Iterator[tuple[float, str]]:
    """Of each panel that has a bound: that, and its queries."""
    for _, panels in dashboards().values():
        for panel in panels:
            if panel.bound is not None:
                yield panel.bound, " ".join(panel.queries.values())


def test_a_bound_on_a_dashboard_is_the_plans_or_an_alert_has_it() -> None:
    told = re.findall(r'[<>]=? ([\d.]+)|le="([\d.]+)"', "".join(rule["expr"] for rule in alerts()))
    known = {float(number) for pair in told for number in pair if number}

    bounds = {bound for bound, _ in bounded()}
    assert bounds > PLAN
    assert bounds - PLAN <= known


def test_a_bound_of_a_quantile_is_an_edge_of_its_histogram() -> None:
    """Between two edges a quantile is guessed: on which side of the bound it is would be too."""
    edges = bucket_edges()
    asked = {
        (metric, bound)
        for bound, queries in bounded()
        for metric in re.findall(r"(\w+)_bucket", queries)
    }

    assert len(asked) == 4
    assert {pair for pair in asked if pair[1] not in edges[pair[0]]} == set()


@pytest.mark.parametrize("job", LISTENERS)
def test_a_panel_of_a_service_asks_for_gauges_that_it_has(job: str) -> None:
    of_others = {name for other in LISTENERS for name in gauges(other)} - {*gauges(job)}
    _, panels = dashboards()[job]
    asked = metrics_in(" ".join(query for panel in panels for query in panel.queries.values()))

    assert asked & of_others == set()
    assert ("mycelium_work_due" in asked) == ("mycelium_work_due" in gauges(job))
