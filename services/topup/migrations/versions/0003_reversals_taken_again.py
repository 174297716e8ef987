"""A dispute that was won and is lost after all takes the credit back a second time."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    "ALTER TABLE reversals ADD COLUMN source_id text, ADD COLUMN asked_at timestamptz",
    "UPDATE reversals SET source_id = reversal_id, asked_at = taken_at",
    """
    ALTER TABLE reversals
    ALTER COLUMN source_id SET NOT NULL, ALTER COLUMN asked_at SET NOT NULL
    """,
    "CREATE INDEX reversals_of_source ON reversals (source_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
