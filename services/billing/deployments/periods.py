"""What a deployment is charged for: months, paid ahead, arrears, time that ran unpaid, and resizes.

A period stands in the database before the wallet hears of it, and its key names the deployment,
the kind and the instant that it starts from: whatever crashes, repeats or runs beside it, it is
paid once. All that the wallet hears of it stands there, the name too: each try says the same. The
month that a purchase pays is the purchase's, and has no row here::

    due ─▶ paid
    due ─▶ closing ─▶ closed                    the wallet's key is closed first
                   ├▶ paid                      it was paid before, and the month runs
                   └▶ refunding ─▶ refunded     … and the month does not run
    paid ─▶ refunding                           it failed while the month ran
    refunding ─▶ refunded                       a credit: a part of a payment, for a smaller size
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.idempotency import request_hash
from chassis.locks import for_update
from chassis.money import divide_half_even
from contracts.billing import DeploymentStatus
from contracts.keys import period_key, period_refund_key
from contracts.messages import Command
from contracts.wallet import CloseKey, Debit, Noted, Refund, TransactionKind
from services.billing.deployments.ladder import Standing, renews_at
from services.billing.deployments.months import cost_micros, month_end
from services.billing.deployments.prices import price_at, take_price
from services.billing.models import DeploymentRow, PeriodRow
from services.billing.sales.shares import Price, parts, shares


class PeriodKind(StrEnum):
    MONTH = "month"
    ARREARS = "arrears"
    RESIZE = "resize"
    CREDIT = "credit"


class PeriodStatus(StrEnum):
    DUE = "due"
    PAID = "paid"
    CLOSING = "closing"
    CLOSED = "closed"
    REFUNDING = "refunding"
    REFUNDED = "refunded"


TRANSITIONS: dict[PeriodStatus, frozenset[PeriodStatus]] = {
    PeriodStatus.DUE: frozenset({PeriodStatus.PAID, PeriodStatus.CLOSING}),
    PeriodStatus.CLOSING: frozenset(
        {PeriodStatus.CLOSED, PeriodStatus.PAID, PeriodStatus.REFUNDING}
    ),
    PeriodStatus.REFUNDING: frozenset({PeriodStatus.REFUNDED}),
    PeriodStatus.PAID: frozenset({PeriodStatus.REFUNDING}),
    PeriodStatus.CLOSED: frozenset(),
    PeriodStatus.REFUNDED: frozenset(),
}

OPEN = (PeriodStatus.DUE, PeriodStatus.CLOSING, PeriodStatus.REFUNDING)
"""The states in which the wallet has something to do, or to say."""

NAME_LENGTH_MAX = 150
"""How much of a deployment's name stands in a statement, which has room for 200 characters."""


class Owed(NamedTuple):
    """A period that is to be written down as due."""

    deployment_id: UUID
    starts_at: datetime
    kind: PeriodKind
    ends_at: datetime
    user_id: UUID
    amount_micros: int
    provider_id: UUID | None
    fee_bps: int | None
    status: PeriodStatus
    created_at: datetime
    name: str
    resize: dict[str, Any] | None = None
    """Which command wished for the month, where a start did."""


Payable = PeriodRow | Owed


def owe_month(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    starts_at: datetime,
    command: Command[Any] | None = None,
) -> None:
    """Write down that a month is due, and the command that wished for it, if one did; one that is
    written already stays as it is."""
    if (month := month_owed(now, row, starts_at)) is not None:
        owe(session, [month._replace(resize=wish_of(command) if command else None)])


def wish_of(command: Command[Any]) -> dict[str, str]:
    """What a period remembers of the command that wished for it, until it is paid."""
    return {
        "idempotency_key": command.idempotency_key,
        "body_hash": request_hash(command).hex(),
    }


def made_by(period: PeriodRow) -> tuple[str, str] | None:
    """The key of the command that wished for it, and the hash of what it asked, if one did."""
    wish = period.resize or {}
    return (wish["idempotency_key"], wish["body_hash"]) if "body_hash" in wish else None


def month_owed(now: datetime, row: DeploymentRow, starts_at: datetime) -> Owed | None:
    """The month that is due, which is to be written down.

    A new price whose time has come is its price; where that is nothing, nothing is due.
    """
    take_price(row, starts_at)
    if row.monthly_cost_micros == 0:
        return None
    ends_at = month_ends_at(row, starts_at)
    micros = row.monthly_cost_micros
    return _owed(now, row, PeriodKind.MONTH, starts_at, ends_at, micros)


def month_ends_at(row: Standing, starts_at: datetime) -> datetime:
    """The end of the month that ``starts_at`` falls into, counted from the deployment's anchor; a
    month that starts elsewhere than an anchor's month does is an anchor of its own."""
    anchor = row.period_anchor_at or starts_at
    is_next = row.paid_until == starts_at
    return month_end(anchor if is_next else starts_at, starts_at)


def arrears_micros(row: Standing, starts_at: datetime, ends_at: datetime) -> int:
    """What is owed for time that ran unpaid: each month at the price it had when it began."""
    anchor = row.period_anchor_at or starts_at
    owed_micros = 0
    while starts_at < ends_at:
        until = min(ends_at, month_end(anchor, starts_at))
        owed_micros += cost_micros(anchor, price_at(row, starts_at), starts_at, until)
        starts_at = until
    return owed_micros


def owe_arrears(
    session: Session, now: datetime, row: DeploymentRow, month: PeriodRow, until: datetime
) -> None:
    """Write down what is owed for what ran since a month began that nobody pays; less than a
    micro-dollar is nothing. Its share of that month is by the month: its deployment may have
    another size or anchor by now."""
    part = min(until, month.ends_at) - month.starts_at
    whole = month.ends_at - month.starts_at
    amount_micros = divide_half_even(
        month.amount_micros * (part // part.resolution), whole // whole.resolution
    ) + arrears_micros(row, month.ends_at, until)
    if amount_micros > 0:
        kind = PeriodKind.ARREARS
        owe(session, [_owed(now, row, kind, month.starts_at, until, amount_micros)])


def owe(session: Session, owed: Sequence[Owed]) -> set[UUID]:
    """Write down that these are due; one that is written already stays as it is. Whose were not
    written before."""
    return set(_OWE.scalars(session, owed)) if owed else set()


_OWE = Bulk(
    "INSERT INTO periods ({columns}, changed_at) SELECT *, created_at FROM {rows}"
    " ON CONFLICT DO NOTHING RETURNING deployment_id",
    deployment_id="uuid",
    starts_at="timestamptz",
    kind="text",
    ends_at="timestamptz",
    user_id="uuid",
    amount_micros="bigint",
    provider_id="uuid",
    fee_bps="integer",
    status="text",
    created_at="timestamptz",
    name="text",
    resize="jsonb",
)


def _owed(
    now: datetime,
    row: DeploymentRow,
    kind: PeriodKind,
    starts_at: datetime,
    ends_at: datetime,
    amount_micros: int,
) -> Owed:
    return Owed(
        row.deployment_id,
        starts_at,
        kind,
        ends_at,
        row.user_id,
        amount_micros,
        row.provider_id,
        row.fee_bps,
        PeriodStatus.DUE,
        now,
        row.name,
    )


def new(
    now: datetime,
    row: DeploymentRow,
    kind: PeriodKind,
    starts_at: datetime,
    ends_at: datetime,
    amount_micros: int,
    status: PeriodStatus,
) -> PeriodRow:
    """A period that is not there so far."""
    return PeriodRow(
        deployment_id=row.deployment_id,
        starts_at=starts_at,
        kind=kind.value,
        ends_at=ends_at,
        user_id=row.user_id,
        amount_micros=amount_micros,
        provider_id=row.provider_id,
        fee_bps=row.fee_bps,
        status=status.value,
        created_at=now,
        changed_at=now,
        name=row.name,
    )


def move(
    period: PeriodRow, now: datetime, to: PeriodStatus, transaction_id: UUID | None = None
) -> None:
    """Change a locked period's state. Raises ``ValueError`` for a move that the table lacks."""
    check_move(period, to)
    period.status = to
    period.transaction_id = transaction_id or period.transaction_id
    period.changed_at = now


def check_move(period: PeriodRow, to: PeriodStatus) -> None:
    """Raises ``ValueError`` for a move that the table lacks."""
    status = PeriodStatus(period.status)
    if to not in TRANSITIONS[status]:
        raise ValueError(f"a period that is {status} cannot become {to}")


_MOVED = Bulk(
    "UPDATE periods SET status = new.status, transaction_id = new.transaction_id,"
    " changed_at = new.changed_at FROM {rows} WHERE periods.deployment_id = new.deployment_id"
    " AND periods.starts_at = new.starts_at AND periods.kind = new.kind",
    deployment_id="uuid",
    starts_at="timestamptz",
    kind="text",
    status="text",
    transaction_id="uuid",
    changed_at="timestamptz",
)


def write(writes: Batch, moved: Iterable[PeriodRow]) -> None:
    """Write the states of locked periods together, as their rows say by now."""
    names = list(_MOVED.columns)
    writes.add(_MOVED, ([getattr(each, name) for name in names] for each in moved))


def close_months(session: Session, now: datetime, row: DeploymentRow) -> bool:
    """No month of a locked deployment, and no resize, is to be paid any more. Whether the wallet is
    to be told. A month that began, and to which nobody has come yet, is written down as well: what
    ran of it is owed. While it runs, its month that is closing already ran until now; that of a
    start which was not paid ended as it began."""
    began_at = renews_at(row)
    if began_at is not None and began_at < now:
        owe_month(session, now, row, began_at)
    is_running = row.status == DeploymentStatus.ACTIVE
    is_closed = PeriodRow.status == PeriodStatus.DUE
    if is_running:
        is_of_now = PeriodRow.starts_at == row.paid_until
        is_closed |= (PeriodRow.status == PeriodStatus.CLOSING) & is_of_now
    closed = session.execute(
        update(PeriodRow)
        .where(
            PeriodRow.deployment_id == row.deployment_id,
            PeriodRow.kind.in_((PeriodKind.MONTH, PeriodKind.RESIZE)),
            is_closed,
        )
        .values(status=PeriodStatus.CLOSING, changed_at=now if is_running else PeriodRow.starts_at)
    )
    return bool(closed.rowcount)  # type: ignore[attr-defined]


def give_back(
    session: Session,
    now: datetime,
    deployment_id: UUID,
    kind: PeriodKind,
    ends_at: datetime | None = None,
) -> bool:
    """What was paid by itself for the month that runs now, or the one that ends at ``ends_at``, is
    to be given back: that month, or a larger size in it, less what went back of it for a smaller
    one. Whether there is any."""
    paid = session.scalars(
        for_update(
            select(PeriodRow).where(
                PeriodRow.deployment_id == deployment_id,
                PeriodRow.kind == kind,
                PeriodRow.status == PeriodStatus.PAID,
                PeriodRow.ends_at > now if ends_at is None else PeriodRow.ends_at == ends_at,
            )
        )
    )
    is_any = False
    for period in paid.all():
        left = _left(session, period)
        if left.amount_micros == 0:
            continue
        if left != price(period):
            kept = {"left_micros": left.amount_micros, "left_fee_micros": left.fee_micros}
            period.resize = {**(period.resize or {}), **kept}
        move(period, now, PeriodStatus.REFUNDING)
        is_any = True
    session.flush()
    return is_any


def _left(session: Session, period: PeriodRow) -> Price:
    """What of a payment has not gone back, nor is about to."""
    whole = price(period)
    credited = session.scalars(
        select(PeriodRow).where(
            PeriodRow.deployment_id == period.deployment_id,
            PeriodRow.kind == PeriodKind.CREDIT,
            PeriodRow.transaction_id == period.transaction_id,
        )
    ).all()
    if not credited:
        return whole
    gone = [price(each) for each in credited]
    left_micros = whole.amount_micros - sum(each.amount_micros for each in gone)
    left_fee_micros = whole.fee_micros - sum(each.fee_micros for each in gone)
    return Price(left_micros, period.provider_id, period.fee_bps, left_fee_micros)


def due(session: Session, deployment_id: UUID, kind: PeriodKind) -> PeriodRow | None:
    """A period of this deployment that waits for its money, if there is any of this kind."""
    query = select(PeriodRow).where(
        PeriodRow.deployment_id == deployment_id,
        PeriodRow.kind == kind,
        PeriodRow.status == PeriodStatus.DUE,
    )
    return session.scalar(query.limit(1))


def open_periods(
    session: Session, deployment_ids: Iterable[UUID], *, locked: bool = False
) -> Sequence[PeriodRow]:
    """The periods of these deployments about which the wallet is to be asked, oldest first."""
    query = (
        select(PeriodRow)
        .where(PeriodRow.deployment_id.in_(list(deployment_ids)), PeriodRow.status.in_(OPEN))
        .order_by(PeriodRow.starts_at, PeriodRow.deployment_id, PeriodRow.kind)
    )
    if locked:
        query = for_update(query)
    return session.scalars(query).all()


def with_open_ones(session: Session, deployment_ids: Iterable[UUID]) -> set[UUID]:
    """Those of these deployments about which the wallet is to be asked."""
    query = select(PeriodRow.deployment_id)
    ids = list(deployment_ids)
    return set(
        session.scalars(query.where(PeriodRow.deployment_id.in_(ids), PeriodRow.status.in_(OPEN)))
    )


def owed_micros(
    session: Session, deployment_ids: Iterable[UUID]
) -> dict[tuple[UUID, PeriodKind], int]:
    """What is due for each of these deployments that owes anything: months, and arrears."""
    rows = session.execute(
        select(PeriodRow.deployment_id, PeriodRow.kind, func.sum(PeriodRow.amount_micros))
        .where(
            PeriodRow.deployment_id.in_(list(deployment_ids)),
            PeriodRow.status == PeriodStatus.DUE,
            PeriodRow.kind != PeriodKind.RESIZE,
        )
        .group_by(PeriodRow.deployment_id, PeriodRow.kind)
    )
    return {(deployment_id, PeriodKind(kind)): int(micros) for deployment_id, kind, micros in rows}


def debit(period: Payable, name: str) -> Debit:
    """What pays a period; ``name`` is its deployment's by now, for one that keeps none."""
    return Debit(
        idempotency_key=key(period),
        user_id=period.user_id,
        amount_micros=period.amount_micros,
        kind=TransactionKind.RENEWAL,
        description=(
            f"{_named(period, name)}, {period.starts_at.date()} to {period.ends_at.date()}"
        ),
        metadata={Noted.DEPLOYMENT_ID: str(period.deployment_id)},
        shares=shares([price(period)]),
    )


def price(period: Payable) -> Price:
    """What a period costs, and who gets it."""
    fee_micros = (period.resize or {}).get("fee_micros")
    return Price(period.amount_micros, period.provider_id, period.fee_bps, fee_micros)


def refunded_price(period: PeriodRow) -> Price:
    """What of it is given back: all of it, less what went back before for a smaller size."""
    wish = period.resize or {}
    if "left_micros" not in wish:
        return price(period)
    left_micros, left_fee_micros = wish["left_micros"], wish["left_fee_micros"]
    return Price(left_micros, period.provider_id, period.fee_bps, left_fee_micros)


def closure(period: PeriodRow) -> CloseKey:
    """What makes sure that a period is not paid any more, or says that it was."""
    return CloseKey(idempotency_key=key(period))


def refund(period: PeriodRow, name: str) -> Refund:
    """What gives back a month that was paid and does not run; ``name`` as in :func:`debit`. Raises
    ``ValueError`` for others."""
    if period.transaction_id is None:
        raise ValueError("a period that was not paid is not given back")
    if period.kind == PeriodKind.CREDIT:
        return Refund(
            idempotency_key=refund_key(period),
            user_id=period.user_id,
            transaction_id=period.transaction_id,
            amount_micros=period.amount_micros,
            shares=parts(price(period)),
            is_advanced=price(period).earner_id is not None,
            description=f"{_named(period, name)}: a smaller size until {period.ends_at:%Y-%m-%d}",
            metadata={Noted.DEPLOYMENT_ID: str(period.deployment_id)},
        )
    given = refunded_price(period)
    what = "a larger size" if period.kind == PeriodKind.RESIZE else "a month that did not run"
    return Refund(
        idempotency_key=refund_key(period),
        user_id=period.user_id,
        transaction_id=period.transaction_id,
        amount_micros=given.amount_micros,
        shares=parts(given),
        is_advanced=given.earner_id is not None,
        description=f"{_named(period, name)}: {what}",
    )


def _named(period: Payable, name: str) -> str:
    return (period.name or name)[:NAME_LENGTH_MAX]


def key(period: Payable) -> str:
    """Under which it is paid."""
    return period_key(period.deployment_id, period.kind, period.starts_at)


def refund_key(period: Payable) -> str:
    """Under which it is given back."""
    return period_refund_key(period.deployment_id, period.kind, period.starts_at)


def asked_key(period: Payable) -> str:
    """Under which the wallet is asked about it as it stands."""
    return refund_key(period) if period.status == PeriodStatus.REFUNDING else key(period)
