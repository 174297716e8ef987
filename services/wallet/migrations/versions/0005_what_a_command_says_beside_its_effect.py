"""Metadata and effective dates of commands that make no transaction stand beside their keys.

A transaction carries its own. New too: a level is set by a command with a key.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEYS = """
ALTER TABLE keys
    ADD COLUMN metadata jsonb,
    ADD COLUMN effective_at timestamptz,
    ADD CONSTRAINT key_is_dated_in_our_time CHECK (effective_at >= '2000-01-01 00:00:00+00'),
    ADD CONSTRAINT key_is_not_of_the_future
        CHECK (effective_at <= recorded_at + interval '5 minutes'),
    ADD CONSTRAINT transaction_carries_its_own
        CHECK (transaction_id IS NULL OR num_nonnulls(metadata, effective_at) = 0),
    DROP CONSTRAINT method_has_its_outcome,
    ADD CONSTRAINT method_has_its_outcome CHECK (CASE
        WHEN method = 'close_key'
            THEN num_nonnulls(account_id, transaction_id, hold_id, change_number) = 0
        WHEN account_id IS NULL THEN false
        WHEN method IN ('open_account', 'set_level')
            THEN num_nonnulls(transaction_id, hold_id, change_number) = 0
        WHEN method IN ('hold', 'void', 'expire')
            THEN hold_id IS NOT NULL AND num_nonnulls(transaction_id, change_number) = 0
        WHEN method IN ('freeze', 'unfreeze')
            THEN change_number IS NOT NULL AND num_nonnulls(transaction_id, hold_id) = 0
        WHEN method IN ('debit', 'credit', 'transfer', 'capture', 'refund', 'reverse',
            'adjust', 'take_back')
            THEN transaction_id IS NOT NULL AND num_nonnulls(hold_id, change_number) = 0
        ELSE false END),
    -- What a key points to names the account as well, except where there is no such thing.
    ALTER COLUMN opened_account_id SET EXPRESSION AS (
        CASE WHEN method IN ('open_account', 'set_level') THEN account_id END);
"""


def upgrade() -> None:
    op.execute(KEYS)
