"""The processes that the product consists of, and the environment of each."""

import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.startup import free_port
from deploy.parts import LISTENERS, SERVICES

ROOT = Path(__file__).resolve().parents[2]

_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Secrets:
    """What nobody else may know, made once for an installation."""

    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    stripe_webhook_secret: str = field(default_factory=lambda: "whsec_" + secrets.token_urlsafe(32))


@dataclass(frozen=True)
class Ports:
    """Where the product listens on 127.0.0.1."""

    gateway: int
    sandbox: int
    mailbox: int
    mailbox_smtp: int
    traces: int
    health: Mapping[str, int]

    @classmethod
    def choose(
        cls,
        gateway: int | None = None,
        sandbox: int | None = None,
        mailbox: int | None = None,
        traces: int | None = None,
    ) -> "Ports":
        """The ports given, and a free one for everything else."""
        return cls(
            gateway=gateway or free_port(),
            sandbox=sandbox or free_port(),
            mailbox=mailbox or free_port(),
            mailbox_smtp=free_port(),
            traces=traces or free_port(),
            health={name: free_port() for name in LISTENERS},
        )


@dataclass(frozen=True)
class Process:
    """A command, the settings it gets, and the address that answers 200 once it is ready."""

    name: str
    argv: list[str]
    environment: Mapping[str, str]
    ready_url: str


def processes(
    *,
    database_url: Callable[[str], str],
    amqp_uri: Callable[[str], str],
    ports: Ports,
    secret: Secrets,
    sandbox_data: Path,
    environment: Mapping[str, str],
) -> list[Process]:
    """Every process of the product. ``environment`` is what they all inherit.

    With a ``STRIPE_API_KEY`` of the user's own, payments go to Stripe and no sandbox runs; with an
    ``SMTP_URL``, mails go there and no mailbox runs. With ``TRACES`` spans are recorded, and shown
    by a process beside them, unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` says who takes them. The data
    of both lie beside the sandbox's.
    """
    public_url = environment.get("PUBLIC_URL") or f"http://127.0.0.1:{ports.gateway}"
    everywhere = {**environment, "PYTHONUNBUFFERED": "1", "PUBLIC_URL": public_url}
    is_traced = environment.get("TRACES", "") not in ("", "0")
    is_shown = is_traced and not environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if is_traced:
        everywhere["OTEL_TRACES_EXPORTER"] = "otlp"
    if is_shown:
        everywhere["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{ports.traces}"
    stripe = _stripe(environment, ports, secret)
    website = {
        "SECRET_KEY": environment.get("SECRET_KEY") or secret.secret_key,
        "GATEWAY_PORT": str(ports.gateway),
        # Whoever runs it at home has no address that is public.
        "WEBHOOKS_TO_PRIVATE_ADDRESSES": environment.get("WEBHOOKS_TO_PRIVATE_ADDRESSES", "true"),
        "SMTP_URL": environment.get("SMTP_URL") or f"smtp+plain://127.0.0.1:{ports.mailbox_smtp}",
    }

    def service(name: str, module: str, database: str, own: Mapping[str, str]) -> Process:
        connections = {"DATABASE_URL": database_url(database), "AMQP_URI": amqp_uri(name)}
        return _service(name, module, ports.health[name], {**everywhere, **connections, **own})

    # The more there is in hand, the larger are the groups in which it is done.
    groups = {"MAX_WORKERS": "50"}
    own = {
        "wallet": groups,
        "billing": groups,
        "topup": stripe,
    }
    return [
        *(service(name, f"services.{name}.service", name, own.get(name, {})) for name in SERVICES),
        service("notifier", "services.gateway.notifier", "gateway", website),
        *([_sandbox(ports, secret, sandbox_data, everywhere)] if stripe else []),
        *([] if environment.get("SMTP_URL") else [_mailbox(ports, sandbox_data, everywhere)]),
        *([_traces(ports, sandbox_data, everywhere)] if is_shown else []),
        _gateway(
            ports,
            {
                **everywhere,
                **website,
                "DATABASE_URL": database_url("gateway"),
                "AMQP_URI": amqp_uri("gateway"),
            },
        ),
    ]


def _service(name: str, module: str, health_port: int, environment: Mapping[str, str]) -> Process:
    return Process(
        name,
        [sys.executable, str(_BIN / "nameko"), "run", "--config", "chassis/nameko.yaml", module],
        {**environment, "HEALTH_PORT": str(health_port)},
        f"http://127.0.0.1:{health_port}/readyz",
    )


def _gateway(ports: Ports, environment: Mapping[str, str]) -> Process:
    return Process(
        "gateway",
        [sys.executable, "-m", "services.gateway.server"],
        environment,
        f"http://127.0.0.1:{ports.gateway}/readyz",
    )


def _mailbox(ports: Ports, sandbox_data: Path, environment: Mapping[str, str]) -> Process:
    return Process(
        "mailbox",
        [sys.executable, "-m", "deploy.local.mailbox"],
        {
            **environment,
            "MAILBOX_DATA": str(sandbox_data.parent / "mailbox"),
            "MAILBOX_SMTP_PORT": str(ports.mailbox_smtp),
            "MAILBOX_PORT": str(ports.mailbox),
        },
        f"http://127.0.0.1:{ports.mailbox}/healthz",
    )


def _traces(ports: Ports, sandbox_data: Path, environment: Mapping[str, str]) -> Process:
    return Process(
        "traces",
        [sys.executable, "-m", "deploy.local.traces"],
        {
            **environment,
            "TRACES_FILE": str(sandbox_data.parent / "traces" / "spans.jsonl"),
            "TRACES_PORT": str(ports.traces),
        },
        f"http://127.0.0.1:{ports.traces}/healthz",
    )


def _stripe(environment: Mapping[str, str], ports: Ports, secret: Secrets) -> dict[str, str]:
    if environment.get("STRIPE_API_KEY"):
        return {}
    return {
        "STRIPE_API_KEY": "sk_test_local_sandbox",
        "STRIPE_API_BASE": f"http://127.0.0.1:{ports.sandbox}",
        "STRIPE_WEBHOOK_SECRET": secret.stripe_webhook_secret,
    }


def _sandbox(ports: Ports, secret: Secrets, data: Path, environment: Mapping[str, str]) -> Process:
    return Process(
        "sandbox",
        [sys.executable, "-m", "deploy.stripe_sandbox"],
        {
            **environment,
            "SANDBOX_HOST": "127.0.0.1",
            "SANDBOX_PORT": str(ports.sandbox),
            "SANDBOX_DATA": str(data),
            "SANDBOX_WEBHOOK_URL": f"http://127.0.0.1:{ports.gateway}/webhooks/stripe",
            "SANDBOX_WEBHOOK_SECRET": secret.stripe_webhook_secret,
            "SANDBOX_CLOCK_OFFSET_DAYS": environment.get("CLOCK_OFFSET_DAYS") or "0",
        },
        f"http://127.0.0.1:{ports.sandbox}/healthz",
    )
