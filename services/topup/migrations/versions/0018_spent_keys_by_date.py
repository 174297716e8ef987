"""Keys of the processor that were spent long ago are found by their date, when they are deleted."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    create_index_beside_traffic(op, "spent_keys_by_date", "spent_keys (begun_at)")
