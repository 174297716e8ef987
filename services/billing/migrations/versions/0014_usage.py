"""What is used of deployments, and what was charged for it."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Text,
    Uuid,
)

revision = "0014"
down_revision = "0013"

VERSION_BEFORE = "It writes fewer words than the ones that are known now."

_CORRECTS = "(corrects IS NULL AND quantity > 0) OR (corrects IS NOT NULL AND quantity < 0)"


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.execute("ALTER TABLE purchase_lines ADD meters jsonb NOT NULL DEFAULT '[]'")
    op.execute("ALTER TABLE deployments ADD usage_short_since timestamptz")
    op.execute("ALTER TABLE sales DROP CONSTRAINT sales_kind_check")
    op.execute(
        "ALTER TABLE sales ADD CONSTRAINT sales_kind_check"
        " CHECK (kind IN ('purchase', 'renewal', 'usage', 'refund')) NOT VALID"
    )
    op.create_table(
        "usage_records",
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), primary_key=True),
        Column("record_id", Text, primary_key=True),
        Column("meter", Text, nullable=False),
        _moment("month_starts_at"),
        _moment("used_at"),
        Column("quantity", BigInteger, nullable=False),
        Column("corrects", Text),
        _moment("recorded_at"),
        CheckConstraint(_CORRECTS, name="less_only_as_a_correction"),
        ForeignKeyConstraint(
            ["deployment_id", "corrects"],
            ["usage_records.deployment_id", "usage_records.record_id"],
            name="what_is_corrected_is_there",
        ),
    )
    op.execute(
        "CREATE INDEX usage_corrections ON usage_records (deployment_id, corrects)"
        " WHERE corrects IS NOT NULL"
    )
    op.create_index(
        "usage_of_month", "usage_records", ["deployment_id", "month_starts_at", "used_at"]
    )
    op.create_table(
        "usage_totals",
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), primary_key=True),
        Column("meter", Text, primary_key=True),
        Column("month_starts_at", DateTime(timezone=True), primary_key=True),
        _moment("month_ends_at"),
        Column("user_id", Uuid, nullable=False),
        Column("quantity", BigInteger, CheckConstraint("quantity >= 0"), nullable=False),
        _count("charged_quantity"),
        _count("charged_micros"),
        CheckConstraint("charged_micros >= 0"),
    )
    op.execute(
        "CREATE INDEX usage_uncharged ON usage_totals (user_id) WHERE quantity <> charged_quantity"
    )
    op.create_table(
        "usage_wallets",
        Column("user_id", Uuid, primary_key=True),
        _moment("used_from", nullable=True),
        _moment("used_until", nullable=True),
        _moment("due_at", nullable=True),
    )
    op.execute("CREATE INDEX usage_due ON usage_wallets (due_at, user_id) WHERE due_at IS NOT NULL")
    op.create_table(
        "usage_charges",
        Column("charge_id", Uuid, primary_key=True),
        Column("user_id", Uuid, nullable=False),
        Column("amount_micros", BigInteger, CheckConstraint("amount_micros > 0"), nullable=False),
        Column("description", Text, nullable=False),
        Column("transaction_id", Uuid),
        _moment("created_at"),
        _moment("paid_at", nullable=True),
        CheckConstraint(
            "(paid_at IS NULL) = (transaction_id IS NULL)", name="paid_by_a_transaction"
        ),
    )
    # The last guard against usage that is charged twice at once.
    op.execute(
        "CREATE UNIQUE INDEX one_unpaid_usage_charge ON usage_charges (user_id)"
        " WHERE paid_at IS NULL"
    )
    op.create_table(
        "usage_charge_lines",
        Column("charge_id", Uuid, ForeignKey("usage_charges.charge_id"), primary_key=True),
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), primary_key=True),
        Column("meter", Text, primary_key=True),
        Column("month_starts_at", DateTime(timezone=True), primary_key=True),
        Column("quantity", BigInteger, nullable=False),
        Column("amount_micros", BigInteger, nullable=False),
    )
