"""The AsyncAPI 3.0 document of all calls and events: ``python -m contracts.asyncapi FILE``.

A call is an operation that a service receives, with its reply; an event is one that it sends.
Where both go on the broker is nameko's way: a topic exchange for all calls, and one for the events
of each service.
"""

import json
import sys
from inspect import cleandoc
from pathlib import Path
from typing import Any

from contracts.calls import EXCHANGE
from contracts.messages import Command, Request
from contracts.schemas import SERVICES, events, requests, service_schema

VERSION = "3.0.0"

_ABOUT = """\
What Mycelium's services ask each other over RabbitMQ, and what they tell.

**A call** is JSON: `{"args": [], "kwargs": {…}}`, the fields of the request by their names, to
the exchange `nameko-rpc` with the method as routing key, `reply_to` and `correlation_id`. **Its
answer** goes to the same exchange with the routing key `reply_to`:
`{"result": {…} | null, "error": null | {"exc_type": …, "exc_args": […], "value": …}}`.

**An event** is published to the exchange `<service>.events` with its type as routing key, after the
transaction that it tells of was committed. It comes at least once: handle each `event_id` once.

**Commands** carry an `idempotency_key`, chosen before the first try. Amounts are whole
micro-dollars (1 US dollar is 1,000,000).
"""


def document() -> dict[str, Any]:
    """Everything that is said on the broker."""
    channels: dict[str, Any] = {"replies": _replies()}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for service in SERVICES:
        schemas |= _definitions(service)
        for request in requests(service):
            name = f"{service}.{request.method}"
            messages[name] = _message(name, request, _call_of(request))
            answered = f"{name}.reply"
            messages[answered] = _message(answered, request.reply, _answer_of(request))
            channels["replies"]["messages"][answered] = _to("messages", answered)
            channels[name] = _channel(name, name, EXCHANGE)
            operations[name] = _answering(name, request)
        for event in events(service):
            name = f"{service}.{event.type}"
            messages[name] = _message(name, event, _schema(service, event.__name__))
            channels[name] = _channel(name, event.type, f"{service}.events")
            operations[name] = {
                "action": "send",
                "channel": _to("channels", name, inside=""),
                "summary": _summary(event),
                "tags": [{"name": service}],
            }
    return {
        "asyncapi": VERSION,
        "info": {"title": "Mycelium", "version": "1.0.0", "description": _ABOUT},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def about(of: type[Any]) -> str:
    """What a message says of itself; a class without a text has none, and not its base's."""
    return cleandoc(vars(of).get("__doc__") or "").replace("``", "`")


def _summary(of: type[Any]) -> str:
    return about(of).split("\n\n")[0].replace("\n", " ")


def _answering(name: str, request: type[Request[Any]]) -> dict[str, Any]:
    within = f"An answer comes within {request.answer_within_s:g} s, or none."
    kind = "A command: it changes something, once per key." if _is_command(request) else ""
    return {
        "action": "receive",
        "channel": _to("channels", name, inside=""),
        "summary": _summary(request),
        "description": " ".join(filter(None, (kind, within))),
        "tags": [{"name": request.service}],
        "reply": {
            "address": {"location": "$message.header#/reply_to"},
            "channel": _to("channels", "replies", inside=""),
            "messages": [{"$ref": f"#/channels/replies/messages/{name}.reply"}],
        },
    }


def _is_command(request: type[Request[Any]]) -> bool:
    return issubclass(request, Command)


def _replies() -> dict[str, Any]:
    return {
        "address": None,
        "description": "The caller's own queue, whose routing key the call names in `reply_to`.",
        "messages": {},
    }


def _channel(name: str, routing_key: str, exchange: str) -> dict[str, Any]:
    return {
        "address": routing_key,
        "messages": {name: _to("messages", name)},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "vhost": "/"},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _message(name: str, of: type[Any], payload: dict[str, Any]) -> dict[str, Any]:
    described = {"name": name, "title": of.__name__, "payload": payload}
    return described | ({"description": about(of)} if about(of) else {})


def _call_of(request: type[Request[Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["args", "kwargs"],
        "properties": {
            "args": {"type": "array", "maxItems": 0},
            "kwargs": _schema(request.service, request.__name__),
        },
    }


def _answer_of(request: type[Request[Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["result", "error"],
        "properties": {
            "result": {
                "anyOf": [_schema(request.service, request.reply.__name__), {"type": "null"}]
            },
            "error": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        },
    }


def _schema(service: str, name: str) -> dict[str, Any]:
    return _to("schemas", f"{service}.{name}")


def _to(kind: str, name: str, inside: str = "components/") -> dict[str, Any]:
    return {"$ref": f"#/{inside}{kind}/{name}"}


def _definitions(service: str) -> dict[str, Any]:
    """The service's schemas under its name: two services may call different things alike."""
    return {
        f"{service}.{name}": _renamed(schema, service)
        for name, schema in service_schema(service)["$defs"].items()
    }


def _renamed(schema: Any, service: str) -> Any:
    if isinstance(schema, list):
        return [_renamed(one, service) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace("#/$defs/", f"#/components/schemas/{service}.")
        if key == "$ref"
        else _renamed(value, service)
        for key, value in schema.items()
    }


def as_text() -> str:
    """The document as it is served and written."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_text(), encoding="utf-8")
