"""Every period is of a kind that is known."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("ALTER TABLE periods VALIDATE CONSTRAINT periods_kind_check")
