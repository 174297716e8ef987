"""How many answers came in time: a few rows for every five minutes."""

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, Text

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "response_times",
        Column("starts_at", DateTime(timezone=True), primary_key=True),
        Column("kind", Text, primary_key=True),
        Column("answered", BigInteger, nullable=False),
        Column("in_time", BigInteger, nullable=False),
        Column("slow", BigInteger, nullable=False),
    )
