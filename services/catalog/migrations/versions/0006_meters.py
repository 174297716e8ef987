"""What is charged by how much was used of a product, with its history."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE products ADD meters jsonb NOT NULL DEFAULT '[]'")
    op.execute("ALTER TABLE product_prices ADD meters jsonb NOT NULL DEFAULT '[]'")
