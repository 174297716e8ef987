"""What providers ask to be paid out."""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Text, UniqueConstraint, Uuid

revision = "0010"
down_revision = "0009"


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "payouts",
        Column("payout_id", Uuid, primary_key=True),
        Column("user_id", Uuid, nullable=False),
        Column("amount_micros", BigInteger, CheckConstraint("amount_micros > 0"), nullable=False),
        _text("status"),
        _text("status_code"),
        Column("hold_id", Uuid),
        _text("reference"),
        _text("reason"),
        _text("actor"),
        _text("idempotency_key"),
        _text("body_hash"),
        Column("closing_key", Text),
        _text("closing_hash"),
        _moment("created_at"),
        _moment("changed_at"),
        _moment("due_at", nullable=True),
        UniqueConstraint("user_id", "idempotency_key", name="one_payout_per_key"),
        CheckConstraint(
            "status IN ('requested', 'held', 'paying', 'paid', 'refusing', 'refused', 'declined')"
        ),
        # A payout that nobody would ever take up again cannot be stored.
        CheckConstraint(
            "(due_at IS NOT NULL) = (status IN ('requested', 'paying', 'refusing'))",
            name="unfinished_means_due",
        ),
        CheckConstraint(
            "(hold_id IS NULL) = (status IN ('requested', 'declined'))",
            name="held_means_a_hold",
        ),
    )
    op.create_index("payouts_of_user", "payouts", ["user_id", "payout_id"])
    op.execute("CREATE INDEX payouts_due ON payouts (due_at, payout_id) WHERE due_at IS NOT NULL")
