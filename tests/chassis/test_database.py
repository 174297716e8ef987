"""The engine and its sessions, on a database of the test's own."""

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from chassis.database import Connected, after_commit, is_held, is_lost
from chassis.rpc import _told
from contracts.errors import Overloaded


def test_what_is_rehearsed_is_undone_and_calls_nobody(database: Connected) -> None:
    called: list[bool] = []
    with database.rehearse() as session:
        session.execute(text("CREATE TABLE rehearsed ()"))
        after_commit(session, lambda: called.append(True))

    with database.read() as session:
        assert session.scalar(text("SELECT to_regclass('rehearsed')")) is None
    assert called == []


def test_a_snapshot_sees_one_moment_and_may_take_its_time(database: Connected) -> None:
    asked = "SELECT current_setting('transaction_isolation'), current_setting('statement_timeout')"
    with database.snapshot() as session:
        seen = session.execute(text(asked)).one()

    assert tuple(seen) == ("repeatable read", "0")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("", {}, psycopg2.OperationalError("the connection was closed")), True),
        (PoolTimeout(), True),
        (IntegrityError("", {}, psycopg2.IntegrityError("twice")), False),
        (ValueError(), False),
    ],
)
def test_a_lost_connection_is_told_from_a_refusal(error: Exception, expected: bool) -> None:
    assert is_lost(error) is expected


def test_a_row_that_somebody_holds_is_told_from_a_mistake_of_ours(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("CREATE TABLE held AS SELECT 1 AS id"))
    lock = text("SELECT FROM held FOR UPDATE")

    with database.begin() as holder:
        holder.execute(lock)
        with pytest.raises(OperationalError) as caught, database.begin() as session:
            session.execute(lock)

    assert (is_held(caught.value), is_lost(caught.value)) == (True, False)
    assert isinstance(_told(caught.value), Overloaded)
