"""How a purchase was ordered, for whoever counts: by Buy Now, or of a cart."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.execute("ALTER TABLE purchases ADD way text")
