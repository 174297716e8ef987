"""A correction goes back the way its original came, and a capture is its hold's own.

What the rules do already is refused to a wrong program too. New: no date before 2000, which a
client could not read back.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DATES = """
ALTER TABLE transactions ADD CONSTRAINT effective_in_our_time
    CHECK (effective_at >= '2000-01-01 00:00:00+00');
"""

CORRECTIONS = """
CREATE FUNCTION require_mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM entries AS e
        LEFT JOIN entries AS original ON original.account_id = e.account_id
            AND original.transaction_id = NEW.corrects_transaction_id
        WHERE e.transaction_id = NEW.transaction_id
            AND coalesce(sign(original.amount_micros) = sign(e.amount_micros), true)
    ) THEN
        RAISE EXCEPTION 'transaction % does not go back the way its original came',
            NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER correction_mirrors_original AFTER INSERT ON transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.corrects_transaction_id IS NOT NULL)
    EXECUTE FUNCTION require_mirror();
"""

CAPTURES = """
CREATE UNIQUE INDEX one_hold_for_a_capture ON holds (transaction_id)
    WHERE transaction_id IS NOT NULL;

CREATE FUNCTION require_capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM transactions WHERE transaction_id = NEW.transaction_id
            AND metadata ->> 'hold_id' = NEW.hold_id::text
    ) THEN
        RAISE EXCEPTION 'hold % was not captured by the transaction that it names', NEW.hold_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER capture_is_the_holds_own AFTER INSERT OR UPDATE ON holds
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status = 'captured')
    EXECUTE FUNCTION require_capture();
"""


def upgrade() -> None:
    for statements in (DATES, CORRECTIONS, CAPTURES):
        op.execute(statements)
