"""What somebody's staking takes off what they buy, and what it took off a line."""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, Uuid

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "discounts",
        Column("user_id", Uuid, primary_key=True),
        Column(
            "discount_bps",
            Integer,
            CheckConstraint("discount_bps BETWEEN 0 AND 5000"),
            nullable=False,
        ),
        Column("position", BigInteger, nullable=False),
    )
    op.execute("ALTER TABLE purchase_lines ADD unit_discount_micros bigint NOT NULL DEFAULT 0")
