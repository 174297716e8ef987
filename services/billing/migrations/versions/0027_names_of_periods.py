"""A period keeps the name that stands in a statement: each try says the same, though its deployment
is renamed between two."""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.execute("ALTER TABLE periods ADD name text")
