"""Another service gets a login of its own: what it may do, with stock nameko and with ours."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import kombu
import pytest
import yaml

from chassis.client import RpcClient
from chassis.clock import utc_now
from contracts import errors
from contracts.billing import PurchaseCompleted
from contracts.messages import Reply, Request
from contracts.wallet import Credit, GetWallet, OpenAccount
from deploy.local.broker import Node
from deploy.local.child import Child
from tests.conftest import StackFactory
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually
from tests.system import System

PASSWORD = "the password of the reports"
STOCK = {"rpc_exchange": "amq.topic", "DECLARE_EVENT_EXCHANGES": False}
"""What docs/rpc.md says to put into the configuration of stock nameko."""

STOCK_SERVICE = """
import os
from nameko.events import event_handler
from nameko.rpc import RpcProxy, rpc

class Reports:
    name = "reports"
    wallet = RpcProxy("wallet")

    @rpc
    def balance(self, user_id):
        return {"balance_micros": self.wallet.get_wallet(user_id=user_id)["balance_micros"]}

    @event_handler("billing", "purchase_completed")
    def on_purchase(self, event):
        with open(os.environ["HEARD"], "a") as heard:
            heard.write(event["event_id"] + "\\n")
"""
STOCK_SCRIPT = """
import json, sys
from nameko.standalone.rpc import ClusterRpcProxy

service, method, argument, config = json.loads(sys.argv[1])
with ClusterRpcProxy(config, timeout=60) as rpc:
    print(json.dumps(getattr(getattr(rpc, service), method)(user_id=argument)))
"""


@pytest.fixture(scope="module")
def system(service_stack: StackFactory, broker: Node) -> System:
    """A wallet, and logins that may ask for balances only."""
    started = service_stack("wallet")
    command = [
        *(sys.executable, "-m", "deploy.definitions", "login", "reports"),
        *("--may-call", "wallet.get_wallet", "reports.balance", "--listens-to", "billing"),
        *("--vhost", started.vhost.name),
    ]
    printed = subprocess.run(
        command, env={**os.environ, "LOGIN_PASSWORD": PASSWORD}, capture_output=True, check=True
    )
    broker.load(json.loads(printed.stdout))
    return started


@pytest.fixture(scope="module")
def login(system: System) -> str:
    address = system.vhost.admin_uri.rpartition("@")[2]
    return f"amqp://reports:{PASSWORD.replace(' ', '%20')}@{address}"


@pytest.fixture
def user_id(system: System) -> str:
    user_id = uuid.uuid4()
    system.rpc.call(OpenAccount(idempotency_key=str(user_id), user_id=user_id))
    return str(user_id)


def run_stock(service: str, method: str, user_id: str, login: str) -> str:
    call = json.dumps([service, method, user_id, {"AMQP_URI": login, **STOCK}])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOCK_SCRIPT, call],
        capture_output=True, text=True, check=False, timeout=START_PATIENCE_S,
    )  # fmt: skip
    return done.stdout or done.stderr


def test_a_stock_client_calls_what_its_login_may_call(login: str, user_id: str) -> None:
    assert json.loads(run_stock("wallet", "get_wallet", user_id, login))["user_id"] == user_id


def test_a_stock_client_is_refused_what_its_login_may_not_call(login: str, user_id: str) -> None:
    assert "ACCESS_REFUSED" in run_stock("wallet", "verify", user_id, login)


def test_our_client_calls_with_such_a_login(login: str, user_id: str) -> None:
    client = RpcClient(login, name="reports")

    assert str(client.call(GetWallet(user_id=UUID(user_id)), PATIENCE_S).user_id) == user_id
    with pytest.raises(errors.ServiceError, match="reports may not call"):
        client.call(
            Credit(
                idempotency_key="a", user_id=uuid.uuid4(), amount_micros=5, description="A present"
            ),
            timeout_s=PATIENCE_S,
        )
    client.close()


@pytest.fixture
def stock_service(login: str, tmp_path: Path) -> Iterator[Path]:
    """A stock nameko service that runs; the file that it writes what it heard into."""
    (tmp_path / "reports.py").write_text(STOCK_SERVICE)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"AMQP_URI": login, **STOCK}))
    heard = tmp_path / "heard"
    heard.touch()
    child = Child(
        "reports",
        [sys.executable, "-m", "nameko", "run", "--config", "config.yaml", "reports"],
        {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HEARD": str(heard)},
        tmp_path / "log",
        directory=tmp_path,
    )  # fmt: skip
    child.start()
    yield heard
    child.kill()


def test_a_stock_service_answers_asks_and_listens(
    system: System, login: str, user_id: str, stock_service: Path
) -> None:
    balance = '{"balance_micros": 0}'
    eventually(lambda: run_stock("reports", "balance", user_id, login).strip() == balance)
    event_id = str(uuid.uuid4())
    with kombu.Connection(system.vhost.uri("billing")) as connection:
        kombu.Producer(connection.default_channel).publish(
            {"event_id": event_id, "occurred_at": str(utc_now())},
            exchange="billing.events",
            routing_key=PurchaseCompleted.type,
        )

    eventually(lambda: event_id in stock_service.read_text())


def test_our_client_calls_a_stock_service(
    system: System, user_id: str, stock_service: Path
) -> None:
    class Balance(Reply):
        balance_micros: int

    class GetBalance(Request[Balance], service="reports", method="balance"):
        user_id: UUID

    def balance_micros() -> int | None:
        with suppress(errors.Unavailable):  # while it starts
            return system.rpc.call(GetBalance(user_id=UUID(user_id))).balance_micros
        return None

    assert stock_service.exists()
    assert eventually(balance_micros, lambda found: found is not None) == 0
