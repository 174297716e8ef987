"""What grows for ever is found by an index."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.engine import Engine

from chassis.clock import utc_now
from chassis.database import Connected
from chassis.identifiers import new_id
from services.gateway import transfers
from services.gateway.people import closing
from services.gateway.staff import acts, commands


def acts_of_a_kind(database: Connected) -> None:
    with database.read() as session:
        acts.newest_not_refused(session, commands.PROMOTION, 20)


def unanswered(database: Connected) -> None:
    transfers.settle_unanswered(database, None, utc_now())  # type: ignore[arg-type]


def coming(database: Connected) -> None:
    with database.read() as session:
        closing._sent_since(session, new_id(), utc_now())


@pytest.mark.parametrize(
    ("ask", "indexes"),
    [
        (acts_of_a_kind, ["acts_of_kind", "acts_completed"]),
        (unanswered, ["transfers_unanswered"]),
        (coming, ["transfers_to_user"]),
    ],
)
def test_it_is_found_by_an_index(
    alone: Flask, database: Connected, ask: Callable[[Connected], None], indexes: list[str]
) -> None:
    asked: list[str] = []

    def note(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        asked.append(cursor.mogrify(statement, parameters).decode())

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with alone.app_context():
            ask(database)
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    with database.begin() as session:
        connection = session.connection()
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        questions = [each for each in asked if each.startswith("SELECT")]
        plans = ["".join(connection.exec_driver_sql(f"EXPLAIN {q}").scalars()) for q in questions]
    assert [index for index in indexes if not any(index in plan for plan in plans)] == []
