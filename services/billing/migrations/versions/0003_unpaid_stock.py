"""Whether a purchase may have stock set aside before it is paid, and which lines take stock.

What waits already keeps what it has.
"""

from alembic import op
from sqlalchemy import Boolean, Column, false, true

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "purchases", Column("may_hold_stock", Boolean, nullable=False, server_default=true())
    )
    op.add_column(
        "purchase_lines", Column("is_stocked", Boolean, nullable=False, server_default=false())
    )
    op.execute(
        "CREATE INDEX purchases_unpaid ON purchases (user_id, created_at)"
        " WHERE status IN ('pending', 'awaiting_funds', 'cancelled', 'expired')"
    )


def downgrade() -> None:
    op.drop_index("purchases_unpaid")
    op.drop_column("purchase_lines", "is_stocked")
    op.drop_column("purchases", "may_hold_stock")
