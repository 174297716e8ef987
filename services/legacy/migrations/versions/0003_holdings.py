"""What people bring into the pools, of each document and each person who is moved."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for table in ("lines", "moves"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN holdings jsonb NOT NULL DEFAULT '[]'")
