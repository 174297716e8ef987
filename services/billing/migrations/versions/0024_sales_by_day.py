"""What everybody sold in some days is found by the days: lines are written in their order, so that
an index of ranges is enough."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    create_index_beside_traffic(op, "sales_by_day", "sales USING brin (day)")
