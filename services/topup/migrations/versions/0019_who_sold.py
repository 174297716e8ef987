"""A top-up keeps who sold it: its receipt says so for good."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.execute("ALTER TABLE topups ADD COLUMN seller jsonb")
