"""What was said of each subject, who was active when, and what that comes to."""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None

GRAINS = "grain IN ('hour', 'day', 'week')"


def upgrade() -> None:
    create_messaging_tables(op)
    op.create_index("inbox_handled", "inbox", ["handled_at"])
    op.create_table(
        "facts",
        Column("subject_id", Uuid, primary_key=True),
        Column("kind", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False),
        Column("data", JSONB, nullable=False),
    )
    op.create_table(
        "activity",
        Column("grain", Text, CheckConstraint(GRAINS), primary_key=True),
        Column("starts_at", DateTime(timezone=True), primary_key=True),
        Column("user_id", Uuid, primary_key=True),
    )
    op.create_table(
        "counts",
        Column("grain", Text, CheckConstraint(GRAINS), primary_key=True),
        Column("figure", Text, primary_key=True),
        Column("starts_at", DateTime(timezone=True), primary_key=True),
        Column("detail", Text, primary_key=True),
        Column("value", BigInteger, nullable=False),
    )
