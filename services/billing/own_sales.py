"""Tells apart what sellers bought of themselves while a version before 0026 still sold.

::

    python -m services.billing.own_sales

Once, when the last billing of such a version has ended: what it recorded meanwhile counts as earned
until then, and could be paid out. A thousand sales at a time, each thousand in a transaction of its
own; nothing else changes a sale. Needs ``DATABASE_URL``; 2 when the database does not answer.
"""

import sys

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from chassis.database import Connected, connect
from services.billing.settings import get_settings

UNREADABLE = 2

# As migration 0029 did. The first id in a sale's key is that of what it is about, which names its
# buyer.
_MARK = text("""
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
    UPDATE sales SET is_own = true FROM own
    WHERE sales.sale_key = own.sale_key AND NOT sales.is_own RETURNING sales.sale_key
)
SELECT max(sale_key), (SELECT count(*) FROM marked) FROM page
""")


def mark(database: Connected) -> int:
    """How many were told apart that were not before."""
    count = 0
    after: str | None = ""
    while after is not None:
        with database.begin() as session:
            after, marked = session.execute(_MARK, {"after": after}).one()
        count += marked
    return count


def main() -> int:
    """See the head of this file."""
    database = connect(get_settings().database_url, pool_size=1)
    try:
        print(f"{mark(database)} sales to themselves were told apart.")
    except SQLAlchemyError as error:
        print(f"The database does not answer: {error}", file=sys.stderr)
        return UNREADABLE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
