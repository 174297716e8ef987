"""deploy/kubernetes: right by Kubernetes' and operators' schemas, and by what the code does."""

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic_settings import BaseSettings

from chassis.container import STOP_TIMEOUT_S
from chassis.instruments import CALLS
from chassis.settings import ServiceSettings
from contracts.billing import StartPurchase
from contracts.messages import Request
from contracts.wallet import CheckAffordability, GetWallet, GetWallets
from deploy.definitions import CLUSTER_SETTINGS, LOGINS, VHOST, access, replicated
from deploy.kubernetes.manifests import PROCESSES, SECRETS, all_written
from deploy.parts import DATABASES, LISTENERS, UPGRADED
from services.gateway.server.__main__ import STOP_TIMEOUT_S as WEBSITE_STOP_TIMEOUT_S
from services.gateway.settings import GatewaySettings, NotifierSettings
from services.wallet import restore_drill
from tests.contracts.golden import messages
from tests.patience import START_PATIENCE_S
from tests.tidy.test_deployment import documented

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
FOLDERS = ("base", "migrations", "restored")
VERSION = "1.33"
NAMEKO = set(re.findall(r"\$\{(\w+)", (ROOT / "chassis/nameko.yaml").read_text()))
OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_HEADERS"}
"""What its SDK reads by itself, and no settings of ours hold."""
NAMES = [process.name for process in PROCESSES]

Object = dict[str, Any]


def objects(*folders: str) -> Iterator[Object]:
    for folder in folders or FOLDERS:
        for file in sorted((KUBERNETES / folder).glob("*.yaml")):
            if file.name != "kustomization.yaml":
                yield from yaml.safe_load_all(file.read_text())


def found(kind: str, name: str) -> Object:
    [one] = [each for each in objects() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return one


def pods() -> dict[str, Object]:
    """The pod of everything that runs an image of ours, by kind and name."""
    found = {}
    for each in objects():
        spec = each.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if isinstance(spec.get("template"), dict):
            found[f"{each['kind']} {each['metadata']['name']}"] = spec["template"]["spec"]
    return found


def container_of(process: str) -> Object:
    [container] = pods()[f"Deployment {process}"]["containers"]
    return container


def settings_of(process: str) -> type[BaseSettings]:
    if process in ("gateway", "notifier"):
        return {"gateway": GatewaySettings, "notifier": NotifierSettings}[process]
    module = import_module(f"services.{process}.settings")
    [found] = {
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, ServiceSettings)
        and each.__module__ == module.__name__
    }
    return found


def test_the_files_are_what_the_module_makes() -> None:
    made = all_written()
    files = [file for folder in FOLDERS for file in (KUBERNETES / folder).iterdir()]

    assert {str(file.relative_to(KUBERNETES)) for file in files} == set(made)
    other = [name for name, text in made.items() if (KUBERNETES / name).read_text() != text]
    assert other == [], "python -m deploy.kubernetes.manifests deploy/kubernetes writes them"


def test_whatever_is_kubernetes_own_is_right_by_its_schema() -> None:
    own = [
        each
        for each in objects()
        if "." not in each["apiVersion"] or each["apiVersion"].endswith("k8s.io/v1")
    ]

    assert len(own) > 35
    for each in own:
        kubernetes_validate.validate(each, VERSION, strict=True)


CHECKED = {"keda.sh", "monitoring.coreos.com", "postgresql.cnpg.io"}
UNCHECKED = {"rabbitmq.com", "barmancloud.cnpg.io"}
"""No package has their definitions."""


def group(resource: Object) -> str:
    return str(resource["apiVersion"].rpartition("/")[0])


def faults_by_definition(resources: Iterable[Object]) -> list[list[str]]:
    """What is wrong with each by the definitions of its operator."""
    command = ["node", str(ROOT / "tests/tidy/of_operators.mjs"), str(ROOT / "node_modules")]
    told = json.dumps(list(resources))
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}`deploy/local/install.sh check` gets what it reads"
    faults: list[list[str]] = json.loads(done.stdout)
    return faults


def test_whatever_is_an_operator_s_is_right_by_its_definition() -> None:
    theirs = [each for each in objects() if group(each) in CHECKED]

    others = {group(each) for each in objects()} - CHECKED
    assert {name for name in others if "." in name and not name.endswith("k8s.io")} == UNCHECKED
    assert {each["kind"] for each in theirs} == {
        *("ScaledObject", "TriggerAuthentication"),
        *("PodMonitor", "PrometheusRule"),
        *("Cluster", "Database", "ScheduledBackup"),
    }
    found = zip(theirs, faults_by_definition(theirs), strict=True)
    assert {each["metadata"]["name"]: faults for each, faults in found if faults} == {}


def test_what_an_operator_does_not_know_or_cannot_read_is_seen() -> None:
    cluster, scaled = found("Cluster", "postgres"), found("ScaledObject", "wallet")
    postgresql = cluster["spec"]["postgresql"]
    postgresql["synchronus"] = postgresql.pop("synchronous")
    scaled["spec"]["minReplicaCount"] = "2"
    del scaled["spec"]["triggers"][0]["type"]

    assert faults_by_definition([cluster, scaled]) == [
        ["/spec/postgresql/synchronus is not known"],
        [
            '/spec/minReplicaCount type {"type":"integer"}',
            '/spec/triggers/0 required {"missingProperty":"type"}',
        ],
    ]


def test_nothing_is_there_twice() -> None:
    counted = Counter((each["kind"], each["metadata"]["name"]) for each in objects())

    assert [key for key, count in counted.items() if count > 1] == []
    assert {process.name for process in PROCESSES} == {*LISTENERS, "gateway"}
    assert {each["metadata"]["name"] for each in objects("migrations")} == {
        f"{name}-migrate" for name in DATABASES
    }


@pytest.mark.parametrize("process", NAMES)
def test_a_process_gets_its_settings_and_no_others(process: str) -> None:
    fields = settings_of(process).model_fields
    given = [each["name"] for each in container_of(process)["env"]]
    expanded = set(re.findall(r"\$\((\w+)\)", str(container_of(process)["env"])))
    required = {name.upper() for name, each in fields.items() if each.is_required()}

    assert max(Counter(given).values()) == 1
    assert set(given) - expanded <= {name.upper() for name in fields} | NAMEKO | OPENTELEMETRY
    assert required <= set(given)
    # Kubernetes expands what stands before.
    assert max(map(given.index, expanded)) < min(map(given.index, ("DATABASE_URL", "AMQP_URI")))


FIXED = {"DATABASE_URL", "AMQP_URI", "MAX_WORKERS", "TRUSTED_PROXIES", "STRIPE_API_BASE"}
"""What a patch of the Deployment says otherwise."""


@pytest.mark.parametrize("process", NAMES)
def test_whatever_setting_is_documented_is_an_overlays_to_say(process: str) -> None:
    """In one of the base's ConfigMaps, of which one takes whatever has no other place."""
    container = container_of(process)
    fixed = {each["name"] for each in container["env"] if "value" in each}

    assert container["envFrom"] == [{"configMapRef": {"name": "settings"}}]
    assert fixed & documented() <= FIXED


def test_secrets_and_settings_have_the_keys_that_are_asked_for() -> None:
    maps = {each["metadata"]["name"]: each for each in objects() if each["kind"] == "ConfigMap"}
    asked: dict[str, set[tuple[str, str]]] = {"secretKeyRef": set(), "configMapKeyRef": set()}
    for pod in pods().values():
        for env in pod["containers"][0]["env"]:
            for kind, place in env.get("valueFrom", {}).items():
                if kind != "fieldRef":
                    asked[kind].add((place["name"], place["key"]))

    assert asked["configMapKeyRef"] == {
        (name, key) for name, each in maps.items() if name != "settings" for key in each["data"]
    }
    assert asked["secretKeyRef"] <= {(name, key) for name, keys in SECRETS.items() for key in keys}
    named = set(re.findall(r"(?:importCredentialsSecret|passwordSecret)': {'name': '([\w-]+)'",
                           str(list(objects()))))  # fmt: skip
    others = {"scaler-broker", "backup-store"}
    assert named | {name for name, _ in asked["secretKeyRef"]} | others == set(SECRETS)


@pytest.mark.parametrize("process", NAMES)
def test_a_collector_s_key_is_a_secret_that_may_be_absent(process: str) -> None:
    [key] = [
        each["valueFrom"]["secretKeyRef"]
        for each in container_of(process)["env"]
        if each["name"] in OPENTELEMETRY
    ]

    assert key == {"name": "traces", "key": "OTEL_EXPORTER_OTLP_HEADERS", "optional": True}


@pytest.mark.parametrize("process", NAMES)
def test_a_process_is_asked_how_it_is_where_it_listens(process: str) -> None:
    container = container_of(process)
    [port] = container["ports"]
    dockerfile = (ROOT / "services/Dockerfile").read_text()

    assert f"HEALTH_PORT={port['containerPort']}" in dockerfile
    assert f"GATEWAY_PORT={port['containerPort']}" in dockerfile
    asked = {
        probe: container[f"{probe}Probe"]["httpGet"]
        for probe in ("startup", "liveness", "readiness")
    }
    assert {each["port"] for each in asked.values()} == {port["name"]}
    # One that is slow behind is not ended for it.
    assert asked["liveness"]["path"] == asked["startup"]["path"] == "/healthz"
    # The website has pages without a service that is away, and its /readyz asks for all of them.
    assert asked["readiness"]["path"] == ("/healthz" if process == "gateway" else "/readyz")


@pytest.mark.parametrize("process", NAMES)
def test_a_process_that_starts_slowly_is_not_ended_for_it(process: str) -> None:
    probe = container_of(process)["startupProbe"]

    assert probe["periodSeconds"] * probe["failureThreshold"] == START_PATIENCE_S


@pytest.mark.parametrize("process", NAMES)
def test_a_process_has_the_time_to_answer_what_it_has_in_hand(process: str) -> None:
    pod = pods()[f"Deployment {process}"]
    hook = container_of(process).get("lifecycle", {}).get("preStop", {}).get("exec", {})
    waits_s = int(hook["command"][1]) if hook else 0
    drains_s = WEBSITE_STOP_TIMEOUT_S if process == "gateway" else STOP_TIMEOUT_S

    assert (waits_s > 0) == (process == "gateway")
    assert pod["terminationGracePeriodSeconds"] >= waits_s + drains_s + 5


@pytest.mark.parametrize("pod", pods())
def test_whatever_runs_is_nobody_and_writes_nowhere(pod: str) -> None:
    spec = pods()[pod]
    [container] = spec["containers"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert str(spec["securityContext"]["runAsUser"]) in (ROOT / "services/Dockerfile").read_text()
    # Who restores a backup asks Kubernetes for it.
    assert spec["automountServiceAccountToken"] is (pod == "CronJob restore-drill")
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"memory"} == set(container["resources"]["limits"])


@pytest.mark.parametrize("process", NAMES)
def test_two_of_each_are_kept_and_spread_and_one_at_a_time_goes(process: str) -> None:
    scaled = next(
        each["spec"]
        for each in objects()
        if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")
        and each["spec"]["scaleTargetRef"]["name"] == process
    )

    assert scaled.get("minReplicaCount", scaled.get("minReplicas")) == 2
    assert found("PodDisruptionBudget", process)["spec"]["maxUnavailable"] == 1
    assert pods()[f"Deployment {process}"]["topologySpreadConstraints"]
    # Who scales it says how many there are.
    assert "replicas" not in found("Deployment", process)["spec"]


def test_the_database_has_connections_for_as_many_as_there_may_be() -> None:
    website = GatewaySettings.model_fields
    needed = 0
    for process in PROCESSES:
        fields = settings_of(process.name).model_fields
        pools = 2 * fields["database_pool_size"].default
        if process.name == "gateway":
            needed += process.replicas_max * website["gateway_workers"].default * pools
        else:
            # One more for who does the periodic work.
            needed += process.replicas_max * pools + 1
    parameters = found("Cluster", "postgres")["spec"]["postgresql"]["parameters"]

    assert needed + len(DATABASES) + 10 <= int(parameters["max_connections"])


@pytest.mark.parametrize("process", LISTENERS)
def test_it_is_scaled_by_its_own_calls_and_events_those_in_hand_too(process: str) -> None:
    trigger = found("ScaledObject", process)["spec"]["triggers"][0]
    asked = trigger["metadata"]
    own = re.compile(asked["queueName"])

    # AMQP would count what is ready alone, and end who works on a long one.
    assert (asked["protocol"], asked["excludeUnacknowledged"]) == ("http", "false")
    assert asked["vhostName"] == VHOST
    assert own.match(f"rpc-{process}")
    assert own.match(f"evt-topup-topup_paid--{process}.credit_topup")
    for other in ("rpc-other", "evt-topup-topup_paid--other.hear", f"{process}.dead-letters"):
        assert not own.match(other)


def test_what_the_plan_wants_at_once_is_scaled_by_how_long_it_takes() -> None:
    timed, patterns = {}, {}
    for process in NAMES:
        scaled = [each for each in objects() if each["metadata"]["name"] == process
                  and each["kind"] == "ScaledObject"]  # fmt: skip
        for trigger in [one for each in scaled for one in each["spec"]["triggers"][1:]]:
            query = trigger["metadata"]["query"]
            job, patterns[process] = re.findall(r'job="(\w+)",method=~"([^"]+)"', query)[0]
            timed[process] = trigger["metadata"]["threshold"]
            # By HPA's rule a value that is divided by the replicas would never be too large.
            assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
            assert job == process
            assert re.findall(r"mycelium_\w+", query) == [f"{CALLS._name}_bucket"]

    assert timed == {"wallet": "0.2", "billing": "0.2"}
    asked = {
        each
        for service, pattern in patterns.items()
        for each in messages(service)
        if issubclass(each, Request) and re.fullmatch(pattern, each.method)
    }
    # Pages of a moment ask together, by get_wallets.
    assert asked == {StartPurchase, GetWallet, GetWallets, CheckAffordability}


def test_only_who_calls_the_world_may_and_only_the_way_in_comes_in() -> None:
    outside, inside = set(), {}
    for process in NAMES:
        spec = found("NetworkPolicy", process)["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        if any("ipBlock" in to for each in spec["egress"] for to in each["to"]):
            outside.add(process)
        inside[process] = {
            caller["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            for each in spec["ingress"]
            for caller in each["from"]
        }

    assert outside == {"topup", "notifier"}
    assert {name for name, callers in inside.items() if "ingress-nginx" in callers} == {"gateway"}
    nobody = found("NetworkPolicy", "nobody-else")["spec"]
    assert "ingress" not in nobody
    assert "egress" not in nobody


def test_the_operator_of_the_databases_reaches_them_on_both_ports_that_it_asks_for() -> None:
    ports = {
        port["port"]
        for each in found("NetworkPolicy", "postgres")["spec"]["ingress"]
        if "cnpg-system" in str(each["from"])
        for port in each["ports"]
    }

    # https://cloudnative-pg.io/documentation/current/networking
    assert ports == {8000, 5432}


def test_the_broker_allows_what_the_definitions_allow_and_nothing_else() -> None:
    allowed = access(VHOST, LOGINS)
    resources = [each for each in objects("base") if each["apiVersion"] == "rabbitmq.com/v1beta1"]

    def told(kind: str, *keys: str) -> list[tuple[str, ...]]:
        specs = [each["spec"] for each in resources if each["kind"] == kind]
        return sorted((each["user"], *(each["permissions"][key] for key in keys)) for each in specs)

    def wanted(what: str, *keys: str) -> list[tuple[str, ...]]:
        ours = {login.name for login in LOGINS}
        return sorted(
            (each["user"], *(each[key] for key in keys))
            for each in allowed[what]
            if each["user"] in ours
        )

    rights = ("configure", "write", "read")
    assert told("Permission", *rights) == sorted(
        [*wanted("permissions", *rights), ("scaler", "", "", "")]
    )
    by_topic = ("exchange", "write", "read")
    assert told("TopicPermission", *by_topic) == wanted("topic_permissions", *by_topic)


def test_the_broker_has_queues_on_all_nodes_with_the_policies_that_these_need() -> None:
    (there,) = (each["spec"] for each in objects("base") if each["kind"] == "Vhost")
    policies = [each["spec"] for each in objects("base") if each["kind"] == "Policy"]

    assert there["defaultQueueType"] == "quorum"
    assert sorted(
        (each["name"], each["pattern"], each["definition"]) for each in policies
    ) == sorted(
        (each["name"], each["pattern"], each["definition"])
        for each in replicated(access(VHOST))["policies"]
    )
    assert {(each["vhost"], each["applyTo"]) for each in policies} == {(VHOST, "queues")}
    settings = found("RabbitmqCluster", "rabbitmq")["spec"]["rabbitmq"]["additionalConfig"]
    assert CLUSTER_SETTINGS in settings


@pytest.mark.parametrize(
    "file",
    sorted((KUBERNETES / "overlays").rglob("kustomization.yaml")),
    ids=lambda file: str(file.parent.name),
)
def test_an_overlay_changes_what_there_is(file: Path) -> None:
    overlay = yaml.safe_load(file.read_text())
    there = {(each["kind"], each["metadata"]["name"]) for each in objects()}

    for place in [*overlay.get("resources", []), *overlay.get("components", [])]:
        assert (file.parent / place / "kustomization.yaml").exists()
    for patch in overlay.get("patches", []):
        body = yaml.safe_load(patch["patch"])
        target = patch.get("target") or {"kind": body["kind"], "name": body["metadata"]["name"]}
        assert (target["kind"], target["name"]) in there
        patched = found(target["kind"], target["name"])
        if target["kind"] == "ConfigMap":
            others = documented() if target["name"] == "settings" else set()
            assert set(body["data"]) <= set(patched["data"]) | others
            continue
        for step in body:
            change(patched, **step)
        if group(patched) in CHECKED:
            assert faults_by_definition([patched]) == [[]]
        elif group(patched) not in UNCHECKED:
            kubernetes_validate.validate(patched, VERSION, strict=True)


def change(resource: Object, op: str, path: str, value: object = None) -> None:
    """As a step of a JSON patch does; what is replaced or removed has to be there."""
    *way, last = [int(word) if word.isdigit() else word for word in path.split("/")[1:]]
    place: Any = resource
    for key in way:
        place = place[key]
    if op == "add":
        assert last not in place
    else:
        del place[last]
    if op != "remove":
        place.insert(last, value) if isinstance(place, list) else place.update({last: value})


@pytest.mark.parametrize(
    "overlay", sorted((KUBERNETES / "overlays").iterdir()), ids=lambda it: it.name
)
def test_an_overlay_and_its_migrations_say_where_every_image_is(overlay: Path) -> None:
    images = {pod["containers"][0]["image"] for pod in pods().values()}

    for folder in (overlay, overlay / "migrations"):
        [component] = yaml.safe_load((folder / "kustomization.yaml").read_text())["components"]
        file = folder / component / "kustomization.yaml"
        assert {each["name"] for each in yaml.safe_load(file.read_text())["images"]} == images


def test_a_verification_that_failed_is_there_until_the_next_one_has_ended_and_no_longer() -> None:
    nightly = found("CronJob", "wallet-verify")["spec"]

    assert nightly["schedule"].endswith(" * * *")
    assert 24.5 < nightly["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] / 3600 < 36


def test_the_drill_may_remove_no_cluster_but_its_own_which_is_never_the_one_that_runs() -> None:
    rules = found("Role", "restore-drill")["rules"]
    running = found("ConfigMap", "database")["data"]["DATABASE_CLUSTER"]
    may = {
        verb: set(rule.get("resourceNames", ["any"])) for rule in rules for verb in rule["verbs"]
    }
    spec = pods()["CronJob restore-drill"]
    [url] = [
        each["value"] for each in spec["containers"][0]["env"] if each["name"] == "DATABASE_URL"
    ]

    assert may == {
        "create": {"any"},
        "delete": {restore_drill.SCRATCH},
        "get": {restore_drill.SCRATCH, running, "postgres-restored"},
    }
    assert running != restore_drill.SCRATCH
    assert f"@{restore_drill.SCRATCH}-rw:" in url
    assert spec["serviceAccountName"] == found("RoleBinding", "restore-drill")["roleRef"]["name"]


def test_databases_are_restored_out_of_the_archive_of_those_that_ran_into_their_own() -> None:
    before, after = (found("Cluster", name)["spec"] for name in ("postgres", "postgres-restored"))
    [source] = after.pop("externalClusters")

    assert after.pop("bootstrap") == {"recovery": {"source": source["name"]}}
    assert source["plugin"]["parameters"] == {
        **before["plugins"][0]["parameters"],
        "serverName": "postgres",
    }
    # A place in the store that nothing names has the name of its cluster.
    assert "serverName" not in after["plugins"][0]["parameters"]
    assert after == {key: value for key, value in before.items() if key != "bootstrap"}
    named = {
        each["spec"]["cluster"]["name"] for each in objects() if each["kind"] == "ScheduledBackup"
    }
    assert named == {"postgres", "postgres-restored"}


def test_ours_find_the_restored_databases_by_one_setting_and_the_drill_its_own() -> None:
    urls = {
        name: each["value"]
        for name, pod in pods().items()
        for each in pod["containers"][0]["env"]
        if each["name"] == "DATABASE_URL"
    }

    assert set(urls) == set(pods())
    fixed = {name for name, url in urls.items() if "@$(DATABASE_CLUSTER)-rw:" not in url}
    assert fixed == {"CronJob restore-drill"}


def test_charges_are_stopped_on_what_was_restored_when_somebody_says_so() -> None:
    [container] = pods()["CronJob stop-charges"]["containers"]
    topup = container_of("topup")

    assert found("CronJob", "stop-charges")["spec"]["suspend"] is True
    assert container["command"][:4] == ["python", "-m", "services.topup.switch", "stop"]
    assert (container["image"], container["env"]) == (topup["image"], topup["env"])


def test_whatever_holds_databases_is_reached_and_guarded_as_the_one_that_runs() -> None:
    clusters = {each["metadata"]["name"] for each in objects() if each["kind"] == "Cluster"}
    reached = [
        to["podSelector"]["matchExpressions"]
        for policy in objects()
        if policy["kind"] == "NetworkPolicy"
        for each in policy["spec"].get("egress", [])
        for to in each["to"]
        if "cnpg.io/cluster" in str(to)
    ]
    [watched] = found("PodMonitor", "postgres")["spec"]["selector"]["matchExpressions"]

    [named] = found("NetworkPolicy", "postgres")["spec"]["podSelector"]["matchExpressions"]
    assert set(named["values"]) == clusters | {restore_drill.SCRATCH}
    # Each process of ours, and the jobs.
    assert reached == [[named]] * (len(PROCESSES) + 1)
    # What the drill's one has archived, nothing, is no news.
    assert set(watched["values"]) == clusters


def test_prometheus_gets_the_alerts_and_asks_the_broker_as_it_does_elsewhere() -> None:
    prometheus = ROOT / "deploy/prometheus"
    alerts = yaml.safe_load((prometheus / "alerts.yml").read_text())
    configured = yaml.safe_load((prometheus / "prometheus.yml").read_text())["scrape_configs"]
    elsewhere = [
        (each.get("metrics_path", "/metrics"), each.get("params"))
        for each in configured
        if each["job_name"].startswith("rabbitmq")
    ]
    asked = found("PodMonitor", "rabbitmq")["spec"]["podMetricsEndpoints"]

    assert found("PrometheusRule", "mycelium")["spec"] == alerts
    assert [(each["path"], each.get("params")) for each in asked] == elsewhere


def test_the_alerts_and_the_documentation_name_what_there_is() -> None:
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    told = (ROOT / "docs/kubernetes.md").read_text()

    for name in ("wallet-verify", "restore-drill"):
        assert f'cronjob="{found("CronJob", name)["metadata"]["name"]}"' in alerts
    for place in re.findall(r"deploy/kubernetes/[\w/.]*[\w/]", told):
        assert (ROOT / place).exists(), place
    services = {
        f"{name}-{of}" for name in (*DATABASES, "notifier") for of in ("database", "broker")
    }
    assert {name for name in SECRETS if f"`{name}`" not in told} <= services


KUBECTL = """#!/bin/sh
echo "$*" >>"$0.calls"
case "$*" in
*"wait --for=condition=complete"*) [ "$(grep -c ' wait ' "$0.calls")" -ge "$DONE_AFTER" ] ;;
*jsonpath*) echo "$CONDITIONS" ;;
esac
"""
"""A cluster whose jobs are done the time that they are waited for, and have come to this before."""


@pytest.mark.parametrize(
    ("done_after", "conditions", "code", "waits"),
    [
        (1, "", 0, 1),
        (3, "SuccessCriteriaMet Complete", 0, 3),
        (3, "FailureTarget", 0, 3),
        (9, "SuccessCriteriaMet Complete FailureTarget Failed", 1, 1),
        (9, "SuccessCriteriaMet Complete", 1, 4),
    ],
    ids=["done", "done later", "failing and done after all", "one failed", "too late"],
)
def test_migrations_are_waited_for_until_one_fails_or_time_is_over(
    tmp_path: Path, done_after: int, conditions: str, code: int, waits: int
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    told = {"DONE_AFTER": str(done_after), "CONDITIONS": conditions}
    done = subprocess.run(
        [str(KUBERNETES / "migrated.sh"), "1"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **told},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    calls = (tmp_path / "kubectl.calls").read_text().splitlines()
    assert (done.returncode, sum(" wait " in call for call in calls)) == (code, waits)
    assert bool(done.stderr) == bool(code)


@pytest.mark.parametrize("way", [[], ["back"]], ids=["to the next", "back"])
def test_parts_roll_one_after_the_other_whoever_is_called_first(
    tmp_path: Path, way: list[str]
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho "$*" >>"$0.calls"\n')
    kubectl.chmod(0o755)
    subprocess.run(
        [str(KUBERNETES / "rolled.sh"), "here", *way],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
        timeout=30,
    )

    calls = (tmp_path / "kubectl.calls").read_text().splitlines()
    others = f"apply -k here -l app.kubernetes.io/name notin ({','.join(UPGRADED)})"
    rolled = [
        [f"apply -k here -l app.kubernetes.io/name={name}",
         f"-n mycelium rollout status deployment/{name} --timeout=15m"]
        for name in UPGRADED
    ]  # fmt: skip
    expected = [[others], *rolled]
    assert calls == [call for step in (expected[::-1] if way else expected) for call in step]
    # Each of them is found by that label, and nothing else is.
    key = "app.kubernetes.io/name"
    named = [each for each in objects() if each["metadata"]["labels"].get(key) in UPGRADED]
    assert {each["kind"] for each in named} == {"Deployment"}
    assert len(named) == len(UPGRADED)


def test_where_a_part_does_not_come_up_the_next_is_not_touched(tmp_path: Path) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        '#!/bin/sh\necho "$*" >>"$0.calls"\ncase "$*" in *status*billing*) exit 1; esac\n'
    )
    kubectl.chmod(0o755)
    done = subprocess.run(
        [str(KUBERNETES / "rolled.sh"), "here"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
        timeout=30,
    )

    assert done.returncode == 1
    assert "status deployment/billing" in (tmp_path / "kubectl.calls").read_text().splitlines()[-1]


def test_the_pods_that_are_waited_for_before_migrations_are_those_of_our_processes() -> None:
    told = (ROOT / "docs/kubernetes.md").read_text()
    [there, absent] = re.findall(r"--for=delete .* pod -l '(.*),!(.*)'", told)[0]
    key, value = there.split("=")
    chosen = {
        each["metadata"]["name"]
        for each in objects()
        if each["kind"] in ("Deployment", "Job", "CronJob")
        for spec in [each["spec"].get("jobTemplate", each)["spec"]]
        for labels in [spec["template"]["metadata"]["labels"]]
        if labels.get(key) == value and absent not in labels
    }

    assert chosen == set(NAMES)
    assert told.index("--for=delete") < told.rindex("delete job") < told.rindex("migrated.sh")
