"""What a batch locks and reads comes in one round trip, with plans that are kept.

A batch read its accounts, their levels and its keys one after the other, and each statement was
planned anew. The function keeps its plans; its settings leave the one that is right for every
size, as in ``post_entries``. Under READ COMMITTED each of its statements sees what was committed
when it begins, so that levels and keys are read after the lock was had.

The check of house accounts was planned with a hash of all accounts: it looks them up now. What a
key and a link of the chain point to is checked once for all rows of a statement, as in 0002.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OPEN_BOOK = """
CREATE FUNCTION open_book(user_ids uuid[], idempotency_keys text[]) RETURNS TABLE (
    account_id bigint, user_id uuid, opened_at timestamptz, balance_micros bigint,
    held_micros bigint, entry_count bigint, status text, status_change_count integer,
    last_entry_at timestamptz,
    level text, threshold_micros bigint, is_armed boolean,
    idempotency_key text, method text, request_hash bytea, key_account_id bigint,
    transaction_id uuid, hold_id uuid, change_number integer, recorded_at timestamptz
) LANGUAGE plpgsql ROWS 40
    SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    -- In the order of account ids, everywhere: two batches never wait for each other in a circle.
    RETURN QUERY
    SELECT a.account_id, a.user_id, a.opened_at, b.balance_micros, b.held_micros, b.entry_count,
        b.status, b.status_change_count, nullif(b.last_entry_at, '-infinity'),
        NULL::text, NULL::bigint, NULL::boolean,
        NULL::text, NULL::text, NULL::bytea, NULL::bigint, NULL::uuid, NULL::uuid,
        NULL::integer, NULL::timestamptz
    FROM accounts AS a JOIN balances AS b ON b.account_id = a.account_id
    WHERE a.user_id = ANY(user_ids)
    ORDER BY a.account_id FOR NO KEY UPDATE OF b;

    RETURN QUERY
    SELECT l.account_id, a.user_id, NULL::timestamptz, NULL::bigint, NULL::bigint, NULL::bigint,
        NULL::text, NULL::integer, NULL::timestamptz,
        l.name, l.threshold_micros, l.is_armed,
        NULL::text, NULL::text, NULL::bytea, NULL::bigint, NULL::uuid, NULL::uuid,
        NULL::integer, NULL::timestamptz
    FROM accounts AS a JOIN levels AS l ON l.account_id = a.account_id
    WHERE a.user_id = ANY(user_ids) AND l.threshold_micros IS NOT NULL;

    RETURN QUERY
    SELECT NULL::bigint, NULL::uuid, NULL::timestamptz, NULL::bigint, NULL::bigint, NULL::bigint,
        NULL::text, NULL::integer, NULL::timestamptz,
        NULL::text, NULL::bigint, NULL::boolean,
        k.idempotency_key, k.method, k.request_hash, k.account_id, k.transaction_id, k.hold_id,
        k.change_number, k.recorded_at
    FROM keys AS k WHERE k.idempotency_key = ANY(idempotency_keys);
END $$;
"""

HOUSE_ACCOUNTS = """
ALTER FUNCTION require_house_accounts() SET enable_seqscan = off;
ALTER FUNCTION require_house_accounts() SET enable_hashjoin = off;
ALTER FUNCTION require_house_accounts() SET enable_mergejoin = off;
"""

# The tables pointed to are append-only: nothing can go away behind a row's back.
POINTERS = """
ALTER TABLE keys ALTER CONSTRAINT outcome_is_an_entry NOT ENFORCED;
ALTER TABLE chain ALTER CONSTRAINT chain_position_fkey NOT ENFORCED;

CREATE FUNCTION require_outcomes() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    wrong_key text;
BEGIN
    SELECT k.idempotency_key INTO wrong_key FROM new_keys AS k
    LEFT JOIN entries AS e
        ON e.transaction_id = k.transaction_id AND e.account_id = k.account_id
    WHERE k.transaction_id IS NOT NULL AND e.account_id IS NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the key % points to an entry that does not exist', wrong_key
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER require_outcomes AFTER INSERT ON keys REFERENCING NEW TABLE AS new_keys
    FOR EACH STATEMENT EXECUTE FUNCTION require_outcomes();

CREATE FUNCTION require_sealed() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    wrong_position bigint;
BEGIN
    SELECT l.position INTO wrong_position FROM new_links AS l
    LEFT JOIN transactions AS t ON t.position = l.position
    WHERE t.position IS NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no transaction at position %', wrong_position
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER require_sealed AFTER INSERT ON chain REFERENCING NEW TABLE AS new_links
    FOR EACH STATEMENT EXECUTE FUNCTION require_sealed();
"""


def upgrade() -> None:
    for statements in (OPEN_BOOK, HOUSE_ACCOUNTS, POINTERS):
        op.execute(statements)
