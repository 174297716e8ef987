"""Users, their browser sessions and API tokens, their notifications."""

import sqlalchemy as sa
from alembic import op

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "users",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False, unique=True),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("wallet_opened_at", moment),
    )
    op.create_table(
        "user_sessions",
        sa.Column("session_id", sa.Uuid(), primary_key=True),
        sa.Column(
            "user_id",
            sa.Uuid(),
            sa.ForeignKey("users.user_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False, unique=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("last_seen_at", moment, nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.Column("revoked_at", moment),
        sa.Column("address", sa.Text(), nullable=False, server_default=""),
        sa.Column("user_agent", sa.Text(), nullable=False, server_default=""),
    )
    op.create_index("user_sessions_by_user", "user_sessions", ["user_id"])
    op.create_table(
        "api_tokens",
        sa.Column("token_id", sa.Uuid(), primary_key=True),
        sa.Column(
            "user_id",
            sa.Uuid(),
            sa.ForeignKey("users.user_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False, unique=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("last_used_at", moment, nullable=False),
        sa.Column("revoked_at", moment),
    )
    op.create_index("api_tokens_by_user", "api_tokens", ["user_id"])
    op.create_table(
        "notifications",
        sa.Column("notification_id", sa.Uuid(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("link", sa.Text(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("read_at", moment),
        sa.UniqueConstraint("event_id", "kind", name="notifications_once"),
    )
    op.create_index("notifications_newest", "notifications", ["user_id", "notification_id"])
    op.create_index(
        "notifications_unread",
        "notifications",
        ["user_id", "notification_id"],
        postgresql_where=sa.text("read_at IS NULL"),
    )
    create_messaging_tables(op)
