\set account random(1, 100000)
BEGIN;
UPDATE wallets SET balance_micros = balance_micros - 1000 WHERE wallet_id = :account
    RETURNING balance_micros AS balance \gset
INSERT INTO postings (posting_key, description)
    VALUES (gen_random_uuid()::text, 'Benchmark') RETURNING posting_id \gset
INSERT INTO legs VALUES (:posting_id, :account, -1000, :balance), (:posting_id, 0, 1000, NULL);
COMMIT;
