"""Promotional credit: a kind, and a row for each grant.

What is left of a grant is told by the entries after it, and stands nowhere. A row says when it is
looked at next, and how often something was taken back; nothing else of it ever changes.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

VERSION_BEFORE = "It writes fewer words than the ones that are known now."

# Every row that is there passes the narrower check that goes; 0017 looks again beside the traffic.
WORDS = """
ALTER TABLE transactions
    DROP CONSTRAINT kind_is_known,
    ADD CONSTRAINT kind_is_known CHECK (kind IN ('purchase', 'topup', 'auto_topup', 'transfer',
        'earning', 'refund', 'renewal', 'usage', 'adjustment', 'migration', 'chargeback',
        'payout', 'exchange', 'promotion')) NOT VALID;
"""

PROMOTIONS = """
CREATE TABLE promotions (
    promotion_id uuid PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts CHECK (account_id >= 1000),
    amount_micros bigint NOT NULL CHECK (amount_micros > 0),
    reason text NOT NULL CHECK (reason <> ''),
    given_by uuid NOT NULL,
    given_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    transaction_id uuid NOT NULL UNIQUE,
    entry_number bigint NOT NULL,
    due_at timestamptz,
    takes integer NOT NULL CHECK (takes >= 0),
    given_key text COLLATE "C" NOT NULL UNIQUE,
    given_hash bytea NOT NULL CHECK (octet_length(given_hash) = 32),
    CONSTRAINT expires_later CHECK (expires_at > given_at),
    CONSTRAINT is_looked_at_after_its_end CHECK (due_at >= expires_at),
    FOREIGN KEY (account_id, entry_number) REFERENCES entries
);

CREATE INDEX promotions_of_account ON promotions (account_id);
CREATE INDEX promotions_due ON promotions (due_at) WHERE due_at IS NOT NULL;

CREATE FUNCTION check_promotion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.promotion_id, OLD.account_id, OLD.amount_micros, OLD.reason,
        OLD.given_by, OLD.given_at, OLD.expires_at, OLD.transaction_id, OLD.entry_number,
        OLD.given_key, OLD.given_hash) IS DISTINCT FROM (NEW.promotion_id, NEW.account_id,
        NEW.amount_micros, NEW.reason, NEW.given_by, NEW.given_at, NEW.expires_at,
        NEW.transaction_id, NEW.entry_number, NEW.given_key, NEW.given_hash)
    THEN
        RAISE EXCEPTION 'more than the next look at promotion % was changed', OLD.promotion_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF TG_OP = 'INSERT' AND NOT EXISTS (
        SELECT FROM entries AS e JOIN accounts AS a ON a.account_id = e.account_id
        WHERE e.account_id = NEW.account_id AND e.entry_number = NEW.entry_number
            AND e.transaction_id = NEW.transaction_id AND e.amount_micros = NEW.amount_micros
            AND e.kind = 'promotion' AND a.user_id <> NEW.given_by
    ) THEN
        RAISE EXCEPTION 'promotion % was not given by the entry that it names, or to its giver',
            NEW.promotion_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER check_promotion BEFORE INSERT OR UPDATE ON promotions
    FOR EACH ROW EXECUTE FUNCTION check_promotion();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON promotions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute(WORDS)
    op.execute(PROMOTIONS)
