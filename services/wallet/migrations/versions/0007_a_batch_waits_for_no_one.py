"""A batch does not wait for a wallet that somebody else holds for longer than batches do.

Other replicas hold wallets for milliseconds. Whoever holds one for longer would make everybody
wait who is in the batch, or behind it.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER FUNCTION open_book(uuid[], text[]) SET lock_timeout = '300ms'")
