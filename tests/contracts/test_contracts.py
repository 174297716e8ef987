"""The contracts: old messages are still read, and the documents are those of the code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError, create_model

from chassis.idempotency import request_hash
from contracts import errors, keys
from contracts.messages import Command, Event, Moment, Request
from contracts.schemas import SERVICES, service_schema
from contracts.wallet import Noted
from tests.contracts.golden import examples, messages, request_hashes

EVERY_MESSAGE = [
    pytest.param(service, message, id=f"{service}.{message.__name__}")
    for service in SERVICES
    for message in messages(service)
]
EVERY_REQUEST = [
    parameter
    for parameter in EVERY_MESSAGE
    if issubclass(parameter.values[1], Request)  # type: ignore[arg-type]
]
EVERY_COMMAND = [
    parameter
    for parameter in EVERY_REQUEST
    if issubclass(parameter.values[1], Command)  # type: ignore[arg-type]
]
DOCUMENTS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize(("service", "message"), EVERY_MESSAGE)
def test_the_golden_example_of_a_message_is_still_read_with_every_value(
    service: str, message: type[BaseModel]
) -> None:
    assert message.__name__ in examples(service), "run: make docs"
    example = examples(service)[message.__name__]

    read = json.loads(message.model_validate(example).model_dump_json())

    assert _as_far_as(read, example) == example


def _as_far_as(read: Any, example: Any) -> Any:
    """What was read, without the fields that the example does not know, at any depth."""
    if isinstance(read, dict) and isinstance(example, dict):
        return {name: _as_far_as(read.get(name), value) for name, value in example.items()}
    if isinstance(read, list) and isinstance(example, list) and len(read) == len(example):
        return [_as_far_as(*pair) for pair in zip(read, example, strict=True)]
    return read


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


@pytest.mark.parametrize(("service", "command"), EVERY_COMMAND)
def test_a_retry_is_known_by_the_hash_that_an_earlier_version_stored(
    service: str, command: type[Command[Any]]
) -> None:
    example = command.model_validate(examples(service)[command.__name__])
    stored = request_hashes().get(f"{service}.{command.method}")

    assert request_hash(example).hex() == stored, "run: python -m tests.contracts.golden"


@pytest.mark.parametrize(("service", "command"), EVERY_COMMAND)
def test_a_field_that_a_command_gains_later_changes_no_hash(
    service: str, command: type[Command[Any]]
) -> None:
    example = examples(service)[command.__name__]
    newer = create_model("Newer", __base__=command, added_later=(str, "its default"))

    assert request_hash(newer.model_validate(example)) == request_hash(
        command.model_validate(example)
    )


def test_every_error_has_a_code_of_its_own_and_takes_only_strings() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.ServiceError)
    ]

    codes = [error.code for error in classes]

    assert len(codes) == len(set(codes))
    assert all(str(error("A sentence.", "detail")) == "A sentence." for error in classes)


def test_what_stands_in_ledgers_keeps_its_keys_and_names() -> None:
    number = UUID(int=7)
    end = "00000000-0000-0000-0000-000000000007"

    made = [
        keys.wallet_key(number),
        keys.purchase_key(number),
        keys.topup_key(number),
        keys.reversal_key("re_1"),
        keys.restored_key("dp_1"),
        keys.opened_key("dp_1"),
        keys.expiry_key(number),
    ]

    assert made == [
        f"open:{end}",
        f"purchase:{end}",
        f"topup:{end}",
        "reversal:re_1",
        "restored:dp_1",
        "opened:dp_1",
        f"expire:{end}",
    ]
    assert {name.value for name in Noted} >= {
        "purchase_id",
        "topup_id",
        "reversal_id",
        "payment_id",
        "trigger",
        "trigger_reference",
        "threshold_micros",
        "card_brand",
        "card_last4",
    }


def test_an_error_reads_its_own_details() -> None:
    assert errors.InsufficientFunds("Too little.", "-5", "7").available_micros == -5
    assert errors.InsufficientFunds("Too little.").available_micros == 0
    assert errors.PriceChanged("Dearer.", "9").unit_price_micros == 9
    assert errors.PriceChanged("Dearer.").unit_price_micros is None
    assert errors.BadRequest("Wrong.", "lines").field == "lines"
    assert errors.BadRequest("Wrong.").field == ""


def spoilt(example: Any, by: str) -> Iterator[Any]:
    """The example with one text spoilt, for each text in it and each key of free names."""
    if isinstance(example, str):
        yield example + by
    elif isinstance(example, list):
        for index, item in enumerate(example):
            for bad in spoilt(item, by):
                yield [*example[:index], bad, *example[index + 1 :]]
    elif isinstance(example, dict):
        for name, value in example.items():
            # The arguments of a batch's commands are checked as those of each command.
            if name != "arguments":
                for bad in spoilt(value, by):
                    yield {**example, name: bad}
        for name, value in example.get("metadata", {}).items():
            yield {**example, "metadata": {name + by: value}}


@pytest.mark.parametrize(("service", "request_class"), EVERY_REQUEST)
@pytest.mark.parametrize("by", ["\0", "\ud83d"], ids=["NUL", "half a character"])
def test_no_request_takes_a_text_that_cannot_be_stored(
    service: str, request_class: type[BaseModel], by: str
) -> None:
    for bad in spoilt(examples(service)[request_class.__name__], by):
        with pytest.raises(ValidationError):
            request_class.model_validate(bad)


MOMENTS = [
    pytest.param(
        message, {**examples(service)[message.__name__]}, name, id=f"{message.__name__}.{name}"
    )
    for service in SERVICES
    for message in messages(service)
    for name, field in message.model_json_schema().get("properties", {}).items()
    if any(kind.get("format") == "date-time" for kind in (field, *field.get("anyOf", ())))
]


@pytest.mark.parametrize(("message", "example", "name"), MOMENTS)
@pytest.mark.parametrize(
    "written", [0, 1.5, "20261128", "0.5", "2026-11-28", "2026-11-28T09:30:00"]
)
def test_no_message_takes_a_time_that_is_not_rfc_3339(
    message: type[BaseModel], example: dict[str, Any], name: str, written: object
) -> None:
    with pytest.raises(ValidationError, match="2026-11-28T09:30:00Z"):
        message.model_validate({**example, name: written})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-28T09:30:00Z", "2026-11-28T09:30:00Z"),
        ("2026-11-28t09:30:00z", "2026-11-28T09:30:00Z"),
        ("2026-11-28T09:30:00.123456+01:00", "2026-11-28T08:30:00.123456Z"),
        ("2026-11-28T09:30:00.123456789-00:30", "2026-11-28T10:00:00.123456Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_moment_is_read_in_utc(written: str, read: str) -> None:
    moments = TypeAdapter(Moment)

    assert moments.dump_python(moments.validate_python(written), mode="json") == read


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-28T09:30Z",
        "2026-11-28 09:30:00Z",
        "2026-11-28T09:30:00 01:00",
        "2026-11-28T09:30:00+0100",
        "2026-11-28T24:00:00Z",
        "2026-13-28T09:30:00Z",
        "２０２６-11-28T09:30:00Z",
        "2026-W48-6T09:30:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "",
        None,
        True,
    ],
)
def test_what_only_looks_like_a_moment_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Moment).validate_python(written)
