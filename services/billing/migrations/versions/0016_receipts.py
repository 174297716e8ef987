"""Receipts that were issued, numbered one after the other in each year."""

from alembic import op
from sqlalchemy import CheckConstraint, Column, DateTime, Integer, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "receipts",
        Column("transaction_id", Uuid, primary_key=True),
        Column("user_id", Uuid, nullable=False),
        Column("year", Integer, nullable=False),
        Column("sequence", Integer, CheckConstraint("sequence > 0"), nullable=False),
        Column("issued_at", DateTime(timezone=True), nullable=False),
        Column("content", JSONB, nullable=False),
        UniqueConstraint("year", "sequence", name="one_receipt_per_number"),
    )
