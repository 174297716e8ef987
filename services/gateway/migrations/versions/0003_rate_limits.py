"""What rate limits remember, for all processes of the website."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Not logged: nothing of it matters after a crash. Room in each page, so that an update
    # stays in it and touches no index.
    op.execute(
        """
        CREATE UNLOGGED TABLE rate_limits (
            key bytea PRIMARY KEY,
            used_until timestamptz NOT NULL
        ) WITH (fillfactor = 50)
        """
    )
