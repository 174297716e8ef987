"""What the wallet answered about periods, and what that makes of their deployments."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from chassis.bulk import Batch, Bulk
from chassis.identifiers import new_id
from chassis.outbox import publish
from contracts.billing import (
    ChangeCause,
    DeploymentRenewed,
    DeploymentStatus,
)
from contracts.errors import NO_ANSWER_CODES, AccountFrozen
from contracts.wallet import BatchError, ClosedKey, Transaction
from services.billing.deployments import (
    commands,
    ladder,
    lifecycle,
    periods,
    resizing,
    shortages,
)
from services.billing.deployments.available import Settled, entry_count
from services.billing.deployments.periods import Payable, PeriodKind, PeriodStatus
from services.billing.deployments.shortages import Refused
from services.billing.models import OVER, DeploymentRow, PeriodRow
from services.billing.refunds import debts
from services.billing.sales import records
from services.billing.sales.records import SaleKind
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

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

    @property
    def lacks_money(self) -> bool:
        """Whether this is due, and the wallet does not pay it."""
        is_due = self.period.status == PeriodStatus.DUE
        return is_due and self.error is not None and self.error.code in ladder.NO_MONEY

    @property
    def may_be_news(self) -> bool:
        """Whether its owner may have to be told that it lacks money; what a command wished for is
        answered, and not told."""
        period = self.period
        is_told = isinstance(period, PeriodRow) and period.told_at and not period.money_came_at
        return self.lacks_money and not is_told and not period.resize


@dataclass
class Short:
    """What a wallet did not pay in one go, what it had, and of what that is news."""

    available_micros: int = 0
    is_frozen: bool = False
    entry_count: int | None = None
    """As it was when the first of it was refused."""
    news: list[PeriodRow] = field(default_factory=list)
    is_first: bool = False
    """Something of it is refused for the first time."""

    @property
    def since(self) -> datetime | None:
        """When the last of it was to be told again, where all of it was."""
        came = [each.money_came_at for each in self.news if each.money_came_at is not None]
        return None if self.is_first else max(came, default=None)


@dataclass
class Outcomes:
    """One transaction's worth of answers. The deployments are locked."""

    session: Session
    now: datetime
    rules: BillingSettings
    rows: Mapping[UUID, DeploymentRow]
    asked_at: datetime
    """Of what somebody settles who tells of it: when the wallet was asked about theirs."""
    was_due: Mapping[UUID, datetime | None]
    """When each was due, as the wallet was asked about it: the end of a lease, mostly."""
    settled: Settled | None
    """What else was due of those who are told. None: whoever settles this tells them of all, and
    where nobody has when it is asked for again, it is news."""
    made_due: dict[UUID, datetime | None] = field(default_factory=dict)
    """What somebody made due at another moment since then, as money does that comes: it is looked
    at no later than that, and that the wallet had too little before is no news."""
    short: dict[UUID, Short] = field(default_factory=dict)
    lessened: set[UUID] = field(default_factory=set)
    """Something of these users' waited for money, and is paid or suspended."""
    refused: set[PeriodRow] = field(default_factory=set)
    unanswered: set[UUID] = field(default_factory=set)
    """Of these the wallet could not say anything: they are left to their leases."""
    owing: set[UUID] = field(default_factory=set)
    """These were asked for what they owe, and did not pay. What ends a freeze, or a hold on the
    money, tells nobody here: they are asked again."""
    ran_unpaid: set[UUID] = field(default_factory=set)
    """These owe a part of a month since now: a wallet that lacks the month may well have that."""
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
        for user_id in sorted(self.short.keys() | self.lessened):
            if user_id in self.lessened:
                shortages.tell_less(self.session, self.now, user_id)
            if user_id in self.short:
                self._tell(user_id, self.short[user_id])
        publish(self.session, *self.events)
        self._book_sales()
        self._schedule(found)

    def _tell(self, user_id: UUID, short: Short) -> None:
        if not short.news:
            return
        if self.settled is None:
            for period in short.news:
                period.money_came_at = self.asked_at - shortages.TICK
            return
        refused = Refused(self.asked_at, short.available_micros, short.is_frozen, short.entry_count)
        shortages.tell(self.session, self.now, user_id, refused, self.rules, short.since)
        for period in short.news:
            period.told_at, period.money_came_at = self.asked_at, None

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
        # What ran may have been counted as it was written down, just before.
        if shortages.is_part(period) or period.kind == PeriodKind.ARREARS:
            self.lessened.add(period.user_id)
        if period.kind == PeriodKind.MONTH and row.status == DeploymentStatus.ACTIVE:
            self._runs_on(period, row, transaction_id)
        else:
            periods.move(period, self.now, PeriodStatus.PAID, transaction_id)
        if period.kind == PeriodKind.RESIZE:
            wished_by = self._wished_by(period)
            resizing.complete(self.session, self.now, row, period, self.rules, wished_by)
        if period.kind != PeriodKind.MONTH:
            return
        if row.status != DeploymentStatus.ACTIVE:
            row.period_anchor_at, row.paid_until = period.starts_at, period.ends_at
            self._started(period, row)
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

    def _started(self, period: PeriodRow, row: DeploymentRow) -> None:
        made_by = self._wished_by(period)
        active, cause = DeploymentStatus.ACTIVE, ChangeCause.OWNER
        lifecycle.change_status(
            self.session, self.now, row, active, cause, self.rules, made_by=made_by
        )

    def _wished_by(self, period: PeriodRow) -> tuple[str, str] | None:
        """The key of the command that wished for a period, and the hash of what it asked. A key
        that did something else meanwhile is that one's."""
        made_by = periods.made_by(period)
        if made_by and commands.body_hash(self.session, period.user_id, made_by[0]):
            return None
        return made_by

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
        is_due = period.status == PeriodStatus.DUE
        is_start = period.kind == PeriodKind.MONTH and row.status != DeploymentStatus.ACTIVE
        is_answered = error.code not in NO_ANSWER_CODES
        lacks_money = is_due and error.code in ladder.NO_MONEY
        if is_answered and not lacks_money:
            log.error(
                "the wallet does not do what a period needs",
                extra={"deployment_id": str(row.deployment_id), "error": error.message},
            )
        if is_due and (is_start or period.kind == PeriodKind.RESIZE):
            # Its owner hears at once that it stays as it is. It did not run: nothing of it is owed.
            periods.move(period, period.starts_at, PeriodStatus.CLOSING)
        elif not is_answered:
            self.unanswered.add(row.deployment_id)
        elif not lacks_money:
            self.refused.add(period)
        else:
            self._short_of_funds(period, row, error)

    def _short_of_funds(self, period: PeriodRow, row: DeploymentRow, error: BatchError) -> None:
        is_month = period.kind == PeriodKind.MONTH
        if not is_month:
            self.owing.add(row.deployment_id)
        if row.deployment_id in self.made_due:
            return
        short = self.short.setdefault(row.user_id, Short(entry_count=entry_count(error)))
        short.is_frozen = error.code == AccountFrozen.code
        short.available_micros = (self.settled or Settled()).left_micros(row.user_id, error)
        told_at = row.short_since if is_month else period.told_at
        if told_at is None or period.money_came_at is not None:
            if is_month:
                row.short_since = told_at or self.now
            short.is_first |= told_at is None and (is_month or period.money_came_at is None)
            short.news.append(period)

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
        self.ran_unpaid.add(row.deployment_id)
        if is_running:
            self.lessened |= {row.user_id} if shortages.waits(row) else set()
            suspended = DeploymentStatus.SUSPENDED
            lifecycle.change_status(
                self.session, self.now, row, suspended, ChangeCause.UNPAID, self.rules
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
                    buyer_id=row.user_id,
                    product_id=row.product_id,
                    product_name=row.product_name or names.get(row.product_id, ""),
                    units=1 if period.kind == PeriodKind.MONTH else 0,
                )
                records.write(writes, sales)

    def _schedule(self, found: Iterable[PeriodRow]) -> None:
        """Say when each deployment is looked at next: at once where the wallet is to be asked."""
        asked = [each for each in found if _is_to_be_asked(each) and each not in self.refused]
        is_asked = self.ran_unpaid | {each.deployment_id for each in asked}
        is_refused = {each.deployment_id for each in self.refused}
        retry_at = self.now + self.rules.renewal_retry
        for deployment_id, row in self.rows.items():
            moments = [self.made_due.get(deployment_id)]
            if deployment_id in is_asked:
                moments.append(self.now)
            elif deployment_id in self.unanswered:
                moments.append(self.was_due[deployment_id])
            elif deployment_id in is_refused:
                moments.append(retry_at)
            else:
                moments.append(ladder.due_at(row, self.now, self.rules))
                moments += [retry_at] if deployment_id in self.owing else []
            row.due_at = min((each for each in moments if each is not None), default=None)


def _is_to_be_asked(period: PeriodRow) -> bool:
    """Whether the wallet is asked about it at once, and not when money comes."""
    is_resize = period.kind == PeriodKind.RESIZE and period.status == PeriodStatus.DUE
    return is_resize or period.status in (PeriodStatus.CLOSING, PeriodStatus.REFUNDING)


def _know(row: DeploymentRow | PeriodRow, **values: object) -> None:
    """The row has these values, which are written together with those of others."""
    for name, value in values.items():
        set_committed_value(row, name, value)
