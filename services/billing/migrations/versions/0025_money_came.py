"""Money that came for what lacks it is noted: where that is still not covered, its owner is told
again."""

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.execute("ALTER TABLE periods ADD money_came_at timestamptz")
    op.execute("ALTER TABLE usage_charges ADD money_came_at timestamptz")
