"""Mails to users, the links in them, and what each user wants to hear of."""

from alembic import op
from sqlalchemy import Boolean, Column, DateTime, ForeignKey, Integer, Text, Uuid, text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    moment = DateTime(timezone=True)
    op.add_column("users", Column("email_confirmed_at", moment))
    op.add_column("users", Column("deleted_at", moment))
    op.create_table(
        "notification_choices",
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("on_page", Boolean, nullable=False),
        Column("by_mail", Boolean, nullable=False),
    )
    op.create_table(
        "mail_links",
        Column("link_id", Uuid, primary_key=True),
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), nullable=False),
        Column("purpose", Text, nullable=False),
        Column("email", Text, nullable=False),
        Column("created_at", moment, nullable=False),
        Column("expires_at", moment, nullable=False),
        Column("used_at", moment),
    )
    op.create_index("mail_links_by_user", "mail_links", ["user_id"])
    op.create_index("mail_links_expired", "mail_links", ["expires_at"])
    op.create_table(
        "mails",
        Column("mail_id", Uuid, primary_key=True),
        Column("user_id", Uuid, nullable=False),
        Column("kind", Text, nullable=False),
        Column("address", Text, nullable=False),
        Column("title", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("link", Text, nullable=False),
        Column("link_id", Uuid),
        Column("created_at", moment, nullable=False),
        Column("good_until", moment, nullable=False),
        Column("due_at", moment),
        Column("attempts", Integer, nullable=False),
        Column("ended_at", moment),
        Column("outcome", Text, nullable=False),
        Column("error", Text, nullable=False),
    )
    op.create_index("mails_due", "mails", ["due_at"], postgresql_where=text("due_at IS NOT NULL"))
    op.create_index(
        "mails_ended", "mails", ["ended_at"], postgresql_where=text("ended_at IS NOT NULL")
    )
    op.create_index("mails_by_user", "mails", ["user_id", "mail_id"])
