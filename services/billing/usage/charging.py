"""Charging usage: once an hour for each wallet, in one transaction, with a line for each meter.

::

    leased, charge written down ─▶ wallet asked ─▶ paid
                                                └▶ too little: it stays due, and the ladder begins

A charge holds the difference between what the totals cost by now and what stands in charges
already; both are moved on together, and only then the wallet hears of it, under a key that names
the charge. A wallet has one unpaid charge at most: whatever crashes, repeats or runs beside it,
everything is charged once.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch
from chassis.client import RpcClient
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.identifiers import new_id
from chassis.leases import Leases
from contracts.errors import ServiceError
from contracts.keys import usage_key
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.wallet import Debit, DebitAll, DebitResult, TransactionKind
from services.billing.deployments.ladder import NO_MONEY
from services.billing.models import (
    DeploymentRow,
    PurchaseLineRow,
    UsageChargeLineRow,
    UsageChargeRow,
    UsageTotalRow,
    UsageWalletRow,
)
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.sales.shares import Price, shares
from services.billing.settings import BillingSettings
from services.billing.usage import shortage
from services.billing.usage.rating import rated_micros
from services.billing.usage.taking import meters_of, next_hour

log = logging.getLogger(__name__)

ROUNDS_MAX = 50

AT_ONCE = 400
"""How many wallets one call is about."""

EARNERS_MAX = 90
"""How many who sell one charge pays: a debit has room for 100 shares, and the house has some."""

NAME_LENGTH_MAX = 100

DUE = Leases(
    due_at=UsageWalletRow.due_at,
    owner=UsageWalletRow.user_id,
    lease=timedelta(seconds=60),
    limit=AT_ONCE,
)


@dataclass(frozen=True)
class UsageCharges:
    """What it takes to charge usage: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Callable[[], datetime]

    def run(self) -> None:
        """Charge every wallet that is due."""
        for taken in DUE.rounds(self.database, self.clock, ROUNDS_MAX):
            self._each(taken, self._prepare)
            try:
                self._ask_wallet(taken)
            except ServiceError as error:
                log.warning("the wallet did not answer", extra={"error": f"{error.code}: {error}"})
                return

    def _prepare(self, session: Session, user_id: UUID) -> None:
        """Write down what this wallet is to pay; what is written already is paid first."""
        wallet = session.get_one(UsageWalletRow, user_id, with_for_update=True)
        if _unpaid(session, [user_id]):
            return
        if not _write_charge(session, self.clock(), wallet):
            wallet.due_at = None
        wallet.used_from = wallet.used_until = None

    def _ask_wallet(self, user_ids: Sequence[UUID]) -> None:
        """Raises ``ServiceError`` when the wallet did not answer: what is due stays due."""
        with self.database.read() as session:
            debits = {
                charge.charge_id: _debit(charge, _parts(session, charge))
                for charge in _unpaid(session, user_ids)
            }
        crash_point("billing.usage_written")
        if not debits:
            return
        outcomes = self.rpc.call(DebitAll(debits=list(debits.values())))
        crash_point("billing.usage_charged")
        answers = dict(zip(debits, outcomes.results, strict=True))
        self._each(answers, lambda session, each: self._record(session, each, answers[each]))
        crash_point("billing.usage_settled")

    def _record(self, session: Session, charge_id: UUID, answer: DebitResult) -> None:
        now = self.clock()
        user_id = session.get_one(UsageChargeRow, charge_id).user_id
        wallet = session.get_one(UsageWalletRow, user_id, with_for_update=True)
        charge = session.get_one(UsageChargeRow, charge_id, with_for_update=True)
        if charge.paid_at is not None:
            return
        if answer.transaction is not None:
            charge.transaction_id, charge.paid_at = answer.transaction.transaction_id, now
            _book_sales(session, now, charge)
            shortage.end(session, now, charge, self.rules)
            wallet.due_at = next_hour(now) if _uncharged(session, user_id) else None
            return
        wallet.due_at = now + self.rules.renewal_retry
        if answer.error is not None and answer.error.code in NO_MONEY:
            shortage.begin(session, now, charge, answer.error, self.rules)
        elif answer.error is not None:
            log.error(
                "the wallet does not do what a charge for usage needs",
                extra={"user_id": str(user_id), "error": answer.error.message},
            )

    def _each(self, ids: Iterable[UUID], act: Callable[[Session, UUID], None]) -> None:
        """Do something with each of them; one that fails is left to its lease."""
        for each in ids:
            try:
                with self.database.begin() as session:
                    act(session, each)
            except Exception as error:
                if is_lost(error):
                    raise
                log.exception("usage of a wallet is left out", extra={"id": str(each)})


AWAITS_MONEY = "EXISTS (SELECT FROM usage_charges WHERE user_id = new.user_id AND paid_at IS NULL)"
"""Whether :func:`money_came` would find any, as SQL over users named ``new``."""


def money_came(session: Session, now: datetime, user_id: UUID) -> None:
    """What this user's wallet did not pay is to be tried again at once."""
    waits = select(UsageChargeRow.user_id).where(
        UsageChargeRow.user_id == user_id, UsageChargeRow.paid_at.is_(None)
    )
    session.execute(
        update(UsageWalletRow)
        .where(UsageWalletRow.user_id == user_id, UsageWalletRow.user_id.in_(waits))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )


def _unpaid(session: Session, user_ids: Sequence[UUID]) -> Sequence[UsageChargeRow]:
    return session.scalars(
        select(UsageChargeRow).where(
            UsageChargeRow.user_id.in_(user_ids), UsageChargeRow.paid_at.is_(None)
        )
    ).all()


def _uncharged(session: Session, user_id: UUID) -> Sequence[UsageTotalRow]:
    total = UsageTotalRow
    return session.scalars(
        select(total)
        .where(total.user_id == user_id, total.quantity != total.charged_quantity)
        .order_by(total.deployment_id, total.month_starts_at, total.meter)
    ).all()


def _write_charge(session: Session, now: datetime, wallet: UsageWalletRow) -> bool:
    """Write down what this wallet owes beyond what stands in charges. False where that is nothing.

    A deployment whose corrections exceed what was used since is left for a later charge.
    """
    totals: dict[UUID, list[UsageTotalRow]] = defaultdict(list)
    for total in _uncharged(session, wallet.user_id):
        totals[total.deployment_id].append(total)
    charge_id, amount_micros = new_id(), 0
    lines: list[UsageChargeLineRow] = []
    names: list[str] = []
    earners: set[UUID | None] = set()
    for row, line in _deployments(session, totals):
        meters = meters_of(line)
        due = [
            (total, rated_micros(meters[total.meter], total.quantity) - total.charged_micros)
            for total in totals[row.deployment_id]
        ]
        net_micros = sum(micros for _, micros in due)
        if net_micros < 0 or amount_micros + net_micros > MAX_AMOUNT_MICROS:
            continue
        if len(earners | {row.provider_id}) > EARNERS_MAX:
            continue
        for total, micros in due:
            quantity = total.quantity - total.charged_quantity
            total.charged_quantity, total.charged_micros = (
                total.quantity,
                total.charged_micros + micros,
            )
            if net_micros:
                lines.append(_line(charge_id, total, quantity, micros))
        if net_micros:
            amount_micros += net_micros
            names.append(row.name)
            earners.add(row.provider_id)
    if not amount_micros:
        return False
    session.add(
        UsageChargeRow(
            charge_id=charge_id,
            user_id=wallet.user_id,
            amount_micros=amount_micros,
            description=_description(names, wallet),
            created_at=now,
        )
    )
    session.flush()
    session.add_all(lines)
    return True


def _line(charge_id: UUID, total: UsageTotalRow, quantity: int, micros: int) -> UsageChargeLineRow:
    return UsageChargeLineRow(
        charge_id=charge_id,
        deployment_id=total.deployment_id,
        meter=total.meter,
        month_starts_at=total.month_starts_at,
        quantity=quantity,
        amount_micros=micros,
    )


def _deployments(
    session: Session, deployment_ids: Iterable[UUID]
) -> list[tuple[DeploymentRow, PurchaseLineRow]]:
    """The deployments with their lines, the oldest first."""
    rows = session.execute(
        select(DeploymentRow, PurchaseLineRow)
        .join(
            PurchaseLineRow,
            tuple_(PurchaseLineRow.purchase_id, PurchaseLineRow.position)
            == tuple_(DeploymentRow.purchase_id, DeploymentRow.line_position),
        )
        .where(DeploymentRow.deployment_id.in_(list(deployment_ids)))
        .order_by(DeploymentRow.deployment_id)
    )
    return [(row, line) for row, line in rows]


def _description(names: Sequence[str], wallet: UsageWalletRow) -> str:
    """What a statement says: ``Usage of VM-Production, 2026-03-02 14:00–15:00 UTC``."""
    others = len(names) - 1
    whose = names[0][:NAME_LENGTH_MAX] + (f" and {others} more" if others else "")
    if wallet.used_from is None or wallet.used_until is None:
        return f"Usage of {whose}"
    start, last = wallet.used_from, wallet.used_until
    start = start.replace(minute=0, second=0, microsecond=0)
    end = next_hour(last)
    if start.date() == last.date():
        return f"Usage of {whose}, {start:%Y-%m-%d %H:%M}–{end:%H:%M} UTC"
    return f"Usage of {whose}, {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Part:
    """What one deployment has of a charge."""

    deployment_id: UUID
    product_id: UUID
    product_name: str
    price: Price


def _parts(session: Session, charge: UsageChargeRow) -> list[Part]:
    micros: dict[UUID, int] = defaultdict(int)
    line = UsageChargeLineRow
    for deployment_id, amount_micros in session.execute(
        select(line.deployment_id, line.amount_micros).where(line.charge_id == charge.charge_id)
    ):
        micros[deployment_id] += amount_micros
    return [
        Part(
            row.deployment_id,
            bought.product_id,
            bought.product_name,
            Price(micros[row.deployment_id], row.provider_id, row.fee_bps),
        )
        for row, bought in _deployments(session, micros)
    ]


def _debit(charge: UsageChargeRow, parts: Iterable[Part]) -> Debit:
    return Debit(
        idempotency_key=usage_key(charge.charge_id),
        user_id=charge.user_id,
        amount_micros=charge.amount_micros,
        kind=TransactionKind.USAGE,
        description=charge.description,
        shares=shares(part.price for part in parts),
    )


def _book_sales(session: Session, now: datetime, charge: UsageChargeRow) -> None:
    """Who sells sees what was charged."""
    with Batch(session) as writes:
        for part in _parts(session, charge):
            sales = records.sale(
                f"{usage_key(charge.charge_id)}:{part.deployment_id}",
                SaleKind.USAGE,
                now,
                part.price,
                product_id=part.product_id,
                product_name=part.product_name,
                units=0,
            )
            records.write(writes, sales)
