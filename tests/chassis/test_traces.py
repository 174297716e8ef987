"""How a trace goes from message to message, with a real service on the real broker."""

import json
import socket
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import eventlet
import pytest
import requests
from kombu import Connection, Exchange, Queue
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from chassis.clock import utc_now
from chassis.context import CallContext, current_call
from chassis.identifiers import new_id
from deploy.local.broker import VirtualHost
from deploy.local.startup import free_port
from deploy.local.traces import Span
from tests.chassis.conftest import Collector, Probe
from tests.chassis.probe.messages import CallChain, Chanted, Echo, Nap, Tell
from tests.patience import PATIENCE_S, eventually, least_s
from tests.system import is_ready

ENDS_WITHIN_S = 30
"""A process that is told to stop; on an idle machine in the 3 s for which it tries to send."""


@pytest.fixture(scope="module")
def probe(make_probe: Callable[..., Probe], collector: Collector) -> Probe:
    def settings(_vhost: VirtualHost) -> dict[str, str]:
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        }

    return make_probe(settings)


def new_parent() -> tuple[str, str, str]:
    """A trace, a span, and the header that says both."""
    trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


def call_by_kombu(probe: Probe, method: str, arguments: object, headers: dict[str, Any]) -> Any:
    """A call as anybody makes it who knows nameko's protocol."""
    key = str(uuid.uuid4())
    with Connection(probe.vhost.admin_uri) as connection:
        exchange = Exchange("nameko-rpc", type="topic", durable=True)
        replies = connection.SimpleQueue(Queue(f"rpc.reply-{key}", exchange, key, exclusive=True))
        replies.queue.declare()
        producer = connection.Producer(serializer="json")
        producer.publish(
            {"args": [], "kwargs": arguments},
            exchange=exchange,
            routing_key=f"probe.{method}",
            reply_to=key,
            correlation_id="1",
            headers=headers,
        )
        answer = replies.get(timeout=60)
        answer.ack()
        return answer.payload


def named(spans: list[Span], name: str, kind: str) -> Span:
    [found] = [span for span in spans if (span.name, span.kind) == (name, kind)]
    return found


@pytest.mark.parametrize("header", ["traceparent", "nameko.traceparent"])
def test_the_trace_of_a_stock_nameko_or_any_other_caller_is_continued(
    probe: Probe, collector: Collector, header: str
) -> None:
    trace_id, span_id, traceparent = new_parent()

    answered = call_by_kombu(probe, "call_chain", {"n": 1}, {header: traceparent})

    assert answered["error"] is None
    spans = collector.trace(trace_id, 3)
    calls = [span for span in spans if span.name == "probe.call_chain"]
    assert [(span.kind, span.parent_id) for span in calls] == [
        ("server", span_id),
        ("client", calls[0].span_id),
        ("server", calls[1].span_id),
    ]


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": "00-" * 9}])
def test_a_message_without_a_trace_or_with_nonsense_is_taken_as_ever(
    probe: Probe, headers: dict[str, Any]
) -> None:
    answered = call_by_kombu(probe, "echo", {"n": 5}, headers)

    assert answered == {"result": {"n": 5}, "error": None}


def test_an_event_is_part_of_the_trace_that_stored_it(probe: Probe, collector: Collector) -> None:
    trace_id, span_id, traceparent = new_parent()
    token = current_call.set(CallContext(trace=traceparent))
    try:
        probe.rpc.call(Tell(idempotency_key=str(uuid.uuid4()), n=41))
    finally:
        current_call.reset(token)

    spans = collector.trace(trace_id, 3)
    answering = named(spans, "probe.tell", "server")
    publishing = named(spans, "publish probe.told", "producer")
    handling = named(spans, "note_told probe.told", "consumer")
    assert answering.parent_id == span_id
    assert (publishing.parent_id, handling.parent_id) == (answering.span_id, publishing.span_id)
    assert handling.attributes["messaging.destination.name"] == "evt-probe-told--probe.note_told"
    assert (
        handling.attributes["messaging.message.id"]
        == (publishing.attributes["messaging.message.id"])
    )


def test_each_try_of_an_event_is_a_span_and_says_how_it_failed(
    probe: Probe, collector: Collector
) -> None:
    trace_id, _, traceparent = new_parent()
    token = current_call.set(CallContext(trace=traceparent))
    try:
        probe.rpc.call(Tell(idempotency_key=str(uuid.uuid4()), n=77))
    finally:
        current_call.reset(token)

    tries = [span for span in collector.trace(trace_id, 4) if span.kind == "consumer"]
    assert [(each.is_error, each.attributes.get("error.type")) for each in tries] == [
        (True, "ValueError"),
        (False, None),
    ]
    assert len({each.parent_id for each in tries}) == 1


def test_events_that_are_handled_together_are_linked_to_the_trace_of_each(
    probe: Probe, collector: Collector
) -> None:
    with Connection(probe.vhost.admin_uri) as connection:
        parents = [new_parent() for _ in range(5)]
        producer = connection.Producer()
        for number, (_, _, traceparent) in enumerate(parents):
            event = Chanted(event_id=new_id(), occurred_at=utc_now(), n=9_000 + number)
            producer.publish(
                event.model_dump_json(),
                exchange="probe.events",
                routing_key="chanted",
                content_type="application/json",
                content_encoding="utf-8",
                headers={"traceparent": traceparent},
            )

    def handled() -> set[str]:
        every = [span for spans in collector.spans.traces().values() for span in spans]
        chants = [span for span in every if span.name == "note_chanted probe.chanted"]
        alone = {span.trace_id for span in chants if not span.links}
        return alone | {link for span in chants for link in span.links}

    eventually(handled, lambda found: {trace_id for trace_id, _, _ in parents} <= found)


def test_many_calls_at_once_never_mix_their_traces(probe: Probe, collector: Collector) -> None:
    parents = [new_parent() for _ in range(120)]

    def call(number: int) -> None:
        current_call.set(CallContext(trace=parents[number][2]))
        probe.rpc.call(CallChain(n=1))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(len(parents))))

    for trace_id, span_id, _ in parents:
        spans = collector.trace(trace_id, 3)
        assert [span.kind for span in spans] == ["server", "client", "server"]
        assert [span.parent_id for span in spans] == [
            span_id, spans[0].span_id, spans[1].span_id,
        ]  # fmt: skip


def test_a_greenlet_begins_without_the_call_of_who_spawned_it() -> None:
    token = current_call.set(
        CallContext(chain=("wallet.debit",), trace=f"00-{'1' * 32}-{'2' * 16}-01")
    )
    try:
        seen = eventlet.spawn(current_call.get).wait()
    finally:
        current_call.reset(token)

    assert seen == CallContext()


def test_a_line_of_the_log_says_the_trace_and_the_span(probe: Probe, collector: Collector) -> None:
    trace_id, _, traceparent = new_parent()
    call_by_kombu(probe, "echo", {"n": 14}, {"traceparent": traceparent})

    (span,) = collector.trace(trace_id, 1)
    assert (span.is_error, span.attributes["error.type"]) == (True, "service_error")
    assert "secret" not in json.dumps(span.attributes)
    lines = eventually(
        lambda: [json.loads(line) for line in probe.log().splitlines() if trace_id in line]
    )
    assert [(line["message"], line["span_id"]) for line in lines] == [
        ("a call failed", span.span_id)
    ]


def test_a_refusal_is_an_answer_and_no_fault(probe: Probe, collector: Collector) -> None:
    trace_id, _, traceparent = new_parent()
    call_by_kombu(probe, "echo", {"n": 13}, {"traceparent": traceparent})

    (span,) = collector.trace(trace_id, 1)
    assert (span.is_error, span.attributes["error.type"]) == (False, "insufficient_funds")


def test_metrics_lead_to_traces_where_open_metrics_is_asked_for(
    probe: Probe, collector: Collector
) -> None:
    port = free_port()
    probe.start(health_port=port)
    eventually(lambda: is_ready(f"http://127.0.0.1:{port}/readyz"))
    trace_id, _, traceparent = new_parent()

    def exemplars() -> set[str]:
        for _ in range(5):
            call_by_kombu(probe, "echo", {"n": 1}, {"traceparent": traceparent})
        shown = requests.get(
            f"http://127.0.0.1:{port}/metrics",
            headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"},
            timeout=PATIENCE_S,
        )
        assert shown.headers["Content-Type"].startswith("application/openmetrics-text")
        samples = [
            sample
            for family in text_string_to_metric_families(shown.text)
            for sample in family.samples
        ]
        assert any(sample.name == "mycelium_outbox_unsent_events" for sample in samples)
        return {each.exemplar.labels["trace_id"] for each in samples if each.exemplar}

    assert trace_id in eventually(exemplars, lambda found: trace_id in found)
    plain = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S)
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert trace_id not in plain.text


def test_a_process_that_is_told_to_stop_sends_what_it_has(
    make_probe: Callable[..., Probe],
    collector: Collector,
) -> None:
    probe = make_probe(
        lambda _: {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
    )
    trace_id, _, traceparent = new_parent()
    call_by_kombu(probe, "echo", {"n": 2}, {"traceparent": traceparent})
    assert trace_id not in collector.spans.traces()

    probe.children[0].stop(PATIENCE_S)

    assert [span.name for span in collector.trace(trace_id, 1)] == ["probe.echo"]


def test_a_collector_that_never_answers_keeps_no_call_waiting_and_no_process_from_its_end(
    make_probe: Callable[..., Probe],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        probe = make_probe(
            lambda _: {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        )
        for n in range(300):
            assert probe.rpc.call(Echo(n=n + 100), timeout_s=PATIENCE_S).n == n + 100
        assert least_s(lambda: probe.rpc.call(Nap(n=5)), 3) < 3

        # What is ended because it does not stop in time has another code.
        probe.children[0].stop(ENDS_WITHIN_S)
        assert probe.children[0].exit_code == 0
