"""What a buyer calls what is bought."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("ALTER TABLE purchase_lines ADD name text NOT NULL DEFAULT ''")
