"""Carts, and what became of their checkouts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "carts",
        sa.Column("cart_id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.user_id", ondelete="CASCADE"),
                  unique=True),
        sa.Column("secret_sha256", sa.LargeBinary, unique=True),
        sa.Column("added_keys", ARRAY(sa.Text), nullable=False),
        sa.Column("changed_at", moment, nullable=False),
        sa.CheckConstraint("(user_id IS NULL) <> (secret_sha256 IS NULL)", name="carts_owner"),
    )  # fmt: skip
    op.create_index(
        "carts_of_visitors", "carts", ["changed_at"], postgresql_where=sa.text("user_id IS NULL")
    )
    op.create_table(
        "cart_lines",
        sa.Column("line_id", sa.Uuid, primary_key=True),
        sa.Column("cart_id", sa.Uuid, sa.ForeignKey("carts.cart_id", ondelete="CASCADE"),
                  nullable=False),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("product_name", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("choices", JSONB, nullable=False),
        sa.Column("seen_price_micros", sa.BigInteger, nullable=False),
        sa.CheckConstraint("quantity BETWEEN 1 AND 100", name="cart_lines_quantity"),
    )  # fmt: skip
    op.create_index("cart_lines_by_cart", "cart_lines", ["cart_id", "line_id"])
    op.create_table(
        "cart_checkouts",
        sa.Column("user_id", sa.Uuid, sa.ForeignKey("users.user_id", ondelete="CASCADE"),
                  primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("checkout_id", sa.Uuid, nullable=False),
        sa.Column("lines", JSONB, nullable=False),
        sa.Column("begun_at", moment, nullable=False),
        sa.Column("tried_at", moment, nullable=False),
        sa.Column("purchase_id", sa.Uuid),
        sa.Column("ended_at", moment),
    )  # fmt: skip
    op.create_index(
        "cart_checkouts_under_way",
        "cart_checkouts",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "cart_checkouts_ended",
        "cart_checkouts",
        ["ended_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
