"""Deployments become another size, for which the rest of the month is charged or given back."""

from alembic import op

revision = "0012"
down_revision = "0011"

VERSION_BEFORE = "It writes fewer words than the ones that are known now."


def upgrade() -> None:
    op.execute("ALTER TABLE deployments ADD product_name text")
    op.execute("ALTER TABLE periods ADD resize jsonb")
    # What is there is checked by the next migration, while others write.
    op.execute(
        """
        ALTER TABLE periods DROP CONSTRAINT periods_kind_check,
        ADD CONSTRAINT periods_kind_check
        CHECK (kind IN ('month', 'arrears', 'resize', 'credit')) NOT VALID
        """
    )
