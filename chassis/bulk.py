"""Many rows in one statement, and many statements in one round trip.

::

    POST = Bulk("INSERT INTO postings ({columns}) SELECT * FROM {rows}", id="uuid", micros="bigint")

    with Batch(session) as writes:
        writes.add(POST, [(new_id(), 5_000_000), …])
        writes.add(…)

Rows travel as one array literal for each column. That is what PostgreSQL reads fastest: a row
of eight columns costs 4 µs, and 15 µs in the ``ARRAY['…', '…']`` that psycopg2 makes of a list.
A statement is prepared once on each connection: for a few rows, parsing and planning it cost more
than carrying it out. It goes to the driver directly, in the connection and the transaction of the
session: what SQLAlchemy does around a statement and its rows takes longer than the statement.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import datetime
from functools import lru_cache
from itertools import count
from operator import attrgetter
from typing import Any

import psycopg2
from psycopg2.extras import NamedTupleCursor
from pydantic_core import to_json
from sqlalchemy import Connection
from sqlalchemy.orm import Session

_PREPARED = "chassis.prepared"
"""In the ``info`` of a connection: the names of the statements that it knows."""
_NUMBERS = count()


def array(type_name: str, values: Iterable[Any]) -> str:
    """An array literal of a type that stands in ``ENCODERS``; a None becomes a NULL."""
    encode = ENCODERS[type_name]
    return "{" + ",".join(["NULL" if v is None else encode(v) for v in values]) + "}"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + value + '"'


ENCODERS: dict[str, Callable[[Any], str]] = {
    "bigint": str,
    "integer": str,
    "boolean": str,
    "uuid": attrgetter("hex"),
    # Most moments of a batch are the same one.
    "timestamptz": lru_cache(maxsize=4096)(datetime.isoformat),
    "text": _quoted,
    "jsonb": lambda value: _quoted(to_json(value).decode()),
    "bytea": lambda value: '"\\\\x' + value.hex() + '"',
}


class Bulk:
    """A statement over rows: ``{rows}`` stands for them, ``{columns}`` for the columns' names.

    ``columns`` gives the PostgreSQL type of each column.
    """

    def __init__(self, statement: str, **columns: str) -> None:
        types = ", ".join(f"{type_name}[]" for type_name in columns.values())
        arrays = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        names = ", ".join(columns)
        sql = statement.format(columns=names, rows=f"unnest({arrays}) AS new ({names})")
        self._name = f"bulk_{next(_NUMBERS)}"
        self._preparation = f"PREPARE {self._name} ({types}) AS {sql}"
        self.columns = columns

    def prepare(self, connection: Connection) -> None:
        """Make the statement known to a connection, for as long as that lives."""
        known: set[str] = connection.info.setdefault(_PREPARED, set())
        if self._name not in known:
            connection.exec_driver_sql(self._preparation.replace("%", "%%"))
            known.add(self._name)

    # There is one of these for each statement of the program, and it lives as long.
    @lru_cache(maxsize=256)  # noqa: B019
    def numbered(self, number: int) -> str:
        """The SQL, with the parameters that :meth:`parameters` names."""
        return (
            f"EXECUTE {self._name} ({', '.join(f'%({number}_{name})s' for name in self.columns)})"
        )

    def parameters(self, number: int, rows: Iterable[Iterable[Any]]) -> dict[str, str]:
        """One array for each column; none at all without rows."""
        columns = list(zip(*rows, strict=True))
        if not columns:
            return {}
        return {
            f"{number}_{name}": array(type_name, values)
            for (name, type_name), values in zip(self.columns.items(), columns, strict=True)
        }

    def execute(self, session: Session, rows: Iterable[Iterable[Any]]) -> Sequence[Any]:
        """Run it by itself: the rows that it returns, with their columns by name. There must be
        rows."""
        connection = session.connection()
        self.prepare(connection)
        return run(connection, self.numbered(0), self.parameters(0, rows))

    def scalars(self, session: Session, rows: Iterable[Iterable[Any]]) -> list[Any]:
        """The first column of the rows that it returns."""
        return [row[0] for row in self.execute(session, rows)]


class Batch(AbstractContextManager["Batch"]):
    """Statements that are sent together, in their order, when the block ends."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._statements: list[str] = []
        self._parameters: dict[str, str] = {}

    def add(self, bulk: Bulk, rows: Iterable[Iterable[Any]]) -> None:
        """Add a statement; without rows, nothing."""
        number = len(self._statements)
        parameters = bulk.parameters(number, rows)
        if parameters:
            bulk.prepare(self.session.connection())
            self._statements.append(bulk.numbered(number))
            self._parameters.update(parameters)

    def __exit__(self, error: object, *_: object) -> None:
        if error is None and self._statements:
            run(self.session.connection(), ";\n".join(self._statements), self._parameters)


def run(connection: Connection, sql: str, parameters: Mapping[str, str]) -> Sequence[Any]:
    """The rows of a statement, with their columns by name.

    Raises the driver's errors as SQLAlchemy does, which gives up a connection that was lost.
    """
    with closing(connection.connection.cursor(cursor_factory=NamedTupleCursor)) as cursor:
        try:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            connection._handle_dbapi_exception(error, sql, parameters, cursor, None)  # noqa: SLF001
