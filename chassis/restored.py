"""Whether a database takes new rows: a restore may bring rows and leave behind what numbers them.

::

    python -m chassis.restored wallet      0 where each table takes a row, else 1

A sequence that stands where it had been gives a number out again that a row has, and the next
insert fails (vectorize-io/hindsight #3844). Rights and triggers may be missing as well. So each
sequence is compared with what its column has, and each table is given a copy of one of its rows,
which is undone. It may be asked while the service works: it keeps nobody waiting. Needs the
service's ``DATABASE_URL``.
"""

import argparse
import sys
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chassis.database import Connected, connect_by_environment

# The names are quoted by the server, where they need it.
_SEQUENCES = text(
    "SELECT objid::regclass::text AS sequence, refobjid::regclass::text AS table_name,"
    " quote_ident(attname) AS column_name FROM pg_depend"
    " JOIN pg_class AS s ON s.oid = objid AND s.relkind = 'S'"
    " JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid"
    " WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass"
    " AND deptype IN ('a', 'i') ORDER BY 1"
)
_TABLES = text(
    "SELECT attrelid::regclass::text AS table_name, string_agg(quote_ident(attname), ', '"
    " ORDER BY attnum) FILTER (WHERE attgenerated = '') AS columns"
    " FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid AND c.relkind = 'r'"
    " WHERE c.relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped"
    " GROUP BY 1 ORDER BY 1"
)

_RULES = ("23000", "23514")
"""A trigger's, or a check, which says of a row that it cannot be."""


def sequences_behind(session: Session) -> Iterator[str]:
    """Of each sequence that gives out next what a row has, or less: the sentence that says so.

    A sequence that belongs to no column is not looked at: who uses one compares it by itself, as
    the wallet's verification does.
    """
    for sequence, table, column in session.execute(_SEQUENCES).all():
        # The column first: who writes meanwhile moves the sequence on before the row is there.
        taken = session.scalar(text(f"SELECT max({column}) FROM {table}"))  # noqa: S608
        given = session.scalar(
            text(f"SELECT last_value + is_called::integer FROM {sequence}")  # noqa: S608
        )
        if taken is not None and given <= taken:
            yield (
                f"{table}.{column}: {sequence} gives out {given} next, and {taken} is taken."
                f" SELECT setval('{sequence}', {taken}) moves it on."
            )


def tables_that_refuse(session: Session) -> Iterator[str]:
    """Of each table that takes no row: the sentence that says why.

    A copy of a row is no new one to a unique key, and is passed over there, and a rule of the
    table's own may refuse what it says, as the audit log does; but the rights and the triggers that
    a new row needs were asked for by then. A table without a row takes nothing.
    """
    for table, columns in session.execute(_TABLES).all():
        copy = (
            f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608
            f" SELECT {columns} FROM {table} LIMIT 1 ON CONFLICT DO NOTHING"
        )
        try:
            with session.begin_nested():
                session.execute(text(copy))
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) in _RULES:
                continue
            yield f"{table} takes no row: {str(error.orig).splitlines()[0]}"


def problems(database: Connected) -> list[str]:
    """All of both. Nothing of it stays."""
    with database.read() as session:
        found = list(sequences_behind(session))
    with database.rehearse() as session:
        return [*found, *tables_that_refuse(session)]


def main() -> int:
    """0 where each table takes a row, 1 where one does not."""
    parser = argparse.ArgumentParser(prog="python -m chassis.restored")
    parser.add_argument("service", help="whose DATABASE_URL this is")
    service = parser.parse_args().service
    database = connect_by_environment(pool_size=1)
    found = problems(database)
    for problem in found:
        print(problem)
    print(f"{service}: {'new rows fail.' if found else 'each table takes a row.'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
