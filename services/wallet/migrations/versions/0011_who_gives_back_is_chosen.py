"""A refund may be taken from some of those who got something, and the house may advance it.

A ``chosen_refund`` is in no proportion: the caller says who gives back how much, never more than
they got. What a user has not got any more is given by the account ``advances``. Another account is
for payouts, and a kind.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

VERSION_BEFORE = "It writes fewer words than the ones that are known now."

ACCOUNTS = """
INSERT INTO accounts (account_id, house_name, opened_at) VALUES
    (7, 'advances', '2026-01-01Z'),
    (8, 'payouts', '2026-01-01Z');
"""

# Every row that is there passes the narrower checks that go; 0012 looks again beside the traffic.
WORDS = """
ALTER TABLE transactions
    DROP CONSTRAINT kind_is_known,
    DROP CONSTRAINT correction_is_known,
    ADD CONSTRAINT kind_is_known CHECK (kind IN ('purchase', 'topup', 'auto_topup', 'transfer',
        'earning', 'refund', 'renewal', 'usage', 'adjustment', 'migration', 'chargeback',
        'payout')) NOT VALID,
    ADD CONSTRAINT correction_is_known
        CHECK (correction IN ('refund', 'chosen_refund', 'reversal')) NOT VALID;
"""

# As in 0010, but for the proportion of what was chosen.
CORRECTIONS = """
CREATE OR REPLACE FUNCTION require_mirror() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    whole bigint;
    corrected numeric;
    times bigint;
    is_chosen boolean;
BEGIN
    IF EXISTS (
        SELECT FROM entries AS e
        LEFT JOIN entries AS original ON original.transaction_id = NEW.corrects_transaction_id
            AND original.account_id = e.account_id
            AND (original.amount_micros > 0) = (e.amount_micros < 0)
        WHERE e.transaction_id = NEW.transaction_id AND original.account_id IS NULL
            AND NOT (NEW.correction = 'chosen_refund' AND e.account_id = 7
                AND e.amount_micros < 0)
    ) THEN
        RAISE EXCEPTION 'transaction % does not go back the way its original came',
            NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;

    SELECT amount_micros INTO whole FROM transactions
    WHERE transaction_id = NEW.corrects_transaction_id;
    SELECT sum(amount_micros), count(*), bool_or(correction = 'chosen_refund')
    INTO corrected, times, is_chosen FROM transactions
    WHERE corrects_transaction_id = NEW.corrects_transaction_id;
    IF NEW.correction = 'reversal' AND NEW.amount_micros <> whole OR EXISTS (
        SELECT FROM entries AS original
        LEFT JOIN LATERAL (
            SELECT coalesce(abs(sum(e.amount_micros)), 0) AS micros
            FROM transactions AS t
            JOIN entries AS e ON e.transaction_id = t.transaction_id
                AND e.account_id = original.account_id
                AND (e.amount_micros > 0) = (original.amount_micros < 0)
            WHERE t.corrects_transaction_id = NEW.corrects_transaction_id
        ) AS back ON true
        WHERE original.transaction_id = NEW.corrects_transaction_id
            AND (back.micros > abs(original.amount_micros)
                OR NOT is_chosen
                AND abs(back.micros * whole - abs(original.amount_micros) * corrected)
                    >= times * whole)
    ) THEN
        RAISE EXCEPTION 'transaction % does not give back in proportion to its original',
            NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
"""


def upgrade() -> None:
    for statements in (ACCOUNTS, WORDS, CORRECTIONS):
        op.execute(statements)
