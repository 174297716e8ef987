"""What billing told last of what months lack is kept by user: news of it travels by two queues."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute(
        "CREATE TABLE shortages ("
        " user_id uuid PRIMARY KEY,"
        " told_at timestamptz,"
        " lessened_at timestamptz,"
        " lessened_micros bigint NOT NULL,"
        " heard_at timestamptz NOT NULL"
        ")"
    )
    op.execute("CREATE INDEX shortages_heard ON shortages (heard_at)")
