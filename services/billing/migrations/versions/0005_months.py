"""Months that are renewed, what is charged for each, and what happened to a deployment.

Time before this version was never charged: a month that ended unseen goes on to the end of the one
that runs now, counted from the same anchor.
"""

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, ForeignKey, Text, Uuid, text

from chassis.migrate import create_index_beside_traffic

revision = "0005"
down_revision = "0004"

HOLDS_TABLES = """Deployments get the moment of their next renewal a thousand at a time, each
thousand in a transaction of its own, and nobody waits for more than those."""

# The first month's end after now. PostgreSQL shortens a month as our own rule does: 31 January
# and one month is the last day of February.
_SCHEDULE = """
WITH batch AS (
    SELECT deployment_id, (
        SELECT min(month_end) FROM (
            SELECT period_anchor_at + make_interval(months => n) AS month_end
            FROM generate_series(
                1, 2 + (extract(epoch FROM now() - period_anchor_at) / 2419200)::integer
            ) AS n
        ) AS ends WHERE month_end > now()
    ) AS month_end
    FROM deployments
    WHERE due_at IS NULL AND status = 'active' AND monthly_cost_micros > 0
        AND period_anchor_at IS NOT NULL
    LIMIT 1000
)
UPDATE deployments AS d
SET paid_until = greatest(d.paid_until, batch.month_end),
    due_at = greatest(d.paid_until, batch.month_end) - interval '3 days'
FROM batch WHERE d.deployment_id = batch.deployment_id
"""


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def upgrade() -> None:
    op.add_column("deployments", _moment("due_at", nullable=True))
    op.add_column("deployments", _moment("short_since", nullable=True))
    op.execute("ALTER TABLE deployments ADD ends_with_month boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE deployments ADD announced text NOT NULL DEFAULT ''")
    op.add_column("deployments", _moment("announced_at", nullable=True))
    _create_periods()
    _create_changes()
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        while connection.execute(text(_SCHEDULE)).rowcount:
            pass
    create_index_beside_traffic(
        op, "deployments_due", "deployments (due_at, deployment_id) WHERE due_at IS NOT NULL"
    )


def _create_periods() -> None:
    op.create_table(
        "periods",
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), primary_key=True),
        Column("starts_at", DateTime(timezone=True), primary_key=True),
        Column("kind", Text, primary_key=True),
        _moment("ends_at"),
        Column("user_id", Uuid, nullable=False),
        Column("amount_micros", BigInteger, CheckConstraint("amount_micros > 0"), nullable=False),
        _text("status"),
        Column("transaction_id", Uuid),
        _moment("created_at"),
        _moment("changed_at"),
        CheckConstraint("kind IN ('month', 'arrears')"),
        CheckConstraint("ends_at > starts_at"),
        CheckConstraint("status IN ('due', 'paid', 'closing', 'closed', 'refunding', 'refunded')"),
        CheckConstraint(
            "(transaction_id IS NOT NULL) = (status IN ('paid', 'refunding', 'refunded'))",
            name="paid_means_a_transaction",
        ),
    )
    op.execute(
        "CREATE INDEX periods_open ON periods (user_id)"
        " WHERE status IN ('due', 'closing', 'refunding')"
    )


def _create_changes() -> None:
    op.create_table(
        "deployment_changes",
        Column("change_id", Uuid, primary_key=True),
        Column("deployment_id", Uuid, ForeignKey("deployments.deployment_id"), nullable=False),
        Column("user_id", Uuid, nullable=False),
        _moment("changed_at"),
        _text("status"),
        _text("cause"),
        _text("actor"),
        Column("idempotency_key", Text),
        _text("body_hash"),
    )
    op.create_index("changes_of_deployment", "deployment_changes", ["deployment_id", "change_id"])
    op.execute(
        "CREATE UNIQUE INDEX one_change_per_key ON deployment_changes (user_id, idempotency_key)"
        " WHERE idempotency_key IS NOT NULL"
    )
