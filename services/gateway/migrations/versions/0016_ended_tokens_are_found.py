"""API tokens that have ended are found by their date, to be forgotten."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    create_index_beside_traffic(
        op, "api_tokens_expired", "api_tokens (expires_at) WHERE expires_at IS NOT NULL"
    )
