"""Who sells earns: the fee of each sale, providers' own fees, and the books of what was sold.

What was sold before this version earned nothing for who sold it. Its months to come do, less the
fee that is the default here: ten percent.
"""

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Integer,
    Text,
    Uuid,
    text,
)

revision = "0007"
down_revision = "0006"

HOLDS_TABLES = """Deployments get their provider a thousand at a time, each thousand in a
transaction of its own, and nobody waits for more than those."""

_FILL = """
WITH page AS (
    SELECT deployment_id, purchase_id, line_position FROM deployments
    WHERE deployment_id > :after ORDER BY deployment_id LIMIT 1000
), filled AS (
    UPDATE deployments AS d SET provider_id = line.provider_id, fee_bps = 1000
    FROM page JOIN purchase_lines AS line
        ON line.purchase_id = page.purchase_id AND line.position = page.line_position
    WHERE d.deployment_id = page.deployment_id
        AND line.provider_id IS NOT NULL AND d.fee_bps IS NULL
)
SELECT deployment_id FROM page ORDER BY deployment_id DESC LIMIT 1
"""


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _moment(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False)


def _micros(name: str) -> Column[int]:
    return Column(name, BigInteger, CheckConstraint(f"{name} >= 0"), nullable=False)


def upgrade() -> None:
    op.add_column("purchase_lines", Column("fee_bps", Integer))
    for table in ("deployments", "periods"):
        op.add_column(table, Column("provider_id", Uuid))
        op.add_column(table, Column("fee_bps", Integer))
    op.create_table(
        "fee_changes",
        Column("change_id", Uuid, primary_key=True),
        Column("provider_id", Uuid, nullable=False),
        Column("fee_bps", Integer, CheckConstraint("fee_bps BETWEEN 0 AND 10000")),
        _text("reason"),
        _text("actor"),
        _moment("changed_at"),
        Column("idempotency_key", Text, nullable=False, unique=True),
        _text("body_hash"),
    )
    op.create_index("fee_changes_of_provider", "fee_changes", ["provider_id", "change_id"])
    op.create_table(
        "sales",
        # The last guard against a sale that counts twice.
        Column("sale_key", Text, primary_key=True),
        Column("provider_id", Uuid, nullable=False),
        Column("product_id", Uuid, nullable=False),
        _text("product_name"),
        Column(
            "kind",
            Text,
            CheckConstraint("kind IN ('purchase', 'renewal', 'refund')"),
            nullable=False,
        ),
        Column("units", Integer, CheckConstraint("units >= 0"), nullable=False),
        _micros("gross_micros"),
        _micros("fee_micros"),
        _moment("sold_at"),
        Column("day", Date, nullable=False),
        CheckConstraint("fee_micros <= gross_micros"),
    )
    op.create_index("sales_of_provider", "sales", ["provider_id", "day", "product_id"])
    with op.get_context().autocommit_block():
        after: object = "00000000-0000-0000-0000-000000000000"
        while after is not None:
            after = op.get_bind().execute(text(_FILL), {"after": after}).scalar()
