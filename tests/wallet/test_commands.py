"""The operator's commands, run as an operator runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.identifiers import new_id
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from services.wallet import chain
from tests.wallet.conftest import USD, Ledger, debit, fresh_ledger


@pytest.fixture(scope="module")
def book(postgres: Postgres) -> Iterator[Ledger]:
    with fresh_ledger(postgres) as ledger:
        ledger.do(debit(ledger.user(25 * USD), 5 * USD))
        chain.seal(ledger.database)
        yield ledger


def command(book: Ledger, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = book.database.engine.url.render_as_string(hide_password=False)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"services.wallet.{module}", *arguments],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url, "AMQP_URI": "amqp://unused"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_verification_says_what_it_looked_at(book: Ledger):
    done = command(book, "verification")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("2 transactions, 4 entries, 2 sealed: no difference.\n")


def test_an_export_of_one_user_is_lines_of_json(book: Ledger):
    done = command(book, "export", "--user", str(book.users[0]))

    amounts = [json.loads(line)["amount_micros"] for line in done.stdout.splitlines()]
    assert amounts == [25 * USD, -5 * USD]


def test_an_export_of_an_unknown_user_fails_and_says_so(book: Ledger):
    done = command(book, "export", "--user", str(new_id()))

    assert (done.returncode, done.stderr) == (1, "This user has no wallet.\n")


def test_the_chain_is_exported_and_checked_against_its_head(book: Ledger, tmp_path: Path):
    head = command(book, "chain", "head").stdout.split()[1]
    file = tmp_path / "ledger.jsonl"
    file.write_text(command(book, "chain", "export").stdout)

    done = command(book, "chain", "check", str(file), "--head", head)

    assert done.returncode == 0
    assert head in done.stdout
