"""A transaction has as many entries as it needs, and a correction is compared with each of them.

What somebody earns by another's payment is an ``earning`` in his statement, whatever it is to who
pays. A correction gives back in proportion, from everybody who got something: each side of each
account by itself, to less than a micro-dollar for each correction of the same transaction, and
never more than it got. A reversal goes back whole.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

# What the foreign keys said of entries, whose unique index no longer names the account alone, is
# checked by require_outcomes for keys, and by require_capture for holds.
ENTRIES = """
ALTER TABLE keys DROP CONSTRAINT outcome_is_an_entry;
ALTER TABLE holds DROP CONSTRAINT capture_is_posted;
ALTER TABLE entries DROP CONSTRAINT one_entry_for_each_account;
"""

CAPTURES = """
CREATE OR REPLACE FUNCTION require_capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM transactions AS t
        JOIN entries AS e ON e.transaction_id = t.transaction_id
        WHERE t.transaction_id = NEW.transaction_id
            AND t.metadata ->> 'hold_id' = NEW.hold_id::text
            AND e.account_id = NEW.account_id AND e.amount_micros = -NEW.captured_micros
    ) THEN
        RAISE EXCEPTION 'hold % was not captured by the transaction that it names', NEW.hold_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
"""

CORRECTIONS = """
CREATE OR REPLACE FUNCTION require_mirror() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    whole bigint;
    corrected numeric;
    times bigint;
BEGIN
    IF EXISTS (
        SELECT FROM entries AS e
        LEFT JOIN entries AS original ON original.transaction_id = NEW.corrects_transaction_id
            AND original.account_id = e.account_id
            AND (original.amount_micros > 0) = (e.amount_micros < 0)
        WHERE e.transaction_id = NEW.transaction_id AND original.account_id IS NULL
    ) THEN
        RAISE EXCEPTION 'transaction % does not go back the way its original came',
            NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;

    SELECT amount_micros INTO whole FROM transactions
    WHERE transaction_id = NEW.corrects_transaction_id;
    SELECT sum(amount_micros), count(*) INTO corrected, times FROM transactions
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
                OR abs(back.micros * whole - abs(original.amount_micros) * corrected)
                    >= times * whole)
    ) THEN
        RAISE EXCEPTION 'transaction % does not give back in proportion to its original',
            NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
"""

# As in 0001, but for the kind of what is earned.
POST_ENTRIES = """
CREATE OR REPLACE FUNCTION post_entries() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    wrong_transaction uuid;
    wrong_account bigint;
BEGIN
    SELECT e.transaction_id INTO wrong_transaction
    FROM new_entries AS e
    LEFT JOIN transactions AS t ON t.transaction_id = e.transaction_id
    GROUP BY e.transaction_id
    HAVING sum(e.amount_micros) <> 0
        OR sum(e.amount_micros) FILTER (WHERE e.amount_micros > 0) <> min(t.amount_micros)
        OR bool_or((e.effective_at, e.recorded_at)
            IS DISTINCT FROM (t.effective_at, t.recorded_at))
        OR bool_or(e.kind <> t.kind AND (e.kind <> 'earning' OR e.amount_micros < 0
            OR e.balance_after_micros IS NULL OR t.correction IS NOT NULL))
        OR bool_or(t.xmin <> pg_current_xact_id()::xid)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries of transaction % do not sum to zero, do not match it, '
            'or come after it was committed', wrong_transaction
            USING ERRCODE = 'check_violation';
    END IF;

    SELECT account_id INTO wrong_account FROM (
        SELECT e.account_id,
            e.entry_number = b.entry_count + row_number() OVER in_order
            AND e.balance_after_micros = b.balance_micros + sum(e.amount_micros) OVER in_order
            AND e.recorded_at >= b.last_entry_at AS follows
        FROM new_entries AS e
        LEFT JOIN balances AS b ON b.account_id = e.account_id
        WHERE e.balance_after_micros IS NOT NULL
        WINDOW in_order AS (PARTITION BY e.account_id ORDER BY e.entry_number)
    ) AS checked
    WHERE follows IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'an entry of account % does not follow from the one before it',
            wrong_account USING ERRCODE = 'check_violation';
    END IF;

    EXECUTE $update$
        UPDATE balances AS b
        SET balance_micros = b.balance_micros + moved.amount_micros,
            entry_count = moved.last_number,
            last_entry_at = moved.last_at
        FROM (
            SELECT account_id, sum(amount_micros)::bigint AS amount_micros,
                max(entry_number) AS last_number, max(recorded_at) AS last_at
            FROM new_entries
            WHERE balance_after_micros IS NOT NULL
            GROUP BY account_id
        ) AS moved
        WHERE b.account_id = moved.account_id
    $update$;
    RETURN NULL;
END $$;
"""


def upgrade() -> None:
    for statements in (ENTRIES, CAPTURES, CORRECTIONS, POST_ENTRIES):
        op.execute(statements)
