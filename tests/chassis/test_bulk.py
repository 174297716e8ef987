"""Whatever a row holds arrives as it was, in PostgreSQL's own reading."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.database import Connected, is_lost

COLUMNS = {
    "amount": "bigint",
    "is_armed": "boolean",
    "key": "text",
    "id": "uuid",
    "at": "timestamptz",
    "metadata": "jsonb",
    "digest": "bytea",
}
INSERT = Bulk("INSERT INTO samples ({columns}) SELECT * FROM {rows}", **COLUMNS)
ECHO = Bulk("SELECT {columns} FROM {rows}", **COLUMNS)

# PostgreSQL has no text with a NUL in it, and JSON there no lone surrogates.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
rows = st.tuples(
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
    st.none() | texts | st.sampled_from(["NULL", "", "{}", 'a"b', "a\\b", "%(x)s", ", ", " x "]),
    st.none() | st.uuids(),
    st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.none() | st.dictionaries(texts, texts | st.integers(0, 9), max_size=3),
    st.none() | st.binary(max_size=40),
)


@pytest.fixture(scope="module", autouse=True)
def _samples(database: Connected) -> None:
    columns = ", ".join(f"{name} {type_name}" for name, type_name in COLUMNS.items())
    with database.begin() as session:
        session.execute(text(f"CREATE TABLE samples ({columns})"))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(rows, min_size=1, max_size=8))
def test_rows_arrive_as_they_were(database: Connected, given_rows: list[tuple]) -> None:
    with database.read() as session:
        found = ECHO.execute(session, given_rows)

    assert [(*row[:-1], row[-1] and bytes(row[-1])) for row in found] == given_rows


def test_statements_of_a_batch_go_together_and_roll_back_together(database: Connected) -> None:
    row = (1, True, "kept", UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), {}, b"")
    with database.begin() as session, Batch(session) as writes:
        writes.add(INSERT, [row])
        writes.add(INSERT, [])
        writes.add(INSERT, [row, row])
    with pytest.raises(ZeroDivisionError):
        _write_and_fail(database, row)

    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM samples WHERE key = 'kept'")) == 3


def _write_and_fail(database: Connected, row: tuple) -> None:
    with database.begin() as session, Batch(session) as writes:
        writes.add(INSERT, [row])
        raise ZeroDivisionError


def test_a_row_of_another_length_is_refused(database: Connected) -> None:
    with database.begin() as session, pytest.raises(ValueError, match="zip"):
        Batch(session).add(INSERT, [(1, 2)])


def test_a_statement_is_prepared_once_on_a_connection_and_outlives_what_is_undone(
    database: Connected,
) -> None:
    bulk = Bulk("SELECT amount % 10 FROM {rows}", amount="bigint")
    with database.engine.connect() as connection:
        session = Session(connection)
        found = [_undone(session, bulk), _undone(session, bulk)]
        sql = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%amount % 10%'"
        known = connection.exec_driver_sql(sql.replace("%", "%%")).scalar_one()

    assert (found, known) == ([7, 7], 1)


def _undone(session: Session, bulk: Bulk) -> int:
    found: int
    (found,) = bulk.scalars(session, [(17,)])
    session.rollback()
    return found


def test_rows_come_with_their_columns_by_name_and_nothing_without_any(database: Connected) -> None:
    doubled = Bulk("SELECT amount, 2 * amount AS twice FROM {rows}", amount="bigint")
    lock = Bulk("INSERT INTO samples (key) SELECT key FROM {rows}", key="text")
    with database.begin() as session:
        found = doubled.execute(session, [(2,), (3,)])
        assert [(row.amount, row.twice) for row in found] == [(2, 4), (3, 6)]
        assert doubled.scalars(session, [(2,), (3,)]) == [2, 3]
        assert lock.execute(session, [("alone",)]) == []


def test_what_the_database_refuses_is_raised_as_everywhere_and_undone(database: Connected) -> None:
    share = Bulk("SELECT 60 / amount FROM {rows}", amount="bigint")
    row = (1, True, "undone", None, None, None, None)
    with pytest.raises(DataError, match="division by zero"):
        _insert_and_ask(database, row, lambda session: share.execute(session, [(0,)]))
    with database.begin() as session:
        assert share.scalars(session, [(3,)]) == [20]
        assert not session.scalar(text("SELECT count(*) FROM samples WHERE key = 'undone'"))


def test_a_connection_that_was_lost_is_given_up_and_the_next_one_answers(
    database: Connected,
) -> None:
    row = (1, True, "lost", None, None, None, None)

    def ask_on_a_lost_connection(session: Session) -> None:
        asked = {"pid": session.scalar(text("SELECT pg_backend_pid()"))}
        with database.singles.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), asked)
        ECHO.execute(session, [row])

    with pytest.raises(OperationalError) as raised:
        _insert_and_ask(database, row, ask_on_a_lost_connection)
    assert is_lost(raised.value)
    with database.begin() as session:
        assert ECHO.scalars(session, [row]) == [1]
        assert not session.scalar(text("SELECT count(*) FROM samples WHERE key = 'lost'"))


def _insert_and_ask(database: Connected, row: tuple, ask: Callable[[Session], object]) -> None:
    with database.begin() as session:
        INSERT.execute(session, [row])
        ask(session)
