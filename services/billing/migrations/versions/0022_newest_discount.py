"""When what a stake takes off was told: the last of several at the same position holds."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.execute("ALTER TABLE discounts ADD told_at timestamptz")
