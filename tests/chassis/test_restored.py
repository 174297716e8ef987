"""A database that came back with its rows, and without what a new row needs, is found out."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chassis import restored
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from deploy.parts import DATABASES
from tests.aging import put
from tests.system import run_command

COMPARED_BY_ITSELF = {"house_entry_number"}
"""By the wallet's verification: it numbers some rows of a table only."""

Made = Callable[[str], Connected]


@pytest.fixture
def made(postgres: Postgres) -> Iterator[Made]:
    opened: list[Connected] = []

    def make(service: str) -> Connected:
        url = postgres.create_database(f"restored_{service}_{new_id().hex[-12:]}")
        migrate(f"services.{service}", url)
        opened.append(connect(url))
        return opened[-1]

    yield make
    for database in opened:
        database.engine.dispose()


def do(database: Connected, statement: str) -> None:
    with database.begin() as session:
        session.execute(text(statement))


@pytest.mark.parametrize("service", DATABASES)
def test_every_sequence_of_every_service_is_compared(made: Made, service: str) -> None:
    database = made(service)
    put(database, "outbox", count=3)
    put(database, "inbox")
    assert restored.problems(database) == []

    with database.read() as session:
        there = set(session.scalars(text("SELECT sequencename FROM pg_sequences")))
        compared = {row.sequence for row in session.execute(restored._SEQUENCES)}
    assert there - compared <= COMPARED_BY_ITSELF

    do(database, "ALTER SEQUENCE outbox_id_seq RESTART WITH 3")
    assert [found.split(" next")[0] for found in restored.problems(database)] == [
        "outbox.id: outbox_id_seq gives out 3"
    ]
    with pytest.raises(IntegrityError):
        put(database, "outbox")


def test_a_sequence_that_stands_after_the_last_number_is_no_problem(made: Made) -> None:
    database = made("analytics")
    put(database, "outbox", count=3)
    do(database, "ALTER SEQUENCE outbox_id_seq RESTART WITH 4")

    assert restored.problems(database) == []


def test_a_table_without_the_right_to_insert_is_named_and_nothing_stays(made: Made) -> None:
    database = made("analytics")
    put(database, "outbox")
    do(database, "REVOKE INSERT ON inbox FROM CURRENT_USER")

    assert restored.problems(database) == ["inbox takes no row: permission denied for table inbox"]

    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM outbox")) == 1


def test_a_table_whose_own_rule_takes_no_copy_is_no_problem(made: Made) -> None:
    """The audit log wants the next position, which a copy has not."""
    database = made("gateway")
    put(database, "acts", position=1, digest=b"0" * 32)
    put(database, "acts", position=2, digest=b"1" * 32)

    assert restored.problems(database) == []


def test_a_table_whose_rule_cannot_be_asked_is_named(made: Made) -> None:
    database = made("gateway")
    put(database, "acts", position=1, digest=b"0" * 32)
    do(
        database,
        "CREATE OR REPLACE FUNCTION follow_last_act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM max(position) FROM gone; RETURN NEW; END $$",
    )

    assert restored.problems(database) == ['acts takes no row: relation "gone" does not exist']


def test_the_command_says_what_to_do_and_that_it_is_done(made: Made) -> None:
    database = made("analytics")
    put(database, "outbox", count=3)
    do(database, "ALTER SEQUENCE outbox_id_seq RESTART")
    said = run_command(database, "chassis.restored", "analytics")
    (statement,) = (line for line in said.stdout.splitlines() if "setval" in line)
    assert (said.returncode, "new rows fail." in said.stdout) == (1, True)

    do(database, statement.partition("taken. ")[2].partition(" moves")[0])

    said = run_command(database, "chassis.restored", "analytics")
    assert (said.returncode, said.stdout) == (0, "analytics: each table takes a row.\n")
