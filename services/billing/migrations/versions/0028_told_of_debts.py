"""Who owes for what does not run any more is told, and asked for it: a debt notes that its owner
was told. Debts of before are asked for by 0030."""

from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.execute("ALTER TABLE periods ADD told_at timestamptz")
    op.execute("ALTER TABLE usage_charges ADD told_at timestamptz")
