"""Unused credit goes back to its card. One refund of a user's is made at a time.

The index is the last line of defence against two that see the same credit unused.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

TABLE = """
CREATE TABLE card_refunds (
    refund_id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    topup_id uuid NOT NULL REFERENCES topups,
    payment_id text NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros > 0),
    status text NOT NULL CHECK (status IN ('requested', 'held', 'sent', 'pending', 'succeeded',
        'failed', 'declined', 'refused')),
    code text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    hold_id uuid,
    attempt integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    due_at timestamptz,
    idempotency_key text NOT NULL,
    request_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (user_id, idempotency_key)
);
"""
ONE_AT_ONCE = """
CREATE UNIQUE INDEX card_refunds_one_at_once ON card_refunds (user_id)
    WHERE status IN ('requested', 'held', 'sent');
"""
DUE = "CREATE INDEX card_refunds_due ON card_refunds (due_at) WHERE due_at IS NOT NULL"
BY_USER = "CREATE INDEX card_refunds_by_user ON card_refunds (user_id, refund_id)"


def upgrade() -> None:
    for statement in (TABLE, ONE_AT_ONCE, DUE, BY_USER):
        op.execute(statement)
