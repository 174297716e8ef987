"""What users want to stand on their receipts."""

from alembic import op
from sqlalchemy import Column, DateTime, ForeignKey, Text, Uuid

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "billing_details",
        Column("user_id", Uuid, ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True),
        Column("name", Text, nullable=False),
        Column("address", Text, nullable=False),
        Column("country", Text, nullable=False),
        Column("tax_id", Text, nullable=False),
        Column("updated_at", DateTime(timezone=True), nullable=False),
    )
