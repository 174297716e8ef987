"""What migrating says, and what it refuses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

import chassis.migrate
from chassis.database import connect
from chassis.migrate import DataAreNewer, migrate, refuse_newer
from deploy.local import run
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from deploy.local.startup import StartupError
from tests.patience import eventually

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


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"


def test_a_migration_that_waits_for_a_table_lets_others_through_and_is_tried_again(
    url: str,
) -> None:
    migrate(GATEWAY, url, "0004")
    engine = create_engine(url, connect_args={"options": "-c statement_timeout=20s"})
    with ThreadPoolExecutor(1) as pool, engine.connect() as holder:
        holder.execute(text("SELECT count(*) FROM users"))
        migrating = pool.submit(migrate, GATEWAY, url)
        with engine.connect() as other:
            eventually(lambda: other.scalar(text(WAITING)))
            # It stands behind the migration, which stands behind the holder.
            other.execute(text("SELECT count(*) FROM users"))
        assert not migrating.done()
        holder.rollback()
        migrating.result()
    engine.dispose()

    said: list[str] = []
    migrate(GATEWAY, url, announce=said.append)
    assert said == []


def test_a_migration_that_waits_keeps_others_waiting_shortly_and_ever_more_rarely(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(GATEWAY, url, "0004")
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 8:
            holder.rollback()

    monkeypatch.setattr(chassis.migrate.time, "sleep", rest)
    engine = create_engine(url)
    with engine.connect() as holder:
        holder.execute(text("SELECT count(*) FROM users"))
        migrate(GATEWAY, url)
    engine.dispose()

    assert rests == [1, 2, 4, 8, 16, 20, 20, 20]
    assert chassis.migrate.LOCK_TIMEOUT_S <= 0.3


def test_a_table_that_nobody_lets_go_of_fails_its_migration_and_none_before_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis.migrate, "LOCK_PATIENCE_S", 0.0)
    migrate(GATEWAY, url, "0004")
    engine = create_engine(url)
    with engine.connect() as holder:
        holder.execute(text("SELECT count(*) FROM users"))
        with pytest.raises(OperationalError, match="lock timeout"):
            migrate(GATEWAY, f"{url}?options=-c%20statement_timeout%3D20s")
        # 0006 is the first that changes it.
        assert holder.scalar(text("SELECT version_num FROM alembic_version")) == "0005"
    engine.dispose()
