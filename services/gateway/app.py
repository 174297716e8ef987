"""The web application: ``create_app()`` puts the parts together.

The server calls it once in each worker process. Nothing here waits for another process: the
site starts when the broker or the database is still away, and says so by ``/readyz``.
"""

import logging
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

from chassis import traces
from chassis.clock import ahead, utc_now
from chassis.context import CallContext, current_call
from chassis.database import connect
from chassis.identifiers import new_id
from chassis.money import format_usd
from contracts.calls import TRACE_KEY
from services.gateway import api, assets, health, metrics, pages, storable_texts, templating
from services.gateway.api.json_format import ExactJSONProvider
from services.gateway.api.webhooks import LARGER_BODIES
from services.gateway.backend import Backend, current_backend, install
from services.gateway.errors import Problem, register_error_handlers
from services.gateway.pages import pools
from services.gateway.people.identity import current_identity, current_user
from services.gateway.response_times import kind_of
from services.gateway.security import protect
from services.gateway.settings import GatewaySettings, get_settings

if TYPE_CHECKING:
    from chassis.recorder import Span

access_log = logging.getLogger("gateway.access")

ADDRESSES_MAX = 2_000
BODY_BYTES_MAX = 64 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Site(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Flask looks anew at each of a request's functions, whether it is a coroutine; none is."""
        return func


def create_app(settings: GatewaySettings | None = None) -> Flask:
    """The application, from the environment's settings or from given ones."""
    settings = settings or get_settings()
    app = Site(__name__, static_url_path=assets.address())
    assets.serve(app)
    app.json = ExactJSONProvider(app)
    app.config.update(
        MAX_CONTENT_LENGTH=BODY_BYTES_MAX,
        MAX_FORM_PARTS=200,
        PERMANENT_SESSION_LIFETIME=timedelta(days=settings.session_days),
        # What a page fetches beside itself would bring back the cookie of a moment ago, with
        # messages that were shown meanwhile; see people/identity.py.
        SESSION_REFRESH_EACH_REQUEST=False,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.jinja_environment = templating.Environment
    app.jinja_options = {"autoescape": True}
    app.add_template_filter(format_usd, "usd")
    # A page has dozens of addresses, each of which Flask would put together anew.
    app.add_template_global(lru_cache(ADDRESSES_MAX)(url_for), "url_for")
    # Filters, because Jinja writes those of a constant into the template when it reads it.
    app.add_template_filter(assets.address_of, "asset")
    app.add_template_filter(assets.icon, "icon")
    app.add_template_global(utc_now, "utc_now")
    app.add_template_global(ahead, "clock_ahead")
    app.context_processor(lambda: {"current_user": current_user()})
    install(app, Backend(settings, connect(settings.database_url, settings.database_pool_size)))
    app.before_request(_begin_request)
    app.after_request(_end_request)
    protect(app, settings)
    register_error_handlers(app)
    for blueprint in (health.blueprint, metrics.blueprint, *api.blueprints, *pages.blueprints):
        app.register_blueprint(blueprint)
    if settings.pools_page:
        app.register_blueprint(pools.blueprint)
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    return app


def _begin_request() -> None:
    g.started_at_s = time.perf_counter()
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else str(new_id())
    # Every call that this request makes carries its id, into the logs of all services.
    g.span = None if _is_probe() else _span_of_request()
    trace = g.span.traceparent if g.span is not None else None
    current_call.set(CallContext(chain=(f"gateway.{g.request_id}",), trace=trace))
    if "\x00" in request.path:
        # No name and no id holds one, and PostgreSQL refuses it.
        raise Problem(404, "not_found", "There is nothing at this address.")
    # Before anything reads the body.
    request.max_content_length = LARGER_BODIES.get(request.path, BODY_BYTES_MAX)
    storable_texts.check_request()


def _is_probe() -> bool:
    """Those who ask whether we are well ask every few seconds."""
    return request.blueprint in (health.blueprint.name, metrics.blueprint.name)


def _span_of_request() -> "Span | None":
    """Under the route, for a path may hold a secret; a method that is made up is none."""
    method = request.method if request.method in metrics.METHODS else "_OTHER"
    route = request.url_rule.rule if request.url_rule is not None else ""
    return traces.requested(method, route, request.headers.get(TRACE_KEY), g.request_id)


def _end_span(response: Response) -> None:
    """Who asked stands in the log, under the request's id."""
    span = g.get("span")
    if span is None:
        return
    span.note("http.response.status_code", response.status_code)
    span.end(
        str(response.status_code)
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        else None
    )


def _end_request(response: Response) -> Response:
    """The access log: one line, without query strings, bodies or headers, which hold secrets."""
    response.headers["X-Request-Id"] = g.get("request_id", "")
    identity = current_identity() if "identity" in g else None
    duration_s = time.perf_counter() - g.started_at_s
    is_probe = _is_probe()
    if not is_probe and request.endpoint not in assets.ENDPOINTS:
        # Those are many and fast: among them nobody sees what people wait for. And a /readyz that
        # answers 503 is no page that failed.
        metrics.count(response, duration_s)
    if request.endpoint is not None and not is_probe:
        current_backend().response_times.count(kind_of(request), utc_now(), duration_s)
    access_log.log(
        logging.DEBUG if is_probe else logging.INFO,
        "request",
        extra={
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
            "duration_ms": round(duration_s * 1000, 1),
            "request_id": g.get("request_id", ""),
            "user_id": str(identity.user.user_id) if identity else None,
            "address": request.remote_addr,
        },
    )
    _end_span(response)
    return response
