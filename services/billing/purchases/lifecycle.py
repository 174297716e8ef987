"""What a purchase is, and what may become of it. No calls to anybody: those are in checkout.

The states and the moves between them stand in :data:`TRANSITIONS`. A row is locked for the
length of one short transaction, never during a call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from prometheus_client import Counter
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.context import CallContext, current_call
from chassis.database import after_commit, commit_unhurried
from chassis.identifiers import new_id
from chassis.instruments import REGISTRY
from chassis.locks import locked
from chassis.money import format_usd
from chassis.outbox import publish, store
from chassis.together import ALONE, Alone
from contracts.billing import (
    PurchaseCompleted,
    PurchaseEnded,
    PurchaseLine,
    PurchaseShortOfFunds,
    PurchaseStatus,
    SoldLine,
)
from contracts.catalog import Quote
from contracts.errors import BadRequest, Conflict, PriceChanged
from contracts.messages import MAX_AMOUNT_MICROS, Event
from services.billing.deployments.lifecycle import deploy, write
from services.billing.forecast import runways
from services.billing.models import WAITING, PurchaseLineRow, PurchaseRow
from services.billing.purchases import stock
from services.billing.purchases.claims import Claim, give_back
from services.billing.purchases.queries import returnable_until
from services.billing.purchases.recording import lock_buyer
from services.billing.sales import records
from services.billing.settings import BillingSettings

TRANSITIONS: dict[PurchaseStatus, frozenset[PurchaseStatus]] = {
    PurchaseStatus.PENDING: frozenset(
        {
            PurchaseStatus.AWAITING_FUNDS,
            PurchaseStatus.COMPLETED,
            PurchaseStatus.CANCELLED,
            PurchaseStatus.EXPIRED,
            PurchaseStatus.FAILED,
        }
    ),
    PurchaseStatus.AWAITING_FUNDS: frozenset(
        {
            PurchaseStatus.COMPLETED,
            PurchaseStatus.CANCELLED,
            PurchaseStatus.EXPIRED,
            PurchaseStatus.FAILED,
        }
    ),
    PurchaseStatus.COMPLETED: frozenset(),
    PurchaseStatus.CANCELLED: frozenset(),
    PurchaseStatus.EXPIRED: frozenset(),
    PurchaseStatus.FAILED: frozenset(),
}

_UNPAID = Counter(
    "mycelium_billing_purchases_unpaid",
    "Purchases that ended without having been paid, by how.",
    ("status",),
    registry=REGISTRY,
)
for _end in (PurchaseStatus.CANCELLED, PurchaseStatus.EXPIRED, PurchaseStatus.FAILED):
    _UNPAID.labels(_end.value)

UNITS_MAX = 100
"""How many things one purchase may deploy."""

DESCRIPTION_LENGTH_MAX = 200


def check_units(lines: list[PurchaseLine]) -> None:
    """Raise ``BadRequest`` for more units than one purchase may deploy."""
    if sum(line.quantity for line in lines) > UNITS_MAX:
        raise BadRequest(f"One purchase holds at most {UNITS_MAX} items. Order fewer.", "lines")


def check_prices(lines: list[PurchaseLine], quote: Quote) -> None:
    """Raise ``PriceChanged`` where the catalog's price is not the one the person saw, or what is
    charged by use."""
    for line, quoted in zip(lines, quote.lines, strict=True):
        expected = line.expected_unit_price_micros
        if expected is not None and expected != quoted.unit_price_micros:
            raise PriceChanged(
                f"{quoted.product.name} now costs {format_usd(quoted.unit_price_micros)}, not"
                f" {format_usd(expected)}. Nothing was bought. Look at the price and buy again.",
                str(quoted.unit_price_micros),
            )
        if line.expected_meters not in (None, quoted.product.meters):
            raise PriceChanged(
                f"What is charged for the use of {quoted.product.name} has changed. Nothing was"
                " bought. Look at what use costs and buy again.",
                str(quoted.unit_price_micros),
            )


@dataclass(frozen=True)
class Paid:
    """A purchase that the wallet took the money for, as a worker has it, and the call it is for."""

    row: PurchaseRow
    transaction_id: UUID | None
    call: CallContext = field(default_factory=current_call.get)


def complete(
    session: Session,
    now: datetime,
    purchase_id: UUID,
    transaction_id: UUID | None,
    rules: BillingSettings,
) -> PurchaseRow:
    """The wallet took the money: deliver. A second call changes nothing."""
    row = locked(session, PurchaseRow, purchase_id)
    if row.status != PurchaseStatus.COMPLETED:
        publish(session, *_complete(now, row, transaction_id, rules))
        with Batch(session) as writes:
            records.write(writes, records.of_purchase(now, row))
            runways.look_after_purchases(writes, now, [row.user_id])
    return row


def complete_together(
    session: Session, now: datetime, paid: Sequence[Paid], rules: BillingSettings
) -> list[PurchaseRow | Alone]:
    """Complete several that workers have; the same rows, as they are then.

    One that somebody holds at this moment, or that has ended, is left alone.
    """
    held = _HOLD.execute(session, [(each.row.purchase_id,) for each in paid])
    status = {row.purchase_id: row.status for row in held}
    outcomes: list[PurchaseRow | Alone] = []
    events: list[tuple[Event, CallContext]] = []
    for each in paid:
        row, found = each.row, status.pop(each.row.purchase_id, None)
        if found not in WAITING:
            outcomes.append(ALONE)
            continue
        row.status = found
        told = _complete(now, row, each.transaction_id, rules)
        events += [(event, each.call) for event in told]
        outcomes.append(row)
    rows = [row for row in outcomes if isinstance(row, PurchaseRow)]
    with Batch(session) as writes:
        writes.add(_COMPLETE, [_columns(row, _COMPLETE) for row in rows])
        write(writes, [deployment for row in rows for deployment in row.deployments])
        records.write(writes, [sale for row in rows for sale in records.of_purchase(now, row)])
        runways.look_after_purchases(writes, now, [row.user_id for row in rows])
        store(writes, events)
    return outcomes


_HOLD = Bulk(
    "SELECT purchase_id, status FROM {rows} JOIN purchases USING (purchase_id)"
    " ORDER BY purchase_id FOR UPDATE OF purchases SKIP LOCKED",
    purchase_id="uuid",
)


def _update(**columns: str) -> Bulk:
    """Writes these columns of purchases that are held."""
    changes = ", ".join(f"{name} = new.{name}" for name in columns)
    return Bulk(
        f"UPDATE purchases AS old SET {changes}"  # noqa: S608 - our words
        " FROM {rows} WHERE old.purchase_id = new.purchase_id",
        **columns,
    )


def _columns(row: PurchaseRow, update: Bulk) -> list[object]:
    return [getattr(row, name) for name in update.columns]


_COMPLETE = _update(
    purchase_id="uuid",
    status="text",
    status_code="text",
    status_reason="text",
    transaction_id="uuid",
    shortfall_micros="bigint",
    closing_status="text",
    stock_held_until="timestamptz",
    claim_id="uuid",
    claimed_until="timestamptz",
    due_at="timestamptz",
    updated_at="timestamptz",
    ended_at="timestamptz",
)


def _complete(
    now: datetime, row: PurchaseRow, transaction_id: UUID | None, rules: BillingSettings
) -> list[Event]:
    """What a locked row comes to hold, and what is to be published of it."""
    _move(row, PurchaseStatus.COMPLETED, now)
    row.transaction_id = transaction_id
    row.shortfall_micros = 0
    row.status_code = row.status_reason = ""
    row.closing_status = None
    row.stock_held_until = None
    row.ended_at = now
    give_back(row, due_at=None)
    row.deployments, events = deploy(now, row, rules)
    completed = PurchaseCompleted(
        event_id=new_id(),
        occurred_at=now,
        user_id=row.user_id,
        purchase_id=row.purchase_id,
        total_micros=row.total_micros,
        description=describe(row.lines),
        deployment_ids=[deployment.deployment_id for deployment in row.deployments],
        begun_at=row.created_at,
        way=row.purchase_way,
        transaction_id=transaction_id,
        returnable_until=returnable_until(row, row.deployments, rules),
        fee_micros=sum(sale.fee_micros for sale in records.of_purchase(now, row)),
        lines=[
            SoldLine(
                product_id=line.product_id,
                quantity=line.quantity,
                amount_micros=line.amount_micros,
            )
            for line in row.lines
        ],
    )
    return [*events, completed]


def wait_for_funds(
    session: Session,
    now: datetime,
    claimed: Claim,
    available_micros: int,
    asked_at: datetime,
    rules: BillingSettings,
) -> bool:
    """The wallet had too little when it was asked: wait, and say so as of then, so that what was
    paid since makes it old news. True when money came in the meantime.

    Every try that falls short says so anew, because what brought it about (a top-up that
    something else spent first) calls for another top-up. Why none came before is kept: it is
    said once, and what is said next replaces it.
    """
    # One at a time for each buyer, so that each event knows of all purchases before it.
    row = claimed.row
    lock_buyer(session, row.user_id)
    (found,) = _HOLD_SHORT.execute(session, [(row.purchase_id,)])
    if found.claim_id != claimed.claim_id or found.status not in WAITING:
        return False
    for name in ("status", "try_owed_since", "short_at"):
        setattr(row, name, getattr(found, name))
    if found.closing_status is not None:
        give_back(row, now)
        with Batch(session) as writes:
            writes.add(_WAIT, [_columns(row, _WAIT)])
        return False
    if row.status == PurchaseStatus.PENDING:
        _move(row, PurchaseStatus.AWAITING_FUNDS, now)
    row.updated_at = now
    row.attempts = 0
    row.shortfall_micros = row.total_micros - available_micros
    row.short_at = row.short_at or asked_at
    if row.may_hold_stock and rules.stock_hold_s:
        row.stock_held_until = now + rules.stock_hold
        # Nobody else does anything by it, and who finds the claim of before tries again.
        commit_unhurried(session)
    else:
        stock.let_go(session, now, row)
    give_back(row, min(row.expires_at, row.stock_held_until or row.expires_at))
    told = _short_of_funds(asked_at, row, available_micros, int(found.others_micros))
    with Batch(session) as writes:
        writes.add(_WAIT, [_columns(row, _WAIT)])
        store(writes, [(told, current_call.get())])
    return row.try_owed_since is not None


_HOLD_SHORT = Bulk(
    "SELECT held.status, held.closing_status, held.claim_id, held.try_owed_since, held.short_at,"
    " (SELECT coalesce(sum(total_micros), 0) FROM purchases AS other"
    " WHERE other.user_id = held.user_id AND other.purchase_id <> held.purchase_id"
    " AND other.status = 'awaiting_funds' AND other.closing_status IS NULL) AS others_micros"
    " FROM {rows} JOIN purchases AS held USING (purchase_id) FOR UPDATE OF held",
    purchase_id="uuid",
)
_WAIT = _update(
    purchase_id="uuid",
    status="text",
    attempts="integer",
    shortfall_micros="bigint",
    short_at="timestamptz",
    reservation_id="uuid",
    stock_held_until="timestamptz",
    claim_id="uuid",
    claimed_until="timestamptz",
    due_at="timestamptz",
    updated_at="timestamptz",
)


def end_stock_hold(session: Session, now: datetime, claimed: Claim) -> None:
    """Stock was held long enough for somebody who has not paid; the claim is given back."""
    row = locked(session, PurchaseRow, claimed.purchase_id)
    if row.claim_id != claimed.claim_id:
        return
    if row.stock_held_until is not None and row.stock_held_until <= now:
        stock.let_go(session, now, row)
    give_back(row, min(row.expires_at, row.stock_held_until or row.expires_at))


def begin_closing(
    now: datetime, row: PurchaseRow, to: PurchaseStatus, code: str, reason: str
) -> None:
    """Write down that this locked purchase is to end unpaid, before the wallet is told.

    The first reason stands. Raises ``Conflict`` for a purchase that has ended.
    """
    _check_move(row, to)
    if row.closing_status is None:
        row.closing_status = to.value
        row.closing_code = code
        row.closing_reason = reason
    if row.claim_id is None:
        row.due_at = now


def end_unpaid(session: Session, now: datetime, purchase_id: UUID) -> PurchaseRow:
    """The wallet closed the purchase's key: it can no longer be paid, and ends.

    A second call changes nothing.
    """
    row = locked(session, PurchaseRow, purchase_id)
    if row.status not in WAITING:
        return row
    if row.closing_status is None:
        raise Conflict(f"Purchase {purchase_id} ends without a reason.")
    _move(row, PurchaseStatus(row.closing_status), now)
    row.status_code, row.status_reason = row.closing_code, row.closing_reason
    row.shortfall_micros = 0
    row.ended_at = now
    stock.let_go(session, now, row)
    give_back(row, due_at=None)
    after_commit(session, _UNPAID.labels(row.status).inc)
    publish(
        session,
        PurchaseEnded(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            purchase_id=row.purchase_id,
            status=PurchaseStatus(row.status),
            status_code=row.status_code,
            reason=row.status_reason,
            begun_at=row.created_at,
            way=row.purchase_way,
        ),
    )
    return row


def describe(lines: list[PurchaseLineRow]) -> str:
    """The purchase in a few words, for statements: ``VM-Production, Gateway-EU ×2``."""
    parts = [
        line.product_name if line.quantity == 1 else f"{line.product_name} ×{line.quantity}"
        for line in lines
    ]
    description = ", ".join(parts)
    if len(description) <= DESCRIPTION_LENGTH_MAX:
        return description
    return description[: DESCRIPTION_LENGTH_MAX - 1].rstrip() + "…"


def _short_of_funds(
    asked_at: datetime, row: PurchaseRow, available_micros: int, others_micros: int
) -> PurchaseShortOfFunds:
    """``others_micros``: what other purchases of this buyer wait for."""
    awaited_micros = others_micros + row.total_micros
    total_shortfall = max(awaited_micros - available_micros, row.shortfall_micros)
    return PurchaseShortOfFunds(
        event_id=new_id(),
        occurred_at=asked_at,
        user_id=row.user_id,
        purchase_id=row.purchase_id,
        total_micros=row.total_micros,
        shortfall_micros=min(row.shortfall_micros, MAX_AMOUNT_MICROS),
        total_shortfall_micros=min(total_shortfall, MAX_AMOUNT_MICROS),
        available_micros=available_micros,
        begun_at=row.created_at,
        way=row.purchase_way,
    )


def _move(row: PurchaseRow, to: PurchaseStatus, now: datetime) -> None:
    _check_move(row, to)
    row.status = to.value
    row.updated_at = now


def _check_move(row: PurchaseRow, to: PurchaseStatus) -> None:
    status = PurchaseStatus(row.status)
    if to not in TRANSITIONS[status]:
        raise Conflict(
            f"This purchase is {status.replace('_', ' ')}: it cannot become"
            f" {to.replace('_', ' ')} any more."
        )
