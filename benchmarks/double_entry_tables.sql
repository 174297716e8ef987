-- What a careful person writes by hand for a double entry: a checked balance, a unique key,
-- foreign keys.
CREATE TABLE wallets (
    wallet_id integer PRIMARY KEY,
    balance_micros bigint NOT NULL CHECK (balance_micros >= 0)
) WITH (fillfactor = 50);
INSERT INTO wallets SELECT n, 1000000000000 FROM generate_series(0, 100000) AS n;
CREATE TABLE postings (
    posting_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    posting_key text NOT NULL UNIQUE,
    description text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE legs (
    posting_id bigint NOT NULL REFERENCES postings,
    wallet_id integer NOT NULL REFERENCES wallets,
    amount_micros bigint NOT NULL CHECK (amount_micros <> 0),
    balance_after_micros bigint,
    PRIMARY KEY (wallet_id, posting_id)
);
