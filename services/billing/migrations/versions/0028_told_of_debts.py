"""Who owes for what does not run any more is told, and asked for it: a debt notes that its owner
was told. Debts of before, that were asked for only when money came, are asked for from now on."""

from alembic import op
from sqlalchemy import text

revision = "0028"
down_revision = "0027"

HOLDS_TABLES = """Deployments that owe for time that ran, and that nobody would ask about, which are
few, are made due a thousand at a time, each thousand in a transaction of its own."""

_ASK = """
WITH batch AS (
    SELECT deployment_id FROM deployments
    WHERE due_at IS NULL AND deployment_id IN (
        SELECT deployment_id FROM periods WHERE status = 'due' AND kind = 'arrears'
    )
    ORDER BY deployment_id LIMIT 1000
)
UPDATE deployments AS d SET due_at = now() FROM batch WHERE d.deployment_id = batch.deployment_id
"""


def upgrade() -> None:
    op.execute("ALTER TABLE periods ADD told_at timestamptz")
    op.execute("ALTER TABLE usage_charges ADD told_at timestamptz")
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        while connection.execute(text(_ASK)).rowcount:
            pass
