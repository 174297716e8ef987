"""What an operator asks of a running product, from another terminal."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.database import connect
from deploy.local import operate, run
from deploy.local.processes import ROOT
from deploy.local.startup import StartupError, take_lock
from tests.conftest import StackFactory
from tests.gateway.conftest import add_user
from tests.patience import START_PATIENCE_S
from tests.system import System

NAMES = ("sandbox", "wallet", "topup", "notifier")


@pytest.fixture(scope="module")
def untouched(service_stack: StackFactory) -> System:
    """Of its own: what other tests leave behind would be problems of theirs."""
    return service_stack(*NAMES)


@pytest.fixture
def running(untouched: System, tmp_path: Path) -> Iterator[Path]:
    """The directory that a runner holds, with the settings of what it runs."""
    lock = take_lock(tmp_path, "The product")
    run.write_environments([untouched.process(name) for name in NAMES], tmp_path)
    yield tmp_path
    lock.close()


def ask(directory: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, settings = operate.invocation(name, arguments, directory)
    return subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("verify", (), "no difference."),
        ("problems", (), "There are no problems."),
        ("reconcile", (), "The books agree."),
        ("switch", (), "Automatic charges go out"),
        ("audit", ("accept", "0" * 32, "--by", "me", "--reason", "none"), "Nothing is open"),
        ("roles", ("list",), ""),
        ("audit-log", ("head",), "0 0000"),
        ("restored", ("wallet",), "wallet: each table takes a row."),
        ("dead-letters", ("wallet", "replay", "--all"), "replay: 0 of the dead letters of wallet"),
        ("dead-notices", ("discard", "--all"), "discard: 0 notices"),
    ],
)
def test_each_command_finds_its_settings_by_itself(
    running: Path, name: str, arguments: tuple[str, ...], answer: str
) -> None:
    said = ask(running, name, *arguments)

    assert answer in said.stdout, said.stderr


def test_the_first_operator_comes_from_the_command(running: Path, untouched: System) -> None:
    """Nobody has a role before, and no password comes with one."""
    database = connect(untouched.database_url("gateway"), pool_size=1)
    user = add_user(database, "ada@example.com", has_wallet=False)
    given = ("grant", "Ada@example.com", "operator", "--by", "me", "--reason", "the first one")

    said = ask(running, "roles", *given)
    again = ask(running, "roles", *given)

    assert said.stdout == "ada@example.com is operator.\n", said.stderr
    assert (again.returncode, "already have the operator role" in again.stderr) == (1, True)
    assert (
        ask(running, "roles", "list").stdout == "ada@example.com  operator  (second step is off)\n"
    )
    assert ask(running, "audit-log", "check").stdout.startswith("The chain holds up to position 1:")
    row = json.loads(ask(running, "audit-log", "export").stdout)["content"]
    assert (row["actor"], row["actor_id"], row["subject"]) == ("me", "", str(user.user_id))
    assert "@" in row["origin"]
    database.engine.dispose()


def test_every_command_is_a_target_of_make() -> None:
    targets = (ROOT / "Makefile").read_text()

    assert [name for name in operate.COMMANDS if f"\n{name}:  ## " not in targets] == []


def test_a_setting_of_the_person_s_own_shell_is_left_for_the_operator_too(
    untouched: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = untouched.process("topup")
    monkeypatch.setenv("STRIPE_API_KEY", process.environment["STRIPE_API_KEY"])

    run.write_environments([process], tmp_path)

    assert "STRIPE_API_KEY=" in (tmp_path / "topup.env").read_text()


def test_where_nothing_runs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="make run"):
        operate.invocation("verify", [], tmp_path)


def test_dead_letters_of_nobody_are_asked_back(tmp_path: Path) -> None:
    with pytest.raises(
        StartupError, match="wallet, catalog, billing, topup, legacy, analytics, notifier"
    ):
        operate.invocation("dead-letters", ["walet", "list"], tmp_path)
