"""What keeps a browser safe: CSRF tokens, response headers, rate limits.

No script and no style may stand inline in a page: the policy names this site as the only
source, with neither a nonce nor 'unsafe-inline'.
"""

from functools import cache

from flask import Flask, Response, request
from flask_limiter import Limiter
from flask_wtf.csrf import CSRFProtect
from limits import RateLimitItem, parse_many

from services.gateway.assets import ENDPOINTS
from services.gateway.errors import Problem, wants_json
from services.gateway.frame import settings
from services.gateway.identity import current_identity
from services.gateway.settings import GatewaySettings

csrf = CSRFProtect()

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def _asker() -> str:
    identity = current_identity()
    return str(identity.user.user_id) if identity else request.remote_addr or "unknown"


limiter = Limiter(
    _asker,
    strategy="moving-window",
    default_limits=[lambda: settings().rate_limit_default],
    default_limits_exempt_when=lambda: request.endpoint in ENDPOINTS,
    swallow_errors=True,
)


def protect(app: Flask, configured: GatewaySettings) -> None:
    """Switch the protections on."""
    app.config.update(
        SECRET_KEY=configured.secret_key,
        SESSION_COOKIE_NAME="mycelium_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=configured.is_secure,
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
        RATELIMIT_STORAGE_URI=configured.rate_limit_storage,
        RATELIMIT_HEADERS_ENABLED=False,
    )
    csrf.init_app(app)
    app.before_request(_check_csrf)
    limiter.init_app(app)
    app.after_request(_add_headers)


def throttle(rule: str, who: str) -> None:
    """Count one try of ``who`` under a rule of the settings; raise a 429 past its limit."""
    for limit in _parsed(getattr(settings(), f"rate_limit_{rule}")):
        if not limiter.limiter.hit(limit, rule, who):
            raise Problem(
                429,
                "too_many_requests",
                "Too many tries: wait a few minutes, then try again.",
                headers={"Retry-After": str(limit.get_expiry())},
            )


@cache
def _parsed(limits: str) -> list[RateLimitItem]:
    return parse_many(limits)


def _check_csrf() -> None:
    """A form always carries the page's token; a JSON call does when a cookie vouches for it.

    Another site can make a browser send our cookie, but neither a bearer token nor our CSRF
    token. An API call without either identity gets its 401 later.
    """
    if request.method in _SAFE_METHODS or request.endpoint is None:
        return
    if request.path.startswith("/webhooks/"):
        return
    identity = current_identity()
    if wants_json() and (identity is None or identity.via == "token"):
        return
    csrf.protect()


def _add_headers(response: Response) -> Response:
    configured = settings()
    headers = response.headers
    headers.setdefault("Content-Security-Policy", _policy(configured))
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault(
        "Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
    )
    if configured.is_secure:
        headers.setdefault("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
    if request.endpoint not in ENDPOINTS:
        headers.setdefault("Cache-Control", "no-store")
    return response


@cache
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
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )
