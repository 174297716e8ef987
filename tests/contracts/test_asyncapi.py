"""The AsyncAPI document names every call and event, and points nowhere that is not there."""

from collections.abc import Iterator
from typing import Any

import pytest

from contracts import asyncapi
from contracts.schemas import SERVICES, events, requests


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return asyncapi.document()


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def at(document: dict[str, Any], pointer: str) -> Any:
    found: Any = document
    for step in pointer.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_every_reference_leads_to_something(document: dict[str, Any]) -> None:
    pointers = set(references(document))

    assert len(pointers) > 300
    assert all(at(document, pointer) for pointer in pointers)


def test_every_call_is_received_with_its_reply_and_every_event_sent(
    document: dict[str, Any],
) -> None:
    calls = {f"{one.service}.{one.method}" for service in SERVICES for one in requests(service)}
    told = {f"{one.source}.{one.type}" for service in SERVICES for one in events(service)}
    operations = document["operations"]

    assert {name for name, one in operations.items() if one["action"] == "receive"} == calls
    assert {name for name, one in operations.items() if one["action"] == "send"} == told
    assert all(operations[name]["reply"]["messages"] for name in calls)


def test_where_a_message_goes_is_where_nameko_sends_it(document: dict[str, Any]) -> None:
    def place(name: str) -> tuple[str, str]:
        channel = document["channels"][name]
        return channel["bindings"]["amqp"]["exchange"]["name"], channel["address"]

    assert place("wallet.debit") == ("nameko-rpc", "wallet.debit")
    assert place("wallet.wallet_credited") == ("wallet.events", "wallet_credited")


def test_a_call_is_said_with_its_arguments_and_what_comes_back(document: dict[str, Any]) -> None:
    debit = at(document, "#/components/messages/wallet.debit/payload/properties/kwargs/$ref")
    reply = at(document, "#/components/messages/wallet.debit.reply/payload/properties/result")

    assert set(at(document, debit)["required"]) >= {"idempotency_key", "user_id", "amount_micros"}
    assert reply["anyOf"][1] == {"type": "null"}
    assert "once per key" in document["operations"]["wallet.debit"]["description"]
