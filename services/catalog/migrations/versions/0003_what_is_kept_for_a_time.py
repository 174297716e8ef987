"""Rows that are kept for a time only are found by their age; lines go with their reservation."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0003"
down_revision = "0002"

KEY = "reservation_lines_reservation_id_fkey"


def upgrade() -> None:
    # What is there is checked afterwards, while others write.
    op.execute(
        f"""
        ALTER TABLE reservation_lines DROP CONSTRAINT {KEY},
        ADD CONSTRAINT {KEY} FOREIGN KEY (reservation_id) REFERENCES reservations
        ON DELETE CASCADE NOT VALID
        """
    )
    create_index_beside_traffic(op, "inbox_handled", "inbox (handled_at)")
    create_index_beside_traffic(op, "reservations_made", "reservations (created_at)")
    op.execute(f"ALTER TABLE reservation_lines VALIDATE CONSTRAINT {KEY}")
