"""When each user is looked at next for a warning, and of what they were warned last."""

from alembic import op
from sqlalchemy import CheckConstraint, Column, DateTime, Integer, Uuid

revision = "0011"
down_revision = "0010"

HOLDS_TABLES = "Deployments are read once, and none is locked; the table that is filled is new."


def upgrade() -> None:
    op.create_table(
        "runways",
        Column("user_id", Uuid, primary_key=True),
        Column("due_at", DateTime(timezone=True)),
        Column("warned_days", Integer),
        CheckConstraint("warned_days IN (1, 3, 7)"),
    )
    op.execute("CREATE INDEX runways_due ON runways (due_at) WHERE due_at IS NOT NULL")
    # Whoever has something running: not all at the same moment.
    op.execute(
        "INSERT INTO runways (user_id, due_at)"
        " SELECT user_id, now() + random() * interval '1 hour' FROM (SELECT DISTINCT user_id"
        " FROM deployments WHERE status IN ('requested', 'active')) AS found"
    )


def downgrade() -> None:
    op.drop_table("runways")
