"""What 0013 says of kinds is checked for the rows that were there before."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("ALTER TABLE transactions VALIDATE CONSTRAINT kind_is_known")
