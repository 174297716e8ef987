"""Rows that are kept for a time only are found by their age."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    create_index_beside_traffic(op, "inbox_handled", "inbox (handled_at)")
