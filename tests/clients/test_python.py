"""The package of clients/python: calls of services, and the command of people."""

import json
import os
import pty
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
import simplejson

from chassis.chain import check_lines
from chassis.clock import utc_now
from chassis.database import Connected
from contracts import errors
from contracts.messages import Reply, Request
from contracts.wallet import GetWallet, OpenAccount
from deploy.local.broker import Node
from mycelium_cli import printing
from mycelium_client import Services
from services.gateway.access import Role
from services.gateway.models import User
from services.gateway.people import tokens
from services.gateway.people.tokens import Scope
from services.gateway.staff import acts, grants
from services.gateway.staff.acts import Actor
from tests.chassis.wire import Wire
from tests.clients.conftest import Terminal
from tests.gateway.conftest import Api
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually
from tests.system import System

PASSWORD = "the password of a reader"

# What another team's program looks like. It says what it met, as JSON.
PROGRAM = """
import importlib, json, pkgutil, sys, uuid
from importlib.util import find_spec

import contracts
from contracts import errors
from contracts.wallet import Credit, GetWallet, OpenAccount
from mycelium_client import Services

for module in pkgutil.iter_modules(contracts.__path__):
    importlib.import_module("contracts." + module.name)
met = {"ours": [name for name in ("chassis", "services", "deploy", "tests") if find_spec(name)]}
user_id = uuid.uuid4()
with Services(sys.argv[1]) as services:
    services.call(OpenAccount(idempotency_key=str(user_id), user_id=user_id))
    met["balance"] = services.call(GetWallet(user_id=user_id), timeout_s=20).balance_micros
    forbidden = Credit(idempotency_key="k", user_id=user_id, amount_micros=1, description="-")
    for request in (GetWallet(user_id=uuid.uuid4()), forbidden, GetWallet(user_id=user_id)):
        try:
            services.call(request)
            met.setdefault("errors", []).append(None)
        except errors.ServiceError as error:
            met.setdefault("errors", []).append([type(error).__name__, str(error)])
print(json.dumps(met))
"""


class NobodyHome(Request[Reply], service="nobody", method="greet"):
    """A service that never ran."""


@pytest.fixture
def user_id(system: System) -> UUID:
    user_id = uuid4()
    system.rpc.call(OpenAccount(idempotency_key=str(user_id), user_id=user_id))
    return user_id


@pytest.fixture
def wire(system: System) -> Iterator[Wire]:
    wire = Wire(system.vhost.admin_uri)
    yield wire
    wire.close()


def test_a_program_of_others_calls_with_the_package_and_a_login_of_its_own(
    system: System, broker: Node, installed: Path, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "deploy.definitions", "login", "reader", "--may-call"),
        *("wallet.open_account", "wallet.get_wallet", "--vhost", system.vhost.name),
    ]
    printed = subprocess.run(
        command, env={**os.environ, "LOGIN_PASSWORD": PASSWORD}, capture_output=True, check=True
    )
    broker.load(json.loads(printed.stdout))
    address = system.vhost.admin_uri.rpartition("@")[2]
    login = f"amqp://reader:{PASSWORD.replace(' ', '%20')}@{address}"
    done = subprocess.run(
        [installed / "python", "-c", PROGRAM, login],
        cwd=tmp_path, env={}, capture_output=True, text=True, check=False, timeout=START_PATIENCE_S,
    )  # fmt: skip

    met = json.loads(done.stdout or done.stderr)
    assert met["ours"] == []
    assert met["balance"] == 0
    assert [error and error[0] for error in met["errors"]] == ["NotFound", "ServiceError", None]
    assert met["errors"][1][1] == "reader may not call wallet.credit; nothing was done."


def test_a_lost_connection_costs_the_call_that_it_carried_and_no_other(
    wire: Wire, user_id: UUID
) -> None:
    question = GetWallet(user_id=user_id)
    with Services(wire.uri) as services:
        assert services.call(question, 20).user_id == user_id
        wire.cut()
        assert services.call(question, 20).user_id == user_id
        wire.silence()
        with pytest.raises(errors.DeadlineExceeded, match="is not known"):
            services.call(question, 0.5)
        assert services.call(question, 20).user_id == user_id
        wire.silence()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(services.call, question, 60)
            eventually(lambda: services._correlation_id and not services._answer.done())
            wire.cut()
            with pytest.raises(errors.DeadlineExceeded, match="was lost on the way"):
                asked.result()
        assert services.call(question, 20).user_id == user_id


def test_what_was_not_sent_is_said_to_be_not_done(system: System, user_id: UUID) -> None:
    with pytest.raises(errors.Unavailable, match="nothing was done"):
        Services("amqp://nobody@127.0.0.1:1/").call(NobodyHome())
    stranger = system.vhost.admin_uri.replace(":", ":not-", 2).replace(":not-", ":", 1)
    with pytest.raises(errors.ServiceError, match=r"refuses mycelium_admin.*nothing was done"):
        Services(stranger).call(NobodyHome())
    with Services(system.vhost.admin_uri) as services:
        with pytest.raises(errors.Unavailable, match="nobody service is not running"):
            services.call(NobodyHome())
        services._lock.acquire()
        with pytest.raises(errors.Overloaded, match="nothing was done"):
            services.call(GetWallet(user_id=user_id), 0.05)
        services._lock.release()
        assert services.call(GetWallet(user_id=user_id), 20).user_id == user_id


def test_threads_that_share_a_client_get_their_own_answers(system: System) -> None:
    users = [uuid4() for _ in range(6)]
    with Services(system.vhost.admin_uri) as services, ThreadPoolExecutor(6) as pool:
        opened = [OpenAccount(idempotency_key=str(user), user_id=user) for user in users]
        list(pool.map(lambda command: services.call(command, 60), opened))
        questions = [GetWallet(user_id=user) for user in users * 5]
        answers = list(pool.map(lambda question: services.call(question, 60), questions))

    assert [answer.user_id for answer in answers] == users * 5


def test_a_token_is_kept_where_nobody_else_reads_it_until_it_is_forgotten(
    terminal: Terminal,
) -> None:
    token = terminal.environment.pop("MYCELIUM_TOKEN")
    stored = terminal.home / ".config" / "mycelium" / "logins.json"

    assert terminal.run("balance").returncode == 3
    assert terminal.run("login", input="not-a-token\n").returncode == 3
    assert not stored.exists()
    logged_in = terminal.run("login", input=token + "\n")
    assert (logged_in.returncode, terminal.member.email in logged_in.stdout) == (0, True)
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert '"balance": 20.00' in terminal.run("balance", "--json").stdout
    assert terminal.run("balance", "--site", "http://mycelium.example").returncode == 2
    assert json.loads(terminal.run("logout", "--json").stdout)["was_logged_in"] is True
    forgotten = terminal.run("balance", "--json")
    assert (forgotten.returncode, forgotten.stdout) == (3, "")
    assert json.loads(forgotten.stderr)["error"]["code"] == "not_logged_in"


def test_a_document_is_the_one_of_the_api_and_a_table_has_no_colours(terminal: Terminal) -> None:
    document = terminal.run("products", "--category", "compute", "--max-price", "5", "--json")
    told = requests.get(
        f"{terminal.site}/api/products?category=compute&max_price_usd=5&limit=24",
        timeout=PATIENCE_S,
    )
    assert document.stdout == told.text.strip() + "\n"
    table = terminal.run("products", "--category", "compute", "--max-price", "5").stdout
    assert "\x1b" not in table
    assert len(table.splitlines()) == len(told.json()["products"]) + 1
    assert terminal.run("product", "no-such-thing").returncode == 6
    assert terminal.run("products", "--category", "toys").returncode == 2
    assert "_MYCELIUM_COMPLETE" in terminal.run("completion", "bash").stdout


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert printing.plain("a\x1b[2Jname\r\n") == "a [2Jname  "


def test_a_purchase_is_made_once_for_its_key_and_its_deployment_looked_after(
    terminal: Terminal, product: dict[str, Any], new_member: Any
) -> None:
    buy = ("buy", product["slug"], "--json", "--yes")
    assert terminal.run(*buy, "--max-price", "4.99").returncode == 5
    assert terminal.run("buy", product["slug"]).returncode == 2  # nobody to ask
    assert terminal.run(*buy, "--choice", "colour", "--key", "k").returncode == 2
    assert terminal.run(*buy, "--key", "ключ").returncode == 2
    bought = [terminal.run(*buy, "--key", "one", "--wait") for _ in range(2)]

    purchases = [simplejson.loads(done.stdout, use_decimal=True) for done in bought]
    assert [done.returncode for done in bought] == [0, 0]
    assert purchases[0]["purchase_id"] == purchases[1]["purchase_id"]
    assert purchases[0]["status"] == "completed"
    assert '"balance": 15.00' in terminal.run("balance", "--json").stdout
    assert terminal.run(*buy, "--key", "one", "--quantity", "2").returncode == 5
    assert "-$5.00" in terminal.run("transactions", "--kind", "purchase").stdout
    assert product["name"] in terminal.run("purchases").stdout

    [deployment_id] = purchases[0]["deployment_ids"]
    deployment = ("deployment", deployment_id)
    listed = json.loads(terminal.run("deployments", "--json").stdout)["deployments"]
    assert [each["status"] for each in listed] == ["active"]
    assert json.loads(terminal.run(*deployment, "stop", "--json").stdout)["status"] == "stopped"
    assert terminal.run(*deployment, "start").returncode == 2  # nobody to ask
    assert terminal.run(*deployment, "start", "--amount", "5", "--yes").returncode == 5
    assert "active" in terminal.run(*deployment, "start", "--yes").stdout
    renamed = terminal.run(*deployment, "--json", "rename", "blue")
    assert json.loads(renamed.stdout)["name"] == "blue"
    assert "blue" in terminal.run("forecast").stdout
    assert terminal.run(*deployment, "cancel", "--now").returncode == 2  # nobody to ask
    ended = terminal.run(*deployment, "cancel", "--now", "--yes", "--json")
    assert json.loads(ended.stdout)["status"] == "cancelled"
    assert terminal.run(*deployment, "start", "--yes").returncode == 5
    assert terminal.run("deployment", str(uuid4())).returncode == 6
    assert terminal.run("deployment", "blue").returncode == 2
    terminal.environment["MYCELIUM_TOKEN"] = new_member().token
    assert terminal.run(*deployment).returncode == 6


def test_a_cart_is_filled_and_bought_once_for_its_key_and_credits_are_sent(
    terminal: Terminal, product: dict[str, Any], new_member: Any
) -> None:
    friend = new_member()
    assert terminal.run("cart", "checkout", "--yes").returncode == 5  # empty
    added = [
        json.loads(terminal.run("cart", "add", product["slug"], "--name", name, "--json").stdout)
        for name in ("one", "two", "three")
    ]
    [first, *_] = added[-1]["lines"]
    assert product["name"] in terminal.run("cart", "remove", first["line_id"]).stdout
    assert terminal.run("cart", "checkout").returncode == 2  # nobody to ask
    buy = ("cart", "checkout", "--yes", "--json", "--key", "one")
    bought = [terminal.run(*buy) for _ in range(2)]
    ids = {json.loads(done.stdout)["purchase_id"] for done in bought}
    assert ([done.returncode for done in bought], len(ids)) == ([0, 0], 1)
    assert "/receipt" in terminal.run("receipts").stdout

    assert terminal.run("send", friend.email, "3").returncode == 2  # nobody to ask
    send = ("send", friend.email, "3", "--yes", "--key", "sent")
    assert [terminal.run(*send).returncode for _ in range(2)] == [0, 0]
    assert '"balance": 7.00' in terminal.run("balance", "--json").stdout
    made = terminal.run("tokens", "make", "Nightly", "--scope", "buy", "--days", "30").stdout
    assert made.startswith("myc_")
    listed = json.loads(terminal.run("tokens", "--json").stdout)["tokens"]
    [nightly] = [each for each in listed if each["name"] == "Nightly"]
    assert nightly["scopes"] == ["read", "buy"]
    assert terminal.run("tokens", "revoke", nightly["token_id"], "--yes").returncode == 0
    assert "Nightly" not in terminal.run("tokens").stdout


def test_who_has_a_role_looks_users_up_turns_charges_and_takes_the_log_along(
    terminal: Terminal, system_database: Connected, new_member: Callable[[], Api]
) -> None:
    user_id, ann = terminal.member.user_id, new_member()
    why = ("--reason", "Case 17: a test asks")
    refused = terminal.run("admin", "charges")
    assert user_id
    with system_database.begin() as session:
        session.get_one(User, user_id).second_step_since = utc_now()
        for role in (Role.OPERATOR, Role.SUPPORT):
            actor = Actor(None, "a test", "", "here")
            grants.grant(session, utc_now(), actor, user_id, role, "Case 17: a test asks")
        secret = tokens.issue(session, utc_now(), user_id, "ops", (Scope.ADMIN,))
    without_scope = terminal.run("admin", "charges")
    terminal.environment["MYCELIUM_TOKEN"] = secret

    found = json.loads(terminal.run("admin", "user", "find", ann.email, *why, "--json").stdout)
    shown = terminal.run("admin", "user", "show", found["user_id"])
    stopped = terminal.run("admin", "charges", "stop", *why).stdout
    going = terminal.run("admin", "charges", "go", *why).stdout
    letters = terminal.run("admin", "dead-letters", "list", "catalog")
    gone = terminal.run("admin", "dead-letters", "replay", "catalog", "0123456789ab", *why)
    exported = terminal.run("admin", "audit-export").stdout.splitlines()

    assert [each.returncode for each in (refused, without_scope)] == [5, 5]
    assert (shown.returncode, found["email"] in shown.stdout) == (0, True)
    assert ["stopped" in stopped, "going out" in going] == [True, True]
    assert (letters.returncode, gone.returncode) == (0, 6)
    assert check_lines(exported, acts.flaw)[0] is None
    assert "charges.release" in exported[-1]


def test_one_of_finance_proposes_and_another_approves_and_the_books_tell_it(
    terminal: Terminal, system_database: Connected, new_member: Callable[[], Api]
) -> None:
    first, second, ann = terminal.member, new_member(), new_member()
    why, secrets = ("--reason", "Case 17: a test asks"), []
    with system_database.begin() as session:
        for member in (first, second):
            assert member.user_id
            session.get_one(User, member.user_id).second_step_since = utc_now()
            actor = Actor(None, "a test", "", "here")
            grants.grant(session, utc_now(), actor, member.user_id, Role.FINANCE, why[1])
            secret = tokens.issue(session, utc_now(), member.user_id, "ops", (Scope.ADMIN,))
            secrets.append(secret)
    # It may be midnight before all is done.
    today, tomorrow = (f"{utc_now() + timedelta(days=days):%Y-%m-%d}" for days in (0, 1))
    adjust = ("admin", "adjustments")
    assert ann.get("/api/wallet/info").json()["balance"] == 0

    terminal.environment["MYCELIUM_TOKEN"] = secrets[0]
    propose = (*adjust, "propose", ann.email, "credit", "5.25", *why, "--key", "one", "--json")
    made, again = (json.loads(terminal.run(*propose).stdout) for _ in range(2))
    approve = (*adjust, "approve", made["adjustment_id"], *why, "--yes")
    own_proposal = terminal.run(*approve)
    own_wallet = terminal.run(*adjust, "propose", first.email, "credit", "5.25", *why)
    terminal.environment["MYCELIUM_TOKEN"] = secrets[1]
    listed = terminal.run(*adjust, "--open")
    approved = terminal.run(*approve)
    give = ("admin", "promotions", "give", ann.email, "3", "--last-day", tomorrow, *why, "--yes")
    given = terminal.run(*give)
    gifts = terminal.run("admin", "promotions")
    books = terminal.run("admin", "finance")
    journal = terminal.run("admin", "finance", "journal", "--since", today, "--until", tomorrow)

    assert made["adjustment_id"] == again["adjustment_id"]
    assert (own_proposal.returncode, own_wallet.returncode) == (5, 5)
    assert made["adjustment_id"] in listed.stdout
    assert ("posted" in approved.stdout, "$3.00" in given.stdout) == (True, True)
    assert str(second.user_id) in gifts.stdout
    assert (books.returncode, "promotions" in books.stdout) == (0, True)
    assert journal.stdout.startswith("day,house_account,kind,transactions,received_usd,")
    line = ",adjustments,adjustment,"
    assert today + line in journal.stdout or tomorrow + line in journal.stdout
    assert ann.get("/api/wallet/info").json()["balance"] == 8.25


def test_a_person_sees_the_price_and_the_balance_after_it_and_may_say_no(
    terminal: Terminal, product: dict[str, Any]
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    asked = terminal.run("buy", product["slug"], "--quantity", "2", input=None, stdin=theirs)
    os.close(theirs)
    os.close(ours)

    assert asked.returncode == 1
    assert "$5.00 a month × 2 = $10.00" in asked.stderr
    assert "Credits: $20.00; after it: $10.00" in asked.stderr
    assert "balance       $20.00" in terminal.run("balance").stdout


def test_a_person_is_asked_about_the_amount_that_a_start_charges(
    terminal: Terminal, product: dict[str, Any]
) -> None:
    bought = terminal.run("buy", product["slug"], "--yes", "--wait", "--json")
    [deployment_id] = json.loads(bought.stdout)["deployment_ids"]
    terminal.run("deployment", deployment_id, "stop")
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")

    asked = terminal.run("deployment", deployment_id, "start", input=None, stdin=theirs)
    os.close(theirs)
    os.close(ours)

    assert f"Start {deployment_id}? Nothing is charged now." in asked.stderr
    assert (asked.returncode, "active" in asked.stdout) == (0, True)


def test_short_of_funds_a_purchase_is_kept_and_a_link_leads_to_the_credits(
    terminal: Terminal, product: dict[str, Any]
) -> None:
    short = terminal.run("buy", product["slug"], "--quantity", "5", "--yes", "--json")
    purchase = simplejson.loads(short.stdout, use_decimal=True)

    assert short.returncode == 4
    assert purchase["status"] == "awaiting_funds"
    assert purchase["shortfall_usd"] == Decimal("5.00")
    told = terminal.run("purchase", purchase["purchase_id"]).stdout
    assert f"mycelium topup 5.00 --purchase {purchase['purchase_id']}" in told
    link = terminal.run("topup", "5.00", "--purchase", purchase["purchase_id"]).stdout
    assert requests.get(link.strip(), timeout=PATIENCE_S).ok
    given_up = terminal.run("purchase", purchase["purchase_id"], "cancel", "--json")
    assert json.loads(given_up.stdout)["status"] == "cancelled"
    assert terminal.run("purchase", purchase["purchase_id"], "receipt").returncode == 5


class Flaky(BaseHTTPRequestHandler):
    """A site of which the first answer to a command is lost, and which is away after the second."""

    heard: list[tuple[str | None, str | None]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append((self.headers["Idempotency-Key"], self.headers["Authorization"]))
        if len(self.heard) == 1:
            return  # it was done, and its answer lost
        body = b'{"checkout_url": "http://127.0.0.1/page"}'
        self.send_response(201 if len(self.heard) == 2 else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_command_is_tried_again_with_its_key_and_the_key_named_when_its_outcome_is_unknown(
    terminal: Terminal,
) -> None:
    Flaky.heard = []
    with HTTPServer(("127.0.0.1", 0), Flaky) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        terminal.site = f"http://127.0.0.1:{server.server_port}"
        (terminal.home / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
        done = terminal.run("topup", "5")
        unknown = terminal.run("topup", "5", "--json")
        server.shutdown()

    assert done.stdout == "http://127.0.0.1/page\n"
    (first, token), second = Flaky.heard[:2]
    assert (first, token) == second
    assert token == f"Bearer {terminal.member.token}"
    assert (unknown.returncode, unknown.stdout) == (7, "")
    error = json.loads(unknown.stderr)["error"]
    assert error["code"] == "unknown_outcome"
    assert {key for key, _ in Flaky.heard[2:]} == {error["idempotency_key"]} != {first}
