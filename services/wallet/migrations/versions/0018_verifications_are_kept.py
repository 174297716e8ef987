"""What each verification of the ledger found, and which one is asked for; one at a time."""

from alembic import op

revision = "0018"
down_revision = "0017"

VERIFICATIONS = """
CREATE TABLE verifications (
    verification_id uuid PRIMARY KEY,
    asked_key text COLLATE "C" UNIQUE,
    asked_by uuid,
    asked_at timestamptz NOT NULL,
    ended_at timestamptz,
    clean boolean,
    first_difference text,
    account_count bigint,
    transaction_count bigint,
    entry_count bigint,
    sealed_count bigint,
    position bigint,
    house jsonb,
    CONSTRAINT end_is_whole CHECK (num_nonnulls(ended_at, clean, account_count, transaction_count,
        entry_count, sealed_count, position, house) IN (0, 8)),
    CONSTRAINT a_difference_is_named CHECK (clean = (first_difference IS NULL))
);

CREATE UNIQUE INDEX one_verification_is_open ON verifications ((ended_at IS NULL))
    WHERE ended_at IS NULL;
CREATE INDEX verifications_by_date ON verifications (asked_at);
"""


def upgrade() -> None:
    op.execute(VERIFICATIONS)
