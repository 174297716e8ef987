"""Webhooks to users' own addresses, and what waits to be sent there."""

from alembic import op
from sqlalchemy import Column, DateTime, ForeignKey, Integer, Text, Uuid
from sqlalchemy import text as sql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    moment = DateTime(timezone=True)
    op.create_table(
        "hooks",
        Column("hook_id", Uuid, primary_key=True),
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), nullable=False),
        Column("url", Text, nullable=False),
        Column("secret_number", Integer, nullable=False),
        Column("secret_since", moment, nullable=False),
        Column("created_at", moment, nullable=False),
    )
    op.create_index("hooks_by_user", "hooks", ["user_id"])
    op.create_table(
        "hook_deliveries",
        Column("delivery_id", Uuid, primary_key=True),
        Column("hook_id", Uuid, ForeignKey("hooks.hook_id", ondelete="CASCADE"), nullable=False),
        Column("event_id", Uuid, nullable=False),
        Column("type", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("created_at", moment, nullable=False),
        Column("queued_at", moment, nullable=False),
        Column("due_at", moment),
        Column("attempts", Integer, nullable=False),
        Column("ended_at", moment),
        Column("outcome", Text, nullable=False),
        Column("answer", Text, nullable=False),
    )
    op.create_index("hook_deliveries_by_hook", "hook_deliveries", ["hook_id", "delivery_id"])
    due = sql("due_at IS NOT NULL")
    op.create_index("hook_deliveries_due", "hook_deliveries", ["due_at"], postgresql_where=due)
    ended = sql("ended_at IS NOT NULL")
    op.create_index(
        "hook_deliveries_ended", "hook_deliveries", ["ended_at"], postgresql_where=ended
    )
