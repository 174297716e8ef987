"""Writing purchases down before their first effect: what is refused, and the rows.

Several that are asked for at once are one transaction. A buyer's purchases are decided over by
one transaction at a time, which keeps a second request with the same key out as well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from chassis.money import format_usd
from chassis.together import ALONE, Alone
from contracts.billing import PurchaseLine, PurchaseStatus, StartPurchase
from contracts.catalog import Quote, QuotedLine
from contracts.errors import PriceChanged, ServiceError
from services.billing.models import PurchaseLineRow, PurchaseRow
from services.billing.purchases import allowances, choices
from services.billing.purchases.claims import Claim, take
from services.billing.purchases.replays import require_same
from services.billing.sales.discounts import unit_discount_micros
from services.billing.sales.fees import in_force
from services.billing.settings import BillingSettings


@dataclass(frozen=True)
class Order:
    """What is to be bought, and what the catalog says of it now."""

    command: StartPurchase
    quote: Quote

    @property
    def key(self) -> tuple[UUID, str]:
        return self.command.user_id, self.command.idempotency_key


def record(session: Session, now: datetime, order: Order, rules: BillingSettings) -> Claim | None:
    """Write the purchase, claimed by its writer, after waiting for who decides over the buyer's.

    None when another request with the same key wrote it first. Raises ``IdempotencyConflict``, and
    ``LimitExceeded`` for more than a user may have unpaid; see :mod:`.allowances`.
    """
    lock_buyer(session, order.command.user_id)
    (outcome,) = _record(session, now, [order], rules)
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def record_together(
    session: Session, now: datetime, orders: Sequence[Order], rules: BillingSettings
) -> list[Claim | ServiceError | Alone | None]:
    """What :func:`record` comes to for each. For a buyer over whose purchases somebody decides at
    this moment nobody waits."""
    buyers = {order.command.user_id for order in orders}
    locked = _TRY_TO_LOCK_BUYERS.execute(session, [(user_id,) for user_id in buyers])
    free = {row.user_id for row in locked if row.is_locked}
    ours = [order for order in orders if order.command.user_id in free]
    outcomes = iter(_record(session, now, ours, rules) if ours else ())
    return [next(outcomes) if order.command.user_id in free else ALONE for order in orders]


def lock_buyer(session: Session, user_id: UUID) -> None:
    """Let one transaction at a time decide over this user's purchases as a whole."""
    _LOCK_BUYERS.execute(session, [(user_id,)])


_LOCK_BUYERS = Bulk(
    "SELECT pg_advisory_xact_lock(hashtextextended('buyer:' || user_id, 0)) FROM {rows}",
    user_id="uuid",
)
_TRY_TO_LOCK_BUYERS = Bulk(
    "SELECT user_id, pg_try_advisory_xact_lock(hashtextextended('buyer:' || user_id, 0))"
    " AS is_locked FROM {rows}",
    user_id="uuid",
)
_LOOK = Bulk(
    "SELECT new.user_id, new.idempotency_key, known.body_hash, ("
    "SELECT count(*) FROM purchases AS one WHERE one.user_id = new.user_id"
    " AND one.status IN ('pending', 'awaiting_funds')) AS waiting,"
    " (SELECT discount_bps FROM discounts WHERE discounts.user_id = new.user_id) AS discount_bps"
    " FROM {rows} LEFT JOIN purchases AS known USING (user_id, idempotency_key)",
    user_id="uuid",
    idempotency_key="text",
)
_PURCHASE = {
    "purchase_id": "uuid",
    "user_id": "uuid",
    "idempotency_key": "text",
    "body_hash": "text",
    "status": "text",
    "status_code": "text",
    "status_reason": "text",
    "total_micros": "bigint",
    "shortfall_micros": "bigint",
    "reservation_id": "uuid",
    "may_hold_stock": "boolean",
    "closing_code": "text",
    "closing_reason": "text",
    "attempts": "integer",
    "due_at": "timestamptz",
    "claim_id": "uuid",
    "claimed_until": "timestamptz",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "expires_at": "timestamptz",
    "way": "text",
}
_INSERT_PURCHASES = Bulk("INSERT INTO purchases ({columns}) SELECT * FROM {rows}", **_PURCHASE)
_LINE = {
    "purchase_id": "uuid",
    "position": "integer",
    "product_id": "uuid",
    "product_name": "text",
    "name": "text",
    "provider_id": "uuid",
    "category": "text",
    "billing_period": "text",
    "quantity": "integer",
    "unit_price_micros": "bigint",
    "amount_micros": "bigint",
    "is_stocked": "boolean",
    "choices": "jsonb",
    "meters": "jsonb",
    "fee_bps": "integer",
    "unit_discount_micros": "bigint",
}
_INSERT_LINES = Bulk("INSERT INTO purchase_lines ({columns}) SELECT * FROM {rows}", **_LINE)


def _record(
    session: Session, now: datetime, orders: Sequence[Order], rules: BillingSettings
) -> list[Claim | ServiceError | None]:
    """The buyers are locked."""
    known: dict[tuple[UUID, str], str | None] = {}
    waiting: Counter[UUID] = Counter()
    discounts: dict[UUID, int] = {}
    for row in _LOOK.execute(session, {order.key for order in orders}):
        known[row.user_id, row.idempotency_key] = row.body_hash
        waiting[row.user_id] = row.waiting
        discounts[row.user_id] = row.discount_bps or 0
    fees = in_force(session, _providers(orders), rules)
    writing = _Writing(session, now, rules, known, waiting, discounts, fees)
    outcomes: list[Claim | ServiceError | None] = []
    for order in orders:
        try:
            outcomes.append(writing.claim(order))
        except ServiceError as refusal:
            outcomes.append(refusal)
    writing.flush()
    return outcomes


@dataclass
class _Writing:
    """Purchases that are written in one transaction.

    ``known`` are the hashes of what was made under the keys before, ``waiting`` how many purchases
    of each buyer wait; both count what is made here. ``discounts`` are what is taken off for each
    buyer, ``fees`` those of who sells.
    """

    session: Session
    now: datetime
    rules: BillingSettings
    known: dict[tuple[UUID, str], str | None]
    waiting: Counter[UUID]
    discounts: dict[UUID, int]
    fees: dict[UUID, int]
    unwritten: list[PurchaseRow] = field(default_factory=list)

    def claim(self, order: Order) -> Claim | None:
        user_id = order.command.user_id
        body_hash = self.known[order.key]
        if body_hash is not None:
            require_same(body_hash, order.command)
            return None
        allowances.refuse_too_many_waiting(self.waiting[user_id], self.rules)
        lines = _lines(order, self.fees, self.discounts[user_id])
        _check_discounts(order.command.lines, lines)
        may_hold_stock = self._is_allowed(order)
        row = _row(self.now, order, lines, self.rules, may_hold_stock)
        claimed = replace(take(row, self.now, self.rules.claim_lease), is_new=True)
        self.known[order.key] = row.body_hash
        self.waiting[user_id] += 1
        self.unwritten.append(row)
        return claimed

    def flush(self) -> None:
        with Batch(self.session) as writes:
            writes.add(_INSERT_PURCHASES, [_values(row, _PURCHASE) for row in self.unwritten])
            writes.add(
                _INSERT_LINES,
                [
                    (row.purchase_id, *_values(line, _LINE)[1:])
                    for row in self.unwritten
                    for line in row.lines
                ],
            )
        self.unwritten.clear()

    def _is_allowed(self, order: Order) -> bool:
        """Whether stock may be set aside for it. Raises ``LimitExceeded`` for too much for free."""
        if not allowances.is_bounded(order.quote):
            return True
        # What is written by now counts.
        self.flush()
        user_id = order.command.user_id
        allowances.refuse_too_many_free(self.session, user_id, order.quote, self.rules)
        return allowances.may_hold_stock(self.session, self.now, user_id, order.quote, self.rules)


def _row(
    now: datetime,
    order: Order,
    lines: list[PurchaseLineRow],
    rules: BillingSettings,
    may_hold_stock: bool,
) -> PurchaseRow:
    return PurchaseRow(
        purchase_id=new_id(),
        user_id=order.command.user_id,
        idempotency_key=order.command.idempotency_key,
        body_hash=request_hash(order.command).hex(),
        status=PurchaseStatus.PENDING.value,
        status_code="",
        status_reason="",
        total_micros=sum(line.amount_micros for line in lines),
        shortfall_micros=0,
        refunded_micros=0,
        reservation_id=new_id(),
        may_hold_stock=may_hold_stock,
        closing_code="",
        closing_reason="",
        attempts=0,
        try_owed_since=now,
        created_at=now,
        updated_at=now,
        expires_at=now + rules.purchase_lifetime,
        way=order.command.way.value if order.command.way else None,
        lines=lines,
    )


def _providers(orders: Iterable[Order]) -> set[UUID]:
    products = (line.product for order in orders for line in order.quote.lines)
    return {product.provider_id for product in products if product.provider_id is not None}


def _lines(order: Order, fees: Mapping[UUID, int], discount_bps: int) -> list[PurchaseLineRow]:
    """The lines at the catalog's prices, less what is taken off them."""
    return [
        _line(position, line, quoted, fees, discount_bps)
        for position, (line, quoted) in enumerate(
            zip(order.command.lines, order.quote.lines, strict=True)
        )
    ]


def _line(
    position: int,
    line: PurchaseLine,
    quoted: QuotedLine,
    fees: Mapping[UUID, int],
    discount_bps: int,
) -> PurchaseLineRow:
    product = quoted.product
    off_micros = unit_discount_micros(
        quoted.unit_price_micros, discount_bps, fees, product.provider_id
    )
    unit_price_micros = quoted.unit_price_micros - off_micros
    return PurchaseLineRow(
        position=position,
        product_id=product.product_id,
        product_name=product.name,
        name=line.name,
        provider_id=product.provider_id,
        category=product.category.value,
        billing_period=product.billing_period.value,
        quantity=quoted.quantity,
        unit_price_micros=unit_price_micros,
        unit_discount_micros=off_micros,
        amount_micros=unit_price_micros * quoted.quantity,
        is_stocked=product.stock is not None,
        fee_bps=fees.get(product.provider_id) if product.provider_id else None,
        choices=choices.given(line),
        meters=[meter.model_dump(mode="json") for meter in product.meters],
    )


def _check_discounts(ordered: Iterable[PurchaseLine], lines: Iterable[PurchaseLineRow]) -> None:
    """Raise ``PriceChanged`` where something else is taken off than the person saw."""
    for line, row in zip(ordered, lines, strict=True):
        expected = line.expected_unit_discount_micros
        if expected is not None and expected != row.unit_discount_micros:
            raise PriceChanged(
                f"Your staking discount on {row.product_name} is"
                f" {format_usd(row.unit_discount_micros)} now, not {format_usd(expected)}. Nothing"
                " was bought. Look at the price and buy again.",
                str(row.list_price_micros),
            )


def _values(row: Any, columns: Iterable[str]) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in columns)
