"""Rows of any age in any table, for tests of what is kept for a time only."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from chassis.database import Connected
from chassis.retention import Kept, forget

_COLUMNS = text(
    "SELECT column_name, data_type FROM information_schema.columns"
    " WHERE table_name = :table AND is_identity = 'NO'"
    " AND is_nullable = 'NO' AND column_default IS NULL"
)
_FILLERS = {
    "uuid": "gen_random_uuid()",
    "text": "gen_random_uuid()::text",
    "bytea": "gen_random_uuid()::text::bytea",
    "jsonb": "'{}'::jsonb",
    "ARRAY": "'{}'",
    "boolean": "true",
    "integer": "1",
    "timestamp with time zone": "now()",
}


def put(database: Connected, table: str, count: int = 1, **values: Any) -> None:
    """Rows with these values, and with anything in the other columns that must have some."""
    with database.begin() as session:
        columns = {
            name: _FILLERS.get(kind, "1")
            for name, kind in session.execute(_COLUMNS, {"table": table})
            if name not in values
        }
        names = ", ".join([*columns, *values])
        filled = ", ".join([*columns.values(), *(f":{name}" for name in values)])
        rows = f"SELECT {filled} FROM generate_series(1, {count})"  # noqa: S608
        session.execute(text(f"INSERT INTO {table} ({names}) {rows}"), values)


def ages_left(database: Connected, kept: Kept, now: datetime, **values: Any) -> list[str]:
    """Of two rows with these values, one kept long enough and one not: which are left.

    The table is emptied before. A value that can be called is another one for each row.
    """
    limit = now - timedelta(days=kept.days)
    ages = {"old": limit - timedelta(seconds=1), "young": limit + timedelta(seconds=1)}
    with database.begin() as session:
        session.execute(text(f"TRUNCATE {kept.table} CASCADE"))
    marked: dict[str, Any] = {}
    for age, moment in ages.items():
        given = {name: value() if callable(value) else value for name, value in values.items()}
        put(database, kept.table, **{kept.since: moment, **given})
        marked[age] = _places(database, kept.table) - set().union(*marked.values())
    forget(database, now, [kept])
    return [age for age in ages if marked[age] <= _places(database, kept.table)]


def _places(database: Connected, table: str) -> set[Any]:
    with database.read() as session:
        return set(session.scalars(text(f"SELECT ctid::text FROM {table}")))  # noqa: S608


def is_served_by_an_index(database: Connected, kept: Kept, now: datetime) -> bool:
    """Whether a batch is found in an index on its column, in order: nothing else is read."""
    with database.rehearse() as session:
        for other_way in ("seqscan", "bitmapscan", "sort"):
            session.execute(text(f"SET LOCAL enable_{other_way} = off"))
        explained = text(f"EXPLAIN {kept.statement}")
        plan = "\n".join(session.scalars(explained, {"before": now, "limit": 1}))
    return f"Index Cond: ({kept.since} <" in plan and "Sort" not in plan
