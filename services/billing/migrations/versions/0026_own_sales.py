"""What somebody buys of himself is told apart: it brings nothing that could be paid out.

What was sold before is told apart by 0029.
"""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.execute("ALTER TABLE sales ADD is_own boolean NOT NULL DEFAULT false")
