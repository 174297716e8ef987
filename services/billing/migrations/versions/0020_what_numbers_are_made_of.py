"""When a purchase was short first, what a resize made a month cost: for whoever counts again."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute("ALTER TABLE purchases ADD short_at timestamptz")
    op.execute("ALTER TABLE deployment_changes ADD resized_to_micros bigint")
