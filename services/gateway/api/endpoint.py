"""How an endpoint of the HTTP API is declared: once, for the router and for the document.

::

    @endpoint(blueprint, "POST", "/api/wallet/topups", body=TopupBody, reply=TopupReply, status=201)
    def start_topup(user: CurrentUser, body: TopupBody, key: str) -> TopupReply: ...

The view gets what it names: ``user`` unless the endpoint is public, ``body``, ``query``,
the parts of the path, and ``key`` for a command, which needs an ``Idempotency-Key``.
:mod:`services.gateway.api.openapi` writes the same declarations as an OpenAPI document.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import BaseModel, ValidationError

from services.gateway import storable_texts
from services.gateway.access import Role, Who, open_to
from services.gateway.api.json_format import GivenTwice
from services.gateway.api.scopes import scopes_of
from services.gateway.api.shapes import ApiBody, ApiReply
from services.gateway.backend import current_backend
from services.gateway.errors import Problem
from services.gateway.idempotency import HEADER, scoped_key
from services.gateway.people.identity import current_identity, ensure_wallet, signed_in_user
from services.gateway.people.tokens import Scope
from services.gateway.staff.guard import admit

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Operation:
    """One endpoint as it was declared. ``also`` are further statuses with the same reply."""

    name: str
    method: str
    path: str
    description: str
    feature: str
    reply: type[ApiReply]
    status: int
    also: tuple[int, ...]
    body: type[ApiBody] | None
    is_body_optional: bool
    query: type[ApiBody] | None
    is_public: bool
    is_command: bool
    is_of_catalog: bool
    scopes: frozenset[Scope]
    """What a token must be allowed."""
    roles: frozenset[Role]
    """Of which one is needed, where roles are."""


@dataclass(frozen=True)
class Answer:
    """A reply with a status or headers of its own."""

    reply: ApiReply
    status: int
    headers: dict[str, str] = field(default_factory=dict)


OPERATIONS: list[Operation] = []
"""Every endpoint, in the order in which the modules declare them."""


def endpoint(
    blueprint: Blueprint,
    method: str,
    path: str,
    *,
    reply: type[ApiReply],
    status: int = 200,
    also: tuple[int, ...] = (),
    body: type[ApiBody] | None = None,
    is_body_optional: bool = False,
    query: type[ApiBody] | None = None,
    public: bool = False,
    command: bool = False,
    of_catalog: bool = False,
    roles: frozenset[Role] = frozenset(),
) -> Callable[[Callable[..., ApiReply | Answer]], Callable[..., ApiReply | Answer]]:
    """Declare a view as an endpoint. See the module's text for what the view is given.

    What is ``of_catalog`` tells everybody the same: it is public, and made once in
    ``CATALOG_AGE_S`` for each address. What is for ``roles`` gets ``staff``
    in the place of ``user``.
    """

    def decorate(view: Callable[..., ApiReply | Answer]) -> Callable[..., ApiReply | Answer]:
        operation = Operation(
            name=view.__name__,
            method=method,
            path=path,
            description=(view.__doc__ or "").strip(),
            feature=blueprint.name.removeprefix("api_"),
            reply=reply,
            status=status,
            also=also,
            body=body,
            is_body_optional=is_body_optional,
            query=query,
            is_public=public or of_catalog,
            is_command=command,
            is_of_catalog=of_catalog,
            scopes=scopes_of(method, path, is_public=public or of_catalog, roles=roles),
            roles=roles,
        )
        OPERATIONS.append(operation)

        @open_to(_who(operation), operation.scopes, roles)
        @wraps(view)
        def respond(**path_parts: Any) -> Response:
            def answer() -> Response:
                return _send(operation, view(**_given(operation, path_parts)))

            return _made_lately(answer) if of_catalog else answer()

        blueprint.add_url_rule(path, view.__name__, respond, methods=[method])
        return view

    return decorate


def _who(operation: Operation) -> Who:
    if operation.roles:
        return Who.ROLES
    return Who.EVERYBODY if operation.is_public else Who.USERS


def _given(operation: Operation, path_parts: dict[str, Any]) -> dict[str, Any]:
    """The view's arguments: who asks comes first, so that a visitor learns nothing else."""
    arguments = dict(path_parts)
    if not operation.is_public:
        user = signed_in_user()
        _check_scopes(operation)
        if operation.roles:
            arguments["staff"] = admit(user, operation.roles)
        else:
            arguments["user"] = user
        if operation.is_command:
            arguments["key"] = scoped_key(user.user_id, request.headers.get(HEADER))
    if operation.query is not None:
        arguments["query"] = _read_query(operation.query)
    if operation.body is not None:
        # By its length: of a form that Flask has read nothing is left.
        is_absent = operation.is_body_optional and not request.content_length
        arguments["body"] = operation.body() if is_absent else _read_body(operation.body)
    if not operation.is_public:
        ensure_wallet(user)
    return arguments


def _check_scopes(operation: Operation) -> None:
    identity = current_identity()
    missing = operation.scopes - identity.scopes if identity else frozenset()
    if missing:
        raise Problem(
            403,
            "scope_missing",
            f"This token may not do that: it lacks {' and '.join(sorted(missing))}. Make one that"
            " may on the account page.",
        )


def _read_query(model: type[ModelT]) -> ModelT:
    values = request.args.to_dict(flat=False)
    for name, given in values.items():
        if len(given) > 1:
            raise Problem(422, "bad_request", f"{name}: give it once.", {"field": name})
    return validated(model, {name: given[0] for name, given in values.items()})


def _read_body(model: type[ModelT]) -> ModelT:
    if not request.is_json:
        raise Problem(415, "unsupported_media_type", "Send JSON: 'Content-Type: application/json'.")
    try:
        document = current_app.json.loads(request.get_data())
        storable_texts.check(document)
    except GivenTwice as error:
        raise Problem(400, "malformed_json", str(error)) from None
    except (ValueError, ArithmeticError, RecursionError):
        raise Problem(400, "malformed_json", "The body is not a JSON document.") from None
    if not isinstance(document, dict):
        raise Problem(422, "bad_request", "The body must be a JSON object.")
    return validated(model, document)


def validated(model: type[ModelT], values: dict[str, Any]) -> ModelT:
    """The model of these values. Raises a 422 that names the field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [
            (".".join(str(part) for part in problem["loc"]), _sentence(problem["msg"]))
            for problem in error.errors(include_url=False, include_input=False)
        ]
    # What concerns no one field, such as two days in the wrong order, has no name before it.
    message = " ".join(f"{name}: {text}" if name else text for name, text in problems[:5])
    raise Problem(422, "bad_request", message, {"field": problems[0][0]})


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text if text.endswith(".") else text + "."


def _send(operation: Operation, result: ApiReply | Answer) -> Response:
    answer = result if isinstance(result, Answer) else Answer(result, operation.status)
    response = jsonify(answer.reply.model_dump(by_alias=True))
    response.status_code = answer.status
    response.headers.extend(answer.headers)
    return response


def _made_lately(answer: Callable[[], Response]) -> Response:
    """The answer with a tag of its content, by which who has it already is told just that."""
    address = (request.path, request.query_string)
    made: tuple[bytes, str] = current_backend().catalog.find(address, lambda: _tagged(answer()))
    body, tag = made
    response = current_app.response_class(body, mimetype="application/json")
    # Weak: it is the same content however it is compressed. To be asked about each time.
    response.headers["ETag"], response.headers["Cache-Control"] = tag, "no-cache"
    if "If-None-Match" in request.headers:
        response.make_conditional(request)
    return response


def _tagged(response: Response) -> tuple[bytes, str]:
    body = response.get_data()
    return body, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
