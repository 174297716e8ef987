"""The OpenAPI and the AsyncAPI document as a person reads them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

_FORMATS = {"uuid": "UUID", "date-time": "time", "date": "date"}


@dataclass(frozen=True)
class Type:
    """``name`` as it is written; ``schema`` is the one that tells more, or empty."""

    name: str
    schema: str = ""


@dataclass(frozen=True)
class Field:
    name: str
    type: Type
    is_required: bool
    about: str


@dataclass(frozen=True)
class Operation:
    anchor: str
    method: str
    path: str
    about: str
    is_public: bool
    parameters: list[Field]
    body: Type | None
    replies: list[tuple[str, Type]]


@dataclass(frozen=True)
class Named:
    """A schema with a name: a body with ``fields``, or one of ``values``."""

    name: str
    about: str
    fields: list[Field]
    values: list[str]


@dataclass(frozen=True)
class Reference:
    """The HTTP interface: operations by what they are about, and their bodies."""

    about: str
    features: dict[str, list[Operation]]
    schemas: list[Named]


@dataclass(frozen=True)
class Message:
    """A call, with its arguments and what it is answered with, or an event, which has no reply."""

    name: str
    about: str
    note: str
    fields: list[Field]
    reply: Type | None


@dataclass(frozen=True)
class Spoken:
    """What is said on the broker: of each service its calls and its events, and their parts."""

    about: str
    services: dict[str, dict[str, list[Message]]]
    schemas: list[Named]


def read_messages(document: Schema) -> Spoken:
    """What the AsyncAPI document says."""
    schemas = document["components"]["schemas"]
    services: dict[str, dict[str, list[Message]]] = {}
    for name, operation in document["operations"].items():
        service = services.setdefault(operation["tags"][0]["name"], {"Calls": [], "Events": []})
        message = document["components"]["messages"][name]
        payload = message["payload"]
        reply = None
        if operation["action"] == "receive":
            payload = payload["properties"]["kwargs"]
            answered = document["components"]["messages"][f"{name}.reply"]["payload"]
            reply = _type(answered["properties"]["result"]["anyOf"][0])
        schema = _type(payload).schema
        service["Events" if reply is None else "Calls"].append(
            Message(
                name,
                message.get("description", ""),
                operation.get("description", ""),
                _named(schema, schemas[schema]).fields,
                reply,
            )
        )
    spoken = [one for kinds in services.values() for messages in kinds.values() for one in messages]
    shown = {one.reply.schema for one in spoken if one.reply}
    shown |= {field.type.schema for one in spoken for field in one.fields}
    named: dict[str, Named] = {}
    while missing := shown - named.keys() - {""}:
        named |= {name: _named(name, schemas[name]) for name in missing}
        shown |= {field.type.schema for name in missing for field in named[name].fields}
    parts = [named[name] for name in sorted(named)]
    return Spoken(document["info"]["description"], services, parts)


def read_api(document: Schema) -> Reference:
    """What the OpenAPI document says."""
    features: dict[str, list[Operation]] = {}
    for path, by_method in document["paths"].items():
        for method, described in by_method.items():
            feature = described["tags"][0].replace("_", " ").capitalize()
            features.setdefault(feature, []).append(_operation(method, path, described))
    schemas = document["components"]["schemas"]
    named = [_named(name, schemas[name]) for name in sorted(schemas)]
    return Reference(document["info"]["description"], features, named)


def _operation(method: str, path: str, described: Schema) -> Operation:
    body = described.get("requestBody")
    return Operation(
        anchor=described["operationId"],
        method=method.upper(),
        path=path,
        about=described["description"],
        is_public=described.get("security") == [],
        parameters=[
            Field(
                one["name"],
                _type(one["schema"]),
                one["required"],
                one["schema"].get("description", ""),
            )
            for one in described["parameters"]
        ],
        body=_type(_content(body)) if body else None,
        replies=[
            (status, _type(_content(reply)))
            for status, reply in described["responses"].items()
            if "content" in reply
        ],
    )


def _content(described: Schema) -> Schema:
    content: Schema = next(iter(described["content"].values()))
    schema: Schema = content["schema"]
    return schema


def _named(name: str, schema: Schema) -> Named:
    required = schema.get("required", ())
    return Named(
        name,
        schema.get("description", "").replace("``", "`"),
        [
            Field(field, _type(described), field in required, _about(described))
            for field, described in schema.get("properties", {}).items()
        ],
        [str(value) for value in schema.get("enum", ())],
    )


def _about(schema: Schema) -> str:
    return " ".join(one["description"] for one in _parts(schema) if "description" in one)


def _parts(schema: Schema) -> Iterator[Schema]:
    yield schema
    for part in schema.get("anyOf", ()):
        yield from _parts(part)
    if "items" in schema:
        yield from _parts(schema["items"])


def _type(schema: Schema) -> Type:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Type(name, name)
    if "anyOf" in schema:
        parts = [_type(part) for part in schema["anyOf"]]
        return Type(" or ".join(part.name for part in parts), parts[0].schema)
    if "items" in schema:
        of = _type(schema["items"])
        return Type(f"list of {of.name}", of.schema)
    if "enum" in schema:
        return Type(" or ".join(map(str, schema["enum"])))
    kind = str(schema.get("type", "anything"))
    return Type(_FORMATS.get(schema.get("format", ""), kind))
