"""Writes the base for Kubernetes: what eight processes have in common stands here once.

    python -m deploy.kubernetes.manifests deploy/kubernetes

docs/kubernetes.md tells how it is used; tests hold it against the code. Passwords come from
outside: :data:`SECRETS` are the names that somebody has to make.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.definitions import CLUSTER_SETTINGS, LOGINS, VHOST, Login, access, replicated
from deploy.parts import DATABASES, LISTENERS, SERVICES

Object = dict[str, Any]

NAMESPACE = "mycelium"
PORT = 8080
BROKER, DATABASE = "rabbitmq", "postgres"
RESTORED, SCRATCH = "postgres-restored", "postgres-drill"
"""Clusters that begin with a backup: in earnest, and to see whether it comes back."""
DRAIN_S = 30
"""What a process takes at most to answer what it has in hand: STOP_TIMEOUT_S of the chassis and of
the website."""
USER = 10001
"""Of services/Dockerfile."""


@dataclass(frozen=True)
class Process:
    """What differs between two of ours. ``login`` is at the broker; ``queue_length`` the messages,
    in hand or waiting, that one replica is meant for."""

    name: str
    image: str
    database: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    configured: Mapping[str, str] = field(default_factory=dict)
    memory: str = "512Mi"
    queue_length: int = 40
    replicas_max: int = 4
    prompt: str = ""
    """The methods that the product plan wants answered within ``PROMPT_S``, as a pattern."""
    calls_outside: tuple[int, ...] = ()
    """Ports of the world that it may call."""

    @property
    def login(self) -> str:
        return self.name


def _nameko(module: str) -> tuple[str, ...]:
    return ("nameko", "run", "--config", "chassis/nameko.yaml", module)


PROMPT_S = 0.2
"""The plan's time for balance checks and purchases."""
PROMETHEUS = "http://prometheus-operated.monitoring:9090"
WEBSITE_SECRETS = {"SECRET_KEY": ("website", "SECRET_KEY"), "SMTP_URL": ("website", "SMTP_URL")}
SELLER = dict.fromkeys(("SELLER_NAME", "SELLER_ADDRESS", "SELLER_TAX_ID"), "seller")
OWN: dict[str, dict[str, Any]] = {
    # The more is in hand, the larger are the groups in which it is done.
    "wallet": {
        "environment": {"MAX_WORKERS": "50"},
        "queue_length": 150,
        "prompt": "get_wallets?|check_affordability",
    },
    "billing": {
        "environment": {"MAX_WORKERS": "50"},
        "queue_length": 150,
        "prompt": "start_purchase",
        "configured": SELLER | {"TAX_BPS": "seller"},
    },
    "topup": {
        "secrets": {
            name: ("card-processor", name) for name in ("STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET")
        },
        # Empty is Stripe itself.
        "environment": {"STRIPE_API_BASE": ""},
        "configured": SELLER | {"PUBLIC_URL": "site"},
        "calls_outside": (443,),
    },
    "legacy": {"replicas_max": 2},
    "analytics": {"replicas_max": 2},
}
PROCESSES = (
    *(
        Process(
            name, f"mycelium-{name}", name, _nameko(f"services.{name}.service"), **OWN.get(name, {})
        )
        for name in SERVICES
    ),
    Process(
        "notifier",
        "mycelium-gateway",
        "gateway",
        _nameko("services.gateway.notifier"),
        secrets=WEBSITE_SECRETS,
        configured={"PUBLIC_URL": "site", "MAIL_FROM": "site"},
        calls_outside=(443, 465, 587),
    ),
    Process(
        "gateway",
        "mycelium-gateway",
        "gateway",
        ("python", "-m", "services.gateway.server"),
        environment={"TRUSTED_PROXIES": "1"},
        secrets=WEBSITE_SECRETS,
        configured=SELLER
        | {
            "TAX_BPS": "seller",
            "PUBLIC_URL": "site",
            "SUPPORT_EMAIL": "site",
            "POOLS_PAGE": "site",
        },
        memory="1Gi",
    ),
)
SETTINGS: dict[str, dict[str, str]] = {
    "site": {
        "PUBLIC_URL": "https://mycelium.example",
        "MAIL_FROM": "Mycelium <no-reply@mycelium.example>",
        "SUPPORT_EMAIL": "help@mycelium.example",
        "POOLS_PAGE": "false",
    },
    "seller": {
        "SELLER_NAME": "Mycelium",
        "SELLER_ADDRESS": "",
        "SELLER_TAX_ID": "",
        "TAX_BPS": "0",
    },
    "settings": {"PROVISIONING": "external"},
    "database": {"DATABASE_CLUSTER": DATABASE},
    "traces": {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    },
}
"""What an overlay says otherwise. Who promises and who keeps it read the same; ``settings`` are all
others that an operator may give (docs/operations.md): each process has all, and reads its own."""

TRACED = dict.fromkeys(SETTINGS["traces"], "traces")
COLLECTOR_KEY = ("traces", "OTEL_EXPORTER_OTLP_HEADERS")
"""A secret that may be absent: not every collector wants a key."""

SECRETS: dict[str, tuple[str, ...]] = {
    **{f"{name}-database": ("username", "password") for name in DATABASES},
    **{f"{login.name}-broker": ("username", "password") for login in LOGINS},
    "card-processor": ("STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET"),
    "website": ("SECRET_KEY", "SMTP_URL"),
    COLLECTOR_KEY[0]: COLLECTOR_KEY[1:],
    "scaler-broker": ("username", "password", "host"),
    "backup-store": ("ACCESS_KEY_ID", "ACCESS_SECRET_KEY"),
}
"""Each with its keys. A ``username`` is the service; passwords have letters and digits only."""


def _object(api: str, kind: str, name: str, spec: Object | None = None, **more: Any) -> Object:
    labels = {"app.kubernetes.io/part-of": "mycelium"} | more.pop("labels", {})
    found = {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels}, **more}
    return found if spec is None else found | {"spec": spec}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}


def _from_secret(name: str, key: str, **more: bool) -> Object:
    return {"valueFrom": {"secretKeyRef": {"name": name, "key": key, **more}}}


def _setting(name: str, place: str) -> Object:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": place, "key": name}}}


def _connections(database: str, login: str, cluster: str = "$(DATABASE_CLUSTER)") -> list[Object]:
    """What others name first: Kubernetes puts what stands before into what follows."""
    return [
        _setting("DATABASE_CLUSTER", "database"),
        {"name": "DATABASE_PASSWORD", **_from_secret(f"{database}-database", "password")},
        {"name": "BROKER_PASSWORD", **_from_secret(f"{login}-broker", "password")},
        {
            "name": "DATABASE_URL",
            "value": f"postgresql+psycopg2://{database}:$(DATABASE_PASSWORD)@{cluster}-rw:5432/{database}",
        },
        {
            "name": "AMQP_URI",
            "value": f"amqp://{login}:$(BROKER_PASSWORD)@{BROKER}:5672/{VHOST}",
        },
    ]


def _environment(process: Process) -> Object:
    return {
        # What stands in ``env`` counts before it.
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "env": [
            *_connections(process.database, process.login),
            *({"name": name, "value": value} for name, value in process.environment.items()),
            *({"name": name, **_from_secret(*place)} for name, place in process.secrets.items()),
            *(_setting(*each) for each in {**process.configured, **TRACED}.items()),
            {"name": COLLECTOR_KEY[1], **_from_secret(*COLLECTOR_KEY, optional=True)},
        ],
    }


def _probe(path: str, period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _container(name: str, image: str, command: Iterable[str], **more: Any) -> Object:
    return {
        "name": name,
        "image": image,
        "command": list(command),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the container
        **more,
    }


def _pod(container: Object, labels: Mapping[str, str], **more: Any) -> Object:
    return {
        "metadata": {"labels": {"app.kubernetes.io/part-of": "mycelium", **labels}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
            **more,
        },
    }


def _resources(memory: str) -> Object:
    # No limit on the processor: a process that is held back holds locks for longer.
    return {"requests": {"cpu": "100m", "memory": memory}, "limits": {"memory": memory}}


def _deployment(process: Process) -> Object:
    labels = _labels(process.name)
    container = _container(
        process.name,
        process.image,
        process.command,
        **_environment(process),
        ports=[{"name": "http", "containerPort": PORT}],
        resources=_resources(process.memory),
        # A slow start is no death, and being well is not asked of the database: a slow one would
        # end every pod at once.
        startupProbe=_probe("/healthz", 2, 120),
        livenessProbe=_probe("/healthz", 10, 6),
        # The website has pages without a service that is away: nobody comes to it through the
        # broker, so that one service would take all of them out of the way in.
        readinessProbe=_probe("/healthz" if process.name == "gateway" else "/readyz", 5, 2),
    )
    grace_s = DRAIN_S + 10
    if process.name == "gateway":
        # Requests still come until the proxy has heard that this pod ends.
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
        grace_s += 5
    spread = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]
    return _object(
        "apps/v1",
        "Deployment",
        process.name,
        {
            "selector": {"matchLabels": labels},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": _pod(
                container,
                labels,
                terminationGracePeriodSeconds=grace_s,
                topologySpreadConstraints=spread,
            ),
        },
        labels=labels,
    )


def _budget(name: str) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(name)}}
    return _object("policy/v1", "PodDisruptionBudget", name, spec)


def _scaled(process: Process) -> Object:
    """By what waits and what is in hand, of calls and events: HTTP, as AMQP would not tell the
    latter, and a replica would be taken away from under a long message."""
    name = process.name
    queues = rf"^(rpc-{name}|evt-[a-z_]+-[a-z_]+--{name}\..+)$"
    trigger = {
        "type": "rabbitmq",
        "metadata": {
            "protocol": "http",
            "vhostName": VHOST,
            "queueName": queues,
            "useRegex": "true",
            "operation": "sum",
            "pageSize": "100",
            "mode": "QueueLength",
            "value": str(process.queue_length),
            "excludeUnacknowledged": "false",
        },
        "authenticationRef": {"name": "broker"},
    }
    return _object(
        "keda.sh/v1alpha1",
        "ScaledObject",
        name,
        {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": 2,
            "maxReplicaCount": process.replicas_max,
            "pollingInterval": 10,
            # While the broker does not tell.
            "fallback": {"failureThreshold": 3, "replicas": 2},
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {
                        "scaleDown": {
                            "stabilizationWindowSeconds": 300,
                            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                        }
                    }
                }
            },
            "triggers": [trigger, *_by_latency(process)],
        },
    )


def _by_latency(process: Process) -> list[Object]:
    """Where 95 of 100 answers take twice the plan's time, twice as many replicas are wanted. Where
    nobody asks there is no time: none, and not what is no number."""
    of = f'job="{process.name}",method=~"{process.prompt}"'
    rates = f"sum by (le) (rate(mycelium_call_duration_seconds_bucket{{{of}}}[2m]))"
    asked = {
        "serverAddress": PROMETHEUS,
        "query": f"(histogram_quantile(0.95, {rates}) >= 0) or vector(0)",
        "threshold": str(PROMPT_S),
    }
    trigger = {"type": "prometheus", "metricType": "Value", "metadata": asked}
    return [trigger] if process.prompt else []


def _by_processor(process: Process) -> Object:
    name = process.name
    target = {"type": "Utilization", "averageUtilization": 300}
    return _object(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        name,
        {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 2,
            "maxReplicas": process.replicas_max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    )


def _to_pods(selector: Object, port: int) -> Object:
    return {
        "to": [{"podSelector": selector}],
        "ports": [{"port": port, "protocol": "TCP"}],
    }


def _in_namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


DNS: Object = {
    "to": [_in_namespace("kube-system")],
    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
}


def _one_of(key: str, *values: str) -> Object:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}


BROKER_PODS: Object = {"matchLabels": _labels(BROKER)}
DATABASE_PODS = _one_of("cnpg.io/cluster", DATABASE, RESTORED, SCRATCH)
TO_DATABASE = _to_pods(DATABASE_PODS, 5432)
TO_BROKER = _to_pods(BROKER_PODS, 5672)
TO_KUBERNETES: Object = {
    "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}],
    "ports": [{"port": port, "protocol": "TCP"} for port in (443, 6443)],
}
"""Its API, whose address is another one in each cluster."""
TO_COLLECTOR: Object = {
    "to": [_in_namespace("monitoring")],
    "ports": [{"port": 4318, "protocol": "TCP"}],
}
PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]


def _policy(process: Process) -> Object:
    egress = [DNS, TO_DATABASE, TO_BROKER, TO_COLLECTOR]
    if process.calls_outside:
        world = {"ipBlock": {"cidr": "0.0.0.0/0", "except": PRIVATE}}
        ports = [{"port": port, "protocol": "TCP"} for port in process.calls_outside]
        egress.append({"to": [world], "ports": ports})
    callers = ["monitoring", *(["ingress-nginx"] if process.name == "gateway" else [])]
    return _object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        process.name,
        {
            "podSelector": {"matchLabels": _labels(process.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [_in_namespace(name) for name in callers],
                    "ports": [{"port": PORT, "protocol": "TCP"}],
                }
            ],
            "egress": egress,
        },
    )


def of_process(process: Process) -> list[Object]:
    """What one process of ours comes to."""
    scaled = _by_processor(process) if process.name == "gateway" else _scaled(process)
    return [_deployment(process), _budget(process.name), scaled, _policy(process)]


def migrations() -> list[Object]:
    """A job for each database, to be done before a new version's pods come."""
    return [_migration(name) for name in DATABASES]


def _migration(name: str) -> Object:
    login = name
    container = _container(
        "migrate",
        f"mycelium-{name}",
        ("python", "-m", "chassis.migrate", f"services.{name}"),
        env=_connections(name, login),
        resources=_resources("256Mi"),
    )
    labels = {"app.kubernetes.io/component": "migration"}
    spec = {
        # A migration has no end but its own: nobody ends it for being slow.
        "backoffLimit": 3,
        "template": _pod(container, labels, restartPolicy="Never"),
    }
    return _object("batch/v1", "Job", f"{name}-migrate", spec, labels=labels)


def jobs() -> list[Object]:
    """What is done nightly, weekly and when somebody says so, and what jobs may call."""
    may = {
        "podSelector": _one_of("app.kubernetes.io/component", "migration", *JOBS),
        "policyTypes": ["Ingress", "Egress"],
        "egress": [DNS, TO_DATABASE],
    }
    policy = _object("networking.k8s.io/v1", "NetworkPolicy", "jobs", may)
    return [_verification(), _stop_of_charges(), *_drill(), policy]


JOBS = ("verification", "stop-of-charges", "drill")


def _verification() -> Object:
    container = _container(
        "verify",
        "mycelium-wallet",
        ("python", "-m", "services.wallet.verification"),
        env=_connections("wallet", "wallet"),
        resources=_resources("512Mi"),
    )
    # An alert is on while a failed one is there: until the next night's has ended.
    return _cron_job("wallet-verify", "30 3 * * *", container, "verification")


def _stop_of_charges() -> Object:
    """For who has restored the databases, before the product comes: docs/kubernetes.md."""
    [topup] = [process for process in PROCESSES if process.name == "topup"]
    command = ("python", "-m", "services.topup.switch", "stop")
    container = _container(
        "stop",
        topup.image,
        (*command, "--by", "an operator of Kubernetes", "--reason", "Restored"),
        **_environment(topup),
        resources=_resources("256Mi"),
    )
    return _cron_job("stop-charges", "0 0 1 1 *", container, "stop-of-charges", suspend=True)


def _drill() -> list[Object]:
    """The newest backup, restored weekly, verified and removed, by who may do that and no more."""
    name = "restore-drill"
    fields = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}
    container = _container(
        "drill",
        "mycelium-wallet",
        ("python", "-m", "services.wallet.restore_drill", "$(DATABASE_CLUSTER)"),
        env=[
            *_connections("wallet", "wallet", SCRATCH),
            *(
                {"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                for key, path in fields.items()
            ),
        ],
        resources=_resources("512Mi"),
    )
    clusters = {"apiGroups": ["postgresql.cnpg.io"], "resources": ["clusters"]}
    # Who may make one may make it by any name; what runs can be looked at, and not removed.
    rules = [
        {**clusters, "verbs": ["get"], "resourceNames": [DATABASE, RESTORED, SCRATCH]},
        {**clusters, "verbs": ["delete"], "resourceNames": [SCRATCH]},
        {**clusters, "verbs": ["create"]},
    ]
    rbac = "rbac.authorization.k8s.io"
    binding: Object = {
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    }
    outward = {
        "podSelector": _one_of("app.kubernetes.io/component", "drill"),
        "policyTypes": ["Egress"],
        "egress": [TO_KUBERNETES],
    }
    account = {"serviceAccountName": name, "automountServiceAccountToken": True}
    return [
        _cron_job(name, "0 4 * * 0", container, "drill", pod=account),
        _object("v1", "ServiceAccount", name),
        _object(f"{rbac}/v1", "Role", name, rules=rules),
        _object(f"{rbac}/v1", "RoleBinding", name, **binding),
        _object("networking.k8s.io/v1", "NetworkPolicy", name, outward),
    ]


def _cron_job(
    name: str,
    schedule: str,
    container: Object,
    component: str,
    pod: Mapping[str, Any] | None = None,
    **more: Any,
) -> Object:
    labels = {"app.kubernetes.io/component": component}
    job = {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": 25 * 3600,
        "template": _pod(container, labels, restartPolicy="Never", **(pod or {})),
    }
    spec = {
        "schedule": schedule,
        "concurrencyPolicy": "Forbid",
        **more,
        "jobTemplate": {"spec": job},
    }
    return _object("batch/v1", "CronJob", name, spec)


def common() -> list[Object]:
    """The namespace, settings, and that nobody may do what is not said."""
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    nobody = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "mycelium"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    return [
        _object("v1", "Namespace", NAMESPACE, labels=restricted),
        _object("networking.k8s.io/v1", "NetworkPolicy", "nobody-else", nobody),
        *(_object("v1", "ConfigMap", name, data=dict(data)) for name, data in SETTINGS.items()),
    ]


def way_in() -> list[Object]:
    """The website, by TLS; nobody outside asks for its metrics."""
    service = {
        "selector": _labels("gateway"),
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }

    def path(where: str, kind: str, to: str) -> Object:
        backend = {"service": {"name": to, "port": {"name": "http"}}}
        return {"path": where, "pathType": kind, "backend": backend}

    host = SETTINGS["site"]["PUBLIC_URL"].removeprefix("https://")
    ingress = _object(
        "networking.k8s.io/v1",
        "Ingress",
        "website",
        {
            "ingressClassName": "nginx",
            "tls": [{"hosts": [host], "secretName": "website-tls"}],
            "rules": [
                {
                    "host": host,
                    "http": {
                        "paths": [
                            path("/metrics", "Exact", "nothing"),
                            path("/", "Prefix", "gateway"),
                        ]
                    },
                }
            ],
        },
    )
    ingress["metadata"]["annotations"] = {
        "cert-manager.io/cluster-issuer": "letsencrypt",
        "nginx.ingress.kubernetes.io/ssl-redirect": "true",
        # A command is never sent twice by the way in.
        "nginx.ingress.kubernetes.io/proxy-next-upstream": "error",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "60",
    }
    return [
        _object("v1", "Service", "gateway", service),
        # It has no pods: what leads here is answered 503.
        _object("v1", "Service", "nothing", {"ports": service["ports"]}),
        ingress,
    ]


def monitoring() -> list[Object]:
    """For the operator of Prometheus: every pod of ours, its job the name of the process; the
    servers' own exporters; the alerts, as they stand for everybody."""
    names = [*LISTENERS, "gateway"]
    ours = _one_of("app.kubernetes.io/name", *names)
    metrics = {"path": "/metrics"}
    rules = yaml.safe_load((Path(__file__).parents[1] / "prometheus/alerts.yml").read_text())
    return [
        _monitor("mycelium", ours, "http", metrics, jobLabel="app.kubernetes.io/name"),
        _monitor(BROKER, BROKER_PODS, "prometheus", metrics, OF_EACH_QUEUE),
        _monitor(DATABASE, _one_of("cnpg.io/cluster", DATABASE, RESTORED), "metrics", metrics),
        _object("monitoring.coreos.com/v1", "PrometheusRule", "mycelium", rules),
    ]


OF_EACH_QUEUE: Object = {
    "path": "/metrics/detailed",
    "params": {"family": ["queue_coarse_metrics", "queue_consumer_count"], "vhost": [VHOST]},
}


def _monitor(name: str, selector: Object, port: str, *asked: Object, **more: Any) -> Object:
    endpoints = [{"port": port, **each} for each in asked]
    spec = {"selector": selector, "podMetricsEndpoints": endpoints, **more}
    return _object("monitoring.coreos.com/v1", "PodMonitor", name, spec)


def broker() -> list[Object]:
    """The cluster, and every right of every login as a resource, from deploy/definitions.py."""
    cluster = _object(
        "rabbitmq.com/v1beta1",
        "RabbitmqCluster",
        BROKER,
        {
            # One, or three: of two, one away stops the other.
            "replicas": 3,
            "image": "rabbitmq:4.1.8-management",
            "persistence": {"storage": "10Gi"},
            "resources": {
                "requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"memory": "1Gi"},
            },
            "terminationGracePeriodSeconds": 120,
            "rabbitmq": {
                "additionalConfig": "vm_memory_high_watermark.absolute = 600MB\n"
                f"disk_free_limit.absolute = 1GB\n{CLUSTER_SETTINGS}",
            },
        },
    )
    allowed = replicated(access(VHOST))
    return [
        cluster,
        _rabbit("Vhost", VHOST, {"name": VHOST, "defaultQueueType": "quorum"}),
        *(_queue_policy(each) for each in allowed["policies"]),
        *(_user(login.name) for login in LOGINS),
        _user("scaler", tags=["monitoring"]),
        _rabbit("Permission", "scaler", {"vhost": VHOST, "user": "scaler", "permissions": _none()}),
        *(_permission(each) for each in allowed["permissions"] if each["user"] in _names(LOGINS)),
        *(_topic_permission(each) for each in allowed["topic_permissions"]),
        *(_exchange(each) for each in allowed["exchanges"]),
        *(_binding(number, each) for number, each in enumerate(allowed["bindings"], 1)),
    ]


def guarded() -> list[Object]:
    """Who may come to the broker and to the databases."""
    ours = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "mycelium"}}}

    def guard(name: str, pods: Object, callers: Iterable[tuple[Object, int]]) -> Object:
        each_other = {"from": [{"podSelector": pods}]}
        others = [
            {"from": [caller], "ports": [{"port": port, "protocol": "TCP"}]}
            for caller, port in callers
        ]
        spec = {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [each_other, *others],
        }
        return _object("networking.k8s.io/v1", "NetworkPolicy", name, spec)

    return [
        guard(
            BROKER,
            BROKER_PODS,
            (
                (ours, 5672),
                (_in_namespace("keda"), 15672),
                (_in_namespace("rabbitmq-system"), 15672),
                (_in_namespace("monitoring"), 15692),
            ),
        ),
        guard(
            DATABASE,
            DATABASE_PODS,
            (
                (ours, 5432),
                (_in_namespace("cnpg-system"), 8000),
                (_in_namespace("cnpg-system"), 5432),
                (_in_namespace("monitoring"), 9187),
            ),
        ),
    ]


def _names(logins: Iterable[Login]) -> set[str]:
    return {login.name for login in logins}


def _none() -> dict[str, str]:
    return {"configure": "", "write": "", "read": ""}


def _rabbit(kind: str, name: str, spec: Object) -> Object:
    where = {"rabbitmqClusterReference": {"name": BROKER}}
    return _object("rabbitmq.com/v1beta1", kind, name, {**spec, **where})


def _user(name: str, tags: list[str] | None = None) -> Object:
    secret = {"importCredentialsSecret": {"name": f"{name}-broker"}}
    return _rabbit("User", name, {"tags": tags, **secret} if tags else secret)


def _permission(allowed: Mapping[str, str]) -> Object:
    rights = {right: allowed[right] for right in ("configure", "write", "read")}
    spec = {"vhost": VHOST, "user": allowed["user"], "permissions": rights}
    return _rabbit("Permission", allowed["user"], spec)


def _topic_permission(allowed: Mapping[str, str]) -> Object:
    rights = {right: allowed[right] for right in ("exchange", "write", "read")}
    spec = {"vhost": VHOST, "user": allowed["user"], "permissions": rights}
    return _rabbit("TopicPermission", f"{allowed['user']}-{allowed['exchange']}", spec)


def _queue_policy(policy: Mapping[str, Any]) -> Object:
    names = {"apply-to": "applyTo"}
    return _rabbit("Policy", policy["name"], {names.get(key, key): policy[key] for key in policy})


def _exchange(exchange: Mapping[str, Any]) -> Object:
    spec = {
        "name": exchange["name"],
        "vhost": VHOST,
        "type": exchange["type"],
        "durable": exchange["durable"],
        "autoDelete": exchange["auto_delete"],
    }
    return _rabbit("Exchange", exchange["name"].replace("_", "-"), spec)


def _binding(number: int, binding: Mapping[str, Any]) -> Object:
    spec = {
        "vhost": VHOST,
        "source": binding["source"],
        "destination": binding["destination"],
        "destinationType": binding["destination_type"],
        "routingKey": binding["routing_key"],
    }
    return _rabbit("Binding", f"binding-{number}", spec)


ARCHIVER = "barman-cloud.cloudnative-pg.io"
ARCHIVE = {"barmanObjectName": "backups"}
POSTGRESQL: Object = {
    "parameters": {
        # Of as many replicas of all processes as there may be.
        "max_connections": "750",
        "shared_buffers": "1GB",
        "max_wal_size": "4GB",
        "timezone": "UTC",
    },
    # A commit is on two machines before anybody hears of it.
    "synchronous": {"method": "any", "number": 1, "dataDurability": "required"},
    # A role may enter the database of its name, and no other.
    "pg_hba": ["hostssl sameuser all all scram-sha-256", "host all all all reject"],
}


def databases() -> list[Object]:
    """A cluster of PostgreSQL with its log in an object store, and a database for each service."""
    made = [
        _object(
            "postgresql.cnpg.io/v1",
            "Database",
            name,
            {
                "name": name,
                "owner": name,
                "cluster": {"name": DATABASE},
                "databaseReclaimPolicy": "retain",
            },
        )
        for name in DATABASES
    ]
    return [_first_cluster(), _backup_store(), _nightly(DATABASE), *made]


def restored() -> list[Object]:
    """A cluster that begins with the newest backup and its log, to the end or to a time that an
    overlay says, and goes on with backups of its own: their place has its name."""
    backup = {"name": ARCHIVER, "parameters": {**ARCHIVE, "serverName": DATABASE}}
    beginning = {
        "bootstrap": {"recovery": {"source": "backup"}},
        "externalClusters": [{"name": "backup", "plugin": backup}],
    }
    return [_cluster(RESTORED, beginning), _nightly(RESTORED)]


def _cluster(name: str, beginning: Object) -> Object:
    roles = [
        {
            "name": name,
            "ensure": "present",
            "login": True,
            "passwordSecret": {"name": f"{name}-database"},
        }
        for name in DATABASES
    ]
    archiver = {"name": ARCHIVER, "isWALArchiver": True, "parameters": ARCHIVE}
    return _object(
        "postgresql.cnpg.io/v1",
        "Cluster",
        name,
        {
            "instances": 3,
            "imageName": "ghcr.io/cloudnative-pg/postgresql:18.6-system-trixie",
            **beginning,
            "storage": {"size": "50Gi"},
            "walStorage": {"size": "10Gi"},
            "resources": {"requests": {"cpu": "1", "memory": "3Gi"}, "limits": {"memory": "3Gi"}},
            "postgresql": POSTGRESQL,
            "managed": {"roles": roles},
            "plugins": [archiver],
        },
    )


def _first_cluster() -> Object:
    # PostgreSQL's own collation, for all databases that are made then: an upgrade of the system
    # beneath changes no index. Said here, and not of each: Kustomize takes a Database's "template"
    # for a pod's, and stops.
    first = {
        "encoding": "UTF8",
        "locale": "C",
        "localeProvider": "builtin",
        "builtinLocale": "C.UTF-8",
    }
    return _cluster(DATABASE, {"bootstrap": {"initdb": first}})


def _nightly(cluster: str) -> Object:
    nightly = {
        "schedule": "0 0 2 * * *",
        "cluster": {"name": cluster},
        "method": "plugin",
        "pluginConfiguration": {"name": ARCHIVER},
        "backupOwnerReference": "self",
    }
    name = "nightly" if cluster == DATABASE else f"nightly-of-{cluster}"
    return _object("postgresql.cnpg.io/v1", "ScheduledBackup", name, nightly)


def _backup_store() -> Object:
    def key(name: str) -> Object:
        return {"name": "backup-store", "key": name}

    store = {
        "retentionPolicy": "30d",
        "configuration": {
            "destinationPath": "s3://mycelium-backups/",
            "s3Credentials": {
                "accessKeyId": key("ACCESS_KEY_ID"),
                "secretAccessKey": key("ACCESS_SECRET_KEY"),
            },
            "wal": {"compression": "gzip"},
        },
    }
    return _object("barmancloud.cnpg.io/v1", "ObjectStore", "backups", store)


def scaling() -> list[Object]:
    """How KEDA asks the broker."""
    places = {"host": "host", "username": "username", "password": "password"}
    refs = [
        {"parameter": parameter, "name": "scaler-broker", "key": key}
        for parameter, key in places.items()
    ]
    spec = {"secretTargetRef": refs}
    return [_object("keda.sh/v1alpha1", "TriggerAuthentication", "broker", spec)]


def files() -> dict[str, list[Object]]:
    """What stands in which file."""
    return {
        "common": common(),
        "broker": broker(),
        "databases": databases(),
        "guarded": guarded(),
        **{process.name: of_process(process) for process in PROCESSES},
        "jobs": jobs(),
        "scaling": scaling(),
        "website": way_in(),
        "monitoring": monitoring(),
    }


def kustomization(names: Iterable[str]) -> Object:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [f"{name}.yaml" for name in names],
    }


class _Whole(yaml.SafeDumper):
    """Writes what stands in two places twice, and no reference."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def written(objects: Iterable[Object]) -> str:
    """As YAML, one after the other."""
    head = "# Made by python -m deploy.kubernetes.manifests; change that.\n"
    shown = {"sort_keys": False, "width": 100, "allow_unicode": True}
    return head + str(yaml.dump_all(list(objects), Dumper=_Whole, **shown))


def all_written() -> dict[str, str]:
    """Every file's content, by its place in deploy/kubernetes."""
    base = {f"base/{name}.yaml": written(objects) for name, objects in files().items()}
    return {
        **base,
        "base/kustomization.yaml": written([kustomization(files())]),
        "migrations/migrations.yaml": written(migrations()),
        "migrations/kustomization.yaml": written([kustomization(["migrations"])]),
        "restored/restored.yaml": written(restored()),
        "restored/kustomization.yaml": written([kustomization(["restored"])]),
    }


def main() -> None:
    directory = Path(sys.argv[1])
    for name, content in all_written().items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


if __name__ == "__main__":
    main()
