"""What the website counts about requests, for /metrics: over all workers of this replica.

Each worker writes its counts into files of its own, in a folder that the master made, and
whichever is asked adds them all up.
"""

import os
from functools import cache

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from services.gateway.access import Who, open_to
from services.gateway.security import unlimited

blueprint = Blueprint("metrics", __name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus_client is told by, before it is imported, that the counts are in files there."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_registry = CollectorRegistry()
_requests = Counter(
    "mycelium_gateway_requests",
    "Requests that were answered.",
    ("method", "status"),
    registry=_registry,
)
_duration = Histogram(
    "mycelium_gateway_request_seconds",
    "How long their answers took to make, by the view that made them.",
    ("view",),
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    registry=_registry,
)


def count(response: Response, seconds: float) -> None:
    """Count the current request. What a client makes up is not among the labels."""
    method = request.method if request.method in _METHODS else "other"
    _answered(method, response.status_code).inc()
    _taken(request.endpoint or "none").observe(seconds)


# Looking a labelled one up takes longer than counting.
_answered, _taken = cache(_requests.labels), cache(_duration.labels)


@blueprint.get("/metrics")
@open_to(Who.OPERATORS)
@unlimited
def metrics() -> Response:
    registry = _registry
    if _FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), mimetype="text/plain; version=0.0.4")
