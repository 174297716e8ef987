"""Debts of before 0028, that were asked for only when money came, are asked for from now on."""

from alembic import op
from sqlalchemy import text

revision = "0030"
down_revision = "0029"

HOLDS_TABLES = """Deployments that owe for time that ran, and that nobody would ask about, which are
few, are made due a thousand at a time, each thousand in a transaction of its own."""

# Held in the order in which everybody takes several.
_ASK = """
WITH batch AS (
    SELECT deployment_id FROM deployments
    WHERE due_at IS NULL AND deployment_id IN (
        SELECT deployment_id FROM periods WHERE status = 'due' AND kind = 'arrears'
    )
    ORDER BY deployment_id LIMIT 1000 FOR UPDATE
)
UPDATE deployments AS d SET due_at = now() FROM batch WHERE d.deployment_id = batch.deployment_id
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        while connection.execute(text(_ASK)).rowcount:
            pass
