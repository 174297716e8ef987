"""Adjustments that one person proposes and another decides: the database refuses all others.

A proposal is decided once, in its time, by somebody who neither proposed it nor owns the wallet;
one that is posted names the transaction that did it, of the same wallet and amount.
"""

from alembic import op

revision = "0015"
down_revision = "0014"

ADJUSTMENTS = """
CREATE TABLE adjustments (
    adjustment_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES accounts (user_id),
    amount_micros bigint NOT NULL CHECK (amount_micros <> 0),
    reason text NOT NULL CHECK (reason <> ''),
    proposed_by uuid NOT NULL,
    proposed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    status text NOT NULL CHECK (status IN ('proposed', 'posted', 'rejected')),
    decided_by uuid,
    decided_at timestamptz,
    decision_reason text CHECK (decision_reason <> ''),
    transaction_id uuid UNIQUE,
    proposal_key text COLLATE "C" NOT NULL UNIQUE,
    proposal_hash bytea NOT NULL CHECK (octet_length(proposal_hash) = 32),
    decision_key text COLLATE "C",
    decision_hash bytea CHECK (octet_length(decision_hash) = 32),
    CONSTRAINT nobody_decides_their_own CHECK (decided_by <> proposed_by),
    CONSTRAINT nobody_adjusts_their_own_wallet
        CHECK (proposed_by <> user_id AND decided_by <> user_id),
    CONSTRAINT decision_is_whole CHECK (num_nonnulls(decided_by, decided_at, decision_reason,
        decision_key, decision_hash) = CASE status WHEN 'proposed' THEN 0 ELSE 5 END),
    CONSTRAINT decision_is_in_time CHECK (decided_at < expires_at),
    CONSTRAINT expires_later CHECK (expires_at > proposed_at),
    CONSTRAINT posting_has_a_transaction
        CHECK ((status = 'posted') = (transaction_id IS NOT NULL))
);

CREATE INDEX adjustments_by_date ON adjustments (proposed_at, adjustment_id);
CREATE INDEX adjustments_open ON adjustments (expires_at) WHERE status = 'proposed';
"""

ONCE = """
CREATE FUNCTION check_adjustment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'proposed' THEN
            RAISE EXCEPTION 'adjustment % was not proposed first', NEW.adjustment_id
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.status <> 'proposed' OR (OLD.adjustment_id, OLD.user_id, OLD.amount_micros, OLD.reason,
        OLD.proposed_by, OLD.proposed_at, OLD.expires_at, OLD.proposal_key, OLD.proposal_hash)
        IS DISTINCT FROM (NEW.adjustment_id, NEW.user_id, NEW.amount_micros, NEW.reason,
        NEW.proposed_by, NEW.proposed_at, NEW.expires_at, NEW.proposal_key, NEW.proposal_hash)
    THEN
        RAISE EXCEPTION 'adjustment % is decided, or more than its decision was changed',
            OLD.adjustment_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.status = 'posted' AND NOT EXISTS (
        SELECT FROM keys AS k
        JOIN entries AS e ON e.transaction_id = k.transaction_id AND e.account_id = k.account_id
        JOIN accounts AS a ON a.account_id = k.account_id
        WHERE k.idempotency_key = 'approved:' || NEW.adjustment_id AND k.method = 'adjust'
            AND k.transaction_id = NEW.transaction_id
            AND a.user_id = NEW.user_id AND e.amount_micros = NEW.amount_micros
    ) THEN
        RAISE EXCEPTION 'adjustment % was not posted by the transaction that it names',
            NEW.adjustment_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER check_adjustment BEFORE INSERT OR UPDATE ON adjustments
    FOR EACH ROW EXECUTE FUNCTION check_adjustment();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON adjustments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute(ADJUSTMENTS)
    op.execute(ONCE)
