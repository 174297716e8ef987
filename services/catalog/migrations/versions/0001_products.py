"""Products and reservations of their stock."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Integer,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables(op)
    op.create_table(
        "products",
        Column("product_id", Uuid, primary_key=True),
        Column("slug", Text, nullable=False, unique=True),
        Column("name", Text, nullable=False),
        Column("category", Text, nullable=False),
        Column("summary", Text, nullable=False),
        Column("description", Text, nullable=False),
        Column("provider_name", Text, nullable=False),
        Column("provider_id", Uuid),
        Column("location", Text),
        Column("price_micros", BigInteger, CheckConstraint("price_micros >= 0"), nullable=False),
        Column("billing_period", Text, nullable=False),
        Column("specification", JSONB, nullable=False),
        Column("stock", Integer, CheckConstraint("stock >= 0", name="stock_never_negative")),
        Column("featured_rank", Integer, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column(
            "searchable",
            Text,
            Computed("lower(name || ' ' || summary || ' ' || provider_name)", persisted=True),
        ),
        CheckConstraint(
            "category IN ('compute', '3nodes', 'gateways', 'applications', 'services')"
        ),
        CheckConstraint("billing_period IN ('month', 'once')"),
    )
    # One index for each order that a list can be paged in: the id makes every key unique.
    op.create_index("products_by_rank", "products", ["featured_rank", "product_id"])
    op.execute("CREATE INDEX products_by_name ON products (lower(name), product_id)")
    op.create_index("products_by_price", "products", ["price_micros", "product_id"])
    op.create_index("products_by_age", "products", ["created_at", "product_id"])
    op.create_table(
        "reservations",
        Column("reservation_id", Uuid, primary_key=True),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("released_at", DateTime(timezone=True)),
    )
    op.create_table(
        "reservation_lines",
        Column("reservation_id", Uuid, ForeignKey("reservations.reservation_id"), primary_key=True),
        Column("product_id", Uuid, ForeignKey("products.product_id"), primary_key=True),
        Column("quantity", Integer, CheckConstraint("quantity > 0"), nullable=False),
        Column("was_counted", Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("reservation_lines")
    op.drop_table("reservations")
    op.drop_table("products")
