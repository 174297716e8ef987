"""The probe's tables."""

from alembic import op

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables(op)
    op.execute("CREATE TABLE noted (n integer NOT NULL)")
    op.execute("CREATE TABLE ticking (running integer NOT NULL, overlapped boolean NOT NULL)")
    op.execute("INSERT INTO ticking VALUES (0, false)")
