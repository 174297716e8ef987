"""The pools: accounts by coin, transactions of entries, quotes and orders.

The database refuses what a wrong program might write, as the wallet's does:

* a transaction whose entries do not sum to zero in each coin, or that gets more entries later;
* an entry whose running balance does not follow from the one before it;
* a balance that moves without an entry, or below zero where it is somebody's;
* a pool of which a share is worth less after an entry, and coins in a pool without shares;
* a change to anything that was written down.

A pool's shares are a coin too, of its name: the pool's own account of it is what it issued, below
zero, so that the shares of all users are the pool's shares. ``wallet`` is what the wallet has of
the dollars that are in the pools, below zero as well.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

ACCOUNTS = """
CREATE TABLE pool_accounts (
    account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder text NOT NULL,
    user_id uuid,
    pool text NOT NULL DEFAULT '',
    coin text NOT NULL,
    balance_units bigint NOT NULL DEFAULT 0,
    entry_count bigint NOT NULL DEFAULT 0,
    CONSTRAINT holder_is_known
        CHECK (holder IN ('user', 'stake', 'pool', 'wallet', 'old_system', 'adjustments')),
    CONSTRAINT users_have_what_is_theirs
        CHECK ((holder IN ('user', 'stake')) = (user_id IS NOT NULL)),
    CONSTRAINT pools_have_names CHECK ((holder = 'pool') = (pool <> '')),
    CONSTRAINT only_the_house_is_below_zero CHECK (balance_units >= 0
        OR holder IN ('wallet', 'old_system', 'adjustments') OR holder = 'pool' AND coin = pool)
);
CREATE UNIQUE INDEX pool_accounts_of_users ON pool_accounts (user_id, holder, coin)
    WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX pool_accounts_of_the_house ON pool_accounts (holder, pool, coin)
    WHERE user_id IS NULL;

INSERT INTO pool_accounts (holder, pool, coin)
SELECT 'pool', 'TFP-' || other, coin
FROM unnest(ARRAY['USD', 'EUR', 'CAD', 'TFT', 'PEAQ']) AS other,
    unnest(ARRAY['TFP', other, 'TFP-' || other]) AS coin;
INSERT INTO pool_accounts (holder, coin)
SELECT holder, coin FROM unnest(ARRAY['old_system', 'adjustments']) AS holder,
    unnest(ARRAY['TFP', 'EUR', 'CAD', 'TFT', 'PEAQ']) AS coin;
INSERT INTO pool_accounts (holder, coin) VALUES ('wallet', 'USD');

CREATE FUNCTION refuse_bare_pool_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Depth 2 and more: our own trigger on entries is at work.
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'account % of the pools moves only by entries', NEW.account_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER balance_moves_by_entries BEFORE UPDATE ON pool_accounts
    FOR EACH ROW EXECUTE FUNCTION refuse_bare_pool_balance();
"""

ENTRIES = """
CREATE TABLE pool_transactions (
    transaction_id uuid PRIMARY KEY,
    position bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    user_id uuid NOT NULL,
    order_id uuid UNIQUE,
    kind text NOT NULL,
    pool text NOT NULL,
    note text NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT kind_is_known CHECK (kind IN ('exchange', 'add', 'withdraw', 'stake', 'unstake',
        'opening', 'closing', 'adjustment')),
    CONSTRAINT adjustment_says_why CHECK (kind <> 'adjustment' OR note <> ''),
    CONSTRAINT orders_and_nothing_else_have_one
        CHECK ((order_id IS NULL) = (kind IN ('opening', 'closing', 'adjustment')))
);
CREATE INDEX pool_transactions_of_users ON pool_transactions (user_id, position);

CREATE TABLE pool_entries (
    account_id bigint NOT NULL REFERENCES pool_accounts,
    entry_number bigint NOT NULL,
    transaction_id uuid NOT NULL REFERENCES pool_transactions,
    amount_units bigint NOT NULL CHECK (amount_units <> 0),
    balance_after_units bigint NOT NULL,
    PRIMARY KEY (account_id, entry_number),
    CONSTRAINT one_entry_for_each_account UNIQUE (transaction_id, account_id)
);

CREATE FUNCTION post_pool_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT format('%s in %s', e.transaction_id, a.coin) INTO wrong
    FROM new_entries AS e
    JOIN pool_accounts AS a ON a.account_id = e.account_id
    LEFT JOIN pool_transactions AS t ON t.transaction_id = e.transaction_id
    GROUP BY e.transaction_id, a.coin
    HAVING sum(e.amount_units) <> 0
        OR bool_or(t.xmin IS DISTINCT FROM pg_current_xact_id()::xid)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries of transaction % do not sum to zero, or come after it was '
            'committed', wrong USING ERRCODE = 'check_violation';
    END IF;

    SELECT account_id INTO wrong FROM (
        SELECT e.account_id,
            e.entry_number = a.entry_count + row_number() OVER in_order
            AND e.balance_after_units = a.balance_units + sum(e.amount_units) OVER in_order
                AS follows
        FROM new_entries AS e
        JOIN pool_accounts AS a ON a.account_id = e.account_id
        WINDOW in_order AS (PARTITION BY e.account_id ORDER BY e.entry_number)
    ) AS checked
    WHERE follows IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'an entry of account % of the pools does not follow from the one before it',
            wrong USING ERRCODE = 'check_violation';
    END IF;

    -- The product of a pool's coins, over the square of its shares, never falls.
    SELECT pool INTO wrong FROM (
        SELECT a.pool,
            sum(a.balance_units) FILTER (WHERE a.coin = 'TFP') AS base,
            sum(a.balance_units) FILTER (WHERE a.coin NOT IN ('TFP', a.pool)) AS other,
            -sum(a.balance_units) FILTER (WHERE a.coin = a.pool) AS shares,
            coalesce(sum(e.units) FILTER (WHERE a.coin = 'TFP'), 0) AS base_moved,
            coalesce(sum(e.units) FILTER (WHERE a.coin NOT IN ('TFP', a.pool)), 0) AS other_moved,
            -coalesce(sum(e.units) FILTER (WHERE a.coin = a.pool), 0) AS shares_moved
        FROM pool_accounts AS a
        LEFT JOIN (
            SELECT account_id, sum(amount_units) AS units FROM new_entries GROUP BY account_id
        ) AS e ON e.account_id = a.account_id
        WHERE a.holder = 'pool' AND a.user_id IS NULL AND a.pool IN (
            SELECT moved.pool FROM new_entries JOIN pool_accounts AS moved USING (account_id)
            WHERE moved.holder = 'pool'
        )
        GROUP BY a.pool
    ) AS moved
    WHERE (base + base_moved) * (other + other_moved) * shares * shares
            < base * other * (shares + shares_moved) * (shares + shares_moved)
        OR (shares + shares_moved > 0)
            IS DISTINCT FROM (base + base_moved > 0 AND other + other_moved > 0)
        OR shares + shares_moved = 0 AND (base + base_moved <> 0 OR other + other_moved <> 0)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'a share of the pool % is worth less after this, or is of nothing', wrong
            USING ERRCODE = 'check_violation';
    END IF;

    UPDATE pool_accounts AS a
    SET balance_units = a.balance_units + moved.units, entry_count = a.entry_count + moved.count
    FROM (
        SELECT account_id, sum(amount_units)::bigint AS units, count(*) AS count
        FROM new_entries GROUP BY account_id
    ) AS moved
    WHERE a.account_id = moved.account_id;
    RETURN NULL;
END $$;

CREATE TRIGGER post_pool_entries AFTER INSERT ON pool_entries
    REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION post_pool_entries();
"""

QUOTES_AND_ORDERS = """
CREATE TABLE pool_quotes (
    quote_id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('exchange', 'add', 'withdraw')),
    pool text NOT NULL,
    wish_base_units bigint NOT NULL,
    wish_other_units bigint NOT NULL,
    wish_share_units bigint NOT NULL,
    base_units bigint NOT NULL,
    other_units bigint NOT NULL,
    share_units bigint NOT NULL,
    fee_units bigint NOT NULL CHECK (fee_units >= 0),
    made_at timestamptz NOT NULL
);
CREATE INDEX pool_quotes_by_age ON pool_quotes (made_at);

-- least: what it has to come to at least; base, other, share: what it came to.
CREATE TABLE pool_orders (
    order_id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    idempotency_key text NOT NULL,
    body_hash text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('exchange', 'add', 'withdraw', 'stake', 'unstake')),
    pool text NOT NULL,
    quote_id uuid UNIQUE,
    status text NOT NULL CHECK (status IN ('requested', 'capturing', 'releasing', 'paying', 'done',
        'refused', 'declined')),
    status_code text NOT NULL,
    reason text NOT NULL,
    wish_base_units bigint NOT NULL,
    wish_other_units bigint NOT NULL,
    wish_share_units bigint NOT NULL,
    least_base_units bigint NOT NULL,
    least_other_units bigint NOT NULL,
    least_share_units bigint NOT NULL,
    base_units bigint NOT NULL,
    other_units bigint NOT NULL,
    share_units bigint NOT NULL,
    fee_units bigint NOT NULL CHECK (fee_units >= 0),
    hold_id uuid,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    due_at timestamptz,
    CONSTRAINT one_order_for_each_key UNIQUE (user_id, idempotency_key),
    CONSTRAINT what_is_set_aside_is_known
        CHECK (status NOT IN ('capturing', 'releasing', 'refused') OR hold_id IS NOT NULL),
    CONSTRAINT what_has_ended_is_not_due
        CHECK (status IN ('requested', 'capturing', 'releasing', 'paying') = (due_at IS NOT NULL))
);
CREATE INDEX pool_orders_due ON pool_orders (due_at, order_id) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX one_order_under_way ON pool_orders (user_id) WHERE due_at IS NOT NULL;
"""

REFUSE_CHANGES = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: correct a mistake with a new transaction', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pool_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON pool_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON pool_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    for statements in (ACCOUNTS, ENTRIES, QUOTES_AND_ORDERS, REFUSE_CHANGES):
        op.execute(statements)
