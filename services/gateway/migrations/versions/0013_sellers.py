"""What sellers have agreed to: which terms, which fee, when and from where."""

from alembic import op
from sqlalchemy import Column, DateTime, ForeignKey, Integer, Text, Uuid

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "seller_agreements",
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True),
        Column("terms_version", Text, nullable=False),
        Column("fee_bps", Integer, nullable=False),
        Column("agreed_at", DateTime(timezone=True), nullable=False),
        Column("address", Text, nullable=False),
    )
