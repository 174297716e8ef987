"""What of the stock that was taken is set aside for who has not paid, and until when."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("ALTER TABLE reservations ADD held_until timestamptz")
    create_index_beside_traffic(
        op, "reservations_held", "reservations (held_until) WHERE held_until IS NOT NULL"
    )
