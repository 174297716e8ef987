"""The operator's commands, run as an operator runs them."""

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from chassis.identifiers import new_id
from deploy.local.postgres import Postgres
from services.wallet import chain
from tests.system import run_command
from tests.wallet.conftest import USD, Ledger, debit, fresh_ledger


@pytest.fixture(scope="module")
def book(postgres: Postgres) -> Iterator[Ledger]:
    with fresh_ledger(postgres) as ledger:
        ledger.do(debit(ledger.user(25 * USD), 5 * USD))
        chain.seal(ledger.database)
        yield ledger


def command(book: Ledger, module: str, *arguments: str) -> CompletedProcess[str]:
    return run_command(book.database, f"services.wallet.{module}", *arguments)


def test_verification_says_what_it_looked_at(book: Ledger):
    done = command(book, "verification")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("2 transactions, 4 entries, 2 sealed: no difference.\n")


def test_an_export_of_one_user_is_lines_of_json(book: Ledger):
    done = command(book, "export", "--user", str(book.users[0]))

    assert done.returncode == 0
    amounts = [json.loads(line)["amount_micros"] for line in done.stdout.splitlines()]
    assert amounts == [25 * USD, -5 * USD]


def test_an_export_of_an_unknown_user_fails_and_says_so(book: Ledger):
    done = command(book, "export", "--user", str(new_id()))

    assert (done.returncode, done.stderr) == (1, "This user has no wallet.\n")


def test_the_chain_is_exported_and_checked_against_its_head(book: Ledger, tmp_path: Path):
    noted, written = (command(book, "chain", action) for action in ("head", "export"))
    assert (noted.returncode, written.returncode) == (0, 0)
    position, head = noted.stdout.split()
    file = tmp_path / "ledger.jsonl"
    file.write_text(written.stdout)

    done = command(book, "chain", "check", str(file), "--head", head)

    assert done.returncode == 0
    assert done.stdout == f"The chain holds up to position {position}: {head}\n"


def test_what_was_sealed_after_the_noted_head_does_not_make_it_wrong(book: Ledger, tmp_path: Path):
    head = command(book, "chain", "head").stdout.split()[1]
    book.do(debit(book.user(USD), USD))
    chain.seal(book.database)
    file = tmp_path / "ledger.jsonl"
    file.write_text(command(book, "chain", "export").stdout)

    later = command(book, "chain", "check", str(file), "--head", head)
    other = command(book, "chain", "check", str(file), "--head", "ab" * 32)

    assert later.returncode == 0
    assert (other.returncode, "is not in it" in other.stdout) == (1, True)


def test_an_empty_export_is_not_a_chain_that_holds(book: Ledger, tmp_path: Path):
    file = tmp_path / "empty.jsonl"
    file.touch()

    assert command(book, "chain", "check", str(file)).returncode == 1
