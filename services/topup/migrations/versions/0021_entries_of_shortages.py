"""Whether money came before or after a wallet refused is told by its entries, and by no clock."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.execute("ALTER TABLE shortages ADD entry_count bigint, ADD credited_entry bigint")
