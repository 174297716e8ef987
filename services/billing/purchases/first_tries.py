"""The way of most purchases: recorded, paid and completed with those of the same moment.

A group takes one question to the catalog, one transaction that records, one call to the wallet and
one transaction that completes, whatever its size. Each step is the one that a purchase takes by
itself, in the same order, so that a crash between two of them leaves what the sweeper knows. What
is to be done for one purchase only, as setting stock aside or saying that money is missing, its own
worker does afterwards, under the claim.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from uuid import UUID

from chassis.clock import Clock
from chassis.context import CallContext, current_call, nobodys_call
from chassis.crash_points import crash_point
from chassis.database import Connected
from chassis.together import ALONE, Alone, Together
from contracts.billing import PurchaseLine, StartPurchase
from contracts.catalog import Quote, QuoteLine
from contracts.errors import ServiceError
from contracts.keys import purchase_key
from contracts.wallet import Debit, Noted, TransactionKind
from services.billing.models import PurchaseLineRow, PurchaseRow
from services.billing.purchases import choices, lifecycle, recording
from services.billing.purchases.calls import Calls
from services.billing.purchases.claims import Claim
from services.billing.purchases.lifecycle import Paid
from services.billing.purchases.recording import Order
from services.billing.sales.discounts import price_of
from services.billing.sales.shares import shares
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

TURN_S = 0.25
"""How long a group may keep the next one waiting: longer than it takes, and far less than a wallet
that does not answer."""

Begun = Claim | PurchaseRow | None
"""A purchase that its worker is to carry on, a completed one, or none: its key was used before."""


@dataclass(frozen=True)
class Wish:
    """What somebody asks for, and in which call."""

    command: StartPurchase
    call: CallContext = field(default_factory=current_call.get)

    def order(self, quote: Quote) -> Order:
        """At these prices. Raises ``PriceChanged`` and ``BadRequest``."""
        lifecycle.check_prices(self.command.lines, quote)
        choices.check(self.command.lines, quote)
        return Order(self.command, quote)


class FirstTries:
    """Begins purchases. ``complete`` is what completes several."""

    def __init__(
        self,
        database: Connected,
        calls: Calls,
        rules: BillingSettings,
        clock: Clock,
        complete: Callable[[Sequence[Paid]], Sequence[PurchaseRow | Alone]],
    ) -> None:
        self._database = database
        self._calls = calls
        self._rules = rules
        self._clock = clock
        self._complete = complete
        self._together = Together(self.begin_all, self._begin, turn_s=TURN_S)

    def begin(self, command: StartPurchase) -> Begun:
        """Buy, with others or alone. Raises why it is not even recorded."""
        lifecycle.check_units(command.lines)
        return self._together.do(Wish(command))

    def begin_all(self, wishes: Sequence[Wish]) -> list[Begun | Exception | Alone]:
        """What comes of each of several."""
        recorded = self._recorded(wishes)
        crash_point("billing.purchase_recorded")
        claims = {
            claimed.purchase_id: (claimed, wish)
            for claimed, wish in zip(recorded, wishes, strict=True)
            if isinstance(claimed, Claim) and is_for_anybody(claimed.row)
        }
        try:
            # One debit is asked for in the call of who leads only where it is his own.
            with nobodys_call() if len(wishes) > 1 else nullcontext():
                tried = self._tried(claims) if claims else {}
        except Exception as error:
            log.warning("a group failed; each is carried on alone", extra={"error": str(error)})
            tried = {}
        return [
            tried.get(each.purchase_id, each) if isinstance(each, Claim) else each
            for each in recorded
        ]

    def _begin(self, wish: Wish) -> Begun:
        """Record one by itself, after waiting for who decides over its buyer's."""
        order = wish.order(self._calls.quote(quote_lines(wish.command.lines)))
        with self._database.begin() as session:
            claimed = recording.record(session, self._clock(), order, self._rules)
        crash_point("billing.purchase_recorded")
        return claimed

    def _recorded(self, wishes: Sequence[Wish]) -> list[Claim | Exception | Alone | None]:
        """Each under a claim, or why not."""
        quotes = self._calls.quote_all([tuple(quote_lines(each.command.lines)) for each in wishes])
        orders = [_ordered(*each) for each in zip(wishes, quotes, strict=True)]
        to_record = [order for order in orders if isinstance(order, Order)]
        if not to_record:
            return [ALONE if isinstance(order, Order) else order for order in orders]
        with self._database.begin() as session:
            recorded = recording.record_together(session, self._clock(), to_record, self._rules)
        outcomes = iter(recorded)
        return [next(outcomes) if isinstance(order, Order) else order for order in orders]

    def _tried(self, claims: Mapping[UUID, tuple[Claim, Wish]]) -> dict[UUID, Begun]:
        """Take the money and deliver; or the claim, with what the wallet said instead."""
        crash_point("billing.stock_reserved")
        rows = [claimed.row for claimed, _ in claims.values()]
        asked_at = self._clock()
        answers = self._calls.debit_all([debit_of(row) for row in rows])
        crash_point("billing.wallet_debited")
        outcomes: dict[UUID, Begun] = {}
        paid: list[Paid] = []
        for row, answer in zip(rows, answers, strict=True):
            claimed, wish = claims[row.purchase_id]
            if isinstance(answer, Exception):
                outcomes[row.purchase_id] = replace(claimed, refusal=answer, asked_at=asked_at)
            elif not isinstance(answer, Alone):
                paid.append(Paid(row, answer.transaction_id, wish.call))
        if paid:
            completed = self._complete(paid)
            outcomes |= {row.purchase_id: row for row in completed if not isinstance(row, Alone)}
        return outcomes


def _ordered(wish: Wish, quote: Quote | Exception | Alone) -> Order | Exception | Alone:
    if not isinstance(quote, Quote):
        return quote
    try:
        return wish.order(quote)
    except ServiceError as refusal:
        return refusal


def is_for_anybody(row: PurchaseRow) -> bool:
    """Whether it costs something of which there is no end: nothing is to be set aside for it."""
    return bool(row.total_micros) and row.may_hold_stock and not is_stocked(row)


def is_stocked(row: PurchaseRow) -> bool:
    """Whether there is an end to something of it."""
    return any(line.is_stocked for line in row.lines)


def quote_lines(lines: Sequence[PurchaseLine | PurchaseLineRow]) -> list[QuoteLine]:
    return [QuoteLine(product_id=line.product_id, quantity=line.quantity) for line in lines]


def debit_of(row: PurchaseRow, *, dry_run: bool = False) -> Debit:
    """What the wallet is to take for it."""
    return Debit(
        idempotency_key=purchase_key(row.purchase_id),
        user_id=row.user_id,
        amount_micros=row.total_micros,
        kind=TransactionKind.PURCHASE,
        description=lifecycle.describe(row.lines),
        metadata={Noted.PURCHASE_ID: str(row.purchase_id)},
        shares=shares(price_of(line) for line in row.lines),
        dry_run=dry_run,
    )
