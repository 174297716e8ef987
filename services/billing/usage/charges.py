"""Charges for usage, written down and recorded: those of many wallets in a few statements.

What a wallet owes is the difference between what its totals cost by now and what stands in charges
already. The wallets are held by whoever calls this.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from chassis.bulk import Batch, Bulk
from chassis.identifiers import new_id
from contracts.keys import usage_key
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.wallet import Debit, Transaction, TransactionKind
from services.billing.deployments.meters import (
    IS_BOUGHT_BY,
    meters_of,
    uncharged_micros,
    with_lines,
)
from services.billing.deployments.rating import rated_micros
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
from services.billing.usage import paying_back
from services.billing.usage.taking import next_hour

EARNERS_MAX = 90
"""How many who sell one charge pays: a debit has room for 100 shares, and the house has some."""

NAME_LENGTH_MAX = 100


@dataclass
class _Draft:
    """What one wallet is to pay, as far as it was looked at."""

    wallet: UsageWalletRow
    charge_id: UUID = field(default_factory=new_id)
    amount_micros: int = 0
    names: list[str] = field(default_factory=list)
    earners: set[UUID | None] = field(default_factory=set)

    def has_room(self, row: DeploymentRow, micros: int) -> bool:
        return (
            self.amount_micros + micros <= MAX_AMOUNT_MICROS
            and len(self.earners | {row.provider_id}) <= EARNERS_MAX
        )

    def add(self, row: DeploymentRow, micros: int) -> None:
        self.amount_micros += micros
        self.names.append(row.name)
        self.earners.add(row.provider_id)


def write(
    session: Session, now: datetime, wallets: Iterable[UsageWalletRow], *, skip_locked: bool
) -> set[UUID]:
    """Write down what these wallets owe beyond what stands in charges. Whose that was done for.

    With ``skip_locked`` those are left out of which somebody holds a deployment. What has no room
    in a charge is left for the next one. Where the corrections of a deployment exceed what was
    used since, that is given back.
    """
    drafts = {wallet.user_id: _Draft(wallet) for wallet in wallets}
    totals = _uncharged(session, drafts)
    # Held in the order in which everybody takes several; what is written refers to them.
    found = with_lines(session, totals, read=True, key_share=True, skip_locked=skip_locked)
    for deployment_id in totals.keys() - {row.deployment_id for row, _ in found}:
        drafts.pop(totals[deployment_id][0].user_id, None)
    moved: list[Sequence[Any]] = []
    lines: list[Sequence[Any]] = []
    for row, line in found:
        draft = drafts.get(row.user_id)
        due = _due(line, totals[row.deployment_id])
        net_micros = sum(micros for _, micros in due)
        if draft is None or not draft.has_room(row, net_micros):
            continue
        moved += [
            (*_place(total), total.quantity, total.charged_micros + micros) for total, micros in due
        ]
        if net_micros < 0:
            paying_back.give_back(session, now, row, -net_micros)
        elif net_micros:
            draft.add(row, net_micros)
            lines += [
                (draft.charge_id, *_place(total), total.quantity - total.charged_quantity, micros)
                for total, micros in due
            ]
    with Batch(session) as writes:
        writes.add(_CHARGES, [_charge(now, each) for each in drafts.values() if each.amount_micros])
        writes.add(_LINES, lines)
        writes.add(_MOVE_TOTALS, moved)
        writes.add(_LOOKED_AT, [_looked_at(each) for each in drafts.values()])
    return set(drafts)


def _uncharged(session: Session, user_ids: Iterable[UUID]) -> dict[UUID, list[UsageTotalRow]]:
    """What is not charged yet, by deployment."""
    total = UsageTotalRow
    rows = session.scalars(
        select(total)
        .where(total.user_id.in_(list(user_ids)), total.quantity != total.charged_quantity)
        .order_by(total.deployment_id, total.month_starts_at, total.meter)
    )
    totals: dict[UUID, list[UsageTotalRow]] = defaultdict(list)
    for row in rows:
        totals[row.deployment_id].append(row)
    return totals


def _due(line: PurchaseLineRow, totals: Iterable[UsageTotalRow]) -> list[tuple[UsageTotalRow, int]]:
    """What each of these totals costs beyond what was charged of it."""
    meters = meters_of(line)
    return [
        (total, rated_micros(meters[total.meter], total.quantity) - total.charged_micros)
        for total in totals
    ]


def _place(total: UsageTotalRow) -> tuple[UUID, str, datetime]:
    return total.deployment_id, total.meter, total.month_starts_at


def _charge(now: datetime, draft: _Draft) -> Sequence[Any]:
    description = _description(draft.names, draft.wallet)
    return draft.charge_id, draft.wallet.user_id, draft.amount_micros, description, now


def _looked_at(draft: _Draft) -> Sequence[Any]:
    """A wallet that owes nothing is not due any more."""
    return draft.wallet.user_id, draft.wallet.due_at if draft.amount_micros else None


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


_CHARGES = Bulk(
    "INSERT INTO usage_charges ({columns}) SELECT * FROM {rows}",
    charge_id="uuid",
    user_id="uuid",
    amount_micros="bigint",
    description="text",
    created_at="timestamptz",
)
_LINES = Bulk(
    "INSERT INTO usage_charge_lines ({columns}) SELECT * FROM {rows}",
    charge_id="uuid",
    deployment_id="uuid",
    meter="text",
    month_starts_at="timestamptz",
    quantity="bigint",
    amount_micros="bigint",
)
_MOVE_TOTALS = Bulk(
    "UPDATE usage_totals AS one SET charged_quantity = new.charged_quantity,"
    " charged_micros = new.charged_micros"
    " FROM {rows} WHERE one.deployment_id = new.deployment_id AND one.meter = new.meter"
    " AND one.month_starts_at = new.month_starts_at",
    deployment_id="uuid",
    meter="text",
    month_starts_at="timestamptz",
    charged_quantity="bigint",
    charged_micros="bigint",
)
_LOOKED_AT = Bulk(
    "UPDATE usage_wallets AS one SET used_from = NULL, used_until = NULL, due_at = new.due_at"
    " FROM {rows} WHERE one.user_id = new.user_id",
    user_id="uuid",
    due_at="timestamptz",
)


class Part(NamedTuple):
    """What one deployment has of a charge."""

    deployment_id: UUID
    product_id: UUID
    product_name: str
    price: Price


def _parts(session: Session, charges: Iterable[UsageChargeRow]) -> dict[UUID, list[Part]]:
    """By charge, those of the oldest deployments first."""
    line, row, bought = UsageChargeLineRow, DeploymentRow, PurchaseLineRow
    found = session.execute(
        select(
            line.charge_id,
            row.deployment_id,
            bought.product_id,
            bought.product_name,
            func.sum(line.amount_micros),
            row.provider_id,
            row.fee_bps,
        )
        .join(row, row.deployment_id == line.deployment_id)
        .join(bought, IS_BOUGHT_BY)
        .where(line.charge_id.in_([each.charge_id for each in charges]))
        .group_by(line.charge_id, row.deployment_id, bought.purchase_id, bought.position)
        .order_by(row.deployment_id)
    )
    parts: dict[UUID, list[Part]] = defaultdict(list)
    for charge_id, deployment_id, product_id, product_name, micros, provider_id, fee_bps in found:
        price = Price(int(micros), provider_id, fee_bps)
        parts[charge_id].append(Part(deployment_id, product_id, product_name, price))
    return parts


def debits(session: Session, charges: Sequence[UsageChargeRow]) -> dict[UUID, Debit]:
    """What pays each of these charges."""
    parts = _parts(session, charges)
    return {
        charge.charge_id: Debit(
            idempotency_key=usage_key(charge.charge_id),
            user_id=charge.user_id,
            amount_micros=charge.amount_micros,
            kind=TransactionKind.USAGE,
            description=charge.description,
            shares=shares(part.price for part in parts[charge.charge_id]),
        )
        for charge in charges
    }


def record_paid(
    session: Session,
    now: datetime,
    charges: Sequence[UsageChargeRow],
    paid_by: Mapping[UUID, Transaction],
) -> None:
    """These charges, which are held with their wallets, are paid: who sells sees what was charged,
    and what was used meanwhile is charged with the next hour."""
    user_ids = [charge.user_id for charge in charges]
    total = UsageTotalRow
    used_more = set(
        session.scalars(
            select(total.user_id).where(
                total.user_id.in_(user_ids), total.quantity != total.charged_quantity
            )
        )
    )
    parts = _parts(session, charges)
    with Batch(session) as writes:
        writes.add(
            _PAID,
            [(each.charge_id, paid_by[each.charge_id].transaction_id, now) for each in charges],
        )
        records.write(
            writes,
            [
                sale
                for charge in charges
                for part in parts[charge.charge_id]
                for sale in _sale(now, charge, part)
            ],
        )
        due_at = next_hour(now)
        writes.add(_DUE, [(each, due_at if each in used_more else None) for each in user_ids])


def _sale(now: datetime, charge: UsageChargeRow, part: Part) -> list[records.Sale]:
    return records.sale(
        f"{usage_key(charge.charge_id)}:{part.deployment_id}",
        SaleKind.USAGE,
        now,
        part.price,
        buyer_id=charge.user_id,
        product_id=part.product_id,
        product_name=part.product_name,
        units=0,
    )


_PAID = Bulk(
    "UPDATE usage_charges AS one SET transaction_id = new.transaction_id, paid_at = new.paid_at"
    " FROM {rows} WHERE one.charge_id = new.charge_id",
    charge_id="uuid",
    transaction_id="uuid",
    paid_at="timestamptz",
)
_DUE = Bulk(
    "UPDATE usage_wallets AS one SET due_at = new.due_at"
    " FROM {rows} WHERE one.user_id = new.user_id",
    user_id="uuid",
    due_at="timestamptz",
)


def corrected(session: Session, charge_ids: Collection[UUID]) -> set[UUID]:
    """Those of these charges for which corrections since exceed what else was used of something
    that they are for."""
    if not charge_ids:
        return set()
    line = UsageChargeLineRow
    charged = session.execute(
        select(line.charge_id, line.deployment_id).where(line.charge_id.in_(charge_ids)).distinct()
    ).all()
    micros = uncharged_micros(session, {each.deployment_id for each in charged})
    return {each.charge_id for each in charged if micros.get(each.deployment_id, 0) < 0}


def take_back(session: Session, charge: UsageChargeRow) -> None:
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
