"""Rows that are kept for a time only are found by their age."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    create_index_beside_traffic(op, "inbox_handled", "inbox (handled_at)")
    create_index_beside_traffic(op, "user_sessions_expired", "user_sessions (expires_at)")
    create_index_beside_traffic(
        op, "api_tokens_revoked", "api_tokens (revoked_at) WHERE revoked_at IS NOT NULL"
    )
    create_index_beside_traffic(
        op, "notifications_read", "notifications (read_at) WHERE read_at IS NOT NULL"
    )
    create_index_beside_traffic(op, "notifications_told", "notifications (created_at)")
