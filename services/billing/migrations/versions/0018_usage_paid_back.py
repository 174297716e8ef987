"""Usage that was corrected after it was paid for, and charges that are replaced."""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, ForeignKey, Uuid

from chassis.migrate import create_index_beside_traffic

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "usage_refunds",
        Column("refund_id", Uuid, primary_key=True),
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), nullable=False),
        Column("charge_id", Uuid, ForeignKey("usage_charges.charge_id"), nullable=False),
        Column("user_id", Uuid, nullable=False),
        Column("amount_micros", BigInteger, CheckConstraint("amount_micros > 0"), nullable=False),
        Column("fee_micros", BigInteger, CheckConstraint("fee_micros >= 0"), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("due_at", DateTime(timezone=True)),
        Column("transaction_id", Uuid),
        Column("done_at", DateTime(timezone=True)),
        CheckConstraint("(done_at IS NULL) = (transaction_id IS NULL)", name="done_by_a_refund"),
    )
    op.execute(
        "CREATE INDEX usage_refunds_due ON usage_refunds (due_at, refund_id)"
        " WHERE due_at IS NOT NULL"
    )
    op.execute("CREATE INDEX refunds_of_usage_charge ON usage_refunds (charge_id)")
    op.execute("ALTER TABLE usage_charges ADD closing_since timestamptz")
    create_index_beside_traffic(op, "usage_charges_paid", "usage_charges (user_id, paid_at)")
