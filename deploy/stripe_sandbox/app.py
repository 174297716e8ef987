"""The way of a request: key, endpoint, parameters, idempotency, effect, reply, and the switches."""

import json
import logging
import socket
from typing import Any

from flask import Blueprint, Flask, Request, Response, current_app, request

from . import (
    control,
    events,
    expansion,
    forms,
    honoured,
    hosted,
    idempotency,
    metadata,
    params,
    routes,
)
from .errors import ApiError, AuthenticationError, RateLimited, ServerError
from .sandbox import Call, Sandbox
from .store import new_id
from .switches import REQUEST_KINDS, Switch

_BODY_BYTES_MAX = 1_000_000
_log = logging.getLogger("stripe_sandbox")
api = Blueprint("api", __name__)


def create_app(sandbox: Sandbox) -> Flask:
    """The WSGI application of one sandbox."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = _BODY_BYTES_MAX
    app.extensions["sandbox"] = sandbox
    app.register_blueprint(api)
    app.register_blueprint(control.pages)
    app.register_blueprint(hosted.pages)
    app.register_error_handler(ApiError, _as_reply)
    return app


def _as_reply(error: ApiError) -> Response:
    return Response(json.dumps(error.body), error.status, content_type="application/json")


@api.route("/v1/<path:_path>", methods=["GET", "POST", "DELETE", "PUT", "PATCH"])
def endpoint(_path: str) -> Response:
    """Every endpoint of the API."""
    sandbox: Sandbox = current_app.extensions["sandbox"]
    request_id = new_id("req", 14)
    try:
        reply = _Exchange(sandbox, request, request_id).reply()
    except ApiError as error:
        reply = _as_reply(error)
        if error.status == 409:
            reply.headers["Stripe-Should-Retry"] = "true"
    reply.headers.setdefault("Request-Id", request_id)
    reply.headers["Stripe-Version"] = events.API_VERSION
    return reply


class _Exchange:
    """One API request on its way to a reply."""

    def __init__(self, sandbox: Sandbox, given: Request, request_id: str) -> None:
        self.sandbox = sandbox
        _authenticate(given)
        self.route, path = routes.find(given.method, given.path)
        source = given.form if given.method == "POST" else given.args
        raw = forms.decode(source.items(multi=True))
        self.key = given.headers.get("Idempotency-Key") if given.method == "POST" else None
        self.request = idempotency.fingerprint(given.method, given.path, raw)
        checked = params.check(raw, self.route.params)
        self.paths = checked.pop("expand", None) or []
        honoured.check(checked, self.route.honours)
        metadata.check(checked)
        expansion.check(self.route.replies, self.paths)
        self.call = Call(checked, path, given.path, request_id, self.key)
        self.switches: list[Switch] = []

    def reply(self) -> Response:
        """Answer it; the effect and the kept reply are one transaction."""
        with self.sandbox.store.transaction():
            if self.key:
                replay = idempotency.begin(
                    self.sandbox, self.key, self.request, self.call.request_id
                )
                if replay is not None:
                    return self._replayed(replay)
            if self.sandbox.switches:
                self.switches = self.sandbox.switches.take(REQUEST_KINDS, self._facts())
            if not self.switches:
                return self._run()
        self._wait()
        stopped = self._stop_before()
        if stopped is not None:
            return stopped
        with self.sandbox.store.transaction():
            reply = self._run()
        return self._spoil(reply)

    def _run(self) -> Response:
        try:
            done = self.route.handler(self.sandbox, self.call)
            status, body = 200, json.dumps(expansion.expand(self.sandbox, done, self.paths))
        except ApiError as error:
            status, body = error.status, json.dumps(error.body)
        except Exception:
            _log.exception("%s %s failed", self.route.method, self.call.url)
            status, body = 500, json.dumps(ServerError("The sandbox has a bug; see its log.").body)
        if self._switch("error_after"):
            status, body = _server_error()
        return self._keep(status, body, self._switch("error_after"))

    def _keep(self, status: int, body: str, switch: Switch | None) -> Response:
        if self.key and (switch is None or switch.keep):
            idempotency.keep(self.sandbox, self.key, status, body)
        elif self.key:
            idempotency.release(self.sandbox, self.key)
        return self._response(status, body)

    def _response(self, status: int, body: str) -> Response:
        reply = Response(body, status, content_type="application/json")
        if self.key:
            reply.headers["Idempotency-Key"] = self.key
        if status >= 500:
            # Stripe says so too: the kept 500 would only be sent again.
            reply.headers["Stripe-Should-Retry"] = "false"
        return reply

    def _replayed(self, replay: idempotency.Replay) -> Response:
        reply = self._response(replay.status, replay.body)
        reply.headers["Idempotent-Replayed"] = "true"
        reply.headers["Original-Request"] = replay.request_id
        return reply

    def _switch(self, *kinds: str) -> Switch | None:
        return next((switch for switch in self.switches if switch.kind in kinds), None)

    def _wait(self) -> None:
        for switch in self.switches:
            if switch.kind == "latency":
                self.sandbox.stopping.wait(switch.seconds)

    def _stop_before(self) -> Response | None:
        """What a switch lets happen in place of the effect."""
        switch = self._switch("error_before", "timeout_before", "reset_before", "rate_limit")
        if switch is None:
            return None
        with self.sandbox.store.transaction():
            if switch.kind == "error_before":
                return self._keep(*_server_error(), switch)
            if self.key:
                idempotency.release(self.sandbox, self.key)
        if switch.kind == "rate_limit":
            raise RateLimited("Request rate limit exceeded.", code="rate_limit")
        if switch.kind == "timeout_before":
            self.sandbox.stopping.wait(switch.seconds)
        return _drop()

    def _spoil(self, reply: Response) -> Response:
        """What a switch lets happen after the effect."""
        switch = self._switch("timeout_after", "reset_after")
        if switch is None:
            return reply
        if switch.kind == "timeout_after":
            self.sandbox.stopping.wait(switch.seconds)
        return _drop()

    def _facts(self) -> dict[str, Any]:
        """What the switches may be matched with."""
        given = self.call.params
        facts: dict[str, Any] = {
            "method": self.route.method,
            "path": self.call.url,
            "idempotency_key": self.key,
            "customer": given.get("customer") or self.call.path.get("customer"),
            "metadata": {
                **((given.get("payment_intent_data") or {}).get("metadata") or {}),
                **(given.get("metadata") or {}),
            },
        }
        named = (self.call.path.get("id"), *(given.get(name) for name in _NAMING))
        for object_id in named:
            found = _find(self.sandbox, object_id)
            if found is not None:
                known = events.about(self.sandbox, found)
                facts["customer"] = facts["customer"] or known["customer"]
                facts["metadata"] = {**known["metadata"], **facts["metadata"]}
        return facts


_NAMING = ("payment_method", "payment_intent", "charge")
_PREFIXES = {
    "cus": "customer",
    "pm": "payment_method",
    "pi": "payment_intent",
    "seti": "setup_intent",
    "ch": "charge",
    "cs": "checkout.session",
    "re": "refund",
    "du": "dispute",
}


def _find(sandbox: Sandbox, object_id: Any) -> dict[str, Any] | None:
    kind = _PREFIXES.get(str(object_id).split("_")[0])
    return sandbox.store.find(kind, str(object_id)) if kind else None


def _server_error() -> tuple[int, str]:
    error = ServerError("An unknown error occurred.")
    return error.status, json.dumps(error.body)


def _drop() -> Response:
    """Close the connection without an answer."""
    connection = request.environ.get("werkzeug.socket")
    if connection is not None:
        connection.shutdown(socket.SHUT_RDWR)
    return Response(status=500, headers={"Connection": "close"})


def _authenticate(given: Request) -> None:
    """Only test keys: nothing that could move money may ever be sent here."""
    authorization = given.authorization
    key = ""
    if authorization is not None:
        basic = authorization.type == "basic"
        key = (authorization.username if basic else authorization.token) or ""
    if not key:
        raise AuthenticationError(
            "You did not provide an API key. Pass one that starts with sk_test_; the sandbox"
            " takes any.",
        )
    if key.startswith(("sk_live_", "rk_live_")):
        raise AuthenticationError(
            "The sandbox refuses live keys. It is not Stripe: no money moves here. Use a key that"
            " starts with sk_test_, and replace this live key if it may have been seen.",
            code="livemode_mismatch",
        )
    if not key.startswith("sk_test_"):
        raise AuthenticationError(
            "Invalid API Key provided: the sandbox takes keys that start with sk_test_.",
            code="api_key_invalid",
        )
