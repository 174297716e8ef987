"""The website for tests: on a real database, and (``system``) with all the real services.

``site`` serves the application over real HTTP with no service behind it, for what the gateway
decides alone; ``start_front`` runs it under its own server. ``api`` talks to the whole product
and holds every answer to the OpenAPI document.
"""

import functools
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
import requests
import simplejson
from flask import Flask
from openapi_schema_validator import OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from sqlalchemy import text
from werkzeug.serving import make_server

from chassis.clock import utc_now
from chassis.database import Connected, connect
from contracts.errors import Unavailable
from deploy.local.broker import Node
from deploy.local.child import Child
from deploy.local.processes import ROOT
from deploy.local.startup import free_port
from services.gateway.api import OPERATIONS
from services.gateway.api.openapi import as_text
from services.gateway.app import create_app
from services.gateway.backend import Backend
from services.gateway.models import User
from services.gateway.people import tokens, users
from services.gateway.people.password_hashing import hash_of
from services.gateway.settings import GatewaySettings
from tests.gateway.made_once import made_once
from tests.patience import (
    PATIENCE_S,
    START_PATIENCE_S,
    answer_of,
    answered,
    eventually,
    took_s,
)

PASSWORD = "correct horse battery"
PURCHASES = (
    "/api/wallet/instant-purchase",
    "/api/wallet/purchase-with-topup",
    "/api/cart/checkout",
)
WITHOUT_TOPUP = {
    "/api/wallet/info": "auto_topup_enabled",
    "/api/wallet/check-affordability": "auto_topup",
    "/api/navbar/dropdown-data": "auto_topup_enabled",
}
"""What these have none of where the top-up service does not answer in time."""
NO_BROKER = "amqp://nobody:nothing@127.0.0.1:1/"
DOCUMENT = simplejson.loads(as_text(OPERATIONS))
_REGISTRY = Registry().with_resource(
    "urn:api", Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
)


@dataclass
class Api:
    """A program that uses the HTTP API. Every answer must be what the document promises, unless
    ``is_documented`` says that another version gives it."""

    base_url: str
    token: str | None = None
    user_id: UUID | None = None
    email: str = ""
    http: requests.Session = field(default_factory=requests.Session)
    is_documented: bool = True
    is_patient: bool = False
    """Where a service behind the site was too busy to answer in time, it asks again under the same
    key, as the answer says, and so it does while it is not known what came of a purchase, or what
    auto top-up will do; for those to whom no service is away on purpose."""

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = options.pop("headers", {})
        if self.token:
            headers = {"Authorization": f"Bearer {self.token}", **headers}

        def ask() -> requests.Response:
            response = self.http.request(
                method, self.base_url + path, headers=headers, timeout=PATIENCE_S, **options
            )
            if self.is_documented:
                hold_to_document(method, path.partition("?")[0], response)
            return response

        if not self.is_patient:
            return ask()
        return eventually(lambda: answered(ask), lambda answer: not _has_gaps(path, answer))

    @property
    def at_once(self) -> "Api":
        """The same program, which takes the first answer for an answer."""
        return replace(self, is_patient=False)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> requests.Response:
        if body is not None:
            options["json"] = body
        return self.request("POST", path, **options)

    def command(self, path: str, body: object = None, key: str | None = None) -> requests.Response:
        return self.post(path, body, headers={"Idempotency-Key": key or str(uuid4())})


def _has_gaps(path: str, answer: requests.Response) -> bool:
    """Whether it lacks what the site waits for no longer than some seconds."""
    path = path.partition("?")[0]
    if not answer.ok or path not in {*PURCHASES, *WITHOUT_TOPUP}:
        return False
    told = read(answer)
    if path in WITHOUT_TOPUP:
        return told[WITHOUT_TOPUP[path]] is None
    is_told = not told["total_usd"] or told["status"] not in ("completed", "awaiting_funds")
    return told["status"] == "pending" or not (is_told or told.get("auto_topup", True))


def read(response: requests.Response) -> Any:
    """The JSON of an answer, with exact decimals."""
    return simplejson.loads(response.text, use_decimal=True)


def granted(response: requests.Response) -> Any:
    """The JSON of an answer that must be a good one."""
    assert response.ok, f"{response.status_code} {response.text[:500]}"
    return read(response)


def error_of(response: requests.Response) -> tuple[int, str]:
    return response.status_code, read(response)["error"]["code"]


def hold_to_document(method: str, path: str, response: requests.Response) -> None:
    described = _find(path)
    if described is None or method.lower() not in described[1]:
        return
    pattern, operations = described
    responses = operations[method.lower()]["responses"]
    status = str(response.status_code)
    assert status in responses, f"{method} {pattern} answered {status}: {response.text[:300]}"
    _validator(pattern, method.lower(), status).validate(
        simplejson.loads(response.text, use_decimal=False)
    )


def _find(path: str) -> tuple[str, dict[str, Any]] | None:
    parts = path.split("/")
    for pattern, operations in DOCUMENT["paths"].items():
        wanted = pattern.split("/")
        if len(wanted) == len(parts) and all(
            known.startswith("{") or known == part
            for known, part in zip(wanted, parts, strict=True)
        ):
            return pattern, operations
    return None


def _validator(pattern: str, method: str, status: str) -> OAS31Validator:
    place = DOCUMENT["paths"][pattern][method]["responses"][status]
    if "$ref" in place:
        place = DOCUMENT["components"]["responses"][status]
    (content,) = place["content"].values()
    schema = content["schema"]
    return OAS31Validator(
        {"$ref": f"urn:api{schema['$ref']}"},
        registry=_REGISTRY,
        format_checker=OAS31Validator.FORMAT_CHECKER,
    )


@pytest.fixture(scope="session", autouse=True)
def _made_once() -> Iterator[None]:
    with made_once():
        yield


@pytest.fixture(scope="session")
def gateway_database(databases: dict[str, str]) -> Iterator[Connected]:
    database = connect(databases["gateway"], pool_size=10)
    yield database
    database.engine.dispose()


@pytest.fixture
def database(gateway_database: Connected) -> Connected:
    """The gateway's own database, empty."""
    with gateway_database.begin() as session:
        session.execute(
            text(
                "TRUNCATE users, user_sessions, api_tokens, notifications, mails, inbox, transfers,"
                " hooks,"
                " rate_limits CASCADE"
            )
        )
    return gateway_database


@dataclass
class Site:
    """The website alone: its database and a broker, and none of the services."""

    base_url: str

    def browser(self) -> requests.Session:
        return requests.Session()


def gateway_settings(database_url: str, **changes: Any) -> GatewaySettings:
    given = {
        "amqp_uri": NO_BROKER,
        "database_url": database_url,
        "secret_key": "a secret for tests only, of enough length",
        "public_url": "http://127.0.0.1:8000",
        **changes,
    }
    return GatewaySettings(**given)


@pytest.fixture
def serve(
    databases: dict[str, str], database: Connected, broker: Node
) -> Iterator[Callable[..., Site]]:
    """Serve the application with changed settings: ``serve(rate_limit_login="2 per minute")``."""
    running = []

    def start(**changes: Any) -> Site:
        settings = {"amqp_uri": broker.uri("gateway"), **changes}
        app = create_app(gateway_settings(databases["gateway"], **settings))
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        running.append((app, server, thread))
        return Site(f"http://127.0.0.1:{server.server_port}")

    yield start
    for app, server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions["mycelium"].close()


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    return serve()


@functools.cache
def hash_once() -> str:
    """The hash of ``PASSWORD``: it takes long on purpose, and is as good for all of them."""
    return hash_of(PASSWORD)


def add_user(database: Connected, email: str | None = None, *, has_wallet: bool) -> User:
    """A user straight in the database: nobody's rate limit is used up."""
    email = email or f"{uuid4()}@example.com"
    account = users.NewAccount(users.normalise_email(email), users.email_key(email), hash_once())
    with database.begin() as session:
        user = users.register(session, utc_now(), account)
        user.email_confirmed_at = utc_now()
        if has_wallet:
            users.note_wallet_opened(session, utc_now(), user.user_id)
        session.flush()
        # It is computed, and asked for when the session is over.
        session.refresh(user, ["is_staff", "sells"])
    return user


def token_for(database: Connected, user: User) -> str:
    with database.begin() as session:
        return tokens.issue(session, utc_now(), user.user_id, "test")


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The services are away, which a website in this process hears at once."""

    def away(*_: Any) -> Any:
        raise Unavailable("It is away.")

    monkeypatch.setattr(Backend, "begin", away)


def answers_with(monkeypatch: pytest.MonkeyPatch, stand_in: Any) -> None:
    """What a website in this process asks of services goes to ``stand_in.begin``."""
    monkeypatch.setattr(
        Backend,
        "begin",
        lambda *asked: stand_in.begin(*asked),  # noqa: PLW0108 - a function becomes a method
    )


@pytest.fixture
def alone(nobody_answers: None, databases: dict[str, str], database: Connected) -> Iterator[Flask]:
    """The website in this process, with all its pages; its services are away, and say so."""
    settings = gateway_settings(
        databases["gateway"], rate_limit_default="9000 per minute", pools_page=True
    )
    app = create_app(settings)
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def member(site: Site, database: Connected) -> Api:
    """A user of ``site`` with a token."""
    user = add_user(database, has_wallet=True)
    return Api(site.base_url, token_for(database, user), user.user_id, user.email)


@pytest.fixture(scope="session")
def system_database(system: Any) -> Iterator[Connected]:
    database = connect(system.database_url("gateway"), pool_size=4)
    yield database
    database.engine.dispose()


@pytest.fixture
def new_member(system: Any, system_database: Connected) -> Callable[[], Api]:
    """Users of the whole product, each with an empty wallet and a token."""

    def make() -> Api:
        user = add_user(system_database, has_wallet=False)
        token = token_for(system_database, user)
        return Api(system.base_url, token, user.user_id, user.email, is_patient=True)

    return make


@pytest.fixture
def api(new_member: Callable[[], Api]) -> Api:
    """A user of the whole product."""
    return new_member()


@pytest.fixture
def visitor(system: Any) -> Api:
    """Somebody without an account."""
    return Api(system.base_url, is_patient=True)


@pytest.fixture
def product(visitor: Api) -> dict[str, Any]:
    """A $5.00 virtual machine from the catalog."""
    products = read(visitor.get("/api/products?category=compute&sort=price&limit=200"))["products"]
    return next(item for item in products if item["price_usd"] == Decimal("5.00"))


@dataclass
class Front:
    """The website's own server with two workers, each with two threads."""

    host: str
    port: int
    child: Child
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        opened = socket.socket()
        if receive_bytes:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        opened.settimeout(PATIENCE_S)
        opened.connect((self.host, self.port))
        self.sockets.append(opened)
        return opened

    def workers(self) -> list[psutil.Process]:
        def is_worker(child: psutil.Process) -> bool:
            try:
                return "spawn_main" in " ".join(child.cmdline())
            except psutil.Error:
                return False  # it has ended meanwhile

        return [each for each in psutil.Process(self.child.pid).children() if is_worker(each)]

    def took_s(self, path: str) -> float:
        def get() -> None:
            answer = requests.get(self.base_url + path, timeout=PATIENCE_S)
            assert answer.status_code == 200

        return took_s(get)

    def answers(self) -> bool:
        answer = answer_of(f"{self.base_url}/healthz", timeout_s=10)
        return answer is not None and answer.ok


@pytest.fixture
def start_front(
    databases: dict[str, str], database: Connected, broker: Node, tmp_path: Path
) -> Iterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def run(host: str = "127.0.0.1", port: int | None = None, **settings: str) -> Front:
        port = port or free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": databases["gateway"],
            "AMQP_URI": broker.uri("gateway"),
            "SECRET_KEY": "a secret for tests only, of enough length",
            "GATEWAY_HOST": host,
            "GATEWAY_PORT": str(port),
            "GATEWAY_WORKERS": "2",
            "GATEWAY_THREADS": "2",
            "RATE_LIMIT_DEFAULT": "100000 per minute",
            **settings,
        }
        argv = [sys.executable, "-m", "services.gateway.server"]
        child = Child("front", argv, environment, tmp_path / f"{host}-{port}.log", directory=ROOT)
        child.start()
        front = Front(host, port, child)
        fronts.append(front)
        eventually(front.answers, within_s=START_PATIENCE_S)
        return front

    yield run
    for front in fronts:
        for opened in front.sockets:
            opened.close()
        front.child.kill()
