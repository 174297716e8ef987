"""A transaction says who had it made: a login at the broker, or the exchange of an event.

Those from before, and those whose caller did not name itself, have none.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE transactions ADD COLUMN caller text")
