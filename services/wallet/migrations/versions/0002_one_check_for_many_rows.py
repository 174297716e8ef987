"""One check for all rows of a statement, where a foreign key looks up each of them again.

``post_entries`` has compared every entry with its transaction and with its account's balance
already. The foreign keys beside it were 40 % of the database's time for a posting: they stay
declared, for whoever reads or draws the tables, and are no longer looked up.

New: a transaction without entries is refused too, when it is committed.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ENTRIES = """
ALTER TABLE entries ALTER CONSTRAINT entries_transaction_id_fkey NOT ENFORCED;
ALTER TABLE entries ALTER CONSTRAINT entries_account_id_fkey NOT ENFORCED;

-- A user's account is looked up by post_entries; of house accounts there are a few in a batch.
CREATE FUNCTION require_house_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong_account bigint;
BEGIN
    SELECT account_id INTO wrong_account FROM (
        SELECT DISTINCT account_id FROM new_entries WHERE balance_after_micros IS NULL
    ) AS named
    WHERE NOT EXISTS (SELECT FROM accounts AS a WHERE a.account_id = named.account_id)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no house account %', wrong_account
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER require_house_accounts AFTER INSERT ON entries
    REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION require_house_accounts();
"""

# What a key points to names the account as well, except where a wallet was opened.
KEYS = """
ALTER TABLE keys ALTER CONSTRAINT keys_account_id_fkey NOT ENFORCED;
ALTER TABLE keys ADD COLUMN opened_account_id bigint
    GENERATED ALWAYS AS (CASE WHEN method = 'open_account' THEN account_id END) STORED
    REFERENCES accounts;
"""

TRANSACTIONS = """
CREATE FUNCTION require_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM entries WHERE transaction_id = NEW.transaction_id) THEN
        RAISE EXCEPTION 'transaction % has no entries', NEW.transaction_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER transaction_has_entries AFTER INSERT ON transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION require_entries();
"""


def upgrade() -> None:
    for statements in (ENTRIES, KEYS, TRANSACTIONS):
        op.execute(statements)
