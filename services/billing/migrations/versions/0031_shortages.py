"""What is told of one user's shortages has an order, whichever clock it was counted by."""

from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.execute("CREATE TABLE shortages (user_id uuid PRIMARY KEY, counted_at timestamptz NOT NULL)")
