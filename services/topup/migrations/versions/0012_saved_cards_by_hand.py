"""One saved card is charged by hand at a time, for each user: the last line of defence against two.

No row of before has a card that was chosen by hand.
"""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0012"
down_revision = "0011"

VERSION_BEFORE = "It charges no card that was chosen by hand."


def upgrade() -> None:
    create_index_beside_traffic(
        op,
        "topups_one_saved_card_at_once",
        "topups (user_id) WHERE kind = 'manual' AND payment_method_id IS NOT NULL"
        " AND status IN ('created', 'processing', 'unknown', 'action_required')",
        unique=True,
    )
