"""A reservation knows the settings under which it was made, so that changed ones stop it."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE topups ADD COLUMN settings_version integer")
