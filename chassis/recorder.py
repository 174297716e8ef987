"""Records spans and sends them by OTLP, with OpenTelemetry's SDK. See :mod:`chassis.traces`.

The SDK reads its own settings from the environment: ``OTEL_EXPORTER_OTLP_ENDPOINT`` and the others
that begin so, ``OTEL_TRACES_SAMPLER``, ``OTEL_RESOURCE_ATTRIBUTES``. Its thread, a greenlet under
eventlet, sends what has ended; where nobody takes it, the newest 2,048 spans are kept.
"""

import logging
import os
import threading
import uuid
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from contracts.errors import NO_ANSWER, ServiceError

DEFAULTS = {
    "OTEL_BSP_SCHEDULE_DELAY": "1000",  # ms
    # Encoding so many takes 2 ms, during which nothing else goes on in a service.
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "3",  # s, which is what the SDK for Python takes it for
}
"""What differs from the SDK's own defaults."""

STOP_WITHIN_S = 3.0

_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_NOWHERE = Context()
"""Whatever the SDK's own current span might be: ours is that of the call."""


class Span:
    """One piece of work. ``traceparent`` is what others learn of it."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        context = span.get_span_context()
        flags = int(context.trace_flags)
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        self._span.set_attribute(name, value)

    def end(self, error: object = None) -> None:
        """It is over: well, or with an error, of which the code is kept."""
        if error is not None:
            code, is_fault = _of_error(error)
            self._span.set_attribute("error.type", code)
            if is_fault:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Recorder:
    """Of one process; ``service`` is its name."""

    def __init__(self, service: str) -> None:
        # Of its failures one line is enough, which says that it gave up.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        own = {"service.name": service, "service.instance.id": str(uuid.uuid4())}
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(
            resource=Resource(own).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("mycelium")

    def begin(
        self,
        kind: str,
        name: str,
        parent: str | None,
        attributes: Mapping[str, str | int],
        links: Sequence[str] = (),
        since_ns: int | None = None,
    ) -> Span:
        """A span that begins now, or began ``since_ns`` in Unix time; without a parent, a trace."""
        remote = NonRecordingSpan(_span_context(parent)) if parent else None
        return Span(
            self._tracer.start_span(
                name,
                context=set_span_in_context(remote, _NOWHERE) if remote else _NOWHERE,
                kind=_KINDS[kind],
                attributes=attributes,
                links=[Link(_span_context(link)) for link in links],
                start_time=since_ns,
            )
        )

    def stop(self) -> None:
        """Send what is left. A collector that is away is given up after ``STOP_WITHIN_S``, where
        the SDK would go on with what waits for half a minute."""
        giving_up = threading.Timer(STOP_WITHIN_S, self._exporter.shutdown)
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()


def _span_context(traceparent: str) -> SpanContext:
    _version, trace_id, span_id, flags = traceparent.split("-")[:4]
    is_recorded = int(flags, 16) & TraceFlags.SAMPLED
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(is_recorded)
    )


def _of_error(error: object) -> tuple[str, bool]:
    """The code of an error, and whether it is a fault: a refusal is an answer as another."""
    if isinstance(error, ServiceError):
        is_fault = type(error) is ServiceError or isinstance(error, NO_ANSWER)
        return error.code, is_fault
    return (error if isinstance(error, str) else type(error).__name__), True
