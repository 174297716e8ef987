"""Another size of the same thing: what it costs today, and what it makes of a deployment.

The rest of the month that is paid is worth its share at each price, and the difference of the two
is charged, or given back, rounded once. What is charged is written down, as a period of kind
``resize``, before the wallet hears of it, and the deployment is resized when it is paid. What is
given back is written down as ``credit`` periods together with the smaller size, which nobody can
refuse any more: each gives back a part of one payment of this month, the latest first, and of
whoever earned by it.

One resize at a time. While one waits for the wallet its month is not renewed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from chassis.money import divide_half_even, format_usd
from chassis.outbox import publish
from contracts.billing import ChangeCause, DeploymentChanged, DeploymentStatus, ResizeDeployment
from contracts.errors import Conflict, PriceChanged
from services.billing.deployments import ladder, lifecycle, periods, prices
from services.billing.deployments.months import cost_micros
from services.billing.deployments.periods import OPEN, PeriodKind, PeriodStatus
from services.billing.models import DeploymentRow, PeriodRow, PurchaseLineRow, PurchaseRow
from services.billing.sales.discounts import price_of_unit
from services.billing.sales.shares import Price
from services.billing.settings import BillingSettings

QUOTE_HOLDS = timedelta(minutes=10)
"""How long an amount that was shown is charged as it was."""

_TIE = timedelta(microseconds=1)
"""What tells credits of one resize from each other, whose keys name the instant."""

RESIZABLE = (DeploymentStatus.ACTIVE, DeploymentStatus.STOPPED, DeploymentStatus.SUSPENDED)


@dataclass(frozen=True)
class Size:
    """A product of the same family, at its price of now."""

    product_id: UUID
    name: str
    price_micros: int


@dataclass(frozen=True)
class _Payment:
    """What was paid for the month that runs, or for a part of it, and what of it went back."""

    transaction_id: UUID
    price: Price
    worth_micros: int
    """What it was paid for at its price of then: more than what was paid, after a discount."""
    credited_micros: int

    def part(self, worth_micros: int) -> tuple[int, int]:
        """What of it goes back for so much of its worth, and how much of that it stands for."""
        paid_micros = self.price.amount_micros
        left_micros = paid_micros - self.credited_micros
        if left_micros <= 0:
            return 0, 0
        worth_micros = min(worth_micros, -(-left_micros * self.worth_micros // paid_micros))
        micros = divide_half_even(worth_micros * paid_micros, self.worth_micros)
        return min(micros, left_micros), worth_micros

    def fee_micros(self, amount_micros: int) -> int:
        """The fee of what goes back next: all that goes back has the fee of the whole."""
        after_micros = self.credited_micros + amount_micros
        return self.price.fee_of(after_micros) - self.price.fee_of(self.credited_micros)


def difference_micros(row: DeploymentRow, price_micros: int, at: datetime) -> int:
    """What another price costs for the rest of the month that is paid; negative: is given back."""
    if row.paid_until is None or row.period_anchor_at is None or row.paid_until <= at:
        return 0
    change_micros = price_micros - row.monthly_cost_micros
    return cost_micros(row.period_anchor_at, change_micros, at, row.paid_until)


def comes_to(session: Session, row: DeploymentRow, price_micros: int, at: datetime) -> int:
    """The same as it is charged, or given back, of what was really paid for this month."""
    change_micros = difference_micros(row, price_micros, at)
    if change_micros >= 0:
        return change_micros
    return -sum(part for _, part in _parts_back(session, row, -change_micros))


def begin(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    size: Size,
    command: ResizeDeployment,
    rules: BillingSettings,
) -> None:
    """Write down what a locked deployment is to become, or let it be that at once.

    Raises ``Conflict`` for one that cannot be resized now, and ``PriceChanged`` where it does not
    cost what its owner saw.
    """
    _require_resizable(session, now, row)
    at = _moment(session, now, row, command)
    if row.paid_until is None or row.paid_until <= at:
        prices.take_price(row, now)
    amount_micros = comes_to(session, row, size.price_micros, at)
    expected_micros = command.expected_amount_micros
    if expected_micros is not None and expected_micros != amount_micros:
        raise PriceChanged(
            f"It now comes to {format_usd(amount_micros)}, not {format_usd(expected_micros)}."
            " Nothing was changed. Look at the amount and resize again.",
            str(amount_micros),
        )
    if amount_micros > 0 and row.paid_until is not None:
        period = periods.new(
            now, row, PeriodKind.RESIZE, at, row.paid_until, amount_micros, PeriodStatus.DUE
        )
        period.resize = {
            "product_id": str(size.product_id),
            "product_name": size.name,
            "price_micros": size.price_micros,
            **periods.wish_of(command),
        }
        session.add(period)
        return
    if amount_micros < 0:
        _give_back(session, now, row, at, size.price_micros)
    _become(session, now, row, size, rules, command=command)


def complete(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    period: PeriodRow,
    rules: BillingSettings,
    made_by: tuple[str, str] | None,
) -> None:
    """It is paid: the locked deployment is what it was to become. ``made_by`` as for
    :func:`services.billing.deployments.lifecycle.note`."""
    wish = period.resize or {}
    size = Size(UUID(wish["product_id"]), wish["product_name"], int(wish["price_micros"]))
    _become(session, now, row, size, rules, made_by=made_by)


def pending(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, PeriodRow]:
    """The resizes of these deployments about which the wallet has yet to be asked, or to answer."""
    rows = session.scalars(
        select(PeriodRow).where(
            PeriodRow.deployment_id.in_(list(deployment_ids)),
            PeriodRow.kind == PeriodKind.RESIZE,
            PeriodRow.status.in_(OPEN),
        )
    )
    return {row.deployment_id: row for row in rows}


def is_waiting(session: Session, deployment_id: UUID) -> bool:
    """Whether the wallet is to be asked about a resize of this deployment."""
    found = periods.open_periods(session, [deployment_id])
    return any(each.kind in (PeriodKind.RESIZE, PeriodKind.CREDIT) for each in found)


def _require_resizable(session: Session, now: datetime, row: DeploymentRow) -> None:
    if row.status not in RESIZABLE:
        raise Conflict(f"This deployment is {row.status}: it cannot be resized.")
    if pending(session, [row.deployment_id]):
        raise Conflict("It is being resized already. Try again in a moment.")
    if row.monthly_cost_micros == 0:
        raise Conflict("What costs nothing every month cannot be resized.")
    is_active = row.status == DeploymentStatus.ACTIVE
    if periods.due(session, row.deployment_id, PeriodKind.MONTH) or (
        is_active and row.paid_until is not None and row.paid_until <= now
    ):
        raise Conflict("Its month is due. It can be resized once that is paid.")


def _moment(
    session: Session, now: datetime, row: DeploymentRow, command: ResizeDeployment
) -> datetime:
    """From when on the other price counts: the moment of the amount that was shown, if any."""
    at = command.quoted_at or now
    last_at = session.scalar(
        select(func.max(PeriodRow.starts_at)).where(
            PeriodRow.deployment_id == row.deployment_id, PeriodRow.starts_at <= now
        )
    )
    earliest = max(last_at or row.period_anchor_at or now, now - QUOTE_HOLDS)
    if command.quoted_at is not None and not earliest < at <= now:
        raise Conflict("The amount that you saw is out of date. Look at it again.")
    return at


def _become(
    session: Session,
    now: datetime,
    row: DeploymentRow,
    size: Size,
    rules: BillingSettings,
    *,
    command: ResizeDeployment | None = None,
    made_by: tuple[str, str] | None = None,
) -> None:
    line = session.get_one(PurchaseLineRow, (row.purchase_id, row.line_position))
    if row.name == (row.product_name or line.product_name):
        row.name = size.name
    row.product_id, row.product_name = size.product_id, size.name
    row.monthly_cost_micros = size.price_micros
    row.new_price_micros = row.new_price_from = None
    ladder.look_again(row, now, rules)
    lifecycle.note(session, now, row, ChangeCause.RESIZED, command, made_by=made_by)
    rung = ladder.next_rung(row, rules)
    publish(
        session,
        DeploymentChanged(
            event_id=new_id(),
            occurred_at=now,
            user_id=row.user_id,
            deployment_id=row.deployment_id,
            name=row.name,
            status=DeploymentStatus(row.status),
            cause=ChangeCause.RESIZED,
            next_status=rung.status if rung else None,
            next_status_at=rung.at if rung else None,
            product_id=size.product_id,
            monthly_cost_micros=size.price_micros,
        ),
    )


def _give_back(
    session: Session, now: datetime, row: DeploymentRow, at: datetime, price_micros: int
) -> None:
    """Write down what goes back for a smaller price."""
    if row.paid_until is None:
        return
    worth_micros = -difference_micros(row, price_micros, at)
    for number, (payment, part) in enumerate(_parts_back(session, row, worth_micros)):
        period = periods.new(
            now,
            row,
            PeriodKind.CREDIT,
            at + number * _TIE,
            row.paid_until,
            part,
            PeriodStatus.REFUNDING,
        )
        period.transaction_id = payment.transaction_id
        period.resize = {"fee_micros": payment.fee_micros(part)}
        session.add(period)


def _parts_back(
    session: Session, row: DeploymentRow, worth_micros: int
) -> list[tuple[_Payment, int]]:
    """What of which payments goes back for so much of this month, of what was paid last first.

    A month that was bought with a discount goes back as it was paid: with the same part off.
    """
    found = []
    for payment in _payments(session, row):
        part, stands_for_micros = payment.part(worth_micros)
        if part > 0:
            found.append((payment, part))
        worth_micros -= stands_for_micros
    return found


def _payments(session: Session, row: DeploymentRow) -> list[_Payment]:
    """What was paid for the month that runs, the latest first: by resizes, and for the month."""
    paid = session.scalars(
        select(PeriodRow)
        .where(
            PeriodRow.deployment_id == row.deployment_id,
            PeriodRow.kind.in_((PeriodKind.MONTH, PeriodKind.RESIZE)),
            PeriodRow.status == PeriodStatus.PAID,
            PeriodRow.ends_at == row.paid_until,
        )
        .order_by(PeriodRow.starts_at.desc())
    ).all()
    found = [(each.transaction_id, periods.price(each), each.amount_micros) for each in paid]
    if not any(each.kind == PeriodKind.MONTH for each in paid):
        line = session.get_one(PurchaseLineRow, (row.purchase_id, row.line_position))
        purchase = session.get_one(PurchaseRow, row.purchase_id)
        unit = price_of_unit(line, row.unit_number)
        found.append((purchase.transaction_id, unit, line.list_price_micros))
    credited = _credited(session, row.deployment_id)
    return [
        _Payment(transaction_id, price, worth_micros, credited.get(transaction_id, 0))
        for transaction_id, price, worth_micros in found
        if transaction_id is not None
    ]


def _credited(session: Session, deployment_id: UUID) -> dict[UUID, int]:
    """What went back, or is about to, of each payment for this deployment."""
    rows = session.execute(
        select(PeriodRow.transaction_id, func.sum(PeriodRow.amount_micros))
        .where(PeriodRow.deployment_id == deployment_id, PeriodRow.kind == PeriodKind.CREDIT)
        .group_by(PeriodRow.transaction_id)
    )
    return {transaction_id: int(micros) for transaction_id, micros in rows if transaction_id}
