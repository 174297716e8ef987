"""Which of the processor's idempotency keys have only a 500 to say, and what the next one is."""

from alembic import op

revision = "0017"
down_revision = "0016"

TABLE = """
CREATE TABLE spent_keys (
    key text PRIMARY KEY,
    attempt integer NOT NULL CHECK (attempt > 0),
    begun_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    op.execute(TABLE)
