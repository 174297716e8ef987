"""Notices of one object are worked off together, and one that cannot be is given up."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    "ALTER TABLE notices ADD COLUMN subject text NOT NULL DEFAULT ''",
    "ALTER TABLE notices ADD COLUMN user_id uuid",
    "ALTER TABLE notices ADD COLUMN given_up_at timestamptz",
    """
    UPDATE notices SET subject = CASE
        WHEN type LIKE 'refund.%' OR type LIKE 'charge.refund%'
        THEN coalesce('refunds:' || (body #>> '{data,object,payment_intent}'), '')
        WHEN type LIKE 'charge.dispute.%' THEN 'dispute:' || object_id
        WHEN type LIKE 'payment_intent.%' THEN 'payment:' || object_id
        WHEN type LIKE 'payment_method.%' THEN 'card:' || object_id
        WHEN type LIKE 'customer.deleted%' THEN 'customer:' || object_id
        WHEN type LIKE 'checkout.session.%' THEN 'session:' || object_id
        ELSE '' END
    WHERE processed_at IS NULL
    """,
    "CREATE INDEX notices_undone_of ON notices (subject) WHERE processed_at IS NULL",
    "CREATE INDEX notices_given_up ON notices (given_up_at) WHERE given_up_at IS NOT NULL",
    "CREATE INDEX topups_of_payment ON topups (payment_id) WHERE payment_id IS NOT NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
