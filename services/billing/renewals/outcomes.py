"""What the wallet answered about periods, and what that makes of their deployments."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from chassis.bulk import Batch, Bulk
from chassis.database import lock_until_commit
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.billing import (
    ChangeCause,
    DeploymentRenewed,
    DeploymentStatus,
    RenewalShortOfFunds,
)
from contracts.errors import AccountFrozen, InsufficientFunds
from contracts.messages import MAX_AMOUNT_MICROS
from contracts.wallet import BatchError, ClosedKey, Transaction
from services.billing.deployments import ladder, lifecycle, periods, resizing
from services.billing.deployments.periods import Payable, PeriodKind, PeriodStatus
from services.billing.models import OVER, DeploymentRow, PeriodRow
from services.billing.refunds import debts
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

_TICK = timedelta(microseconds=1)

_RUNS_ON = Bulk(
    "UPDATE deployments SET paid_until = new.paid_until, short_since = new.short_since,"
    " announced = new.announced, announced_at = new.announced_at, due_at = new.due_at"
    " FROM {rows} WHERE deployments.deployment_id = new.deployment_id",
    deployment_id="uuid",
    paid_until="timestamptz",
    short_since="timestamptz",
    announced="text",
    announced_at="timestamptz",
    due_at="timestamptz",
)


class Answer(NamedTuple):
    """What the wallet said about a period that was in this state when it was asked."""

    period: Payable
    reply: Transaction | ClosedKey | None
    error: BatchError | None


@dataclass
class Short:
    """What a wallet did not pay in one go, and what it had."""

    available_micros: int = 0
    is_frozen: bool = False
    is_news: bool = False


@dataclass
class Outcomes:
    """One transaction's worth of answers. The deployments are locked."""

    session: Session
    now: datetime
    rules: BillingSettings
    rows: Mapping[UUID, DeploymentRow]
    asked_at: datetime
    was_due: Mapping[UUID, datetime | None]
    """When each was due, as the wallet was asked about it: the end of a lease, mostly."""
    made_due: dict[UUID, datetime | None] = field(default_factory=dict)
    """What somebody made due at another moment since then, as money does that comes: it is looked
    at no later than that, and that the wallet had too little before is no news."""
    short: dict[UUID, Short] = field(default_factory=dict)
    refused: set[UUID] = field(default_factory=set)
    ended: set[UUID] = field(default_factory=set)
    sold: list[tuple[SaleKind, PeriodRow]] = field(default_factory=list)
    events: list[DeploymentRenewed] = field(default_factory=list)
    run_on: list[tuple[DeploymentRow, PeriodRow]] = field(default_factory=list)
    """What goes on as it is, which are nearly all: written together, and not one by one."""

    def record(self, answers: Iterable[Answer]) -> None:
        """Record what became of each period that is still in the state that was asked about."""
        for deployment_id, row in self.rows.items():
            if row.due_at != self.was_due[deployment_id]:
                self.made_due[deployment_id] = row.due_at
        found = periods.open_periods(self.session, self.rows, locked=True)
        known = {(each.deployment_id, each.starts_at, each.kind): each for each in found}
        # The oldest first: what was closed is of a month before the one in which it starts again.
        for answer in sorted(answers, key=lambda each: each.period.starts_at):
            asked = answer.period
            period = known.get((asked.deployment_id, asked.starts_at, asked.kind))
            if period is not None and period.status == asked.status:
                self._one(period, self.rows[period.deployment_id], answer)
        self._write_run_on()
        # In one order: two billings that tell the same users wait in no circle.
        for user_id, short in sorted(self.short.items()):
            if short.is_news:
                self._tell(user_id, short)
        publish(self.session, *self.events)
        self._book_sales()
        self._schedule(found)

    def _one(self, period: PeriodRow, row: DeploymentRow, answer: Answer) -> None:
        if answer.error is not None:
            self._refused(period, row, answer.error)
        elif isinstance(answer.reply, ClosedKey):
            self._closed(period, row, answer.reply)
        elif period.status == PeriodStatus.REFUNDING:
            self._refunded(period, answer.reply)
        elif answer.reply is not None:
            self._paid(period, row, answer.reply.transaction_id)

    def _refunded(self, period: PeriodRow, refund: Transaction | None) -> None:
        periods.move(period, self.now, PeriodStatus.REFUNDED)
        self.sold.append((SaleKind.REFUND, period))
        earner_id = periods.price(period).earner_id
        if refund is not None and earner_id is not None:
            key = periods.refund_key(period)
            debts.owe(self.session, self.now, key, earner_id, refund)

    def _paid(self, period: PeriodRow, row: DeploymentRow, transaction_id: UUID) -> None:
        self.sold.append((SaleKind.RENEWAL, period))
        if period.kind == PeriodKind.MONTH and row.status == DeploymentStatus.ACTIVE:
            self._runs_on(period, row, transaction_id)
        else:
            periods.move(period, self.now, PeriodStatus.PAID, transaction_id)
        if period.kind == PeriodKind.RESIZE:
            resizing.complete(self.session, self.now, row, period, self.rules)
        if period.kind != PeriodKind.MONTH:
            return
        if row.status != DeploymentStatus.ACTIVE:
            row.period_anchor_at, row.paid_until = period.starts_at, period.ends_at
            active = DeploymentStatus.ACTIVE
            lifecycle.change_status(
                self.session, self.now, row, active, ChangeCause.OWNER, self.rules
            )
        price = periods.price(period)
        self.events.append(
            DeploymentRenewed(
                event_id=new_id(),
                occurred_at=self.now,
                user_id=row.user_id,
                deployment_id=row.deployment_id,
                name=row.name,
                amount_micros=period.amount_micros,
                starts_at=period.starts_at,
                ends_at=period.ends_at,
                transaction_id=transaction_id,
                fee_micros=price.fee_micros if price.earner_id else 0,
            )
        )

    def _runs_on(self, period: PeriodRow, row: DeploymentRow, transaction_id: UUID) -> None:
        periods.check_move(period, PeriodStatus.PAID)
        _know(period, status=PeriodStatus.PAID, transaction_id=transaction_id, changed_at=self.now)
        nothing = ladder.Announced.NOTHING
        _know(row, paid_until=period.ends_at, short_since=None)
        _know(row, announced=nothing, announced_at=None)
        _know(row, due_at=ladder.due_at(row, self.now, self.rules))
        self.run_on.append((row, period))

    def _write_run_on(self) -> None:
        """Write the months that were paid, and what runs on by them."""
        names = list(_RUNS_ON.columns)
        with Batch(self.session) as writes:
            periods.write(writes, [period for _, period in self.run_on])
            writes.add(_RUNS_ON, ([getattr(row, name) for name in names] for row, _ in self.run_on))

    def _refused(self, period: PeriodRow, row: DeploymentRow, error: BatchError) -> None:
        if period.kind == PeriodKind.RESIZE and period.status == PeriodStatus.DUE:
            # Its owner hears at once that it stays as it is.
            periods.move(period, self.now, PeriodStatus.CLOSING)
            return
        if period.status != PeriodStatus.DUE or error.code not in ladder.NO_MONEY:
            self.refused.add(row.deployment_id)
            log.error(
                "the wallet does not do what a period needs",
                extra={"deployment_id": str(row.deployment_id), "error": error.message},
            )
        elif period.kind == PeriodKind.MONTH:
            self._short_of_funds(period, row, error)

    def _short_of_funds(self, period: PeriodRow, row: DeploymentRow, error: BatchError) -> None:
        if row.status != DeploymentStatus.ACTIVE:
            # Its owner wanted it to run again, and hears at once that it does not.
            periods.move(period, self.now, PeriodStatus.CLOSING)
            return
        if row.deployment_id in self.made_due:
            return
        short = self.short.setdefault(row.user_id, Short())
        short.is_frozen = error.code == AccountFrozen.code
        if error.code == InsufficientFunds.code and error.details:
            short.available_micros = int(error.details[0])
        if row.short_since is None or period.money_came_at is not None:
            row.short_since = row.short_since or self.now
            period.money_came_at = None
            short.is_news = True

    def _resize_closed(self, period: PeriodRow, row: DeploymentRow, found: ClosedKey) -> None:
        """What was paid before the key was closed counts, unless the deployment has ended."""
        if found.transaction is None:
            periods.move(period, self.now, PeriodStatus.CLOSED)
        elif row.status in OVER:
            transaction_id = found.transaction.transaction_id
            periods.move(period, self.now, PeriodStatus.REFUNDING, transaction_id)
            self.sold.append((SaleKind.RENEWAL, period))
        else:
            self._paid(period, row, found.transaction.transaction_id)

    def _closed(self, period: PeriodRow, row: DeploymentRow, found: ClosedKey) -> None:
        if period.kind == PeriodKind.RESIZE:
            self._resize_closed(period, row, found)
            return
        # Otherwise it is the month of a start that was not paid, or it does not run any more.
        is_running = row.status == DeploymentStatus.ACTIVE and period.starts_at == row.paid_until
        # It may have been started again, or cancelled, since it stopped.
        stopped_at = min(period.changed_at, row.status_changed_at)
        if found.transaction is not None:
            transaction_id = found.transaction.transaction_id
            if is_running:
                self._paid(period, row, transaction_id)
                return
            periods.move(period, self.now, PeriodStatus.REFUNDING, transaction_id)
            self.sold.append((SaleKind.RENEWAL, period))
        else:
            periods.move(period, self.now, PeriodStatus.CLOSED)
        ran_until = self.now if is_running else stopped_at
        periods.owe_arrears(self.session, self.now, row, period, ran_until)
        if not is_running:
            # Its owner ended it while the month was due: the wallet may well have what it owes.
            self.ended.add(row.deployment_id)
        if is_running:
            suspended = DeploymentStatus.SUSPENDED
            lifecycle.change_status(
                self.session, self.now, row, suspended, ChangeCause.UNPAID, self.rules
            )

    def _tell(self, user_id: UUID, short: Short) -> None:
        """Say how much this user lacks for everything that is due now."""
        # One at a time for each user, so that the last one to say it has counted all.
        lock_until_commit(self.session, f"renewals:{user_id}")
        self.session.flush()
        waiting = (
            DeploymentRow.user_id == user_id,
            DeploymentRow.short_since.is_not(None),
            PeriodRow.status == PeriodStatus.DUE,
            PeriodRow.kind == PeriodKind.MONTH,
        )
        joined = PeriodRow.deployment_id == DeploymentRow.deployment_id
        is_others = DeploymentRow.deployment_id.not_in(list(self.rows))
        months_micros, deployments, short_since, told_at = self.session.execute(
            select(
                func.sum(PeriodRow.amount_micros),
                func.count(),
                func.min(DeploymentRow.short_since),
                func.max(DeploymentRow.short_since).filter(is_others),
            )
            .join(DeploymentRow, joined)
            .where(*waiting)
        ).one()
        # What comes pays time that ran before it pays a month.
        arrears_micros = self.session.scalar(
            select(func.sum(PeriodRow.amount_micros)).where(
                PeriodRow.user_id == user_id,
                PeriodRow.status == PeriodStatus.DUE,
                PeriodRow.kind == PeriodKind.ARREARS,
            )
        )
        oldest = self.session.scalars(
            select(DeploymentRow)
            .join(PeriodRow, joined)
            .where(*waiting)
            .order_by(PeriodRow.starts_at, PeriodRow.deployment_id)
            .limit(1)
        ).one()
        due_micros = int(months_micros) + int(arrears_micros or 0)
        shortfall_micros = max(due_micros - short.available_micros, 1)
        publish(
            self.session,
            RenewalShortOfFunds(
                event_id=new_id(),
                # What is paid from then on makes this old news. The last one to say it has counted
                # all, and so is newer than what others said meanwhile.
                occurred_at=max(self.asked_at, told_at + _TICK) if told_at else self.asked_at,
                user_id=user_id,
                deployment_id=oldest.deployment_id,
                shortfall_micros=min(shortfall_micros, MAX_AMOUNT_MICROS),
                available_micros=short.available_micros,
                name=oldest.name,
                deployments=deployments,
                suspended_at=(short_since or self.now) + self.rules.grace,
                is_frozen=short.is_frozen,
            ),
        )

    def _book_sales(self) -> None:
        """Who sells sees what was charged and given back."""
        earned = [(kind, each) for kind, each in self.sold if periods.price(each).earner_id]
        if not earned:
            return
        bought = (row.purchase_id for row in self.rows.values())
        names = records.product_names(self.session, bought)
        self.session.flush()
        with Batch(self.session) as writes:
            for kind, period in earned:
                row = self.rows[period.deployment_id]
                is_back = kind is SaleKind.REFUND
                sales = records.sale(
                    periods.refund_key(period) if is_back else periods.key(period),
                    kind,
                    self.now,
                    periods.refunded_price(period) if is_back else periods.price(period),
                    product_id=row.product_id,
                    product_name=row.product_name or names.get(row.product_id, ""),
                    units=1 if period.kind == PeriodKind.MONTH else 0,
                )
                records.write(writes, sales)

    def _schedule(self, found: Iterable[PeriodRow]) -> None:
        """Say when each deployment is looked at next: at once where the wallet is to be asked."""
        is_asked = self.ended | {each.deployment_id for each in found if _is_to_be_asked(each)}
        for deployment_id, row in self.rows.items():
            next_at = ladder.due_at(row, self.now, self.rules)
            if deployment_id in self.refused:
                next_at = self.now + self.rules.renewal_retry
            elif deployment_id in is_asked:
                next_at = self.now
            moments = (next_at, self.made_due.get(deployment_id))
            row.due_at = min((each for each in moments if each is not None), default=None)


def _is_to_be_asked(period: PeriodRow) -> bool:
    """Whether the wallet is asked about it at once, and not when money comes."""
    is_resize = period.kind == PeriodKind.RESIZE and period.status == PeriodStatus.DUE
    return is_resize or period.status in (PeriodStatus.CLOSING, PeriodStatus.REFUNDING)


def _know(row: DeploymentRow | PeriodRow, **values: object) -> None:
    """The row has these values, which are written together with those of others."""
    for name, value in values.items():
        set_committed_value(row, name, value)
