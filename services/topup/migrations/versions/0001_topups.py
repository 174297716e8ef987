"""Customers, cards, top-ups, automatic top-ups, the processor's notices."""

from alembic import op

from chassis.migrate import create_messaging_tables

revision = "0001"
down_revision = None

TABLES = (
    """
    CREATE TABLE customers (
        user_id uuid PRIMARY KEY,
        email text NOT NULL,
        customer_id text UNIQUE,
        created_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE cards (
        payment_method_id text PRIMARY KEY,
        user_id uuid NOT NULL,
        brand text NOT NULL,
        last4 text NOT NULL,
        exp_month integer NOT NULL,
        exp_year integer NOT NULL,
        fingerprint text NOT NULL,
        is_default boolean NOT NULL,
        added_at timestamptz NOT NULL,
        removed_at timestamptz,
        detached_at timestamptz,
        expiry_warned_at timestamptz
    )
    """,
    "CREATE INDEX cards_of_user ON cards (user_id)",
    """
    CREATE UNIQUE INDEX cards_one_default ON cards (user_id)
    WHERE is_default AND removed_at IS NULL
    """,
    """
    CREATE TABLE topups (
        topup_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        kind text NOT NULL CHECK (kind IN ('manual', 'auto')),
        status text NOT NULL,
        amount_micros bigint NOT NULL CHECK (amount_micros > 0 AND amount_micros % 10000 = 0),
        idempotency_key text NOT NULL,
        request_hash text NOT NULL,
        customer_id text,
        is_card_saved boolean NOT NULL,
        return_path text NOT NULL,
        session_id text UNIQUE,
        checkout_url text,
        payment_id text UNIQUE,
        payment_method_id text,
        card_brand text NOT NULL,
        card_last4 text NOT NULL,
        trigger text,
        trigger_reference text,
        threshold_micros bigint,
        failure_code text NOT NULL,
        failure_message text NOT NULL,
        receipt_url text,
        problem text NOT NULL,
        looks integer NOT NULL,
        next_look_at timestamptz,
        asked_at timestamptz,
        sent_at timestamptz,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        paid_at timestamptz,
        credited_at timestamptz,
        UNIQUE (user_id, kind, idempotency_key)
    )
    """,
    # The last line of defence against two automatic charges at once.
    """
    CREATE UNIQUE INDEX topups_one_in_flight ON topups (user_id)
    WHERE kind = 'auto' AND status IN ('created', 'processing', 'unknown', 'action_required')
    """,
    "CREATE INDEX topups_of_user ON topups (user_id, created_at DESC, topup_id DESC)",
    "CREATE INDEX topups_to_look_at ON topups (next_look_at) WHERE next_look_at IS NOT NULL",
    "CREATE INDEX topups_auto_by_time ON topups (created_at) WHERE kind = 'auto'",
    "CREATE INDEX topups_paid_by_time ON topups (paid_at) WHERE paid_at IS NOT NULL",
    """
    CREATE TABLE auto_topup_settings (
        user_id uuid PRIMARY KEY,
        is_enabled boolean NOT NULL,
        threshold_micros bigint NOT NULL CHECK (threshold_micros >= 0),
        amount_micros bigint NOT NULL CHECK (amount_micros > 0),
        payment_method_id text,
        backup_payment_method_id text,
        daily_limit_micros bigint,
        monthly_limit_micros bigint,
        settings_version integer NOT NULL,
        consent_id uuid,
        paused_code text NOT NULL,
        paused_reason text NOT NULL,
        paused_at timestamptz,
        confirm_url text,
        declines integer NOT NULL,
        declined_payment_method_id text,
        cool_down_until timestamptz,
        updated_at timestamptz NOT NULL,
        CHECK (NOT is_enabled OR consent_id IS NOT NULL)
    )
    """,
    """
    CREATE TABLE consents (
        consent_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        version text NOT NULL,
        text text NOT NULL,
        client_address text NOT NULL,
        terms jsonb NOT NULL,
        agreed_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX consents_of_user ON consents (user_id, agreed_at)",
    """
    CREATE TABLE card_setups (
        session_id text PRIMARY KEY,
        user_id uuid NOT NULL,
        created_at timestamptz NOT NULL,
        asked_at timestamptz,
        done_at timestamptz
    )
    """,
    "CREATE INDEX card_setups_open ON card_setups (user_id) WHERE done_at IS NULL",
    """
    CREATE TABLE commands (
        user_id uuid NOT NULL,
        method text NOT NULL,
        idempotency_key text NOT NULL,
        request_hash text NOT NULL,
        outcome jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, method, idempotency_key)
    )
    """,
    """
    CREATE TABLE triggers (
        trigger_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        trigger text NOT NULL,
        reference text NOT NULL,
        needed_micros bigint NOT NULL,
        shortfall_micros bigint NOT NULL,
        available_micros bigint,
        raised_at timestamptz NOT NULL,
        due_at timestamptz,
        tries integer NOT NULL,
        topup_id uuid,
        refusal_code text NOT NULL,
        ended_at timestamptz,
        UNIQUE (user_id, trigger, reference)
    )
    """,
    "CREATE INDEX triggers_due ON triggers (due_at) WHERE due_at IS NOT NULL",
    """
    CREATE TABLE refusals (
        refusal_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        code text NOT NULL,
        reason text NOT NULL,
        trigger text NOT NULL,
        reference text NOT NULL,
        refused_at timestamptz NOT NULL,
        UNIQUE (user_id, trigger, reference, code)
    )
    """,
    "CREATE INDEX refusals_of_user ON refusals (user_id, refused_at DESC)",
    """
    CREATE TABLE notices (
        event_id text PRIMARY KEY,
        type text NOT NULL,
        object_id text NOT NULL,
        body jsonb NOT NULL,
        received_at timestamptz NOT NULL,
        tries integer NOT NULL,
        next_try_at timestamptz,
        processed_at timestamptz,
        last_error text NOT NULL
    )
    """,
    "CREATE INDEX notices_due ON notices (next_try_at) WHERE next_try_at IS NOT NULL",
    """
    CREATE TABLE reversals (
        reversal_id text PRIMARY KEY,
        topup_id uuid NOT NULL REFERENCES topups,
        user_id uuid NOT NULL,
        amount_micros bigint NOT NULL CHECK (amount_micros > 0),
        is_dispute boolean NOT NULL,
        status text NOT NULL,
        taken_at timestamptz NOT NULL,
        restored_at timestamptz
    )
    """,
    "CREATE INDEX reversals_of_topup ON reversals (topup_id)",
    """
    CREATE TABLE operator_switch (
        id integer PRIMARY KEY CHECK (id = 1),
        is_stopped boolean NOT NULL,
        reason text NOT NULL,
        changed_by text NOT NULL,
        changed_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE differences (
        key text PRIMARY KEY,
        code text NOT NULL,
        topup_id uuid,
        user_id uuid,
        payment_id text NOT NULL,
        amount_micros bigint NOT NULL,
        message text NOT NULL,
        occurred_at timestamptz NOT NULL,
        found_at timestamptz NOT NULL,
        seen_at timestamptz NOT NULL,
        gone_at timestamptz
    )
    """,
)


def upgrade() -> None:
    create_messaging_tables(op)
    for statement in TABLES:
        op.execute(statement)
