"""What keeps a browser safe: CSRF tokens, response headers, rate limits.

No script and no style may stand inline in a page: the policy names this site as the only
source, with neither a nonce nor 'unsafe-inline'.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import ParamSpec, TypeVar

from flask import Flask, Response, current_app, flash, g, request
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import CSRFError, CSRFProtect
from itsdangerous import URLSafeTimedSerializer
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.wrappers import Response as WebResponse

from chassis.clock import utc_now
from services.gateway import rate_limits
from services.gateway.assets import ENDPOINTS
from services.gateway.backend import current_backend, database, settings
from services.gateway.errors import Problem, wants_json
from services.gateway.people import known_devices
from services.gateway.people.identity import current_identity
from services.gateway.people.way_back import page_of_form, to_login, to_page
from services.gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

csrf = CSRFProtect()

PUBLIC_FORMS = frozenset(
    {"/login", "/login/second-step", "/register", "/password/forgot", "/password/reset"}
    | {"/email/confirm"}
)
UNLIMITED_S = 5.0
"""How long requests are not limited after the database did not answer."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class CookieSessions(SecureCookieSessionInterface):
    """Flask's, which makes what signs a cookie anew for each request, with one that it keeps; and
    with SHA-256 where Flask takes SHA-1."""

    digest_method = staticmethod(hashlib.sha256)

    def __init__(self) -> None:
        self._signer: URLSafeTimedSerializer | None = None

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        if self._signer is None:
            self._signer = super().get_signing_serializer(app)
        return self._signer


def unlimited(view: Callable[P, R]) -> Callable[P, R]:
    """Requests to this view do not count against ``RATE_LIMIT_DEFAULT``."""
    view.is_unlimited = True  # type: ignore[attr-defined]
    return view


def protect(app: Flask, configured: GatewaySettings) -> None:
    """Switch the protections on."""
    app.config.update(
        SECRET_KEY=configured.secret_key,
        SESSION_COOKIE_NAME=configured.cookie_name("mycelium_session"),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=configured.is_secure,
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
    )
    app.session_interface = CookieSessions()
    csrf.init_app(app)
    app.before_request(_check_csrf)
    app.before_request(_check_rate)
    app.after_request(_tell_limits)
    app.after_request(partial(_add_headers, _safe_headers(configured)))


def throttle(rule: str, who: str) -> None:
    """Count one try of ``who`` under a rule of the settings; raise a 429 past its limit."""
    rates = rate_limits.parse(getattr(settings(), f"rate_limit_{rule}"))
    wait = rate_limits.take(database(), utc_now(), f"{rule}:{who}", rates)
    if wait is not None:
        raise _too_many(wait)


def throttle_login(account: str) -> None:
    """Count a try to log in to an account; raise a 429 past the limits.

    A browser that logged in before counts for itself. All others count for their place, for the
    account from that place, and for the account; what one of these refuses does not count for
    the next, so that no single place uses up what the account has for all.
    """
    device = known_devices.device_of(account)
    if device is not None:
        throttle("login_email", f"{account} on {device}")
        return
    throttle("login", place())
    throttle("login_email", f"{account} from {place()}")
    throttle("login_account", account)


def place() -> str:
    """Where the request comes from: an address, or the network of an IPv6 one, of which a
    subscriber has 2^64."""
    text = request.remote_addr or ""
    try:
        address = ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return text


def _check_rate() -> None:
    if request.endpoint is None or request.endpoint in ENDPOINTS:
        return
    if hasattr(current_app.view_functions[request.endpoint], "is_unlimited"):
        return
    backend = current_backend()
    if time.monotonic() < backend.unlimited_until_s:
        return
    identity = current_identity()
    try:
        _count_request(str(identity.user.user_id) if identity else place())
    except (OperationalError, PoolTimeoutError):
        # What needs no database is not to wait for it, request after request.
        backend.unlimited_until_s = time.monotonic() + UNLIMITED_S
        log.warning("requests are not limited: the database does not answer")


def _count_request(who: str) -> None:
    backend = current_backend()
    rates = rate_limits.parse(backend.settings.rate_limit_default)
    subject = f"default:{who}"
    wait = backend.requests_ahead.take(utc_now(), subject, rates)
    g.requests_left = backend.requests_ahead.left_of(subject)
    if wait is not None:
        raise _too_many(wait)


def _tell_limits(response: Response) -> Response:
    """What a program may still ask, as draft-ietf-httpapi-ratelimit-headers names it."""
    if request.path.startswith("/api/") and "requests_left" in g:
        rates = rate_limits.parse(settings().rate_limit_default)
        response.headers["RateLimit-Policy"] = ", ".join(
            f'"default";q={rate.tries};w={int(rate.period.total_seconds())}' for rate in rates
        )
        response.headers["RateLimit"] = f'"default";r={g.requests_left}'
    return response


def _too_many(wait: timedelta) -> Problem:
    wait_s = max(1, math.ceil(wait.total_seconds()))
    return Problem(
        429,
        "too_many_requests",
        f"Too many tries. The next one may pass in {_in_words(wait_s)}.",
        headers={"Retry-After": str(wait_s)},
    )


def _in_words(wait_s: int) -> str:
    if wait_s <= 90:
        return "1 second" if wait_s == 1 else f"{wait_s} seconds"
    return f"{math.ceil(wait_s / 60)} minutes"


def _check_csrf() -> WebResponse | None:
    """A form always carries the page's token; a JSON call does when a cookie vouches for it.

    Another site can make a browser send our cookie, but neither a bearer token nor our CSRF
    token. An API call without either identity gets its 401 later.
    """
    if request.method in _SAFE_METHODS or request.endpoint is None:
        return None
    if request.path.startswith("/webhooks/") or request.path == "/unsubscribe":
        # The link in a mail vouches for itself, and a mail program sends it (RFC 8058).
        return None
    identity = current_identity()
    if wants_json():
        if identity is not None and identity.via == "session":
            csrf.protect()
        return None
    try:
        csrf.protect()
    except CSRFError:
        form_page = page_of_form()
        if form_page is None:
            raise
        return _from_an_old_page(form_page)
    return None


def _from_an_old_page(form_page: str) -> WebResponse:
    """A form whose session has ended meanwhile: nothing was done; its page, fresh, comes next."""
    if current_identity() is None and request.path not in PUBLIC_FORMS:
        return to_login()
    flash("This page was open for too long, so nothing was changed. Please try again.", "warning")
    return to_page(form_page)


def _add_headers(safe: Iterable[tuple[str, str, str]], response: Response) -> Response:
    headers = response.headers
    given = {name.lower() for name, _ in headers}
    for name, lowered, value in safe:
        if lowered not in given:
            headers.add(name, value)
    if "cache-control" not in given and request.endpoint not in ENDPOINTS:
        headers.add("Cache-Control", "no-store")
    return response


def _safe_headers(configured: GatewaySettings) -> list[tuple[str, str, str]]:
    """The name, the name in small letters, and the value of each."""
    headers = {
        "Content-Security-Policy": _policy(configured),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }
    if configured.is_secure:
        headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    return [(name, name.lower(), value) for name, value in headers.items()]


def _policy(configured: GatewaySettings) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "manifest-src 'self'",
            f"form-action 'self' {configured.form_targets}",
            "object-src 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )
