"""Webhooks: who is told what, signed how, tried how long, and where nothing ever goes."""

import base64
import hashlib
import hmac
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.clock import utc_now
from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.billing import PurchaseCompleted, SoldLine
from contracts.wallet import BalanceRestored
from services.gateway.app import create_app
from services.gateway.hooks import addresses, sending, storage
from services.gateway.models import Hook, HookDelivery, User
from services.gateway.people import closing
from services.gateway.people.users import TooMany
from services.gateway.settings import NotifierSettings
from tests.gateway.conftest import NO_BROKER, add_user, gateway_settings, token_for
from tests.gateway.test_site import csrf_token, logged_in
from tests.locks import done_after

SECRET_KEY = "a secret for tests only, of enough length"
NOW = utc_now()
PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1"),  # noqa: S104
    *("ff02::1", "ff0e::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),
    *("::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "2001:0:7f00:1::", "fec0::1", "5f00::1"),
    *("2001:db8::1", "4000::1", "fe80::1%1", "2606:4700::1111%1"),
)


@dataclass
class Receiver:
    """A program of a user's, which answers with ``status``."""

    url: str = ""
    status: int = 204
    location: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((dict(self.headers), body))
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    found.url = f"http://localhost:{server.server_port}/hook?of=mine"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def notifier(**changes: Any) -> NotifierSettings:
    given = {"amqp_uri": NO_BROKER, "database_url": "x", "secret_key": SECRET_KEY}
    return NotifierSettings(**{**given, "webhooks_to_private_addresses": True, **changes})


@pytest.fixture
def users(database: Connected) -> list[User]:
    """Of whom the middle one is looked at."""
    return [add_user(database, has_wallet=True) for _ in range(3)]


def add(database: Connected, user: User, url: str = "https://example.org/hook") -> Hook:
    with database.begin() as session:
        return storage.add(session, NOW, user.user_id, url)


def all_of(database: Connected, hook: Hook) -> list[HookDelivery]:
    """Oldest first."""
    with database.read() as session:
        return storage.deliveries(session, hook.hook_id, limit=100)[::-1]


def send(database: Connected, at: Any = NOW, **changes: Any) -> Any:
    return sending.send_due(database, notifier(**changes), lambda: at)


def restored(user: User) -> BalanceRestored:
    return BalanceRestored(
        event_id=new_id(),
        occurred_at=NOW,
        user_id=user.user_id,
        threshold_micros=10_000_000,
        available_micros=12_345_678,
    )


def signature(secret: str, headers: dict[str, str], body: bytes) -> str:
    """As https://www.standardwebhooks.com says it, reckoned apart."""
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}"
    key = base64.b64decode(secret.split("_", 1)[1])
    digest = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def test_what_is_for_the_services_alone_is_sent_to_no_webhook(
    database: Connected, users: list[User]
) -> None:
    hook = add(database, users[0])
    event = PurchaseCompleted(
        event_id=new_id(),
        occurred_at=NOW,
        user_id=users[0].user_id,
        purchase_id=new_id(),
        total_micros=5_000_000,
        description="VM-Starter",
        deployment_ids=[],
        begun_at=NOW,
        fee_micros=500_000,
        lines=[SoldLine(product_id=new_id(), quantity=1, amount_micros=5_000_000)],
    )

    with database.begin() as session:
        storage.queue(session, NOW, [event])

    data = json.loads(all_of(database, hook)[-1].body)["data"]
    assert set(data) == {
        "user_id",
        "purchase_id",
        "total_usd",
        "description",
        "deployment_ids",
    }


def test_what_happens_to_a_user_is_sent_to_their_webhooks_once_and_to_nobody_elses(
    database: Connected, users: list[User], receiver: Receiver
) -> None:
    hook = add(database, users[1], receiver.url)
    others = [add(database, user, receiver.url) for user in (users[0], users[2])]
    send(database)
    receiver.got.clear()
    event = restored(users[1])

    with database.begin() as session:
        storage.queue(session, NOW, [event])
    send(database)
    send(database, NOW + timedelta(hours=1))

    ((headers, body),) = receiver.got
    assert json.loads(body) == {
        "type": "balance_restored",
        "timestamp": NOW.isoformat(),
        "data": {
            "user_id": str(users[1].user_id),
            "threshold_usd": 10.0,
            "available_usd": 12.345678,
        },
    }
    assert headers["webhook-id"] == str(event.event_id)
    assert headers["webhook-signature"] == signature(
        storage.secret_of(hook, SECRET_KEY), headers, body
    )
    assert [each.outcome for each in all_of(database, hook)] == ["delivered", "delivered"]
    assert [len(all_of(database, other)) for other in others] == [1, 1]


def test_a_failure_is_tried_again_later_and_later_for_three_days(
    database: Connected, users: list[User], receiver: Receiver
) -> None:
    hook = add(database, users[1], receiver.url)
    receiver.status = 500
    at, waits = NOW, []
    while (following := send(database, at)) is not None:
        waits.append(int((following - at).total_seconds()))
        # Not a moment before it is due.
        send(database, following - timedelta(microseconds=1))
        assert len(receiver.got) == len(waits)
        at = following

    (ping,) = all_of(database, hook)
    assert waits[:7] == [10, 60, 300, 1_800, 7_200, 18_000, 36_000]
    assert set(waits[7:]) == {36_000}
    assert timedelta(days=3) <= at - NOW < timedelta(days=3, hours=10)
    assert (ping.outcome, ping.answer, ping.attempts) == ("given_up", "500", len(receiver.got))


def test_a_redirect_is_not_followed(
    database: Connected, users: list[User], receiver: Receiver
) -> None:
    hook = add(database, users[1], receiver.url)
    receiver.status, receiver.location = 307, receiver.url

    send(database)

    assert (len(receiver.got), all_of(database, hook)[0].answer) == (1, "307")
    assert all_of(database, hook)[0].outcome == ""


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_known_as_such(address: str) -> None:
    written = f"[{address}]" if ":" in address else address

    assert not addresses.is_public(address)
    with pytest.raises(addresses.BadAddress, match="public"):
        addresses.parse(f"https://{written}/hook", private_too=False)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_of_the_public_net_is_known_as_such(address: str) -> None:
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "https://",
        "https://localhost/",
        "https://user@example.org/",
        "https://example.org/#here",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://exämple.org/",
        "https://example.org/a b",
        "https://example.org/a\r\nX: y",
        "https://[::1/",
        "https://example.org/" + "x" * 500,
    ],
)
def test_what_is_no_public_https_address_is_refused(url: str) -> None:
    with pytest.raises(addresses.BadAddress):
        addresses.parse(url, private_too=False)


class Net:
    """What names lead to, and where connections went."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.names: list[str] = []
        self.without_way: set[str] = set()

        def look_up(host: str, port: int, **_: Any) -> list[Any]:
            self.looked_up.append(host)
            # Whoever asks again is led home.
            answers = found if len(self.looked_up) == 1 else ("127.0.0.1",)
            return [(0, 0, 0, "", (address, port)) for address in answers]

        def connect(place: tuple[str, int], _timeout: float) -> socket.socket:
            self.connected.append(place)
            if place[0] in self.without_way:
                raise OSError("Network is unreachable")
            return socket.socket()

        class Context:
            @staticmethod
            def wrap_socket(sock: socket.socket, server_hostname: str) -> socket.socket:
                self.names.append(server_hostname)
                sock.close()
                raise OSError("far enough")

        monkeypatch.setattr("services.gateway.hooks.addresses.socket.getaddrinfo", look_up)
        monkeypatch.setattr("services.gateway.hooks.addresses.socket.create_connection", connect)
        monkeypatch.setattr(
            "services.gateway.hooks.addresses.ssl.create_default_context", lambda: Context
        )


def reach(url: str) -> None:
    target = addresses.parse(url, private_too=False)
    addresses.send(target, {}, b"{}", private_too=False, timeout_s=1)


def test_a_name_is_looked_up_once_and_that_very_address_is_connected_to_under_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Net(monkeypatch, "93.184.215.14", "2606:4700::1111")

    with pytest.raises(addresses.Unreachable, match="far enough"):
        reach("https://example.org:8443/hook")

    assert net.looked_up == ["example.org"]
    assert net.connected == [("93.184.215.14", 8443)]
    assert net.names == ["example.org"]


def test_where_there_is_no_way_to_one_kind_of_address_the_other_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Net(monkeypatch, "2606:4700::1111", "2606:4700::1001", "93.184.215.14")
    net.without_way = {"2606:4700::1111"}

    with pytest.raises(addresses.Unreachable, match="far enough"):
        reach("https://example.org/hook")

    assert net.connected == [("2606:4700::1111", 443), ("93.184.215.14", 443)]


def test_an_answer_that_does_not_come_to_an_end_is_none() -> None:
    """A real one may follow: the rest is not read."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    enough = addresses.HEAD_BYTES_MAX // len(interim)

    def answered(count: int) -> int:
        ours, theirs = socket.socketpair()
        answer = interim * count + b"HTTP/1.1 204 No Content\r\n\r\n"
        writing = threading.Thread(target=theirs.sendall, args=(answer,), daemon=True)
        writing.start()
        try:
            return addresses._status(ours)
        finally:
            ours.close()
            theirs.close()

    assert answered(1) == 204
    with pytest.raises(http.client.HTTPException):
        answered(enough + 1)


@pytest.mark.parametrize("private", ["127.0.0.1", "169.254.169.254", "::1", "224.0.0.1"])
def test_a_name_that_leads_to_a_private_address_too_is_connected_to_nowhere(
    monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    net = Net(monkeypatch, "93.184.215.14", private)

    with pytest.raises(addresses.BadAddress, match="not public"):
        reach("https://example.org/hook")

    assert net.connected == []


def test_where_private_addresses_are_not_allowed_nothing_is_sent_there(
    database: Connected, users: list[User], receiver: Receiver
) -> None:
    hook = add(database, users[1], receiver.url.replace("http:", "https:"))

    send(database, webhooks_to_private_addresses=False)

    assert receiver.got == []
    assert "public" in all_of(database, hook)[0].answer


def test_for_a_day_after_another_secret_both_sign(
    database: Connected, users: list[User], receiver: Receiver
) -> None:
    hook = add(database, users[1], receiver.url)
    old = storage.secret_of(hook, SECRET_KEY)
    with database.begin() as session:
        renewed = storage.renew_secret(session, NOW, users[1].user_id, hook.hook_id)
        new = storage.secret_of(renewed, SECRET_KEY)
    end = NOW + timedelta(days=1)

    for at in (end - timedelta(microseconds=1), end):
        with database.begin() as session:
            storage.queue(session, at, [restored(users[1])])
        send(database, at)

    signed = [headers["webhook-signature"].split(" ") for headers, _ in receiver.got]
    expected = [[signature(secret, *got) for secret in (new, old)] for got in receiver.got]
    assert old != new
    assert signed == [expected[0], expected[1], expected[2][:1]]


def test_webhooks_that_are_added_at_once_are_no_more_than_allowed(
    database: Connected, users: list[User]
) -> None:
    for _ in range(storage.HOOKS_MAX - 1):
        add(database, users[1])

    def hold(session: Session) -> None:
        storage.add(session, NOW, users[1].user_id, "https://example.org/last")

    with pytest.raises(TooMany):
        done_after(database, hold, lambda: add(database, users[1]))


def test_a_deleted_account_has_no_webhooks(database: Connected, users: list[User]) -> None:
    hooks = [add(database, user) for user in users]

    with database.begin() as session:
        closing.forget(session, NOW, users[1].user_id)

    with database.read() as session:
        left = set(session.scalars(select(Hook.hook_id)))
        waiting = set(session.scalars(select(HookDelivery.hook_id)))
    assert left == waiting == {hooks[0].hook_id, hooks[2].hook_id}


@pytest.fixture
def app(nobody_answers: None, databases: dict[str, str]) -> Iterator[Flask]:
    app = create_app(gateway_settings(databases["gateway"]))
    yield app
    app.extensions["mycelium"].close()


class Program:
    def __init__(self, app: Flask, database: Connected, user: User) -> None:
        self._client = app.test_client(use_cookies=False)
        self._headers = {"Authorization": f"Bearer {token_for(database, user)}"}

    def ask(self, method: str, path: str = "", **body: Any) -> Any:
        options: Any = {"json": body} if body else {}
        return self._client.open(
            f"/api/webhooks{path}", method=method, headers=self._headers, **options
        )


def test_webhooks_are_made_listed_replayed_renewed_and_removed_over_the_api(
    app: Flask, database: Connected, users: list[User]
) -> None:
    program, other = (Program(app, database, user) for user in users[1:])
    made = program.ask("POST", url="https://example.org/hook").json
    path = f"/{made['webhook_id']}"
    (ping,) = program.ask("GET", f"{path}/deliveries").json["deliveries"]
    replay = f"{path}/deliveries/{ping['delivery_id']}/replay"
    too_early = program.ask("POST", replay)
    with database.begin() as session:
        row = session.scalars(select(HookDelivery)).one()
        row.due_at, row.ended_at, row.outcome, row.attempts = None, NOW, "given_up", 9

    seen = [
        other.ask(method, place).status_code
        for method, place in (
            ("GET", f"{path}/deliveries"),
            ("POST", replay),
            ("POST", f"{path}/secret"),
            ("DELETE", path),
        )
    ]
    again = program.ask("POST", replay)
    renewed = program.ask("POST", f"{path}/secret").json

    assert (ping["type"], ping["status"], too_early.status_code) == ("ping", "waiting", 409)
    assert (seen, other.ask("GET").json["webhooks"]) == ([404] * 4, [])
    assert (again.status_code, again.json["status"], again.json["attempts"]) == (200, "waiting", 0)
    assert renewed["secret"] != made["secret"]
    (listed,) = program.ask("GET").json["webhooks"]
    assert (listed["url"], "secret" in listed) == ("https://example.org/hook", False)
    assert program.ask("DELETE", path).status_code == 200
    assert program.ask("GET").json["webhooks"] == []


def test_a_webhook_to_a_private_address_or_one_too_many_is_refused(
    app: Flask, database: Connected, users: list[User]
) -> None:
    program = Program(app, database, users[1])

    private = program.ask("POST", url="https://127.0.0.1/hook")
    made = [program.ask("POST", url="https://example.org/").status_code for _ in range(6)]

    assert (private.status_code, private.json["error"]["field"]) == (422, "url")
    assert made == [201] * storage.HOOKS_MAX + [409]


def test_the_page_shows_a_secret_once_and_keeps_what_was_typed(
    app: Flask, database: Connected, users: list[User]
) -> None:
    browser, page = logged_in(app, users[1]), "/dashboard/account/webhooks"
    token = csrf_token(browser.get(page).text)

    wrong = browser.post(page, data={"csrf_token": token, "url": "https://10.0.0.1/x"})
    made = browser.post(page, data={"csrf_token": token, "url": "https://example.org/hook"})
    again = browser.get(page)

    assert (wrong.status_code, 'value="https://10.0.0.1/x"' in wrong.text) == (422, True)
    assert ("whsec_" in made.text, "whsec_" in again.text) == (True, False)
    assert "https://example.org/hook" in again.text


def test_amounts_are_shown_in_dollars_wherever_they_stand() -> None:
    nested = {"lines": [{"price_micros": 5_000_000}], "none_micros": None, "name": "VM"}

    shown = storage._shown(nested)

    assert json.dumps(shown, default=float) == json.dumps(
        {"lines": [{"price_usd": 5.0}], "none_usd": None, "name": "VM"}
    )
