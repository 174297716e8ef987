"""The OpenAPI 3.1 document of the endpoints that are handed in, and /api/openapi.json.

pydantic makes the schemas; what is left is a list of paths. That is little enough to need no
framework: those that do it as well (spectree, flask-openapi3) bring their own validation and
error bodies, and ours are part of the contract.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import simplejson
from flask import Blueprint, Response, jsonify
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from services.gateway.access import Role, Who, open_to
from services.gateway.api.endpoint import Operation
from services.gateway.api.shapes import ErrorReply
from services.gateway.errors import PROBLEM_TYPE
from services.gateway.idempotency import HEADER, KEY_PATTERN

_REF = "#/components/schemas/{model}"
_PATH_PART = re.compile(
    r"<(?:(?P<kind>[a-z]+)(?:\(maxlength=(?P<length_max>[0-9]+)\))?:)?(?P<name>\w+)>"
)

_ERRORS = {
    400: "The request could not be read, or a header is missing.",
    401: "No valid token and no session.",
    402: "The payment did not go through, or funds are short.",
    403: "Not allowed: no CSRF token, no such scope or role, or a frozen account.",
    404: "No such thing, or it is somebody else's.",
    409: "Not in this state: a key used before, a changed price, nothing left.",
    413: "The body is larger than 64 KiB.",
    415: "The body is not JSON.",
    422: "A field is missing, unknown, of the wrong type or out of its bounds.",
    429: "Too many requests: wait as long as Retry-After says.",
    500: "Our mistake, noted under the request id.",
    502: "A service made a mistake.",
    503: "A service is away; Retry-After says when to try again.",
    504: "No answer in time; the outcome is unknown. Try again with the same key.",
}

_BOTH_WAYS = ("-Input", "-Output")

_ABOUT = """\
Buy cloud resources on USD credits.

**Money** is a JSON number of US dollars with two decimals.

**Tokens** may `read`, `buy` (what is paid from the wallet, and what was bought), manage `money`
(cards, auto top-up, payouts) and, of who has a role, do what that allows: `sell` for sellers,
`admin` for all others. What each endpoint asks for stands with its `token`.

**Times** are RFC 3339 with a zone, such as `2026-11-28T09:30:00Z`. **Texts** hold no NUL and no
half of a character (a lone surrogate).

**Who asks**: `Authorization: Bearer <token>`, or the browser's session cookie together with the
page's CSRF token as `X-CSRFToken` on anything but a GET.

**Commands** that move money take an `Idempotency-Key`: any text of your own, new for each
intention, the same for each retry. The same key with the same body gives the same answer;
with another body it is a 409.

**Errors** are problem documents (RFC 9457, `application/problem+json`) that carry
`"error": {"code": …, "message": …}` too: the code is for a program, the message for a person.
**Limits**: `RateLimit-Policy` says how many requests pass in how many seconds, `RateLimit` how many
are left (`r`); a 429 has `Retry-After`. **Paging** is by `next_cursor`.
"""


def describe_api(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document of these endpoints. Raises LookupError where two models have one name: pydantic
    would give both another, and the clients' classes with them."""
    schemas, definitions = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PATH_PART.sub(r"{\g<name>}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mycelium", "version": "1.0.0", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": {
                str(status): {
                    "description": text,
                    "content": {PROBLEM_TYPE: {"schema": schemas[ErrorReply]}},
                }
                for status, text in _ERRORS.items()
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "mycelium_session",
                    "description": "Over TLS its name begins with `__Host-`.",
                },
            },
        },
    }


def _schemas(
    operations: Sequence[Operation],
) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    wanted: dict[type[BaseModel], JsonSchemaMode] = {ErrorReply: "serialization"}
    for operation in operations:
        wanted[operation.reply] = "serialization"
        for given in (operation.body, operation.query):
            if given is not None:
                wanted[given] = "validation"
    by_model, definitions = models_json_schema(list(wanted.items()), ref_template=_REF)
    references = {model: schema for (model, _), schema in by_model.items()}
    _close(definitions)
    named: dict[str, Any] = definitions["$defs"]
    # By the module where two share a name, by what it is for where one is a body and a reply.
    renamed = sorted(name for name in named if "__" in name or name.endswith(_BOTH_WAYS))
    if renamed:
        raise LookupError(f"Give these models of the API names of their own: {', '.join(renamed)}.")
    return references, named  # type: ignore[return-value]


def _close(part: Any) -> None:
    """Say of an object with keys of a pattern that it has no others: pydantic says it in none."""
    for inner in part.values() if isinstance(part, dict) else part:
        if isinstance(inner, (dict, list)):
            _close(inner)
    if isinstance(part, dict) and "patternProperties" in part:
        part["additionalProperties"] = False


def _describe(
    operation: Operation, schemas: dict[type[BaseModel], dict[str, Any]]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.feature],
        "summary": operation.description.split(". ")[0].split(": ")[0].rstrip("."),
        "description": _about(operation),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": _responses(operation, schemas),
    }
    if operation.is_command:
        described["parameters"].append(
            {
                "name": HEADER,
                "in": "header",
                "required": True,
                "schema": {"type": "string", "pattern": KEY_PATTERN},
            }
        )
    if operation.is_public:
        described["security"] = []
    else:
        described["security"] = [{"token": sorted(operation.scopes)}, {"session": []}]
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": _json(schemas[operation.body]),
        }
    return described


def _about(operation: Operation) -> str:
    about = " ".join(operation.description.replace("``", "`").split())
    roles = ", ".join(role for role in Role if role in operation.roles)
    return f"{about} Roles: {roles}." if roles else about


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": part["name"],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "format": "uuid"}
            if part["kind"] == "uuid"
            else {"type": "string", "minLength": 1, "maxLength": int(part["length_max"])},
        }
        for part in _PATH_PART.finditer(operation.path)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=_REF)
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": described,
        }
        for name, described in schema["properties"].items()
    ]


def _responses(
    operation: Operation, schemas: dict[type[BaseModel], dict[str, Any]]
) -> dict[str, Any]:
    statuses = {400, 404, 422, 429, 500, 502, 503, 504}
    statuses |= set() if operation.is_public else {401, 403}
    statuses |= {409} if operation.is_command or operation.method != "GET" else set()
    statuses |= {402} if operation.is_command else set()
    statuses |= {401, 413, 415} if operation.body is not None else set()
    good = {operation.status: "It is done.", **dict.fromkeys(operation.also, "It is on its way.")}
    responses = {
        str(status): {"description": text, "content": _json(schemas[operation.reply])}
        for status, text in good.items()
    }
    if operation.is_of_catalog:
        responses["304"] = {"description": "It is as the ETag in If-None-Match says."}
    for status in sorted(statuses):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return responses


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def as_text(operations: Sequence[Operation]) -> str:
    """The document as it stands in docs/openapi.json."""
    return simplejson.dumps(describe_api(operations), indent=2, ensure_ascii=False) + "\n"


def serve(operations: Sequence[Operation]) -> Blueprint:
    """/api/openapi.json: the document of these endpoints."""
    blueprint = Blueprint("api_openapi", __name__)
    document = cache(lambda: describe_api(operations))

    @blueprint.get("/api/openapi.json")
    @open_to(Who.EVERYBODY)
    def openapi() -> Response:
        response = jsonify(document())
        response.headers["Cache-Control"] = "public, max-age=300"
        return response

    return blueprint
