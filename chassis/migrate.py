"""Bring a service's database to its newest tables: ``python -m chassis.migrate services.wallet``.

Safe to run twice and at the same time: an advisory lock lets one through after the other.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from alembic import command, context
from alembic.config import Config
from sqlalchemy import create_engine, text

from chassis.settings import service_settings


def migrate(package: str, database_url: str, revision: str = "head") -> None:
    """Upgrade the database of ``package`` (such as ``services.wallet``) to a revision."""
    module = importlib.import_module(package)
    if module.__file__ is None:
        raise ValueError(f"{package} is not a package of a service")
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_advisory_lock(hashtextextended('chassis.migrate', 0))")
            )
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def run_env() -> None:
    """The whole of a service's ``migrations/env.py``."""
    context.configure(
        connection=context.config.attributes["connection"], transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


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
    migrate(sys.argv[1], service_settings().database_url)


if __name__ == "__main__":
    main()
