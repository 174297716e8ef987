"""What a process works on, as spans of OpenTelemetry; off unless ``OTEL_TRACES_EXPORTER=otlp``.

The span that is worked in is part of the call that is worked on (:mod:`chassis.context`), so that
it goes wherever that goes: into calls, the outbox, the committer, the log. Nothing else knows a
current span, and a greenlet that is spawned begins without one. Off, which is the default, nothing
of OpenTelemetry is imported, and each function here returns None.

Names and attributes are those of OpenTelemetry's semantic conventions 1.43. They hold methods,
types, codes and ids; no text of an error, no address, no amount.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chassis.broker import event_exchange
from chassis.context import current_call
from chassis.settings import TraceSettings
from contracts.calls import HEADER_PREFIX, TRACE_KEY

if TYPE_CHECKING:
    from chassis.recorder import Recorder, Span

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
LINKS_MAX = 128
_BROKER = {"messaging.system": "rabbitmq"}

_recorder: "Recorder | None" = None


def start(service: str, settings: TraceSettings) -> None:
    """Record from here on, where the settings say so. A process that forks records nothing."""
    global _recorder  # noqa: PLW0603 - one for the process
    if _recorder is None and settings.otel_traces_exporter == "otlp":
        from chassis.recorder import Recorder

        _recorder = Recorder(service)


def stop() -> None:
    """Send what is left, for a few seconds at most."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.stop()


def parent_in(headers: Mapping[str, Any]) -> str | None:
    """The span that a message came out of; None where it names none, or nonsense.

    Nameko renames what it passes on: a service on it that knows nothing of traces sends
    ``traceparent`` on as ``nameko.traceparent``.
    """
    found = headers.get(TRACE_KEY) or headers.get(HEADER_PREFIX + TRACE_KEY)
    if found is None:
        return None
    return found if isinstance(found, str) and _TRACEPARENT.fullmatch(found) else None


def ids(traceparent: str) -> dict[str, str]:
    """Its trace and its span, by the names that logs and exemplars have for them."""
    _version, trace_id, span_id, _flags = traceparent.split("-")[:4]
    return {"trace_id": trace_id, "span_id": span_id}


def exemplar(span: "Span | None" = None) -> dict[str, str] | None:
    """What leads from a metric to a trace that is recorded: of a span, or of the current one."""
    if _recorder is None:
        return None
    traceparent = span.traceparent if span is not None else current_call.get().trace
    if traceparent is None or not int(traceparent.split("-")[3], 16) & 1:
        return None
    return ids(traceparent)


def requested(method: str, route: str, visitors: str | None, request_id: str) -> "Span | None":
    """A request of the website. A visitor's own trace is linked to, and decides nothing."""
    if _recorder is None:
        return None
    attributes = {"http.request.method": method, "mycelium.request_id": request_id}
    if route:
        attributes["http.route"] = route
    links = [visitors] if visitors and _TRACEPARENT.fullmatch(visitors) else []
    return _recorder.begin("server", f"{method} {route}".rstrip(), None, attributes, links)


def calling(method: str, parent: str | None) -> "Span | None":
    """A call to another service; ``method`` is its routing key."""
    if _recorder is None:
        return None
    return _recorder.begin("client", method, parent, _call(method))


def answering(method: str, parent: str | None) -> "Span | None":
    """A call, from its arrival here to its answer."""
    if _recorder is None:
        return None
    return _recorder.begin("server", method, parent, _call(method))


def publishing(source: str, kind: str, event_id: UUID, headers: Mapping[str, Any]) -> "Span | None":
    """An event on its way out of the outbox, until the broker has it."""
    if _recorder is None:
        return None
    attributes = {
        **_BROKER,
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": event_exchange(source).name,
        "messaging.rabbitmq.destination.routing_key": kind,
        "messaging.message.id": str(event_id),
    }
    parent = parent_in(headers)
    return _recorder.begin("producer", f"publish {source}.{kind}", parent, attributes)


def handling(
    handler: str, event: str, queue: str, bodies: Sequence[Any], parents: Sequence[str | None]
) -> "Span | None":
    """One try to handle events. Several together are a trace of its own, with links to theirs."""
    if _recorder is None:
        return None
    attributes: dict[str, str | int] = {
        **_BROKER,
        "messaging.operation.type": "process",
        "messaging.operation.name": handler,
        "messaging.destination.name": queue,
        "messaging.rabbitmq.destination.routing_key": event.rpartition(".")[2],
    }
    parent, links = _one_or_linked(parents)
    if len(bodies) > 1:
        attributes["messaging.batch.message_count"] = len(bodies)
    elif isinstance(bodies[0], dict):
        attributes["messaging.message.id"] = str(bodies[0].get("event_id"))[:64]
    return _recorder.begin("consumer", f"{handler} {event}", parent, attributes, links)


@contextmanager
def asking_outside(what: str, host: str) -> Iterator[None]:
    """A call of somebody else's API, of the current span; they are not told of it."""
    if _recorder is None:
        yield
        return
    attributes = {"rpc.method": what, "server.address": host}
    span = _recorder.begin("client", what, current_call.get().trace, attributes)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        span.end(type(error).__name__ if error else None)


def grouped(name: str, parents: Sequence[str | None]) -> "Span | None":
    """What is done at once for several; for one it is part of his own trace, without a span."""
    if _recorder is None or len(parents) == 1:
        return None
    _, links = _one_or_linked(parents)
    return _recorder.begin("internal", name, None, {"mycelium.group": len(parents)}, links)


def waited(name: str, parent: str | None, since_ns: int, group: str | None) -> None:
    """Part of a group: what it was for one of them, with a link to what was done."""
    if _recorder is not None and group is not None:
        _recorder.begin("internal", name, parent, {}, [group], since_ns).end()


@contextmanager
def inside(span: "Span | None") -> Iterator[None]:
    """What is done in this block is part of the span."""
    if span is None:
        yield
        return
    token = current_call.set(replace(current_call.get(), trace=span.traceparent))
    try:
        yield
    finally:
        current_call.reset(token)


def _call(method: str) -> dict[str, str]:
    return {"rpc.system.name": "nameko", "rpc.method": method}


def _one_or_linked(parents: Sequence[str | None]) -> tuple[str | None, list[str]]:
    if len(parents) == 1:
        return parents[0], []
    return None, [each for each in dict.fromkeys(parents) if each is not None][:LINKS_MAX]
