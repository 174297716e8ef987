"""Which path came how far is forgotten after days: an index finds what is old enough."""

from alembic import op

from chassis.migrate import create_index_beside_traffic

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    create_index_beside_traffic(op, "facts_of_paths", "facts (at) WHERE kind = 'step'")
