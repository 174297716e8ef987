"""Derives every balance, hold, key and link again, and names the first difference.

    python -m services.wallet.verification                 0 where there is none, else 1
    python -m services.wallet.verification --processes 4   the same, on four processors

Everything is read in one snapshot, so that it can run while money moves. Each question is one
statement that PostgreSQL answers in bounded memory, whatever the size of the ledger; the chain
is read in pages. Several processes share the snapshot, and take the questions and stretches of
the chain in turns.
"""

import sys
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import Connected, connect
from chassis.settings import service_settings
from contracts.wallet import Verdict
from services.wallet import chain

# Each check finds what is wrong with a row: the sentence that names it.

# These compare tables that all grow, row by row.
OF_EACH_TRANSACTION = (
    # Every transaction has entries that match it and sum to zero.
    """
    SELECT format('transaction %s: its entries sum to %s, its amount is %s, its money in is %s',
        t.transaction_id, coalesce(e.total, 0), t.amount_micros, coalesce(e.money_in, 0))
    FROM transactions AS t
    LEFT JOIN (
        SELECT transaction_id, sum(amount_micros) AS total,
            sum(amount_micros) FILTER (WHERE amount_micros > 0) AS money_in
        FROM entries GROUP BY transaction_id
    ) AS e ON e.transaction_id = t.transaction_id
    WHERE e.total IS DISTINCT FROM 0 OR e.money_in IS DISTINCT FROM t.amount_micros
    """,
    """
    SELECT format('entry %s of account %s: its kind or a date is not its transaction''s',
        e.entry_number, e.account_id)
    FROM entries AS e LEFT JOIN transactions AS t ON t.transaction_id = e.transaction_id
    WHERE (e.effective_at, e.recorded_at) IS DISTINCT FROM (t.effective_at, t.recorded_at)
        OR (e.kind <> t.kind AND (e.kind <> 'earning' OR e.amount_micros < 0
            OR e.account_id < 1000 OR t.correction IS NOT NULL))
    """,
    # Every transaction answers exactly one key.
    """
    SELECT format('transaction %s: %s keys lead to it', t.transaction_id, count(k.method))
    FROM transactions AS t LEFT JOIN keys AS k ON k.transaction_id = t.transaction_id
    GROUP BY t.transaction_id HAVING count(k.method) <> 1
    """,
    """
    SELECT format('key %s: a %s that made an entry of %s', k.idempotency_key, k.method,
        e.amount_micros)
    FROM keys AS k
    JOIN entries AS e ON e.transaction_id = k.transaction_id AND e.account_id = k.account_id
    JOIN transactions AS t ON t.transaction_id = e.transaction_id
    WHERE NOT CASE k.method
        WHEN 'credit' THEN e.amount_micros > 0
        WHEN 'refund' THEN t.correction IN ('refund', 'chosen_refund')
        WHEN 'reverse' THEN t.correction = 'reversal'
        WHEN 'adjust' THEN t.kind = 'adjustment'
        -- Who pays and earns in one transaction has an entry of each.
        ELSE e.amount_micros < 0 OR EXISTS (SELECT FROM entries AS paid
            WHERE paid.transaction_id = e.transaction_id AND paid.account_id = e.account_id
                AND paid.amount_micros < 0) END
    """,
)

CHECKS = (
    *OF_EACH_TRANSACTION,
    """
    SELECT format('there is no account %s, and it has entries', account_id)
    FROM (SELECT DISTINCT account_id FROM entries) AS e
    WHERE NOT EXISTS (SELECT FROM accounts AS a WHERE a.account_id = e.account_id)
    """,
    # The entries of a user's account are numbered without gap; each balance follows.
    """
    SELECT format('entry %s of account %s: it does not follow from the one before it',
        entry_number, account_id)
    FROM (
        SELECT account_id, entry_number, amount_micros, balance_after_micros, recorded_at,
            lag(entry_number, 1, 0::bigint) OVER in_order AS number_before,
            lag(balance_after_micros, 1, 0::bigint) OVER in_order AS balance_before,
            lag(recorded_at) OVER in_order AS recorded_before
        FROM entries WHERE account_id >= 1000
        WINDOW in_order AS (PARTITION BY account_id ORDER BY entry_number)
    ) AS e
    WHERE entry_number <> number_before + 1
        OR balance_after_micros IS DISTINCT FROM balance_before + amount_micros
        OR recorded_at < recorded_before
    """,
    # House entries take their numbers from a sequence, which a restore may have left behind.
    """
    SELECT format('entry %s of account %s: house_entry_number gives out %s next', e.entry_number,
        a.account_id, n.last_value + n.is_called::integer)
    FROM house_entry_number AS n CROSS JOIN accounts AS a
    CROSS JOIN LATERAL (
        SELECT max(entry_number) AS entry_number FROM entries AS e
        WHERE e.account_id = a.account_id
    ) AS e
    WHERE a.house_name IS NOT NULL AND e.entry_number >= n.last_value + n.is_called::integer
    ORDER BY e.entry_number DESC LIMIT 1
    """,
    # Balances are what the entries and the open holds come to.
    """
    SELECT format('account %s: balance %s, by its entries %s; entries %s, counted %s',
        a.account_id, b.balance_micros, coalesce(e.balance, 0), b.entry_count,
        coalesce(e.entries, 0))
    FROM accounts AS a
    LEFT JOIN balances AS b ON b.account_id = a.account_id
    LEFT JOIN (
        SELECT account_id, sum(amount_micros) AS balance, count(*) AS entries
        FROM entries WHERE account_id >= 1000 GROUP BY account_id
    ) AS e ON e.account_id = a.account_id
    WHERE a.user_id IS NOT NULL
        AND (b.balance_micros IS DISTINCT FROM coalesce(e.balance, 0)
            OR b.entry_count IS DISTINCT FROM coalesce(e.entries, 0))
    """,
    """
    SELECT format('account %s: held %s, by its holds %s', b.account_id, b.held_micros,
        coalesce(h.held, 0))
    FROM balances AS b
    LEFT JOIN (
        SELECT account_id, sum(amount_micros) AS held
        FROM holds WHERE status = 'held' GROUP BY account_id
    ) AS h ON h.account_id = b.account_id
    WHERE b.held_micros <> coalesce(h.held, 0)
    """,
    """
    SELECT format('account %s: open, with %s less than it holds', account_id,
        held_micros - balance_micros)
    FROM balances WHERE balance_micros < held_micros AND status <> 'frozen'
    """,
    # What was captured of a hold is what its transaction took.
    """
    SELECT format('hold %s: captured %s, its transaction took %s', h.hold_id,
        h.captured_micros, coalesce(-e.amount_micros, 0))
    FROM holds AS h
    LEFT JOIN entries AS e
        ON e.transaction_id = h.transaction_id AND e.account_id = h.account_id
        AND e.amount_micros < 0
    WHERE h.status = 'captured' AND e.amount_micros IS DISTINCT FROM -h.captured_micros
    """,
    """
    SELECT format('hold %s: transaction %s, which captured it, is not its own', h.hold_id,
        h.transaction_id)
    FROM holds AS h LEFT JOIN transactions AS t ON t.transaction_id = h.transaction_id
    WHERE h.status = 'captured' AND t.metadata ->> 'hold_id' IS DISTINCT FROM h.hold_id::text
    """,
    # A correction goes back the way its original came, in the proportion of its entries, and not
    # further. The migrations 0010 and 0011 say how exactly.
    """
    SELECT format('transaction %s: it does not go back the way of %s', t.transaction_id,
        t.corrects_transaction_id)
    FROM transactions AS t
    JOIN entries AS e ON e.transaction_id = t.transaction_id
    LEFT JOIN entries AS original ON original.account_id = e.account_id
        AND original.transaction_id = t.corrects_transaction_id
        AND (original.amount_micros > 0) = (e.amount_micros < 0)
    WHERE t.corrects_transaction_id IS NOT NULL AND original.account_id IS NULL
        AND NOT (t.correction = 'chosen_refund' AND e.account_id = 7 AND e.amount_micros < 0)
    """,
    """
    SELECT format('transaction %s: corrected by %s, its amount is %s', original.transaction_id,
        sum(correcting.amount_micros), original.amount_micros)
    FROM transactions AS correcting
    JOIN transactions AS original
        ON original.transaction_id = correcting.corrects_transaction_id
    GROUP BY original.transaction_id, original.amount_micros
    HAVING sum(correcting.amount_micros) > original.amount_micros
        OR bool_or(correcting.correction = 'reversal'
            AND correcting.amount_micros <> original.amount_micros)
    """,
    """
    SELECT format('transaction %s: it and what else corrects %s gave back %s of %s to or from'
        ' account %s, and %s of %s in all', c.last_id, c.original_id, coalesce(back.micros, 0),
        abs(e.amount_micros), e.account_id, c.micros, t.amount_micros)
    FROM (
        SELECT corrects_transaction_id AS original_id, sum(amount_micros) AS micros,
            count(*) AS times, bool_or(correction = 'chosen_refund') AS is_chosen,
            (array_agg(transaction_id ORDER BY position DESC))[1] AS last_id
        FROM transactions WHERE corrects_transaction_id IS NOT NULL GROUP BY 1
    ) AS c
    JOIN transactions AS t ON t.transaction_id = c.original_id
    JOIN entries AS e ON e.transaction_id = c.original_id
    LEFT JOIN (
        SELECT t.corrects_transaction_id AS original_id, e.account_id,
            e.amount_micros < 0 AS had_got, abs(sum(e.amount_micros)) AS micros
        FROM transactions AS t JOIN entries AS e ON e.transaction_id = t.transaction_id
        WHERE t.corrects_transaction_id IS NOT NULL GROUP BY 1, 2, 3
    ) AS back ON back.original_id = e.transaction_id AND back.account_id = e.account_id
        AND back.had_got = (e.amount_micros > 0)
    WHERE back.micros > abs(e.amount_micros)
        OR NOT c.is_chosen AND c.times * t.amount_micros
            <= abs(coalesce(back.micros, 0) * t.amount_micros - abs(e.amount_micros) * c.micros)
    """,
    # Promotional credit is given, and taken back, as its row says, and never more than was given.
    """
    SELECT format('promotion %s: given %s, taken back %s in %s looks; its transactions say %s, %s'
        ' in %s', coalesce(p.promotion_id::text, t.id), coalesce(p.amount_micros, 0),
        coalesce(t.back, 0), coalesce(p.takes, 0), coalesce(t.given, 0), coalesce(t.back, 0),
        coalesce(t.times, 0))
    FROM promotions AS p
    FULL JOIN (
        SELECT t.metadata ->> 'promotion_id' AS id, min(e.account_id) AS account_id,
            max(e.account_id) AS last_account_id,
            coalesce(sum(e.amount_micros) FILTER (WHERE e.amount_micros > 0), 0) AS given,
            coalesce(-sum(e.amount_micros) FILTER (WHERE e.amount_micros < 0), 0) AS back,
            count(*) FILTER (WHERE e.amount_micros < 0) AS times
        FROM transactions AS t
        JOIN entries AS e ON e.transaction_id = t.transaction_id AND e.account_id >= 1000
        WHERE t.kind = 'promotion' GROUP BY 1
    ) AS t ON t.id = p.promotion_id::text
    WHERE (p.account_id, p.account_id, p.amount_micros, p.takes)
            IS DISTINCT FROM (t.account_id, t.last_account_id, t.given, t.times)
        OR t.back > t.given
    """,
    # What two people stand behind is posted as they said, and nothing else under such a key.
    """
    SELECT format('adjustment %s: it is %s, its key says otherwise',
        coalesce(a.adjustment_id::text, substr(k.idempotency_key, 10)), coalesce(a.status, 'none'))
    FROM adjustments AS a
    FULL JOIN (SELECT * FROM keys WHERE idempotency_key COLLATE "C" >= 'approved:'
        AND idempotency_key COLLATE "C" < 'approved;' AND method = 'adjust') AS k
        ON k.idempotency_key = 'approved:' || a.adjustment_id
    LEFT JOIN accounts AS o ON o.account_id = k.account_id
    LEFT JOIN entries AS e ON e.transaction_id = k.transaction_id AND e.account_id = k.account_id
    WHERE (a.status IS NOT DISTINCT FROM 'posted') <> (k.method IS NOT NULL)
        OR a.status = 'posted' AND (a.transaction_id, a.user_id, a.amount_micros)
            IS DISTINCT FROM (k.transaction_id, o.user_id, e.amount_micros)
    """,
    # So does every hold and every change of status.
    """
    SELECT format('hold %s: it is %s, its keys say otherwise', h.hold_id, h.status)
    FROM holds AS h
    LEFT JOIN (
        SELECT account_id, hold_id, count(*) FILTER (WHERE method = 'hold') AS placed,
            count(*) FILTER (WHERE method = 'void') AS voided,
            count(*) FILTER (WHERE method = 'expire') AS expired
        FROM keys WHERE hold_id IS NOT NULL GROUP BY account_id, hold_id
    ) AS k ON k.account_id = h.account_id AND k.hold_id = h.hold_id
    WHERE k.placed IS DISTINCT FROM 1
        OR k.voided <> (h.status = 'voided')::integer
        OR k.expired <> (h.status = 'expired')::integer
    """,
    """
    SELECT format('account %s: %s after %s changes of status, the last of which was to %s',
        b.account_id, b.status, b.status_change_count, coalesce(c.status, 'open'))
    FROM balances AS b
    LEFT JOIN LATERAL (
        SELECT change_number, status FROM status_changes AS s
        WHERE s.account_id = b.account_id ORDER BY change_number DESC LIMIT 1
    ) AS c ON true
    WHERE b.status <> coalesce(c.status, 'open')
        OR b.status_change_count <> coalesce(c.change_number, 0)
    """,
    """
    SELECT format('account %s: change of status %s is missing', account_id, change_number - 1)
    FROM (
        SELECT account_id, change_number, lag(change_number, 1, 0) OVER in_order AS number_before
        FROM status_changes
        WINDOW in_order AS (PARTITION BY account_id ORDER BY change_number)
    ) AS c
    WHERE change_number <> number_before + 1
    """,
    # Taking a payment back freezes too, under the key of what it takes.
    """
    SELECT format('account %s: change of status %s, to %s: its keys say otherwise', c.account_id,
        c.change_number, c.status)
    FROM status_changes AS c
    LEFT JOIN keys AS k ON k.account_id = c.account_id AND k.change_number = c.change_number
    WHERE k.method IS DISTINCT FROM CASE c.status WHEN 'open' THEN 'unfreeze' ELSE 'freeze' END
        AND NOT (k.method IS NULL AND c.status = 'frozen' AND c.actor = 'card processor')
    """,
)

# Whoever took the first row would have PostgreSQL plan for finding one soon. In a right ledger
# there is none, and nested loops would compare every transaction with every entry.
_FIRST = "SELECT min(difference) FROM ({}) AS found (difference)"

# What has few rows on one side is hashed. Tables that all grow are read side by side, in the order
# of the transactions' ids, which is that of their rows too: hashing them writes all of them aside.
_SETTINGS = text(
    "SELECT set_config('enable_nestloop', 'off', true), set_config('work_mem', '64MB', true),"
    " set_config('max_parallel_workers_per_gather', '0', true),"
    " set_config('enable_hashjoin', :by_hash, true), set_config('enable_sort', :by_hash, true)"
)

PROCESSES_MAX = 64

_COUNTS = text(
    "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM transactions),"
    " (SELECT count(*) FROM entries)"
)


def verify(database: Connected) -> Verdict:
    """Check everything, in one snapshot. Takes minutes for tens of millions of entries."""
    with database.snapshot() as session:
        return verdict(session)


def verdict(session: Session) -> Verdict:
    """Check everything that this session sees."""
    first = next(filter(None, (difference(session, check) for check in CHECKS)), None)
    chain_difference, sealed_count = chain.first_difference(session)
    return _verdict(session, first or chain_difference, sealed_count)


def _verdict(session: Session, first: str | None, sealed_count: int) -> Verdict:
    accounts, transactions, entries = session.execute(_COUNTS).one()
    return Verdict(
        clean=first is None,
        first_difference=first,
        account_count=accounts,
        transaction_count=transactions,
        entry_count=entries,
        sealed_count=sealed_count,
    )


def difference(session: Session, check: str) -> str | None:
    """What one of the checks finds."""
    by_hash = "off" if check in OF_EACH_TRANSACTION else "on"
    session.execute(_SETTINGS, {"by_hash": by_hash})
    found: str | None = session.scalar(text(_FIRST.format(check)))
    return found


class _Found(NamedTuple):
    difference: str | None
    sealed_count: int = 0


def _look(url: str, snapshot: str, part: str | chain.Stretch) -> _Found:
    """In a process of its own: one check, or one stretch of the chain."""
    database = connect(url, pool_size=1)
    try:
        with database.snapshot(snapshot) as session:
            if isinstance(part, str):
                return _Found(difference(session, part))
            return _Found(*chain.first_difference(session, part))
    finally:
        database.engine.dispose()


def verify_in_processes(url: str, processes: int) -> Verdict:
    """As :func:`verify`, by so many processes, each with a connection of its own."""
    database = connect(url, pool_size=1)
    # What was begun by fork would share this process's connection.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    with pool, database.snapshot() as session:
        snapshot = session.scalar(text("SELECT pg_export_snapshot()"))
        # The longest first: as many stretches again as there are processes, so that none waits
        # long for the last.
        stretches = chain.stretches(session, 2 * processes)
        found = list(pool.map(partial(_look, url, snapshot), [*stretches, *CHECKS]))
        # A wrong balance says more than the link that it broke.
        in_order = [*found[len(stretches) :], *found[: len(stretches)]]
        first = next((look.difference for look in in_order if look.difference), None)
        return _verdict(session, first, sum(look.sealed_count for look in found))


def main() -> int:
    """0 when the ledger is right, 1 when it is not."""
    parser = ArgumentParser(prog="python -m services.wallet.verification")
    parser.add_argument("--processes", type=int, default=1, metavar="N")
    processes = parser.parse_args().processes
    if not 1 <= processes <= PROCESSES_MAX:
        parser.error(f"--processes takes 1 to {PROCESSES_MAX}")
    url = service_settings().database_url
    if processes == 1:
        found = verify(connect(url, pool_size=1))
    else:
        found = verify_in_processes(url, processes)
    print(
        f"{found.account_count} accounts, {found.transaction_count} transactions,"
        f" {found.entry_count} entries, {found.sealed_count} sealed:"
        f" {found.first_difference or 'no difference.'}"
    )
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())
