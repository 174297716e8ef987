"""What users sent to others: reserved against a daily limit, and known again by its key."""

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, Text, Uuid

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "transfers",
        Column("key", Text, primary_key=True),
        Column("user_id", Uuid, nullable=False),
        Column("to_user_id", Uuid, nullable=False),
        Column("asked_sha256", LargeBinary, nullable=False),
        Column("amount_micros", BigInteger, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("transaction_id", Uuid),
    )
    op.create_index("transfers_by_user", "transfers", ["user_id", "created_at"])
    op.create_index("transfers_made", "transfers", ["created_at"])
