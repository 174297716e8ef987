"""Rows that are kept for a time only are found by their age."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    create_index_beside_traffic(op, "inbox_handled", "inbox (handled_at)")
    create_index_beside_traffic(op, "notices_processed", "notices (processed_at)")
    create_index_beside_traffic(op, "triggers_raised", "triggers (raised_at)")
    create_index_beside_traffic(op, "refusals_refused", "refusals (refused_at)")
    create_index_beside_traffic(op, "commands_created", "commands (created_at)")
    create_index_beside_traffic(op, "card_setups_done", "card_setups (done_at)")
    create_index_beside_traffic(
        op, "cards_detached", "cards (detached_at) WHERE detached_at IS NOT NULL"
    )
