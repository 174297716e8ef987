"""Refunds of purchases, unit by unit, and what providers owe for what was advanced in them."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    Text,
    Uuid,
)

revision = "0008"
down_revision = "0007"


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _moment(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _micros(name: str) -> Column[int]:
    return Column(name, BigInteger, CheckConstraint(f"{name} >= 0"), nullable=False)


def upgrade() -> None:
    op.execute("ALTER TABLE purchases ADD refunded_micros bigint NOT NULL DEFAULT 0")
    op.create_table(
        "refunds",
        Column("refund_id", Uuid, primary_key=True),
        Column("purchase_id", Uuid, ForeignKey("purchases.purchase_id"), nullable=False),
        Column("user_id", Uuid, nullable=False),
        _text("cause"),
        _text("reason"),
        _text("actor"),
        Column("idempotency_key", Text, unique=True),
        _text("body_hash"),
        _moment("created_at", nullable=False),
        _moment("due_at"),
        _moment("done_at"),
        CheckConstraint("cause IN ('failed', 'cancelled', 'buyer', 'support')"),
        # A refund that nobody would ever take up again cannot be stored.
        CheckConstraint("(due_at IS NULL) = (done_at IS NOT NULL)", name="undone_means_due"),
    )
    op.execute("CREATE INDEX refunds_due ON refunds (due_at, refund_id) WHERE due_at IS NOT NULL")
    op.create_table(
        "refunded_units",
        # The last guard against giving back twice what was paid once.
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), primary_key=True),
        Column("refund_id", Uuid, ForeignKey("refunds.refund_id"), nullable=False, index=False),
        Column("line_position", Integer, nullable=False),
        _micros("amount_micros"),
        Column("provider_id", Uuid),
        _micros("fee_micros"),
        _micros("advanced_micros"),
        Column("transaction_id", Uuid),
        _moment("done_at"),
        CheckConstraint("fee_micros <= amount_micros"),
        CheckConstraint(
            "done_at IS NULL OR amount_micros = 0 OR transaction_id IS NOT NULL",
            name="done_means_given_back",
        ),
    )
    op.create_index("units_of_refund", "refunded_units", ["refund_id", "deployment_id"])
    op.create_table(
        "debts",
        Column("refund_key", Text, primary_key=True),
        Column("provider_id", Uuid, nullable=False),
        Column("amount_micros", BigInteger, CheckConstraint("amount_micros > 0"), nullable=False),
        Column("transaction_id", Uuid),
        _moment("created_at", nullable=False),
        _moment("due_at"),
        _moment("paid_at"),
        CheckConstraint("(due_at IS NULL) = (paid_at IS NOT NULL)", name="unpaid_means_due"),
        CheckConstraint("(transaction_id IS NOT NULL) = (paid_at IS NOT NULL)"),
    )
    op.execute("CREATE INDEX debts_due ON debts (due_at, refund_key) WHERE due_at IS NOT NULL")
    op.execute("CREATE INDEX debts_unpaid ON debts (provider_id) WHERE paid_at IS NULL")
