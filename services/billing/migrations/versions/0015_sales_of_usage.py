"""Every sale is of a kind that is known, old ones too."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("ALTER TABLE sales VALIDATE CONSTRAINT sales_kind_check")
