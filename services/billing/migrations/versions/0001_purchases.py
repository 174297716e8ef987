"""Purchases, their lines, what they deployed, and stock to put back."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
)

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None


def _moment(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _count(name: str, kind: type[Integer] = Integer) -> Column[int]:
    return Column(name, kind, CheckConstraint(f"{name} >= 0"), nullable=False)


def upgrade() -> None:
    create_messaging_tables(op)
    _create_purchases()
    _create_deployments()
    op.create_table(
        "stock_releases",
        Column("reservation_id", Uuid, primary_key=True),
        _moment("requested_at", nullable=False),
    )


def _create_purchases() -> None:
    op.create_table(
        "purchases",
        Column("purchase_id", Uuid, primary_key=True),
        Column("user_id", Uuid, nullable=False),
        _text("idempotency_key"),
        _text("body_hash"),
        _text("status"),
        _text("status_code"),
        _text("status_reason"),
        _moment("explained_at"),
        _count("total_micros", BigInteger),
        _count("shortfall_micros", BigInteger),
        Column("transaction_id", Uuid),
        Column("reservation_id", Uuid, nullable=False),
        _moment("stock_held_until"),
        Column("closing_status", Text),
        _text("closing_code"),
        _text("closing_reason"),
        _count("attempts"),
        _moment("due_at"),
        _moment("try_owed_since"),
        Column("claim_id", Uuid),
        _moment("claimed_until"),
        _moment("created_at", nullable=False),
        _moment("updated_at", nullable=False),
        _moment("expires_at", nullable=False),
        _moment("ended_at"),
        UniqueConstraint("user_id", "idempotency_key", name="one_purchase_per_key"),
        CheckConstraint(
            "status IN ('pending', 'awaiting_funds', 'completed', 'cancelled', 'expired', 'failed')"
        ),
        CheckConstraint("closing_status IN ('cancelled', 'expired', 'failed')"),
        CheckConstraint(
            "status <> 'completed' OR total_micros = 0 OR transaction_id IS NOT NULL",
            name="completed_means_paid",
        ),
        # An unfinished purchase that nobody would ever take up again cannot be stored.
        CheckConstraint(
            "(due_at IS NOT NULL) = (status IN ('pending', 'awaiting_funds'))",
            name="unfinished_means_due",
        ),
    )
    op.create_index("purchases_of_user", "purchases", ["user_id", "purchase_id"])
    op.execute(
        "CREATE INDEX purchases_waiting ON purchases (user_id)"
        " WHERE status IN ('pending', 'awaiting_funds')"
    )
    op.execute(
        "CREATE INDEX purchases_due ON purchases (due_at, purchase_id)"
        " WHERE status IN ('pending', 'awaiting_funds')"
    )
    op.create_table(
        "purchase_lines",
        Column("purchase_id", Uuid, ForeignKey("purchases.purchase_id"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("product_id", Uuid, nullable=False),
        _text("product_name"),
        Column("provider_id", Uuid),
        _text("category"),
        _text("billing_period"),
        Column("quantity", Integer, CheckConstraint("quantity > 0"), nullable=False),
        _count("unit_price_micros", BigInteger),
        _count("amount_micros", BigInteger),
        CheckConstraint("amount_micros = unit_price_micros * quantity"),
    )


def _create_deployments() -> None:
    op.create_table(
        "deployments",
        Column("deployment_id", Uuid, primary_key=True),
        Column("purchase_id", Uuid, ForeignKey("purchases.purchase_id"), nullable=False),
        Column("line_position", Integer, nullable=False),
        Column("unit_number", Integer, nullable=False),
        Column("user_id", Uuid, nullable=False),
        Column("product_id", Uuid, nullable=False),
        _text("name"),
        _text("category"),
        _text("billing_period"),
        _count("monthly_cost_micros", BigInteger),
        _text("status"),
        _text("status_reason"),
        _moment("created_at", nullable=False),
        _moment("status_changed_at", nullable=False),
        _moment("active_at"),
        _moment("period_anchor_at"),
        _moment("paid_until"),
        _moment("ended_at"),
        # The last guard against delivering twice what was paid once.
        UniqueConstraint("purchase_id", "line_position", "unit_number", name="one_per_unit"),
        CheckConstraint(
            "status IN ('requested', 'active', 'stopped', 'suspended', 'failed', 'cancelled')"
        ),
    )
    op.create_index("deployments_of_user", "deployments", ["user_id", "deployment_id"])


def downgrade() -> None:
    op.drop_table("stock_releases")
    op.drop_table("deployments")
    op.drop_table("purchase_lines")
    op.drop_table("purchases")
