"""What 0011 says of kinds and corrections is checked for the rows that were there before."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("ALTER TABLE transactions VALIDATE CONSTRAINT kind_is_known")
    op.execute("ALTER TABLE transactions VALIDATE CONSTRAINT correction_is_known")
