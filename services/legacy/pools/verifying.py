"""Whether the pools are right: their book by itself, and their dollars beside the wallet.

The book is derived again from its entries in one snapshot. For each order with dollars the wallet
is asked, as a rehearsal, for what it has done already: so that no list of ours has to be believed.
"""

from collections.abc import Iterator, Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.database import Connected
from chassis.money import format_usd
from contracts.legacy import OrderStatus
from contracts.wallet import BatchCommand, BatchResult, PostBatch
from services.legacy.models import PoolOrderRow
from services.legacy.pools import book, carrying_out, orders

AT_ONCE = 250

# Each finds the sentences that say what is wrong.
CHECKS = (
    """
    SELECT format('transaction %s: its entries in %s sum to %s', e.transaction_id, a.coin,
        sum(e.amount_units))
    FROM pool_entries AS e JOIN pool_accounts AS a USING (account_id)
    GROUP BY e.transaction_id, a.coin HAVING sum(e.amount_units) <> 0
    """,
    """
    SELECT format('transaction %s has no entries', t.transaction_id) FROM pool_transactions AS t
    WHERE NOT EXISTS (SELECT FROM pool_entries AS e WHERE e.transaction_id = t.transaction_id)
    """,
    """
    SELECT format('entry %s of account %s does not follow from the one before it', entry_number,
        account_id)
    FROM (
        SELECT account_id, entry_number, amount_units, balance_after_units,
            lag(entry_number, 1, 0::bigint) OVER in_order AS number_before,
            lag(balance_after_units, 1, 0::bigint) OVER in_order AS balance_before
        FROM pool_entries WINDOW in_order AS (PARTITION BY account_id ORDER BY entry_number)
    ) AS entry
    WHERE entry_number <> number_before + 1
        OR balance_after_units <> balance_before + amount_units
    """,
    """
    SELECT format('account %s has %s of %s, and its entries come to %s', a.account_id,
        a.balance_units, a.coin, coalesce(e.units, 0))
    FROM pool_accounts AS a
    LEFT JOIN (
        SELECT account_id, sum(amount_units) AS units, count(*) AS count
        FROM pool_entries GROUP BY account_id
    ) AS e USING (account_id)
    WHERE a.balance_units <> coalesce(e.units, 0) OR a.entry_count <> coalesce(e.count, 0)
    """,
    """
    SELECT format('all accounts of %s come to %s', coin, sum(balance_units)) FROM pool_accounts
    GROUP BY coin HAVING sum(balance_units) <> 0
    """,
    """
    SELECT format('order %s is %s, and %s', o.order_id, o.status,
        CASE WHEN t.transaction_id IS NULL THEN 'nothing was exchanged' ELSE 'was exchanged' END)
    FROM pool_orders AS o LEFT JOIN pool_transactions AS t ON t.order_id = o.order_id
    WHERE (o.status IN ('capturing', 'paying', 'done')) <> (t.transaction_id IS NOT NULL)
    """,
    """
    SELECT format('order %s came to %s dollars, and its entries to %s', o.order_id, o.other_units,
        coalesce(e.units, 0))
    FROM pool_orders AS o
    LEFT JOIN (
        SELECT t.order_id, sum(e.amount_units) AS units
        FROM pool_transactions AS t JOIN pool_entries AS e USING (transaction_id)
        JOIN pool_accounts AS a ON a.account_id = e.account_id AND a.holder = 'wallet'
        GROUP BY t.order_id
    ) AS e USING (order_id)
    WHERE o.pool = 'TFP-USD' AND o.other_units <> coalesce(e.units, 0)
    """,
)


def verify(database: Connected, rpc: RpcClient) -> Iterator[str]:
    """Every difference that there is. Raises what a call raises."""
    with database.snapshot() as session:
        for check in CHECKS:
            yield from session.scalars(text(check))
    after = UUID(int=0)
    while True:
        with database.read() as session:
            page = _page(session, after)
        if not page:
            return
        after = page[-1].order_id
        yield from _of_wallet(rpc, page)


def _page(session: Session, after: UUID) -> Sequence[PoolOrderRow]:
    query = (
        select(PoolOrderRow)
        .where(
            PoolOrderRow.order_id > after,
            PoolOrderRow.pool == f"{book.TFP}-{book.USD}",
            PoolOrderRow.status == OrderStatus.DONE.value,
            PoolOrderRow.other_units != 0,
        )
        .order_by(PoolOrderRow.order_id)
        .limit(AT_ONCE)
    )
    return session.scalars(query).all()


def _of_wallet(rpc: RpcClient, page: Sequence[PoolOrderRow]) -> Iterator[str]:
    commands = [BatchCommand.of(carrying_out.last_step(row)) for row in page]
    results = rpc.call(PostBatch(commands=commands, dry_run=True)).results
    for row, result in zip(page, results, strict=True):
        yield from _difference(row, result)


def _difference(row: PoolOrderRow, result: BatchResult) -> Iterator[str]:
    if result.error is not None:
        yield f"order {row.order_id}: the wallet has something else: {result.error.message}"
    elif result.reply is None or not result.reply.get("replayed"):
        yield f"order {row.order_id}: nothing moved in the wallet"
    elif result.reply["amount_micros"] != orders.dollars_got(row):
        moved = format_usd(result.reply["amount_micros"])
        yield f"order {row.order_id}: {moved} moved in the wallet"
