"""What a product asks of its buyer."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE products ADD fields jsonb NOT NULL DEFAULT '[]'")
