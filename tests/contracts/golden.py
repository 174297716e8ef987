"""Golden examples of every message: ``python -m tests.contracts.golden`` adds missing ones.

An example that is here is never written anew: it stands for the messages that are on the
wire, in queues and in outboxes of a running system while a newer version is rolled out. A
change of the contracts that no longer reads one breaks that system.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from chassis.idempotency import request_hash
from contracts.messages import Command, Event, Reply, Request
from contracts.schemas import SERVICES

FOLDER = Path(__file__).parent / "golden"
HASHES = FOLDER / "request_hashes.json"

_BY_FORMAT = {
    "uuid": "01890a5d-ac96-774b-bcce-b302099a8057",
    "date-time": "2026-11-22T12:00:00Z",
    "date": "2026-11-22",
    "email": "help@example.org",
    "uri": "https://example.org/",
}


def messages(service: str) -> Iterator[type[BaseModel]]:
    """Every request, reply and event that is defined in a service's contract."""
    module = SERVICES[service]
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Request | Reply | Event)
            and value.__module__ == module.__name__
            and not _is_abstract(value)
        ):
            yield value


def _is_abstract(message: type[BaseModel]) -> bool:
    # A request without a method is what others are derived from; pydantic keeps
    # `Request[Wallet]` and its like in the module as well.
    is_bare = issubclass(message, Request) and not hasattr(message, "method")
    return is_bare or "[" in message.__name__


def examples(service: str) -> dict[str, dict[str, Any]]:
    """Message name → its example, as it stands on the wire."""
    path = FOLDER / f"{service}.json"
    stored: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return stored


def make_example(message: type[BaseModel]) -> dict[str, Any]:
    """An example of a message with every field present, made from its JSON Schema."""
    schema = message.model_json_schema()
    example = _value(schema, schema.get("$defs", {}))
    assert isinstance(example, dict)
    return example


def _value(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _value(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _value(schema[choice][0], definitions)
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, definitions)
    if kind == "array":
        count = max(schema.get("minItems", 1), 1)
        return [_value(schema["items"], definitions) for _ in range(count)]
    if kind == "integer":
        return schema.get("exclusiveMinimum", schema.get("minimum", 4)) + 1
    if kind == "boolean":
        return True
    return _string(schema)


def _object(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "properties" not in schema:
        of_any = schema.get("additionalProperties")
        return {"name": _value(of_any if isinstance(of_any, dict) else {}, definitions)}
    return {name: _value(field, definitions) for name, field in schema["properties"].items()}


def _string(schema: dict[str, Any]) -> str:
    if schema.get("format") in _BY_FORMAT:
        return _BY_FORMAT[schema["format"]]
    if str(schema.get("pattern", "")).startswith("^/"):
        return "/dashboard"
    text = "example"
    return text[: schema.get("maxLength", len(text))].ljust(schema.get("minLength", 0), "x")


def request_hashes() -> dict[str, str]:
    """Call → the hash of the command's example, as it stands in the databases."""
    stored: dict[str, str] = json.loads(HASHES.read_text()) if HASHES.exists() else {}
    return stored


def add_missing() -> None:
    """Write an example for each message that has none, and a hash for each command."""
    FOLDER.mkdir(exist_ok=True)
    hashes = request_hashes()
    for service in SERVICES:
        stored = examples(service)
        for message in messages(service):
            stored.setdefault(message.__name__, make_example(message))
            if issubclass(message, Command):
                command = message.model_validate(stored[message.__name__])
                hashes.setdefault(f"{service}.{command.method}", request_hash(command).hex())
        (FOLDER / f"{service}.json").write_text(json.dumps(stored, indent=2) + "\n")
    HASHES.write_text(json.dumps(hashes, indent=2) + "\n")


if __name__ == "__main__":
    add_missing()
