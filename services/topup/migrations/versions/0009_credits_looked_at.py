"""How far the credits of the ledger have been looked at, and which of them a person accepted."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE credit_audit (id integer PRIMARY KEY CHECK (id = 1),"
        " position bigint NOT NULL, looked_at timestamptz NOT NULL)"
    )
    op.execute("ALTER TABLE differences ADD COLUMN accepted_by text NOT NULL DEFAULT ''")
