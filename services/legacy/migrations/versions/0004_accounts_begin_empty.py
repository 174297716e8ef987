"""An account of the pools begins with nothing: what it has came by entries."""

from alembic import op

revision = "0004"
down_revision = "0003"

VERSION_BEFORE = "It opens accounts with nothing, and so did every version."

BEGINS_EMPTY = """
CREATE TRIGGER begins_empty BEFORE INSERT ON pool_accounts
    FOR EACH ROW WHEN ((NEW.balance_units, NEW.entry_count) <> (0, 0))
    EXECUTE FUNCTION refuse_bare_pool_balance();
"""


def upgrade() -> None:
    op.execute(BEGINS_EMPTY)
