"""Somebody in the pools, for tests: on a real database, on a clock that is set."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.legacy import (
    GetPoolHistory,
    GetPools,
    PoolQuote,
    Pools,
    QuoteAddition,
    QuoteExchange,
    QuoteWithdrawal,
    Stake,
    TakeQuote,
    Unstake,
)
from services.legacy.models import PoolOrderRow
from services.legacy.pools import adjusting, orders, queries, quotes
from services.legacy.pools.carrying_out import Orders

COIN = 1_000_000
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)

_EMPTY = """
ALTER TABLE pool_transactions DISABLE TRIGGER USER;
ALTER TABLE pool_entries DISABLE TRIGGER USER;
ALTER TABLE pool_accounts DISABLE TRIGGER USER;
TRUNCATE pool_entries, pool_transactions, pool_quotes, pool_orders;
DELETE FROM pool_accounts WHERE user_id IS NOT NULL;
UPDATE pool_accounts SET balance_units = 0, entry_count = 0;
ALTER TABLE pool_transactions ENABLE TRIGGER USER;
ALTER TABLE pool_entries ENABLE TRIGGER USER;
ALTER TABLE pool_accounts ENABLE TRIGGER USER
"""


def empty(session: Session) -> None:
    """The pools as on their first day."""
    session.execute(text(_EMPTY))


@dataclass
class Trader:
    """A user with a clock. ``rpc`` is the wallet, where there is one."""

    database: Connected
    rpc: Any = None
    now: datetime = NOON
    user_id: UUID = field(default_factory=uuid4)

    def has(self, coin: str, coins: int) -> None:
        with self.database.begin() as session:
            adjusting.adjust(session, self.now, self.user_id, coin, coins * COIN, "tests: given")

    def passes(self, **time: float) -> None:
        self.now += timedelta(**time)

    def asks(self, pool: str, give: str, coins: float) -> PoolQuote:
        request = QuoteExchange(
            user_id=self.user_id, pool=pool, give=give, give_units=round(coins * COIN)
        )
        with self.database.begin() as session:
            return quotes.for_exchange(session, self.now, request)

    def asks_to_add(self, pool: str, base: float, other: float) -> PoolQuote:
        request = QuoteAddition(
            user_id=self.user_id,
            pool=pool,
            base_units=round(base * COIN),
            other_units=round(other * COIN),
        )
        with self.database.begin() as session:
            return quotes.for_addition(session, self.now, request)

    def asks_to_withdraw(self, pool: str, share_units: int) -> PoolQuote:
        request = QuoteWithdrawal(user_id=self.user_id, pool=pool, share_units=share_units)
        with self.database.begin() as session:
            return quotes.for_withdrawal(session, self.now, request)

    def takes(self, quote: PoolQuote, key: str = "", slippage_bps: int = 50) -> PoolOrderRow:
        order_id = self.begins(quote, key, slippage_bps).order_id
        return self.orders.carried_out(order_id)

    def begins(self, quote: PoolQuote, key: str = "", slippage_bps: int = 50) -> PoolOrderRow:
        """What the entrypoint does before the wallet is asked."""
        command = TakeQuote(
            idempotency_key=key or str(uuid4()),
            user_id=self.user_id,
            quote_id=quote.quote_id,
            slippage_bps=slippage_bps,
        )
        with self.database.begin() as session:
            return orders.take_quote(session, self.now, command)

    def stakes(self, coins: int, key: str = "") -> PoolOrderRow:
        command = Stake(
            idempotency_key=key or str(uuid4()), user_id=self.user_id, units=coins * COIN
        )
        with self.database.begin() as session:
            return orders.stake(session, self.now, command)

    def unstakes(self, coins: int, key: str = "") -> PoolOrderRow:
        command = Unstake(
            idempotency_key=key or str(uuid4()), user_id=self.user_id, units=coins * COIN
        )
        with self.database.begin() as session:
            return orders.unstake(session, self.now, command)

    @property
    def orders(self) -> Orders:
        return Orders(self.database, cast(RpcClient, self.rpc), lambda: self.now)

    @property
    def pools(self) -> Pools:
        with self.database.read() as session:
            return queries.get_pools(session, self.now, GetPools(user_id=self.user_id))

    @property
    def holdings(self) -> dict[str, int]:
        """What is free, in units, by coin; what is nothing is left out."""
        return {each.coin: each.units for each in self.pools.holdings if each.units}

    def history(self, **asked: Any) -> list[tuple[str, dict[str, int]]]:
        with self.database.read() as session:
            page = queries.history(session, GetPoolHistory(user_id=self.user_id, **asked))
        return [
            (entry.kind, {change.coin: change.units for change in entry.changes})
            for entry in page.entries
        ]


def reserves(trader: Trader, pool: str) -> tuple[int, int, int]:
    """What is in a pool, and its shares."""
    [found] = [each for each in trader.pools.pools if each.pool == pool]
    return found.base_units, found.other_units, found.share_units
