"""No migration holds a table that grows while it reads or writes all of it.

Each migration is carried out on a real database, and what it did is read from the catalogue:
a table that has new storage was rewritten, a constraint that is new and valid was checked on each
row, and so on; all of it under a lock that lets nobody else at the table.

Nor does one take away what the version before reads, which still runs then, ask for what that one
does not write, or forbid what it may write. ``HOLDS_TABLES`` and ``VERSION_BEFORE`` in the head of
a migration say why it is right nevertheless.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from chassis.migrate import migrate
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from deploy.parts import DATABASES

# Where the rule begins: these were there before it.
BEFORE_THE_RULE = {
    "wallet": "0008",
    "catalog": "0003",
    "billing": "0004",
    "legacy": "0000",
    "analytics": "0000",
    "topup": "0010",
    "gateway": "0004",
}
ALEMBICS = {"alembic_version"}
# Tables with a few rows, however long the product runs. All others grow.
SMALL = {
    "alembic_version",
    "operator_switch",
    "comparisons",
    "credit_audit",
}
BESIDE_TRAFFIC = re.compile(r"CONCURRENTLY|create_index_beside_traffic\(")
# What a function does is done by who calls it, some day.
FUNCTION_BODY = re.compile(r"\bAS \$\$.*?\$\$", re.DOTALL)
CHANGED = re.compile(r"\b(UPDATE|DELETE\s+FROM)\s+(?:ONLY\s+)?(?:public\.)?(\w+)", re.IGNORECASE)
# What is filled from other tables: the statement, and each that it reads.
FILLING = re.compile(r"\bINSERT\s+INTO\s[^;\"]*", re.IGNORECASE)
READ = re.compile(r"\b(?:FROM|JOIN)\s+(?:ONLY\s+)?(?:public\.)?(\w+)", re.IGNORECASE)
A_TRIGGERS = "suppress_redundant_updates_trigger"
SEAM = re.compile(r'"\s*\n\s*f?"')


@dataclass(frozen=True)
class Tables:
    """What the catalogue says of the tables that grow."""

    columns: set[tuple[str, str]]
    """Of the small ones too, as are those that each new row has to name."""

    required: set[tuple[str, str]]
    storage: dict[str, int]
    indexes: dict[int, tuple[str, str]]
    """The table and the index's own name, by its identifier."""

    constraints: dict[int, tuple[str, str, str, bool]]
    """The table, the constraint's own name, the column of a NOT NULL, whether it is valid."""

    rules: dict[int, tuple[str, str, list[str]]]
    """Checks, unique indexes and triggers, of small tables too: the table, the rule's own name, the
    columns that it looks at."""


def look(connection: Connection) -> Tables:
    """See the tables as they are now."""

    def rows(query: str, small: set[str] = SMALL) -> Iterator[tuple[Any, ...]]:
        ours = "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
        for row in connection.execute(text(f"{query} {ours}")):
            if row[0] not in small:
                yield tuple(row)

    rules = (
        "SELECT c.relname, r.oid, r.name, ARRAY(SELECT a.attname FROM pg_attribute a"
        " WHERE a.attrelid = c.oid AND a.attnum > 0 AND (a.attnum = ANY (r.keys) OR r.is_of_all))"
        " FROM pg_class c JOIN ("
        " SELECT conrelid AS at, oid, conname AS name, conkey AS keys, conkey IS NULL AS is_of_all"
        " FROM pg_constraint WHERE contype IN ('c', 'f', 'x')"
        " UNION ALL SELECT indrelid, indexrelid, indexrelid::regclass::text,"
        " indkey::int2[], 0 = ANY (indkey::int2[]) FROM pg_index WHERE indisunique"
        " UNION ALL SELECT tgrelid, oid, tgname, '{}', true FROM pg_trigger WHERE NOT tgisinternal"
        ") AS r ON r.at = c.oid"
    )
    every_column = (
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a"
        " ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    )
    unfilled = " AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''"
    return Tables(
        rules={oid: (t, name, columns) for t, oid, name, columns in rows(rules, ALEMBICS)},
        columns=set(rows(every_column, ALEMBICS)),
        required=set(rows(every_column + unfilled, ALEMBICS)),
        storage=dict(rows("SELECT c.relname, c.relfilenode FROM pg_class c")),
        indexes={
            oid: (table, name)
            for table, oid, name in rows(
                "SELECT c.relname, i.indexrelid, i.indexrelid::regclass::text FROM pg_class c"
                " JOIN pg_index i ON i.indrelid = c.oid"
            )
        },
        constraints={
            oid: (table, name, column, is_valid)
            for table, oid, name, column, is_valid in rows(
                "SELECT c.relname, k.oid, k.conname, CASE k.contype WHEN 'n' THEN a.attname"
                " ELSE '' END, k.convalidated FROM pg_class c JOIN pg_constraint k"
                " ON k.conrelid = c.oid AND k.contype IN ('c', 'f', 'n') LEFT JOIN pg_attribute a"
                " ON a.attrelid = c.oid AND a.attnum = k.conkey[1]"
            )
        },
    )


def what_holds(before: Tables, after: Tables, source: str) -> Iterator[str]:
    """What a migration with this source did to all rows of tables that were there before it."""
    for table, storage in before.storage.items():
        if after.storage.get(table, storage) != storage:
            yield f"rewrites {table}"
    for oid in after.indexes.keys() - before.indexes.keys():
        table, name = after.indexes[oid]
        if table in before.storage and not BESIDE_TRAFFIC.search(source):
            yield f"builds {name} while it holds {table}: make it CONCURRENTLY"
    for oid in after.constraints.keys() - before.constraints.keys():
        table, name, column, is_valid = after.constraints[oid]
        was_there = (table, column) in before.columns if column else table in before.storage
        if was_there and is_valid:
            yield f"checks each row of {table} for {name}: NOT VALID, and validate it in the next"
    yield from what_goes_through(before, source)


def what_goes_through(before: Tables, source: str) -> Iterator[str]:
    """Statements whose rows stay locked, or whose snapshot stays, until all of them are done."""
    at_once = SEAM.sub("", FUNCTION_BODY.sub("", source))
    for verb, table in set(CHANGED.findall(at_once)):
        if table in before.storage:
            yield f"{verb.split()[0].lower()}s {table} as a whole"
    for table in {each for filling in FILLING.findall(at_once) for each in READ.findall(filling)}:
        if table in before.storage:
            yield f"fills a table from all of {table}"


def what_is_missed(before: Tables, after: Tables) -> Iterator[str]:
    """What the version before reads and does not find, does not write and has to, or writes and
    must not any more."""
    for table, column in sorted(before.columns - after.columns):
        yield f"takes {table}.{column} away: the version before reads it; take it away in the next"
    there = {table for table, _ in before.columns}
    for table, column in sorted(after.required - before.required):
        if table in there:
            yield f"asks for {table}.{column}, which the version before does not write"
    for oid in sorted(after.rules.keys() - before.rules.keys()):
        table, name, columns = after.rules[oid]
        # What has new columns alone, it leaves empty.
        if table in there and {(table, column) for column in columns} & before.columns:
            yield f"has {name} for {table}, which what the version before writes may break"


def revisions(service: str) -> list[Path]:
    return sorted((ROOT / "services" / service / "migrations" / "versions").glob("[0-9]*.py"))


def findings(postgres: Postgres, service: str) -> dict[str, dict[str, list[str]]]:
    """For every migration of a service what it does under a lock, and to the version before: each
    under the name of what explains it in its head."""
    name = f"tidy_{service}"
    url = postgres.create_database(name)
    engine = create_engine(url)
    found = {}
    with engine.connect() as connection:
        before = look(connection)
        for path in revisions(service):
            connection.rollback()
            migrate(f"services.{service}", url, path.name[:4])
            after = look(connection)
            found[path.name[:4]] = {
                "HOLDS_TABLES": sorted(what_holds(before, after, path.read_text())),
                "VERSION_BEFORE": list(what_is_missed(before, after)),
            }
            before = after
    engine.dispose()
    postgres.drop_database(name)
    return found


def says_why(path: Path, name: str) -> bool:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return bool(getattr(module, name, ""))


@pytest.mark.parametrize("service", DATABASES)
def test_a_migration_holds_no_table_that_grows_or_says_why(
    postgres: Postgres, service: str
) -> None:
    found = findings(postgres, service)
    unexplained = {
        (path.name, name): lines
        for path in revisions(service)
        for name, lines in found[path.name[:4]].items()
        if path.name[:4] > BEFORE_THE_RULE[service] and lines and not says_why(path, name)
    }

    assert unexplained == {}


# They make columns and fill them: whoever is stopped in between has to go on by hand.
MADE_AND_FILLED = {("billing", "0005"), ("billing", "0007")}


@pytest.mark.parametrize("service", DATABASES)
def test_a_migration_that_goes_on_in_batches_does_nothing_else(service: str) -> None:
    """It may wait too long for a row, or be stopped, and is begun again: what it had done by then
    is committed, and a column cannot be added twice."""
    begun_again = [
        path.name
        for path in revisions(service)
        if (service, path.name[:4]) not in MADE_AND_FILLED
        and "autocommit_block" in path.read_text()
        and not does_batches_alone(path.read_text())
    ]

    assert begun_again == []


def does_batches_alone(source: str) -> bool:
    [upgrade] = [
        each
        for each in ast.parse(source).body
        if isinstance(each, ast.FunctionDef) and each.name == "upgrade"
    ]
    return len(upgrade.body) == 1 and isinstance(upgrade.body[0], ast.With)


def test_the_rule_sees_what_held_the_keys_for_ten_seconds(postgres: Postgres) -> None:
    found = findings(postgres, "wallet")["0005"]["HOLDS_TABLES"]

    assert "rewrites keys" in found
    assert any(line.startswith("checks each row of keys") for line in found)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("ALTER TABLE t DROP COLUMN n", "takes t.n away"),
        ("ALTER TABLE t RENAME COLUMN n TO m", "takes t.n away"),
        ("ALTER TABLE products DROP COLUMN n", "takes products.n away"),
        ("DROP TABLE t", "takes t.n away"),
        ("ALTER TABLE t ADD COLUMN k integer NOT NULL", "asks for t.k"),
        ("ALTER TABLE t ALTER COLUMN n SET NOT NULL", "asks for t.n"),
        ("ALTER TABLE t ADD COLUMN k integer NOT NULL DEFAULT 0", ""),
        ("ALTER TABLE t ADD COLUMN k integer", ""),
        ("CREATE TABLE u (n integer NOT NULL)", ""),
        ("ALTER TABLE t ADD CONSTRAINT p CHECK (n > 0) NOT VALID", "has p for t"),
        ("ALTER TABLE products ADD CONSTRAINT p UNIQUE (n)", "has p for products"),
        ("CREATE UNIQUE INDEX i ON t ((n + 1))", "has i for t"),
        (f"CREATE TRIGGER r BEFORE UPDATE ON t EXECUTE FUNCTION {A_TRIGGERS}()", "has r for t"),
        ("ALTER TABLE t ADD k integer CHECK (k > 0) UNIQUE", ""),
        ("CREATE INDEX i ON t (n)", ""),
    ],
)
def test_the_rule_knows_what_the_version_before_misses(
    postgres: Postgres, statement: str, expected: str
) -> None:
    seen = _seen(postgres, statement)

    assert [line.startswith(expected) for line in what_is_missed(*seen)] == [True] * bool(expected)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("ALTER TABLE t ALTER COLUMN n TYPE bigint", "rewrites t"),
        ("ALTER TABLE t ADD COLUMN at timestamptz DEFAULT clock_timestamp()", "rewrites t"),
        ("ALTER TABLE t ADD CHECK (n > 0)", "checks each row of t"),
        ("ALTER TABLE t ALTER COLUMN n SET NOT NULL", "checks each row of t"),
        (
            "ALTER TABLE t ADD CONSTRAINT p CHECK (n > 0) NOT VALID, VALIDATE CONSTRAINT p",
            "checks each row of t for p",
        ),
        ("CREATE INDEX ON t (n)", "builds t_n_idx"),
        ("UPDATE t SET n = 1", "updates t"),
        ("DELETE FROM t WHERE n = 1", "deletes t"),
        (
            "CREATE TABLE u (n integer); INSERT INTO u SELECT n FROM t",
            "fills a table from all of t",
        ),
        ("INSERT INTO t VALUES (1)", ""),
        ("ALTER TABLE products ALTER COLUMN n TYPE bigint", "rewrites products"),
        ("DO $$ BEGIN UPDATE t SET n = 1; END $$", "updates t"),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ UPDATE t SET n = 1 $$", ""),
        ("ALTER TABLE t ADD COLUMN k integer NOT NULL DEFAULT 0", ""),
        ("ALTER TABLE t ADD CHECK (n > 0) NOT VALID", ""),
        ("CREATE TABLE u (n integer NOT NULL CHECK (n > 0)); CREATE INDEX ON u (n)", ""),
    ],
)
def test_the_rule_knows(postgres: Postgres, statement: str, expected: str) -> None:
    found = list(what_holds(*_seen(postgres, statement), statement))

    assert [line for line in found if line.startswith(expected or "nothing")] == found
    assert bool(found) == bool(expected)


def _seen(postgres: Postgres, statement: str) -> tuple[Tables, Tables]:
    """Two tables of a number each, before a statement and after it."""
    engine = create_engine(postgres.create_database("tidy_rule"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (n integer); CREATE TABLE products (n integer)"))
    with engine.begin() as connection:
        before = look(connection)
        connection.execute(text(statement))
        after = look(connection)
    engine.dispose()
    postgres.drop_database("tidy_rule")
    return before, after
