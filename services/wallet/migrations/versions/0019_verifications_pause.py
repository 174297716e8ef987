"""A verification that failed is not begun again at once."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE verifications ADD failures integer NOT NULL DEFAULT 0, ADD due_at timestamptz"
    )
