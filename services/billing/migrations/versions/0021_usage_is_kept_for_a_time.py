"""Records of usage are found by their age."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    create_index_beside_traffic(op, "usage_recorded", "usage_records (recorded_at)")
