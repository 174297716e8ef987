"""What was sold of each product up to each day: running totals, filled of the counts by day."""

from alembic import op
from sqlalchemy import BigInteger, Column, DateTime, Uuid

revision = "0002"
down_revision = "0001"

HOLDS_TABLES = """Rows of products by day and week go in one transaction. Who counts a sale
meanwhile waits for it, and its event is tried again; no payment waits for analytics."""

FILL = """
INSERT INTO product_totals
SELECT detail::uuid, starts_at, sum(units) OVER days, sum(micros) OVER days FROM (
    SELECT detail, starts_at, sum(value) FILTER (WHERE figure = 'product_units') AS units,
        sum(value) FILTER (WHERE figure = 'product_sales_micros') AS micros
    FROM counts WHERE grain = 'day' AND figure IN ('product_units', 'product_sales_micros')
    GROUP BY 1, 2
) AS by_day
WINDOW days AS (PARTITION BY detail ORDER BY starts_at)
"""
# Nothing reads them any more.
FORGET = """
DELETE FROM counts WHERE grain IN ('day', 'week')
    AND figure IN ('product_units', 'product_sales_micros')
"""


def upgrade() -> None:
    op.create_table(
        "product_totals",
        Column("product_id", Uuid, primary_key=True),
        Column("starts_at", DateTime(timezone=True), primary_key=True),
        Column("units", BigInteger, nullable=False),
        Column("sales_micros", BigInteger, nullable=False),
    )
    op.execute(FILL)
    op.execute(FORGET)
