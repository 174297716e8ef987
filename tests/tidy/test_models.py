"""The migrations make the tables that the models describe, in every service.

Both are made in one database, in a schema each, and PostgreSQL tells what it has: types in its own
words, what a generated column computes, and indexes with their predicates, none of which Alembic
compares. Where models declare no index, the migrations alone say which there are; a generated
column that no model names is the database's own, as a check is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, TextClause, create_engine, text

from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from deploy.parts import DATABASES

Seen = tuple[Any, ...]

COLUMNS = text(
    "SELECT c.relname, a.attname, replace(format_type(a.atttypid, a.atttypmod),"
    " 'character varying', 'text'), a.attnotnull,"
    " CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END"
    " FROM pg_class c JOIN pg_attribute a"
    " ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
    " WHERE c.relnamespace = to_regnamespace(:schema) AND c.relname = ANY(:tables)"
)
INDEXES = text(
    "SELECT x.relname, replace(pg_get_indexdef(x.oid), ' ON ' || :schema || '.', ' ON ')"
    " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid"
    " WHERE c.relnamespace = to_regnamespace(:schema) AND c.relname = ANY(:tables)"
    " AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid)"
)


@contextmanager
def both_made(postgres: Postgres, service: str, models: MetaData) -> Iterator[Connection]:
    """By the migrations in ``public``, as the models say in ``described``."""
    name = f"models_{service}"
    url = postgres.create_database(name)
    migrate(f"services.{service}", url)
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA described"))
        connection.execute(text("SET search_path TO described, public"))
        models.create_all(connection, checkfirst=False)
        connection.execute(text("SET search_path TO public"))
        yield connection
    engine.dispose()
    postgres.drop_database(name)


def look(connection: Connection, question: TextClause, models: MetaData, schema: str) -> set[Seen]:
    asked = {"schema": schema, "tables": list(models.tables)}
    return {tuple(row) for row in connection.execute(question, asked)}


def differences(connection: Connection, models: MetaData) -> set[Seen]:
    """What only one of the two has."""
    made = look(connection, COLUMNS, models, "public")
    described = look(connection, COLUMNS, models, "described")
    named = {column[:2] for column in described}
    found = {column for column in made if column[-1] is None or column[:2] in named} ^ described
    if any(table.indexes for table in models.tables.values()):
        found |= look(connection, INDEXES, models, "public") ^ look(
            connection, INDEXES, models, "described"
        )
    return found


@pytest.mark.parametrize("service", DATABASES)
def test_the_migrations_make_what_the_models_describe(postgres: Postgres, service: str) -> None:
    models: MetaData = import_module(f"services.{service}.models").Base.metadata
    with both_made(postgres, service, models) as connection:
        assert differences(connection, models) == set()
