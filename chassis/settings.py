"""Settings: read once from the environment, checked, frozen.

A missing or absurd one stops the process at its start, with a line that names it.
"""

import functools
import sys
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chassis.connection import HEARTBEAT_S
from chassis.digits import whole_number


def seconds(value: str | tuple[int, ...]) -> tuple[int, ...]:
    """Delays in a setting. Defaults are checked too, which are no text."""
    try:
        delays = tuple(map(whole_number, value.split(","))) if isinstance(value, str) else value
    except ValueError:
        delays = ()
    if not delays or min(delays) < 1:
        raise ValueError("whole seconds separated by commas, such as 1,5,30")
    return delays


KeptDays = Annotated[int, Field(ge=7, le=3_650)]
"""How long rows of a kind are kept. No shorter: retries, weekends and operators take days."""

_RETRY_DELAYS_S = (1, 5, 30, 120, 600)


class InboxSettings(BaseSettings):
    """What a service knows of the events that it handled."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    inbox_kept_days: KeptDays = 30
    """How long it is known that an event was handled: longer than a copy of it can wait."""


class ClockSettings(BaseSettings):
    """Where the time is taken from: see :mod:`chassis.clock`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    clock_offset_days: Annotated[int, Field(ge=0, le=3_650)] = 0
    """How many days ahead of the world a local run lives, to see months pass."""


class TraceSettings(BaseSettings):
    """What is recorded of what a process does, by the names that OpenTelemetry has for it.

    The SDK reads them, and all others of its own, from the environment; these are checked.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    otel_traces_exporter: Literal["none", "otlp"] = "none"
    """Whether spans are recorded and sent: see :mod:`chassis.traces`."""

    otel_exporter_otlp_endpoint: str = "http://localhost:4318"
    """Where they are sent, by OTLP over HTTP."""

    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = "parentbased_always_on"
    """Which traces are: the parent-based ones keep to what was decided where a trace began."""

    otel_traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The part of the traces that a ratio records."""


class ServiceSettings(InboxSettings, ClockSettings, TraceSettings):
    """What every process needs. A service adds its own fields in its ``settings.py``."""

    amqp_uri: str
    """The broker's address; several nodes of a cluster are separated by semicolons."""

    broker_heartbeat_s: Annotated[int, Field(ge=2, le=120)] = HEARTBEAT_S
    """A broker that gives no sign of life for so long is left, for its next node."""

    database_url: str
    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 12
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    health_host: str = "127.0.0.1"
    retry_delays_s: Annotated[tuple[int, ...], NoDecode, BeforeValidator(seconds)] = _RETRY_DELAYS_S
    """How long a failed event waits before each new try; then it is a dead letter."""

    outbox_kept_days: KeptDays = 7
    """How long an event that was sent stays to be looked at."""

    @field_validator("*", mode="before")
    @classmethod
    def _digits(cls, value: Any, info: ValidationInfo) -> Any:
        is_number = cls.model_fields[info.field_name or ""].annotation is int
        return whole_number(value) if is_number and isinstance(value, str) else value


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(settings_class: type[SettingsT]) -> SettingsT:
    """The settings of this process, or a line for each bad one and an exit with status 78.

    78 is EX_CONFIG of sysexits.h: a supervisor need not start the process again.
    """
    try:
        return settings_class()
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]).upper() or "SETTINGS"
            refusal = bad_setting(name, problem["msg"])
        raise refusal from None


def bad_setting(name: str, problem: str) -> SystemExit:
    """Say on stderr what is wrong; what is returned ends the process when it is raised."""
    print(f"Setting {name}: {problem}.", file=sys.stderr)
    return SystemExit(78)


@functools.cache
def service_settings() -> ServiceSettings:
    """The settings that the chassis itself reads."""
    return load_settings(ServiceSettings)
