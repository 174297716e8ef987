"""Bring a service's database to its newest tables: ``python -m chassis.migrate services.wallet``.

Safe to run twice and at the same time: an advisory lock lets one through after the other. Safe
beside the traffic: a migration that waits for a table keeps everybody else waiting behind it, so
that it gives up after ``LOCK_TIMEOUT_S`` and is tried again later.
"""

import importlib
import sys
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError

from chassis.settings import service_settings

TURN_EVERY_S = 0.2
LOCK_TIMEOUT_S = 0.3
"""So long a migration waits for a lock, and others behind it, before it lets them through."""
LOCK_PATIENCE_S = 600.0
"""A table that nobody lets go of for so long fails the migration."""
RESTS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 20.0)
"""Between two tries: whoever waited gets their turn. The last one is repeated."""
_LOCK_NOT_AVAILABLE = "55P03"
_BOUND_LOCKS = f"SET lock_timeout = '{LOCK_TIMEOUT_S:g}s'"


class DataAreNewer(Exception):
    """A later version of the product has migrated these data. The message says what to do."""


def migrate(
    package: str,
    database_url: str,
    revision: str = "head",
    announce: Callable[[str], None] | None = None,
) -> None:
    """Upgrade the database of ``package`` (such as ``services.wallet``) to a revision.

    ``announce`` is told before tables that hold data are changed. Raises DataAreNewer.
    """
    config = _config(package)
    scripts = ScriptDirectory.from_config(config)
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            _wait_for_turn(connection)
            current = _known_revision(package, scripts, connection)
            connection.commit()
            newest = scripts.get_current_head()
            if announce is not None and current not in (None, newest):
                announce(f"Migrating the data of {package} from {current} to {newest}…")
            config.attributes["connection"] = connection
            _upgrade(connection, lambda: command.upgrade(config, revision))
    finally:
        engine.dispose()


def _upgrade(connection: Connection, upgrade: Callable[[], None]) -> None:
    """Migrate, again and again while somebody holds a table. What is done is committed by then."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    for rest_s in chain(RESTS_S, repeat(RESTS_S[-1])):
        connection.exec_driver_sql(_BOUND_LOCKS)
        connection.commit()
        try:
            upgrade()
            return
        except OperationalError as error:
            connection.rollback()
            is_locked = getattr(error.orig, "pgcode", None) == _LOCK_NOT_AVAILABLE
            if not is_locked or time.monotonic() > deadline:
                raise
        time.sleep(rest_s)


def refuse_newer(package: str, database_url: str) -> None:
    """Change nothing; raises DataAreNewer where ``migrate`` would."""
    scripts = ScriptDirectory.from_config(_config(package))
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            _known_revision(package, scripts, connection)
    finally:
        engine.dispose()


def _known_revision(package: str, scripts: ScriptDirectory, connection: Connection) -> str | None:
    """The revision of the data, None before the first; one of those that this version has."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None or current in {script.revision for script in scripts.walk_revisions()}:
        return current
    raise DataAreNewer(
        f"The data of {package} are newer than this version: they are at revision {current}, it"
        f" knows {scripts.get_current_head()} and older. Nothing was changed. Start the version"
        " that ran on them last, or restore a backup from before the upgrade."
    )


def _config(package: str) -> Config:
    module = importlib.import_module(package)
    if module.__file__ is None:
        raise ValueError(f"{package} is not a package of a service")
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    return config


def _wait_for_turn(connection: Connection) -> None:
    """Hold the advisory lock. Who waits inside PostgreSQL would keep an index from being built
    beside the traffic (``CONCURRENTLY``), which waits for all statements that began before it."""
    lock = text("SELECT pg_try_advisory_lock(hashtextextended('chassis.migrate', 0))")
    while True:
        is_ours = connection.scalar(lock)
        connection.commit()
        if is_ours:
            return
        time.sleep(TURN_EVERY_S)


def run_env() -> None:
    """The whole of a service's ``migrations/env.py``."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        transaction_per_migration=True,
        # One that built an index has left its locks without a bound.
        on_version_apply=lambda **_: connection.exec_driver_sql(_BOUND_LOCKS),
    )
    with context.begin_transaction():
        context.run_migrations()


def create_index_beside_traffic(op: Any, name: str, on: str, *, unique: bool = False) -> None:
    """Build an index on a table that may be large, while others write to it.

    ``on`` is what follows ON. What was interrupted half-way leaves an index that is not valid:
    it is built anew. It keeps nobody waiting while it waits for others, and so waits for as long
    as they take; the rest of the migration, which cannot be tried again, does too.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        kind = "UNIQUE INDEX" if unique else "INDEX"
        op.execute(f"CREATE {kind} CONCURRENTLY {name} ON {on}")


def create_messaging_tables(op: Any) -> None:
    """The outbox and the inbox, for a service's first migration."""
    op.execute(
        """
        CREATE TABLE outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            event_id uuid NOT NULL UNIQUE,
            source text NOT NULL,
            type text NOT NULL,
            needs_listener boolean NOT NULL,
            payload jsonb NOT NULL,
            headers jsonb NOT NULL,
            attempts integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT now(),
            next_attempt_at timestamptz NOT NULL DEFAULT now(),
            published_at timestamptz
        )
        """
    )
    op.execute("CREATE INDEX outbox_unsent ON outbox (id) WHERE published_at IS NULL")
    op.execute("CREATE INDEX outbox_sent ON outbox (published_at) WHERE published_at IS NOT NULL")
    op.execute(
        """
        CREATE TABLE inbox (
            event_id uuid NOT NULL,
            handler text NOT NULL,
            handled_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (event_id, handler)
        )
        """
    )


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m chassis.migrate services.<name>")
    try:
        migrate(sys.argv[1], service_settings().database_url, announce=print)
    except DataAreNewer as error:
        print(error, file=sys.stderr)
        # EX_CONFIG of sysexits.h, as for settings: trying again does not help.
        raise SystemExit(78) from None


if __name__ == "__main__":
    main()
