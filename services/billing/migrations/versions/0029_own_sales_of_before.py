"""What somebody had bought of himself before 0026 is told apart as well.

The first id in a sale's key is that of the purchase, the deployment, the charge or the refund that
it is about, each of which names its buyer.
"""

from alembic import op
from sqlalchemy import text

revision = "0029"
down_revision = "0028"

HOLDS_TABLES = """Sales are looked at a thousand at a time, each thousand in a transaction of its
own; nothing else changes a sale, which is written once."""

_MARK = """
WITH page AS (
    SELECT sale_key, provider_id,
        substring(sale_key FROM '[0-9a-f]{8}-[0-9a-f-]{27}')::uuid AS id
    FROM sales WHERE sale_key > :after ORDER BY sale_key LIMIT 1000
), own AS (
    SELECT sale_key FROM page CROSS JOIN LATERAL (
        SELECT user_id FROM purchases WHERE purchase_id = page.id
        UNION ALL SELECT user_id FROM deployments WHERE deployment_id = page.id
        UNION ALL SELECT user_id FROM usage_charges WHERE charge_id = page.id
        UNION ALL SELECT user_id FROM usage_refunds WHERE refund_id = page.id
    ) AS bought WHERE bought.user_id = page.provider_id
), marked AS (
    UPDATE sales SET is_own = true FROM own WHERE sales.sale_key = own.sale_key
)
SELECT max(sale_key) FROM page
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        after: object = ""
        while after is not None:
            after = op.get_bind().execute(text(_MARK), {"after": after}).scalar()
