"""What the website counts about requests, for /metrics: over all workers of this replica.

Each worker writes its counts into files of its own, in a folder that the master made, and
whichever is asked adds them all up. What a worker has in hand at present counts while it lives.
"""

import os
from functools import cache
from http import HTTPStatus

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from chassis import instruments
from services.gateway.access import Who, open_to
from services.gateway.security import unlimited

blueprint = Blueprint("metrics", __name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus_client is told by, before it is imported, that the counts are in files there."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

registry = CollectorRegistry()
registry.register(instruments.REGISTRY)
_requests = Counter(
    "mycelium_gateway_requests",
    "Requests that were answered.",
    ("method", "status"),
    registry=registry,
)
_duration = Histogram(
    "mycelium_gateway_request_seconds",
    "How long their answers took to make, by the view that made them.",
    ("view",),
    buckets=(0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 3.0, 10.0),
    registry=registry,
)
_failures = Counter(
    "mycelium_gateway_request_failures",
    "Requests that were answered 500 and above, by the view.",
    ("view", "status"),
    registry=registry,
)
threads_limit = Gauge(
    "mycelium_gateway_threads_limit",
    "How many threads there are for requests.",
    multiprocess_mode="livesum",
    registry=registry,
)
threads_busy = Gauge(
    "mycelium_gateway_threads_busy",
    "How many of them work on a request.",
    multiprocess_mode="livesum",
    registry=registry,
)
requests_waiting = Gauge(
    "mycelium_gateway_requests_waiting",
    "Requests that are here as a whole, and wait for a thread.",
    multiprocess_mode="livesum",
    registry=registry,
)
_turned_away = Counter(
    "mycelium_gateway_connections_turned_away",
    "Connections that the server refused or cut off by itself, by why.",
    ("code",),
    registry=registry,
)
turned_away = {
    code: _turned_away.labels(code)
    for code in (
        "no_place",
        "answer_not_read",
        "request_timeout",
        "headers_too_large",
        "malformed_request",
    )
}
"""Each is shown as 0 before it first happens: an increase is seen from there only."""


def count(response: Response, seconds: float) -> None:
    """Count the current request. What a client makes up is not among the labels."""
    method = request.method if request.method in METHODS else "other"
    _answered(method, response.status_code).inc()
    _taken(request.endpoint or "none").observe(seconds)
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _failures.labels(request.endpoint or "none", response.status_code).inc()


# Looking a labelled one up takes longer than counting.
_answered, _taken = cache(_requests.labels), cache(_duration.labels)


@blueprint.get("/metrics")
@open_to(Who.INSIDE)
@unlimited
def metrics() -> Response:
    asked = registry
    if _FOLDER in os.environ:
        asked = CollectorRegistry()
        MultiProcessCollector(asked)  # type: ignore[no-untyped-call]
    return Response(generate_latest(asked), mimetype="text/plain; version=0.0.4")
