"""What the processor tells of a dispute is kept: why, until when evidence is taken, what came.

Disputes from before have no row until something becomes of them: nothing here knows it.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

TABLE = """
CREATE TABLE disputes (
    dispute_id text PRIMARY KEY,
    topup_id uuid NOT NULL REFERENCES topups,
    user_id uuid NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros > 0),
    fee_micros bigint,
    status text NOT NULL,
    reason text NOT NULL,
    network_reason_code text NOT NULL,
    due_at timestamptz,
    has_evidence boolean NOT NULL,
    submission_count integer NOT NULL CHECK (submission_count >= 0),
    was_submitted_late boolean NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    asked_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    op.execute(TABLE)
