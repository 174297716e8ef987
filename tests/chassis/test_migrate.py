"""What migrating says, and what it refuses."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from chassis.database import connect
from chassis.migrate import DataAreNewer, migrate, refuse_newer
from deploy.local import run
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from deploy.local.startup import StartupError

GATEWAY = "services.gateway"


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """An empty database."""
    yield postgres.create_database("upgraded")
    postgres.drop_database("upgraded")


def execute(url: str, statement: str) -> None:
    database = connect(url, pool_size=1)
    with database.begin() as session:
        session.execute(text(statement))
    database.engine.dispose()


def newer(url: str) -> str:
    """The database as a later version leaves it."""
    migrate(GATEWAY, url)
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    return url


def test_data_of_before_are_said_to_be_migrated_and_from_what(url: str) -> None:
    said: list[str] = []
    migrate(GATEWAY, url, "0001", announce=said.append)  # an empty database is nothing to tell
    migrate(GATEWAY, url, announce=said.append)
    migrate(GATEWAY, url, announce=said.append)  # and so are data that are up to date

    (line,) = said
    assert "services.gateway from 0001 to 00" in line


@pytest.mark.parametrize("touch", [migrate, refuse_newer])
def test_data_of_a_later_version_are_refused_with_what_to_do(url: str, touch) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataAreNewer, match=r"at revision 9999.*Nothing was changed.*restore"):
        touch(GATEWAY, newer(url))


def test_the_command_says_so_in_one_line_and_ends_with_78(url: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "chassis.migrate", GATEWAY],
        env={**os.environ, "DATABASE_URL": newer(url), "AMQP_URI": "amqp://nobody@127.0.0.1:1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr.count("\n")) == (78, 1)
    assert "are newer than this version" in ended.stderr


def test_a_run_on_newer_data_changes_none_of_the_databases(postgres: Postgres, url: str) -> None:
    untouched = postgres.create_database("untouched")

    with pytest.raises(StartupError, match="newer than this version"):
        run.migrate_all({"wallet": untouched, "gateway": newer(url)})

    database = connect(untouched, pool_size=1)
    with database.read() as session:
        tables = session.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    database.engine.dispose()
    postgres.drop_database("untouched")
    assert tables == 0
