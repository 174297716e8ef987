"""What a buyer chose for a deployment, and how it is reached."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE purchase_lines ADD choices jsonb NOT NULL DEFAULT '{}'")
    op.execute("ALTER TABLE deployments ADD access jsonb")
