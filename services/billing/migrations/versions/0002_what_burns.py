"""What a user's deployments burn is summed from an index, and the dearest are read from its end."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        "CREATE INDEX deployments_burning"
        " ON deployments (user_id, monthly_cost_micros DESC, deployment_id)"
        " WHERE status = 'active' AND monthly_cost_micros > 0"
    )


def downgrade() -> None:
    op.drop_index("deployments_burning")
