"""The gateway's settings, from the environment, read once."""

import functools
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from chassis.settings import KeptDays, ServiceSettings, load_settings
from services.gateway import rate_limits


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("it must be an address such as http://127.0.0.1:8000")
    return value.rstrip("/")


def _rate_limit(value: str) -> str:
    try:
        rate_limits.parse(value)
    except ValueError:
        raise ValueError("it must read like '10 per minute; 100 per hour'") from None
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]
RateLimit = Annotated[str, AfterValidator(_rate_limit)]


class GatewaySettings(ServiceSettings):
    """``public_url`` is the address that browsers use; it decides over secure cookies."""

    secret_key: Annotated[str, Field(min_length=16, repr=False)]
    public_url: WebAddress = "http://127.0.0.1:8000"
    gateway_host: str = "127.0.0.1"
    gateway_port: Annotated[int, Field(ge=1, le=65535)] = 8000
    gateway_workers: Annotated[int, Field(ge=1, le=64)] = 2
    gateway_threads: Annotated[int, Field(ge=2, le=256)] = 16
    gateway_request_timeout_s: Annotated[float, Field(gt=0, le=300)] = 20.0
    """A request that has not arrived as a whole by then is answered 408."""

    gateway_connections: Annotated[int, Field(ge=10, le=50_000)] = 1_000
    """Open ones of one worker process; past them the one that has waited longest makes room."""

    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 8
    """Connections of one worker process; a request holds one for a few milliseconds only."""

    trusted_proxies: Annotated[int, Field(ge=0, le=10)] = 0
    """How many reverse proxies stand in front and set X-Forwarded-For, -Proto and -Host."""

    checkout_origins: str = "https://checkout.stripe.com"
    """Where a form may lead besides this site, separated by spaces: the hosted card pages."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    session_days: Annotated[int, Field(ge=1, le=365)] = 30

    rate_limit_default: RateLimit = "1200 per minute"
    """Of one user, or of one address."""

    rate_limit_login: RateLimit = "30 per minute; 300 per hour"
    """Tries from one address, whoever's account it is."""

    rate_limit_login_email: RateLimit = "10 per minute; 50 per hour"
    """Tries for one account from one address, or from one browser that logged in before."""

    rate_limit_login_account: RateLimit = "60 per minute; 600 per hour"
    """Tries for one account from everywhere, by browsers that did not log in before."""

    rate_limit_register: RateLimit = "20 per minute; 100 per hour"

    @property
    def form_targets(self) -> str:
        """Where forms may lead besides this site: the hosted card pages, and on a developer's
        machine whatever port the payment sandbox has there."""
        local = "" if self.is_secure else " http://127.0.0.1:* http://localhost:*"
        return self.checkout_origins + local

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach this site over TLS."""
        return self.public_url.startswith("https://")


class NotifierSettings(ServiceSettings):
    """Of the process beside the website: how long its tables keep what."""

    ended_sessions_kept_days: KeptDays = 90
    """Sessions after their end, and API tokens after they were revoked."""
    notifications_kept_days: KeptDays = 90
    """After they were read."""
    unread_notifications_kept_days: KeptDays = 365


@functools.cache
def get_notifier_settings() -> NotifierSettings:
    """The settings of this process, where it is the notifier."""
    return load_settings(NotifierSettings)


@functools.cache
def get_settings() -> GatewaySettings:
    """The settings of this process."""
    return load_settings(GatewaySettings)
