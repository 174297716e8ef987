"""How PostgreSQL finds what is asked: the plan of each statement in a block, by its nodes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from chassis import bulk

Node = dict[str, Any]

READING = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"}


@contextmanager
def planned(session: Session) -> Iterator[list[Node]]:
    """The plans of the statements that are sent by this session meanwhile, as the server makes them
    for these parameters and in these settings. They are carried out too."""
    plans: list[Node] = []
    connection = session.connection()
    send = bulk.run

    def explain(sql: str, parameters: Any) -> None:
        with connection.connection.cursor() as cursor:
            for statement in sql.split(";\n"):
                cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
                [[found]] = cursor.fetchall()
                plans.append((found if isinstance(found, list) else json.loads(found))[0]["Plan"])

    def note(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> None:
        if sql.startswith(("SELECT", "\n    SELECT")):
            explain(sql, parameters)

    def run(on: Connection, sql: str, parameters: Mapping[str, str]) -> Any:
        explain(sql, parameters)
        return send(on, sql, parameters)

    event.listen(connection, "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "run", run)
        try:
            yield plans
        finally:
            event.remove(connection, "before_cursor_execute", note)


def nodes(plan: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def ways(plans: list[Node]) -> list[str]:
    """How each table is read, once each, in the order of their names: ``entries: Index Scan by
    entries_pkey``."""
    return sorted(
        {
            f"{node['Relation Name']}: {node['Node Type']}"
            + (f" by {node['Index Name']}" if "Index Name" in node else "")
            for plan in plans
            for node in nodes(plan)
            if node["Node Type"] in READING
        }
    )
