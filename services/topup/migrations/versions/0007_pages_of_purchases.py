"""A card page may be for one purchase, is the only one for it, and is closed when it is not needed.

The index is the last line of defence against two pages on which one purchase could be paid.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE topups ADD COLUMN purchase_id uuid")
    op.execute("ALTER TABLE topups ADD COLUMN closing_reason text NOT NULL DEFAULT ''")
    op.execute(
        """
        CREATE UNIQUE INDEX topups_one_page_per_purchase ON topups (user_id, purchase_id)
        WHERE kind = 'manual' AND status IN ('created', 'processing')
        """
    )
