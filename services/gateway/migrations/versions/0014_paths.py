"""The secrets of which paths of a day are named: not logged, so that no backup has them."""

from alembic import op
from sqlalchemy import Column, DateTime, LargeBinary

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "path_secrets",
        Column("starts_at", DateTime(timezone=True), primary_key=True),
        Column("secret", LargeBinary, nullable=False),
        prefixes=["UNLOGGED"],
    )
