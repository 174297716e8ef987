"""One trace from the request of a browser to the event that completes the purchase."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import requests

from chassis.database import Connected, connect
from deploy.local.traces import Span, tree
from deploy.parts import PROCESSES
from tests.conftest import StackFactory
from tests.gateway.conftest import Api, add_user, granted, token_for
from tests.gateway.test_main_job import buy_credits, switch_on_auto_topup
from tests.patience import PATIENCE_S, eventually
from tests.system import System

BUY = "POST /api/wallet/purchase-with-topup"
VISITORS = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"

ALLOWED = {
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "messaging.batch.message_count",
    "messaging.destination.name",
    "messaging.message.id",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.rabbitmq.destination.routing_key",
    "messaging.system",
    "mycelium.group",
    "mycelium.request_id",
    "rpc.method",
    "rpc.system.name",
    "server.address",
}
"""Routes, methods, types, codes and ids."""

WAY = [
    f"gateway {BUY}",
    "gateway → billing.start_purchase",
    "billing billing.start_purchase",
    "billing publish billing.purchase_short_of_funds",
    "topup top_up_for_purchase billing.purchase_short_of_funds",
    "topup publish topup.topup_paid",
    "wallet credit_topup topup.topup_paid",
    "wallet publish wallet.wallet_credited",
    "billing resume_purchases wallet.wallet_credited",
    "billing publish billing.purchase_completed",
]
"""From the request to the event that completes the purchase, each out of the one before it."""


@pytest.fixture(scope="module")
def traced(service_stack: StackFactory) -> System:
    names = (*(name for name in PROCESSES if name != "analytics"), "traces")
    return service_stack(*names, settings={"TRACES": "1"})


@pytest.fixture(scope="module")
def users(traced: System) -> Iterator[Connected]:
    database = connect(traced.database_url("gateway"), pool_size=4)
    yield database
    database.engine.dispose()


def member(traced: System, users: Connected) -> Api:
    user = add_user(users, has_wallet=False)
    token = token_for(users, user)
    return Api(traced.base_url, token, user.user_id, user.email, is_patient=True)


def buy_short_of_funds(traced: System, api: Api) -> requests.Response:
    found = granted(Api(traced.base_url, is_patient=True).get("/api/products?q=VM-Production"))[
        "products"
    ]
    dear = next(item for item in found if item["price_usd"] == Decimal("15.00"))
    return api.post(
        "/api/wallet/purchase-with-topup",
        {"product_id": dear["product_id"]},
        headers={"Idempotency-Key": str(api.user_id), "traceparent": VISITORS},
    )


def said(span: Span) -> str:
    return f"{span.service} {'→ ' if span.kind == 'client' else ''}{span.name}"


def completed(traced: System) -> list[list[Span]]:
    """The traces of purchases that have come to their end."""
    return [
        spans
        for spans in traced.traces().values()
        if spans[0].name == BUY
        # What asked is told after what it asked for, by another process.
        and {span.parent_id for span in spans[1:]} <= {span.span_id for span in spans}
        and {"publish billing.purchase_completed", BUY} <= {span.name for span in spans}
        and any(span.name.startswith("notify") or ("purchase_completed" in span.name
                and span.kind == "consumer") for span in spans)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trace(traced: System, users: Connected) -> list[Span]:
    def buys() -> requests.Response:
        api = member(traced, users)
        buy_credits(api, 10)
        switch_on_auto_topup(api)
        return buy_short_of_funds(traced, api)

    # The request waits ten seconds, which may be too few for a machine that stalls.
    paid = eventually(buys, lambda answer: granted(answer)["status"] == "completed")

    def its_trace() -> list[list[Span]]:
        return [
            spans
            for spans in completed(traced)
            if spans[0].attributes["mycelium.request_id"] == paid.headers["X-Request-Id"]
        ]

    (found,) = eventually(its_trace)
    return found


def way_to(trace: list[Span], last: Span) -> list[str]:
    """What led to a span, from the beginning of the trace."""
    by_id = {span.span_id: span for span in trace}
    way = [last]
    while way[0].parent_id in by_id:
        way.insert(0, by_id[way[0].parent_id])
    return [said(span) for span in way]


def test_a_purchase_that_a_card_pays_for_is_one_trace_from_end_to_end(trace: list[Span]) -> None:
    (last,) = [span for span in trace if said(span) == WAY[-1]]

    assert way_to(trace, last) == WAY, tree(trace)
    ids = {span.span_id for span in trace}
    assert [said(span) for span in trace if span.parent_id not in ids] == WAY[:1]


def test_it_shows_each_debit_that_was_tried_and_the_call_of_the_card_processor(
    trace: list[Span],
) -> None:
    debits = [span for span in trace if said(span) == "wallet wallet.debit"]
    refused, taken = (way_to(trace, debit)[-3] for debit in debits)
    assert (refused, taken) == (WAY[2], WAY[8])
    assert debits[0].attributes["error.type"] == "insufficient_funds"
    assert not any(span.is_error for span in trace)

    (charge,) = [span for span in trace if "PaymentIntentService.create" in span.name]
    assert way_to(trace, charge)[:-1] == WAY[:5]
    assert charge.attributes["server.address"] == "127.0.0.1"


def test_a_visitors_own_trace_is_linked_to_and_decides_nothing(trace: list[Span]) -> None:
    assert trace[0].links == [VISITORS.split("-")[1]]
    assert trace[0].trace_id != VISITORS.split("-")[1]


def test_nothing_that_tells_of_a_person_or_an_amount_is_in_a_trace(
    trace: list[Span], traced: System
) -> None:
    told = {key for span in trace for key in span.attributes}
    assert told <= ALLOWED
    values = [
        str(value)
        for spans in traced.traces().values()
        for span in spans
        for key, value in span.attributes.items()
        if not key.endswith((".id", "_id"))
    ]
    assert [each for each in values if re.search(r"@|[$]|\d{4}|token=|Bearer", each)] == []


def test_the_log_of_each_process_leads_to_the_trace(trace: list[Span], traced: System) -> None:
    log = traced.child("gateway").log_path.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line[:1] == "{"]
    (request,) = [line for line in lines if line.get("trace_id") == trace[0].trace_id
                  and line["message"] == "request"]  # fmt: skip

    assert request["span_id"] == trace[0].span_id
    assert request["request_id"] == trace[0].attributes["mycelium.request_id"]


def test_purchases_of_the_same_moment_have_each_a_trace_of_its_own(
    traced: System, users: Connected
) -> None:
    members = [member(traced, users) for _ in range(8)]
    before = set(traced.traces())
    with ThreadPoolExecutor(len(members)) as threads:
        answers = list(threads.map(lambda each: buy_short_of_funds(traced, each), members))

    asked = {answer.headers["X-Request-Id"] for answer in answers}

    def begun() -> list[list[Span]]:
        return [
            spans
            for trace_id, spans in traced.traces().items()
            if trace_id not in before
            and spans[0].name == BUY
            and set(WAY[:4]) <= {said(span) for span in spans}
        ]

    found = eventually(begun, lambda spans: len(spans) == len(members))
    assert {spans[0].attributes["mycelium.request_id"] for spans in found} == asked
    for spans in found:
        names = [said(span) for span in spans]
        assert [names.count(name) for name in WAY[:4]] == [1, 1, 1, 1], tree(spans)


def test_the_viewer_lists_traces_and_shows_one_as_a_tree(trace: list[Span], traced: System) -> None:
    address = traced.process("traces").environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    listed = requests.get(address, timeout=PATIENCE_S).text
    shown = requests.get(f"{address}/{trace[0].trace_id}", timeout=PATIENCE_S).text

    assert f'href="/{trace[0].trace_id}"' in listed
    assert "gateway → billing.start_purchase" in shown
    assert requests.get(f"{address}/{'f' * 32}", timeout=PATIENCE_S).status_code == 404
