"""Plans, their lines, and who was moved."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    Numeric,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables(op)
    op.create_index("inbox_handled", "inbox", ["handled_at"])
    op.create_table(
        "plans",
        Column("plan_id", Uuid, primary_key=True),
        Column("source", Text, nullable=False),
        Column("rate", Numeric, CheckConstraint("rate > 0"), nullable=False),
        Column("planned_at", DateTime(timezone=True), nullable=False),
        Column("finished_at", DateTime(timezone=True)),
    )
    op.create_table(
        "lines",
        Column("line_id", Uuid, primary_key=True),
        Column("plan_id", Uuid, ForeignKey("plans.plan_id"), nullable=False),
        Column("place", Text, nullable=False),
        Column("refusal", Text, nullable=False),
        Column("email", Text, nullable=False),
        Column("email_key", Text),
        Column("balance", Numeric),
        Column("amount_micros", BigInteger),
        Column("rounded_away", Numeric, CheckConstraint("abs(rounded_away) <= 0.5")),
        Column("services", JSONB, nullable=False),
        Column("conflicts", ARRAY(Text), nullable=False),
        Column("decision", Text, nullable=False),
        Column("document", Text, nullable=False),
        CheckConstraint("(refusal = '') = (email_key IS NOT NULL)", name="read_or_refused"),
    )
    op.create_index("lines_of_plan", "lines", ["plan_id", "line_id"])
    op.create_index("lines_of_person", "lines", ["plan_id", "email_key"])
    op.create_table(
        "moves",
        Column("user_id", Uuid, primary_key=True),
        Column("email_key", Text, nullable=False, unique=True),
        Column("email", Text, nullable=False),
        Column("plan_id", Uuid, ForeignKey("plans.plan_id"), nullable=False),
        Column("line_id", Uuid, ForeignKey("lines.line_id"), nullable=False),
        Column("attempt", Integer, CheckConstraint("attempt > 0"), nullable=False),
        Column("status", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("reversal_reason", Text, nullable=False),
        Column("reversal_actor", Text, nullable=False),
        Column("balance", Numeric, nullable=False),
        Column("amount_micros", BigInteger, CheckConstraint("amount_micros >= 0"), nullable=False),
        Column("services", JSONB, nullable=False),
        Column("transaction_id", Uuid),
        Column("due_at", DateTime(timezone=True)),
        Column("moved_at", DateTime(timezone=True)),
        Column("answered_at", DateTime(timezone=True)),
        Column("refusal", Text, nullable=False),
        Column("reverted_at", DateTime(timezone=True)),
        CheckConstraint("status IN ('pending', 'moved', 'reverting', 'reverted')"),
        CheckConstraint(
            "status NOT IN ('moved', 'reverting', 'reverted') OR amount_micros = 0"
            " OR transaction_id IS NOT NULL",
            name="moved_means_paid",
        ),
    )
    op.create_index("moves_of_plan", "moves", ["plan_id", "user_id"])
    op.execute("CREATE INDEX moves_due ON moves (due_at, user_id) WHERE due_at IS NOT NULL")
