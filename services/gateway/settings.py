"""The gateway's settings, from the environment, read once."""

import functools
from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chassis.papers.seller import SellerSettings
from chassis.settings import KeptDays, ServiceSettings, load_settings
from chassis.terms import Micros, PurchaseTerms, TopupTerms
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


@dataclass(frozen=True)
class SmtpServer:
    """Where mails are handed in. ``security``: ``tls`` from the first byte, ``starttls``, which
    must succeed, or ``none``."""

    host: str
    port: int
    security: Literal["tls", "starttls", "none"]
    user: str = ""
    password: str = field(default="", repr=False)


_SMTP: dict[str, tuple[Literal["tls", "starttls", "none"], int]] = {
    "smtps": ("tls", 465),
    "smtp": ("starttls", 587),
    "smtp+plain": ("none", 25),
}


def _smtp_server(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value:
        return None
    parts = urlsplit(value)
    try:
        security, port = _SMTP[parts.scheme]
        port = parts.port or port
    except (KeyError, ValueError):
        raise ValueError("it must be like smtps://user:password@mail.example.org:465") from None
    if not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("it must be like smtps://user:password@mail.example.org:465")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return SmtpServer(parts.hostname, port, security, user, password)


def _sender(value: str) -> str:
    local, _, domain = parseaddr(value)[1].rpartition("@")
    if not local or not domain or not value.isascii():
        raise ValueError("it must be like Mycelium <no-reply@example.org>")
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]
RateLimit = Annotated[str, AfterValidator(_rate_limit)]


class KeptSettings(BaseSettings):
    """How long the notifier keeps what, and the website says that it does."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    mails_kept_days: KeptDays = 30
    """After they were sent, refused or given up; links in them after their end."""
    ended_sessions_kept_days: KeptDays = 90
    """Sessions after their end, and API tokens after they were revoked."""
    carts_kept_days: KeptDays = 30
    """Carts of visitors who never logged in after their last change; checkouts after their end."""
    notifications_kept_days: KeptDays = 90
    """After they were read."""
    unread_notifications_kept_days: KeptDays = 365


class MailSettings(KeptSettings, ServiceSettings):
    """What the website and the notifier must agree on: links in mails lead to the one and are
    written by the other."""

    secret_key: Annotated[str, Field(min_length=16, repr=False)]
    public_url: WebAddress = "http://127.0.0.1:8000"
    smtp_url: Annotated[SmtpServer | None, NoDecode, BeforeValidator(_smtp_server)] = None
    """``smtps`` is TLS, ``smtp`` STARTTLS, ``smtp+plain`` neither. Empty: no mail is sent."""

    webhooks_to_private_addresses: bool = False
    """Whether users' webhooks may go to any address, and without TLS: on a machine of one's own."""


class GatewaySettings(PurchaseTerms, TopupTerms, SellerSettings, MailSettings):
    """``public_url`` is the address that browsers use; it decides over secure cookies.

    The terms, the seller and what is kept are told in the documentation; others keep them.
    """

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
    support_email: Annotated[str, Field(pattern=r"^$|^[^@\s]+@[^@\s]+$")] = ""
    """Where people write to for help; empty: the site says that there is no address yet."""

    pools_page: bool = False
    """Whether /dashboard/pools-advanced is there: the pools of the old system."""

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

    rate_limit_cart: RateLimit = "60 per minute; 600 per hour"
    """What visitors from one address put into carts, which is kept for a month."""

    rate_limit_reset: RateLimit = "10 per minute; 30 per hour"
    """Mails with links that are asked for from one address."""

    rate_limit_reset_account: RateLimit = "3 per hour; 10 per day"
    """The same for one account, whether there is one or not."""

    rate_limit_statement: RateLimit = "10 per minute; 60 per hour"
    """Statements that are drawn for one user."""

    rate_limit_transfer: RateLimit = "10 per hour; 30 per day"
    """Transfers that one user begins, also to addresses that nobody has."""

    rate_limit_selling: RateLimit = "600 per hour; 3000 per day"
    """What one seller changes of products and the profile."""

    transfer_daily_limit_micros: Micros = 500_000_000
    """What a user may send to others in a day (UTC)."""

    transfer_unchecked_micros: Micros = 50_000_000
    """What of it goes without a confirmed address and the second step."""

    rate_limit_password: RateLimit = "10 per minute; 50 per hour"  # noqa: S105 - no password
    """Passwords and codes of one user who is logged in, or has given the password."""

    @property
    def form_targets(self) -> str:
        """Where forms may lead besides this site: the hosted card pages, and on a developer's
        machine whatever port the payment sandbox has there."""
        local = "" if self.is_secure else " http://127.0.0.1:* http://localhost:*"
        return self.checkout_origins + local

    def cookie_name(self, name: str) -> str:
        """Under TLS a browser takes a cookie so named from this host alone, and over TLS alone:
        no other host of the domain can plant one (RFC 6265bis, 4.1.3.2)."""
        return f"__Host-{name}" if self.is_secure else name

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach this site over TLS."""
        return self.public_url.startswith("https://")


class NotifierSettings(MailSettings):
    """Of the process beside the website: how it sends mails."""

    mail_from: Annotated[str, AfterValidator(_sender)] = "Mycelium <no-reply@localhost>"
    """Who mails come from, and where a server returns what it cannot deliver."""

    smtp_timeout_s: Annotated[float, Field(ge=1, le=60)] = 10.0
    """How long a mail server may take for one answer."""


@functools.cache
def get_notifier_settings() -> NotifierSettings:
    """The settings of this process, where it is the notifier."""
    return load_settings(NotifierSettings)


@functools.cache
def get_settings() -> GatewaySettings:
    """The settings of this process."""
    return load_settings(GatewaySettings)
