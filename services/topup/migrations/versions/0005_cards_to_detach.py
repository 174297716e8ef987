"""A removed card is leased to whoever tells the processor to forget it."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE cards ADD COLUMN detach_at timestamptz")
