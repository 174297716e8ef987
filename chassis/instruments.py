"""What every process counts about itself, for /metrics: calls, events, periodic work.

Prometheus adds to each sample where it comes from: its ``job`` is the service. Labels are words
of ours (methods, types of events, codes); no user, no amount and nothing that a caller makes up
is one. A process counts from its start; what has to outlive that is read from the database
(:mod:`chassis.metrics`). The website's workers count in files: services/gateway/metrics.py.

Something that goes wrong is shown as 0 before it first does: an increase is seen from there only.
"""

from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)

CALLS = Histogram(
    "mycelium_call_duration_seconds",
    "How long calls took from their arrival in this process to their answer, whatever it was.",
    ("method",),
    buckets=SECONDS,
    registry=REGISTRY,
)
CALL_ERRORS = Counter(
    "mycelium_call_errors",
    "Calls that were answered with an error, by its code; service_error is a fault of ours, and"
    " overloaded was refused.",
    ("method", "code"),
    registry=REGISTRY,
)
CALLS_UNANSWERED = Counter(
    "mycelium_calls_unanswered",
    "Calls of this process that got no answer in time, or found no broker, by the method called.",
    ("called",),
    registry=REGISTRY,
)
EVENTS_COMMITTED = Counter(
    "mycelium_events_committed",
    "Events that were stored with a change, to be published.",
    ("event",),
    registry=REGISTRY,
)
EVENT_DURATION = Histogram(
    "mycelium_event_handling_duration_seconds",
    "How long a transaction that handles events took, of one or of several together.",
    ("event",),
    buckets=SECONDS,
    registry=REGISTRY,
)
EVENT_DELAY = Histogram(
    "mycelium_event_delay_seconds",
    "How long ago it had happened when an event was handled; its count is of the events.",
    ("event",),
    buckets=(0.05, 0.25, 1.0, 5.0, 30.0, 60.0, 120.0, 600.0, 3600.0),
    registry=REGISTRY,
)
EVENT_FAILURES = Counter(
    "mycelium_event_failures",
    "Tries to handle an event that failed; it is tried again, or becomes a dead letter.",
    ("event",),
    registry=REGISTRY,
)
DEAD_LETTERS = Counter(
    "mycelium_dead_letters",
    "Messages that became dead letters, by the queue that they were in.",
    ("origin",),
    registry=REGISTRY,
)
TIMERS = Histogram(
    "mycelium_timer_duration_seconds",
    "How long periodic work took.",
    ("timer",),
    buckets=(0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0),
    registry=REGISTRY,
)
TIMER_FAILURES = Counter(
    "mycelium_timer_failures",
    "Periodic work that failed; it is tried again next time.",
    ("timer",),
    registry=REGISTRY,
)
TIMER_SUCCEEDED = Gauge(
    "mycelium_timer_last_success_timestamp_seconds",
    "When periodic work last came to its end in this process; 0 where it did not.",
    ("timer",),
    registry=REGISTRY,
)

committed = cache(EVENTS_COMMITTED.labels)
"""Looking a labelled one up takes longer than counting."""
