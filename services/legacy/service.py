"""The old system's entrypoints: what stays to be read, and what the site answers."""

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.orm import Session

from chassis import operated
from chassis.clock import utc_now
from chassis.events import event_handler
from chassis.health import Health
from chassis.metrics import Gauge
from chassis.outbox import OutboxRelay
from chassis.retention import FORGET_EVERY_S, Kept, forget, messages
from chassis.rpc import Caller, rpc
from chassis.service_database import Database
from chassis.timer import timer
from contracts.gateway import AccountDeleted, MovedPersonAnswered
from contracts.legacy import (
    SERVICE,
    GetOldHistory,
    GetPoolHistory,
    GetPools,
    OldHistory,
    PoolHistory,
    PoolOrder,
    PoolQuote,
    Pools,
    QuoteAddition,
    QuoteExchange,
    QuoteWithdrawal,
    Stake,
    TakeQuote,
    Unstake,
)
from services.legacy.forgetting import forget_person
from services.legacy.history import old_history
from services.legacy.models import MoveRow
from services.legacy.moving.moves import MoveStatus
from services.legacy.pools import carrying_out, orders, queries, quotes
from services.legacy.pools.carrying_out import Orders
from services.legacy.settings import get_settings

SWEEP_INTERVAL_S = 1
ASLEEP_S = 5

GAUGES = {
    f"moves_{status}": Gauge(
        f"People whose move is {status}.",
        f"SELECT count(*) FROM moves WHERE status = '{status}'",  # noqa: S608 - our own words
    )
    for status in MoveStatus
} | {
    "pool_orders_under_way": Gauge(
        "Orders in the pools whose dollars are on their way to or from the wallet.",
        "SELECT count(*) FROM pool_orders WHERE due_at IS NOT NULL",
    ),
    "moves_unanswered": Gauge(
        "People who were moved, and of whom the site has not said that it invited them.",
        "SELECT count(*) FROM moves WHERE status = 'moved' AND answered_at IS NULL",
    ),
}
WORK = {"pool_orders": "due_at FROM pool_orders WHERE due_at IS NOT NULL"}


class LegacyService(operated.Operated):
    """Who came from the old system. The command ``services.legacy.move`` moves them; this sends
    what it leaves in the outbox. And the pools, which ask the wallet for dollars."""

    name = SERVICE

    database = Database()
    relay = OutboxRelay()
    health = Health(gauges=GAUGES, work=WORK)
    caller = Caller()

    @rpc
    def get_old_history(self, request: GetOldHistory) -> OldHistory:
        with self.database.read() as session:
            return old_history(session, request)

    @rpc
    def get_pools(self, request: GetPools) -> Pools:
        with self.database.read() as session:
            return queries.get_pools(session, utc_now(), request)

    @rpc
    def get_pool_history(self, request: GetPoolHistory) -> PoolHistory:
        with self.database.read() as session:
            return queries.history(session, request)

    @rpc
    def quote_exchange(self, request: QuoteExchange) -> PoolQuote:
        with self.database.begin() as session:
            return quotes.for_exchange(session, utc_now(), request)

    @rpc
    def quote_addition(self, request: QuoteAddition) -> PoolQuote:
        with self.database.begin() as session:
            return quotes.for_addition(session, utc_now(), request)

    @rpc
    def quote_withdrawal(self, request: QuoteWithdrawal) -> PoolQuote:
        with self.database.begin() as session:
            return quotes.for_withdrawal(session, utc_now(), request)

    @rpc
    def take_quote(self, request: TakeQuote) -> PoolOrder:
        with self.database.begin() as session:
            order_id = orders.take_quote(session, utc_now(), request).order_id
        return orders.as_order(self._orders().carried_out(order_id))

    @rpc
    def stake(self, request: Stake) -> PoolOrder:
        with self.database.begin() as session:
            return orders.as_order(orders.stake(session, utc_now(), request))

    @rpc
    def unstake(self, request: Unstake) -> PoolOrder:
        with self.database.begin() as session:
            return orders.as_order(orders.unstake(session, utc_now(), request))

    @timer(SWEEP_INTERVAL_S, asleep_s=ASLEEP_S)
    def go_on_with_orders(self) -> datetime | None:
        """Orders whose dollars are under way, and that nobody came to an end with."""
        with self.database.read() as session:
            next_at = carrying_out.DUE.next_at(session)
        if next_at is None or next_at > utc_now():
            return next_at
        self._orders().run()
        return None

    def _orders(self) -> Orders:
        return Orders(self.database, self.caller, utc_now)

    @event_handler(MovedPersonAnswered)
    def note_answer(self, session: Session, event: MovedPersonAnswered) -> None:
        session.execute(
            update(MoveRow)
            .where(MoveRow.user_id == event.user_id, MoveRow.status != MoveStatus.PENDING.value)
            .values(answered_at=utc_now(), refusal=event.refusal)
        )

    @event_handler(AccountDeleted)
    def forget_person(self, session: Session, event: AccountDeleted) -> None:
        forget_person(session, event.user_id)

    @timer(FORGET_EVERY_S)
    def forget_old(self) -> None:
        """Messages and quotes: what else there is goes with the account, or with the service."""
        kept = [*messages(get_settings()), Kept("pool_quotes", "made_at", quotes.KEPT_DAYS)]
        forget(self.database, utc_now(), kept)
