"""Acts of a kind, their outcomes, and transfers that are open or come to somebody are found without
reading all the others."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    create_index_beside_traffic(op, "acts_of_kind", "acts (action, position)")
    create_index_beside_traffic(
        op, "acts_completed", "acts (completes) WHERE completes IS NOT NULL"
    )
    create_index_beside_traffic(op, "transfers_to_user", "transfers (to_user_id, created_at)")
    create_index_beside_traffic(
        op, "transfers_unanswered", "transfers (created_at) WHERE transaction_id IS NULL"
    )
