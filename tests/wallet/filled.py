"""Ledgers of a given size: as many postings would have made them, only faster."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg2

from chassis.clock import utc_now
from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.migrate import migrate
from contracts.wallet import Debit
from deploy.local.postgres import Postgres
from services.wallet import ledger

CREDIT_MICROS = 1_000_000_000

# Every user gets the same number of credits, in turns, over the last year. Triggers and foreign
# keys are off meanwhile, and indexes are made at the end, when what they hold can be sorted first;
# verification finds nothing wrong with the result.
FILL = """
SET session_replication_role = replica;
SET synchronize_seqscans = off;
SET maintenance_work_mem = '1GB';
UPDATE pg_index SET indisready = false
    WHERE indrelid IN ('transactions'::regclass, 'entries'::regclass, 'keys'::regclass);
INSERT INTO accounts (account_id, user_id, opened_at)
    SELECT 1000 + n, uuidv7(), now() - interval '366 days' FROM generate_series(0, %(users)s - 1) n;
SELECT setval(pg_get_serial_sequence('accounts', 'account_id'), 1000 + %(users)s);
CREATE TEMPORARY TABLE plan AS
    SELECT n, uuidv7() AS id, 1000 + n %% %(users)s AS account_id,
        (n / %(users)s + 1)::bigint AS number,
        now() - interval '365 days' * (1 - n::float / %(transactions)s) AS at
    FROM generate_series(0, %(transactions)s - 1) AS n;
INSERT INTO transactions (transaction_id, kind, amount_micros, description, metadata,
        effective_at, recorded_at)
    SELECT id, 'topup', %(credit)s, 'Top-up', '{}', at, at FROM plan;
INSERT INTO entries SELECT account_id, number, id, %(credit)s, number * %(credit)s, 'topup', at, at
    FROM plan;
INSERT INTO entries SELECT 1, nextval('house_entry_number'), id, -%(credit)s, NULL, 'topup', at, at
    FROM plan;
INSERT INTO keys (idempotency_key, method, request_hash, account_id, transaction_id, recorded_at)
    SELECT 'topup:' || id, 'credit', sha256('x'), account_id, id, at FROM plan;
INSERT INTO balances (account_id, balance_micros, entry_count, last_entry_at)
    SELECT account_id, max(number) * %(credit)s, max(number), max(at) FROM plan GROUP BY 1;
REINDEX TABLE transactions;
REINDEX TABLE entries;
REINDEX TABLE keys;
"""


class FilledLedger:
    """A ledger of ``entries`` entries over ``users`` users, each of whom has money."""

    def __init__(self, database: Connected, user_ids: list[UUID]) -> None:
        self.database = database
        self.user_ids = user_ids

    def debits(self, count: int, users: int | None = None) -> list[Debit]:
        """Debits of random users, or of the first ``users`` of them."""
        among = self.user_ids[:users]
        return [self.debit(random.choice(among)) for _ in range(count)]

    @staticmethod
    def debit(user_id: UUID) -> Debit:
        return Debit(
            idempotency_key=f"bench:{new_id()}",
            user_id=user_id,
            amount_micros=1,
            description="Benchmark",
        )

    def post(self, commands: list[Debit]) -> None:
        """One batch, in one transaction, as the committer does it."""
        with self.database.begin() as session:
            outcomes = ledger.post(session, utc_now(), commands)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)


@contextmanager
def filled(postgres: Postgres, name: str, entries: int, users: int) -> Iterator[FilledLedger]:
    """A database of this name with so many entries, removed at the end."""
    url = postgres.create_database(name)
    migrate("services.wallet", url)
    admin = postgres.admin_url.replace("+psycopg2", "").rsplit("/", 1)[0] + f"/{name}"
    connection = psycopg2.connect(admin)
    with connection, connection.cursor() as cursor:
        values = {"users": users, "transactions": entries // 2, "credit": CREDIT_MICROS}
        cursor.execute(FILL, values)
        cursor.execute("SELECT user_id FROM accounts WHERE user_id IS NOT NULL")
        user_ids = [UUID(row[0]) for row in cursor]
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    connection.close()
    database = connect(url)
    yield FilledLedger(database, user_ids)
    database.engine.dispose()
    postgres.drop_database(name)
