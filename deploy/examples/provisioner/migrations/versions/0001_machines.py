"""Machines."""

from alembic import op

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables(op)
    op.execute("CREATE INDEX inbox_handled ON inbox (handled_at)")
    op.execute(
        """
        CREATE TABLE machines (
            deployment_id uuid PRIMARY KEY,
            user_id uuid NOT NULL,
            product_id uuid,
            name text NOT NULL,
            choices jsonb NOT NULL DEFAULT '{}',
            wanted text NOT NULL CHECK (wanted IN ('running', 'stopped', 'gone')),
            wanted_since timestamptz NOT NULL,
            state text NOT NULL CHECK (state IN ('none', 'running', 'stopped', 'gone')),
            slot integer UNIQUE,
            is_reported boolean NOT NULL DEFAULT false,
            heard integer NOT NULL DEFAULT 1,
            due_at timestamptz
        )
        """
    )
    op.execute("CREATE INDEX machines_due ON machines (due_at) WHERE due_at IS NOT NULL")
