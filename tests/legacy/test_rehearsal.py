"""The operators' page, done as it stands: people of invented files are moved for real, and back."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select

from chassis.database import Connected, connect
from contracts.billing import DeploymentStatus, ListDeployments
from contracts.errors import NotFound
from contracts.legacy import GetOldHistory
from contracts.wallet import GetWallets
from deploy.local.processes import ROOT
from services.gateway.models import User
from services.legacy import move
from services.legacy.examples import examples, write
from services.legacy.models import MoveRow
from services.legacy.settings import LegacySettings
from tests.conftest import StackFactory
from tests.patience import START_PATIENCE_S, eventually
from tests.system import System

PAGE = (ROOT / "docs/migration.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python -m services.")
]


@dataclass
class Operator:
    """Who goes by the page: its next commands, in their order, each with its status and output."""

    stack: System
    capsys: pytest.CaptureFixture[str]
    plan: str = ""
    left: list[str] = field(default_factory=lambda: list(COMMANDS))

    def next(self, *words: str) -> tuple[int, str]:
        """The next command of the page, which holds these words."""
        line = self.left.pop(0)
        assert all(word in line for word in words), line
        return self.do(line)

    def do(self, line: str) -> tuple[int, str]:
        command, _, output = line.replace("PLAN", self.plan).partition(" > ")
        _, _, module, *arguments = shlex.split(command)
        if module == "services.legacy.move":
            # In this process: starting one takes longer than what it does.
            return move.main(arguments), self.capsys.readouterr().out
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", module, *arguments],
            env=dict(self.stack.process("gateway").environment),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=START_PATIENCE_S,
        )
        Path(output).write_text(done.stdout)
        return 0, ""


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> Iterator[System]:
    started = service_stack("wallet", "billing", "legacy", "notifier")
    yield started
    started.close()


@pytest.fixture(scope="module")
def database(stack: System) -> Iterator[Connected]:
    connected = connect(stack.database_url("legacy"), pool_size=2)
    yield connected
    connected.engine.dispose()


def people(database: Connected) -> list[MoveRow]:
    with database.read() as session:
        return list(session.scalars(select(MoveRow).order_by(MoveRow.email)))


def test_the_page_moves_people_and_moves_them_back(
    stack: System,
    database: Connected,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = LegacySettings(
        amqp_uri=stack.vhost.uri("legacy"), database_url=stack.database_url("legacy")
    )
    monkeypatch.setattr(move, "get_settings", lambda: settings)
    monkeypatch.chdir(tmp_path)
    found = list(examples(12, seed=3, faults=0.2, transactions=3))
    write(tmp_path / "old", iter(found))
    operator = Operator(stack, capsys)

    operator.next("addresses")
    _, made = operator.next("plan", "--rate 0.1")
    operator.plan = made.split()[1]
    assert operator.next("run", "--dry-run")[0] == 0
    assert people(database) == []
    assert operator.next("run") == (0, "All moved.\n")
    verifying = operator.left.pop(0)
    verified = eventually(lambda: operator.do(verifying), lambda done: done[0] == 0, 0.5)
    assert "0 differences" in verified[1]

    moved = people(database)
    everybody_has_what_the_files_say(
        stack, moved, {example.name: example.content for example in found}
    )
    assert operator.next("revert", "--dry-run")[0] == 0
    assert operator.next("revert")[0] == 0
    assert operator.left == []
    nobody_has_anything(stack, moved)


def everybody_has_what_the_files_say(
    stack: System, moved: list[MoveRow], files: dict[str, bytes]
) -> None:
    wallets = {
        wallet.user_id: wallet.balance_micros
        for wallet in stack.rpc.call(GetWallets(user_ids=[each.user_id for each in moved])).wallets
    }
    assert wallets == {each.user_id: each.amount_micros for each in moved}
    assert sum(wallets.values()) > 0
    with connect(stack.database_url("gateway"), pool_size=1).read() as session:
        assert {str(user.email) for user in session.scalars(select(User))} == {
            each.email for each in moved
        }
    brought = 0
    for each in moved:
        document = json.loads(files[f"{each.email.replace('@', '_at_').replace('.', '_')}.json"])
        services = document["services"]
        running = [service for service in services if service["status"] == "Running"]
        deployments = stack.rpc.call(ListDeployments(user_id=each.user_id)).deployments
        assert sorted(deployment.name for deployment in deployments) == sorted(
            service["name"] for service in running
        )
        assert {deployment.next_renewal_at.day for deployment in deployments} == {
            int((service.get("next_renewal") or service.get("nextRenewal"))[-2:])
            for service in running
        }
        history = stack.rpc.call(GetOldHistory(user_id=each.user_id))
        assert (history.entries_total, len(history.services)) == (3, len(services))
        brought += len(deployments)
    assert brought > 0


def nobody_has_anything(stack: System, moved: list[MoveRow]) -> None:
    wallets = stack.rpc.call(GetWallets(user_ids=[each.user_id for each in moved])).wallets
    assert {wallet.balance_micros for wallet in wallets} == {0}

    def running() -> list[DeploymentStatus]:
        return [
            deployment.status
            for each in moved
            for deployment in stack.rpc.call(ListDeployments(user_id=each.user_id)).deployments
            if deployment.status is not DeploymentStatus.CANCELLED
        ]

    assert eventually(running, lambda left: not left) == []
    with pytest.raises(NotFound):
        stack.rpc.call(GetOldHistory(user_id=moved[0].user_id))
