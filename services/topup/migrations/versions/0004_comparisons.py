"""The daily comparisons of the books have a table of their own."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
    CREATE TABLE comparisons (
        compared_at timestamptz PRIMARY KEY,
        since timestamptz NOT NULL,
        until timestamptz NOT NULL
    )
    """,
    """
    INSERT INTO comparisons (compared_at, since, until)
    SELECT seen_at, date_trunc('day', seen_at, 'UTC') - interval '3 days',
           date_trunc('day', seen_at, 'UTC')
    FROM differences WHERE code = 'compared'
    """,
    "DELETE FROM differences WHERE code = 'compared'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
