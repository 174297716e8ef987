"""What somebody buys of himself is told apart: it brings nothing that could be paid out.

What was sold before is told apart as well. The first id in a sale's key is that of the purchase,
the deployment, the charge or the refund that it is about, each of which names its buyer.
"""

from alembic import op

revision = "0026"
down_revision = "0025"

HOLDS_TABLES = """Sales of those who bought of themselves are changed in one statement: few, and
nothing else changes a sale, which is written once."""

_OWN = """
UPDATE sales SET is_own = true FROM (
    SELECT purchase_id AS id, user_id FROM purchases
    UNION ALL SELECT deployment_id, user_id FROM deployments
    UNION ALL SELECT charge_id, user_id FROM usage_charges
    UNION ALL SELECT refund_id, user_id FROM usage_refunds
) AS bought
WHERE bought.id = substring(sale_key FROM '[0-9a-f]{8}-[0-9a-f-]{27}')::uuid
    AND bought.user_id = provider_id
"""


def upgrade() -> None:
    op.execute("ALTER TABLE sales ADD is_own boolean NOT NULL DEFAULT false")
    op.execute(_OWN)
