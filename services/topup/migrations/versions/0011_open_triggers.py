"""What may still lead to a charge is found among the many purchases of a user that have ended."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    create_index_beside_traffic(op, "triggers_open", "triggers (user_id) WHERE ended_at IS NULL")
