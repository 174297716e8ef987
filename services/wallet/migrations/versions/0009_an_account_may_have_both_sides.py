"""An account has one entry for each side of a transaction: who buys from himself pays and earns.

The index takes the place of ``one_entry_for_each_account``, which the next migration drops.
"""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0009"
down_revision = "0008"

VERSION_BEFORE = "It writes one entry of an account in each transaction, on whichever side."


def upgrade() -> None:
    create_index_beside_traffic(
        op,
        "one_entry_for_each_side",
        "entries (transaction_id, account_id, (amount_micros > 0))",
        unique=True,
    )
