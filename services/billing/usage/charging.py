"""Charging usage: once an hour for each wallet, in one transaction, with a line for each meter.

::

    leased, charge written down ─▶ wallet asked ─▶ paid
                                                └▶ too little: it stays due, and the ladder begins
    not paid, and corrected since ─▶ its key is closed ─▶ written anew, or paid before

A charge holds the difference between what the totals cost by now and what stands in charges
already; both are moved on together, and only then the wallet hears of it, under a key that names
the charge. A wallet has one unpaid charge at most: whatever crashes, repeats or runs beside it,
everything is charged once. Where corrections exceed what was used since, the difference is paid
back: see :mod:`services.billing.usage.paying_back`.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch
from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.identifiers import new_id
from chassis.leases import Leases
from chassis.locks import locked, locked_or_none
from contracts.errors import ServiceError
from contracts.keys import usage_key
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.wallet import (
    ClosedKey,
    CloseKey,
    Debit,
    DebitAll,
    DebitResult,
    Transaction,
    TransactionKind,
)
from services.billing.deployments.ladder import NO_MONEY
from services.billing.deployments.meters import meters_of, uncharged_micros, with_lines
from services.billing.deployments.rating import rated_micros
from services.billing.models import (
    UsageChargeLineRow,
    UsageChargeRow,
    UsageTotalRow,
    UsageWalletRow,
)
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.sales.shares import Price, shares
from services.billing.settings import BillingSettings
from services.billing.usage import paying_back, shortage
from services.billing.usage.taking import next_hour

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
    clock: Clock

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
        wallet = locked(session, UsageWalletRow, user_id)
        for charge in _unpaid(session, [user_id]):
            if charge.closing_since is None and _is_corrected(session, charge):
                charge.closing_since = self.clock()
            return
        if not _write_charge(session, self.clock(), wallet):
            wallet.due_at = None
        wallet.used_from = wallet.used_until = None

    def _ask_wallet(self, user_ids: Sequence[UUID]) -> None:
        """Raises ``ServiceError`` when the wallet did not answer: what is due stays due."""
        with self.database.read() as session:
            asked_at, was_due = self.clock(), _due_at(session, user_ids)
            unpaid = _unpaid(session, user_ids)
            debits = {
                charge.charge_id: _debit(charge, _parts(session, charge))
                for charge in unpaid
                if charge.closing_since is None
            }
        crash_point("billing.usage_written")
        closing = [each.charge_id for each in unpaid if each.closing_since is not None]
        found = {each: self.rpc.call(CloseKey(idempotency_key=usage_key(each))) for each in closing}
        crash_point("billing.usage_closed")
        self._each(found, lambda session, each: self._replace(session, each, found[each]))
        if not debits:
            return
        outcomes = self.rpc.call(DebitAll(debits=list(debits.values())))
        crash_point("billing.usage_charged")
        answers = dict(zip(debits, outcomes.results, strict=True))

        def record(session: Session, charge_id: UUID) -> None:
            self._record(session, charge_id, answers[charge_id], asked_at, was_due)

        self._each(answers, record)
        crash_point("billing.usage_settled")

    def _record(
        self,
        session: Session,
        charge_id: UUID,
        answer: DebitResult,
        asked_at: datetime,
        was_due: Mapping[UUID, datetime | None],
    ) -> None:
        locked = self._locked(session, charge_id)
        if locked is None:
            return
        now, (wallet, charge) = self.clock(), locked
        if answer.transaction is not None:
            self._paid(session, now, wallet, charge, answer.transaction)
            return
        if wallet.due_at != was_due[wallet.user_id]:
            # Money came meanwhile: what was refused before is no news, and it is asked again.
            return
        wallet.due_at = now + self.rules.renewal_retry
        if answer.error is not None and answer.error.code in NO_MONEY:
            shortage.begin(session, self.clock, charge, answer.error, self.rules, asked_at)
        elif answer.error is not None:
            log.error(
                "the wallet does not do what a charge for usage needs",
                extra={"user_id": str(charge.user_id), "error": answer.error.message},
            )

    def _locked(
        self, session: Session, charge_id: UUID
    ) -> tuple[UsageWalletRow, UsageChargeRow] | None:
        """A charge that is not paid, and its wallet; None where somebody has dealt with it."""
        found = session.get(UsageChargeRow, charge_id)
        if found is None:
            return None
        wallet = locked(session, UsageWalletRow, found.user_id)
        charge = locked_or_none(session, UsageChargeRow, charge_id)
        return None if charge is None or charge.paid_at is not None else (wallet, charge)

    def _paid(
        self,
        session: Session,
        now: datetime,
        wallet: UsageWalletRow,
        charge: UsageChargeRow,
        paid_by: Transaction,
    ) -> None:
        charge.transaction_id, charge.paid_at = paid_by.transaction_id, now
        _book_sales(session, now, charge)
        shortage.end(session, now, charge, self.rules)
        wallet.due_at = next_hour(now) if _uncharged(session, charge.user_id) else None

    def _replace(self, session: Session, charge_id: UUID, found: ClosedKey) -> None:
        """Nobody pays it any more: what it was for is uncharged again, and charged as it is by
        now. What was paid before counts."""
        locked = self._locked(session, charge_id)
        if locked is None:
            return
        now, (wallet, charge) = self.clock(), locked
        if found.transaction is not None:
            self._paid(session, now, wallet, charge, found.transaction)
            return
        shortage.end(session, now, charge, self.rules)
        _take_back(session, charge)
        wallet.due_at = now

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
    """What this user's wallet did not pay is to be tried again at once, and told again where
    something else took the money first."""
    is_unpaid = (UsageChargeRow.user_id == user_id, UsageChargeRow.paid_at.is_(None))
    waits = select(UsageChargeRow.user_id).where(*is_unpaid)
    session.execute(
        update(UsageWalletRow)
        .where(UsageWalletRow.user_id == user_id, UsageWalletRow.user_id.in_(waits))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(UsageChargeRow)
        .where(*is_unpaid)
        .values(money_came_at=now)
        .execution_options(synchronize_session=False)
    )


def _unpaid(session: Session, user_ids: Sequence[UUID]) -> Sequence[UsageChargeRow]:
    return session.scalars(
        select(UsageChargeRow).where(
            UsageChargeRow.user_id.in_(user_ids), UsageChargeRow.paid_at.is_(None)
        )
    ).all()


def _due_at(session: Session, user_ids: Sequence[UUID]) -> dict[UUID, datetime | None]:
    """When these wallets are due: at the end of their leases, unless money has just come."""
    query = select(UsageWalletRow.user_id, UsageWalletRow.due_at)
    rows = session.execute(query.where(UsageWalletRow.user_id.in_(user_ids)))
    return {row.user_id: row.due_at for row in rows}


def _uncharged(session: Session, user_id: UUID) -> Sequence[UsageTotalRow]:
    total = UsageTotalRow
    return session.scalars(
        select(total)
        .where(total.user_id == user_id, total.quantity != total.charged_quantity)
        .order_by(total.deployment_id, total.month_starts_at, total.meter)
    ).all()


def _is_corrected(session: Session, charge: UsageChargeRow) -> bool:
    """Whether corrections since exceed what else was used of something that it is for."""
    line = UsageChargeLineRow
    charged = session.scalars(
        select(line.deployment_id).where(line.charge_id == charge.charge_id).distinct()
    )
    return any(micros < 0 for micros in uncharged_micros(session, charged).values())


def _take_back(session: Session, charge: UsageChargeRow) -> None:
    """As if this charge had not been written."""
    line, total = UsageChargeLineRow, UsageTotalRow
    of_charge = line.charge_id == charge.charge_id
    session.execute(
        update(total)
        .where(
            of_charge,
            total.deployment_id == line.deployment_id,
            total.meter == line.meter,
            total.month_starts_at == line.month_starts_at,
        )
        .values(
            charged_quantity=total.charged_quantity - line.quantity,
            charged_micros=total.charged_micros - line.amount_micros,
        )
        .execution_options(synchronize_session=False)
    )
    session.execute(delete(line).where(of_charge))
    session.delete(charge)


def _write_charge(session: Session, now: datetime, wallet: UsageWalletRow) -> bool:
    """Write down what this wallet owes beyond what stands in charges. False where that is nothing.

    Where the corrections of a deployment exceed what was used since, that is given back.
    """
    totals: dict[UUID, list[UsageTotalRow]] = defaultdict(list)
    for total in _uncharged(session, wallet.user_id):
        totals[total.deployment_id].append(total)
    charge_id, amount_micros = new_id(), 0
    lines: list[UsageChargeLineRow] = []
    names: list[str] = []
    earners: set[UUID | None] = set()
    for row, line in with_lines(session, totals):
        meters = meters_of(line)
        due = [
            (total, rated_micros(meters[total.meter], total.quantity) - total.charged_micros)
            for total in totals[row.deployment_id]
        ]
        net_micros = sum(micros for _, micros in due)
        if amount_micros + net_micros > MAX_AMOUNT_MICROS:
            continue
        if len(earners | {row.provider_id}) > EARNERS_MAX:
            continue
        for total, micros in due:
            quantity = total.quantity - total.charged_quantity
            total.charged_quantity, total.charged_micros = (
                total.quantity,
                total.charged_micros + micros,
            )
            if net_micros > 0:
                lines.append(_line(charge_id, total, quantity, micros))
        if net_micros < 0:
            paying_back.give_back(session, now, row, -net_micros)
        elif net_micros:
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
        for row, bought in with_lines(session, micros)
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
