"""The product's own database server."""

import os
import signal
from pathlib import Path

import psycopg2
import pytest

from deploy.local.postgres import Postgres, start
from deploy.local.startup import StartupError


def connect(url: str) -> "psycopg2.extensions.connection":
    return psycopg2.connect(url.replace("+psycopg2", ""), connect_timeout=60)


def ask(url: str, question: str) -> object:
    connection = connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(question)
            row = cursor.fetchone()
            return row[0] if row else None
    finally:
        connection.close()


def test_a_service_owns_its_database(postgres: Postgres) -> None:
    url = postgres.create_database("owner")
    connection = connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mine (id int)")
    connection.close()

    assert ask(url, "SELECT tableowner FROM pg_tables WHERE tablename = 'mine'") == "owner"


def test_a_service_cannot_connect_to_the_database_of_another(postgres: Postgres) -> None:
    mine, theirs = postgres.create_database("curious"), postgres.create_database("private")

    with pytest.raises(psycopg2.OperationalError):
        connect(mine.rsplit("/", 1)[0] + "/" + theirs.rsplit("/", 1)[1])


def test_a_service_is_no_superuser(postgres: Postgres) -> None:
    url = postgres.create_database("modest")

    assert ask(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False


def test_a_password_of_an_earlier_run_is_void(postgres: Postgres) -> None:
    earlier = postgres.create_database("returning")
    postgres.create_database("returning")

    with pytest.raises(psycopg2.OperationalError):
        connect(earlier)


def test_the_superuser_s_password_is_for_the_owner_only(scratch: Path, postgres: Postgres) -> None:
    mode = (scratch / "postgres" / "superuser-password").stat().st_mode

    assert mode & 0o077 == 0


def test_a_second_start_on_the_same_data_says_so_in_one_line(
    scratch: Path, postgres: Postgres
) -> None:
    with pytest.raises(StartupError, match="already running") as refused:
        start(scratch / "postgres")

    assert "\n" not in str(refused.value)


def test_data_survives_a_server_that_was_killed(scratch: Path) -> None:
    server = start(scratch / "killed")
    assert ask(server.admin_url, "SHOW fsync") == "on"
    url = server.create_database("kept")
    ask(url, "CREATE TABLE kept AS SELECT 7 AS number; SELECT number FROM kept")
    pid = int((scratch / "killed" / "cluster" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    server.stop()

    server = start(scratch / "killed")
    try:
        assert ask(server.create_database("kept"), "SELECT number FROM kept") == 7
    finally:
        server.stop()


def test_a_stale_process_number_of_another_program_does_not_stop_the_start(scratch: Path) -> None:
    start(scratch / "stale").stop()
    pid_file = scratch / "stale" / "cluster" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n")

    server = start(scratch / "stale")
    server.stop()

    assert not pid_file.exists()
