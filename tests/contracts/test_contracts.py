"""The contracts: old messages are still read, and the documents are those of the code."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from contracts import errors
from contracts.messages import Command, Event, Request
from contracts.schemas import SERVICES, service_schema
from tests.contracts.golden import examples, messages

EVERY_MESSAGE = [
    pytest.param(service, message, id=f"{service}.{message.__name__}")
    for service in SERVICES
    for message in messages(service)
]
DOCUMENTS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize(("service", "message"), EVERY_MESSAGE)
def test_the_golden_example_of_a_message_is_still_read_with_every_value(
    service: str, message: type[BaseModel]
) -> None:
    assert message.__name__ in examples(service), "run: python -m tests.contracts.golden"
    example = examples(service)[message.__name__]

    read = json.loads(message.model_validate(example).model_dump_json())

    assert {name: read.get(name) for name in example} == example


@pytest.mark.parametrize("service", SERVICES)
def test_no_message_that_was_ever_sent_is_gone(service: str) -> None:
    assert examples(service).keys() <= {message.__name__ for message in messages(service)}


@pytest.mark.parametrize("service", SERVICES)
def test_the_schemas_in_the_documents_are_those_of_the_code(service: str) -> None:
    document = json.loads((DOCUMENTS / f"{service}.json").read_text())

    assert document == service_schema(service), "run: make docs"


@pytest.mark.parametrize(("service", "message"), EVERY_MESSAGE)
def test_every_message_says_where_it_belongs(service: str, message: type[BaseModel]) -> None:
    if issubclass(message, Request):
        assert (message.service, bool(message.method)) == (service, True)
    if issubclass(message, Command):
        assert "idempotency_key" in message.model_fields
    if issubclass(message, Event):
        assert message.source == service
        assert "event_id" in message.model_fields


def test_every_error_has_a_code_of_its_own_and_takes_only_strings() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.ServiceError)
    ]

    codes = [error.code for error in classes]

    assert len(codes) == len(set(codes))
    assert all(str(error("A sentence.", "detail")) == "A sentence." for error in classes)
