"""Charging months when they are due, by any number of workers.

Whatever is due is leased, what the wallet is to be asked is written down, and one call asks it
about all of it; then the answers are recorded::

    leased, month recorded ─▶ wallet asked ─▶ paid: the month runs
                                           └▶ too little: the ladder begins

A crash between any two lines leaves a lease that runs out: the same is asked again, under the same
keys. A deployment that cannot be dealt with keeps none beside it. Months that an outage left
undone are charged one after the other, the oldest first.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.leases import Leases
from chassis.locks import for_update
from contracts.billing import ChangeCause, Deployment, DeploymentStatus, StartDeployment
from contracts.errors import NO_ANSWER, AccountFrozen, Conflict, InsufficientFunds, ServiceError
from contracts.messages import Command
from contracts.wallet import BatchError, DebitAll
from services.billing.deployments import (
    commands,
    ladder,
    lifecycle,
    periods,
    prices,
    resizing,
)
from services.billing.deployments.charge_limit import TOO_OFTEN, beyond_limit
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.deployments.queries import own_deployment, single
from services.billing.forecast import runways
from services.billing.models import DeploymentRow, PeriodRow
from services.billing.renewals import rungs
from services.billing.renewals.outcomes import Answer, Outcomes
from services.billing.settings import BillingSettings
from services.billing.usage.shortage import refuse_unpaid_usage

log = logging.getLogger(__name__)

AT_ONCE = 400
"""How many deployments one call to the wallet is about; each may owe a month and arrears."""

COMMANDS_MAX = 1_000
"""How much one call to the wallet may hold."""

ROUNDS_MAX = 50

_NO_MONEY: dict[str, type[ServiceError]] = {
    error.code: error for error in (InsufficientFunds, AccountFrozen)
}

DUE = Leases(
    due_at=DeploymentRow.due_at,
    owner=DeploymentRow.user_id,
    lease=timedelta(seconds=60),
    limit=AT_ONCE,
)


@dataclass(frozen=True)
class Renewals:
    """What it takes to renew: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Callable[[], datetime]

    def run(self) -> None:
        """Deal with everything that is due, of every owner in turn."""
        for taken in DUE.rounds(self.database, self.clock, ROUNDS_MAX):
            self._each(taken, self._look)
            try:
                self.ask_wallet(taken)
            except ServiceError as error:
                log.warning("the wallet did not answer", extra={"error": f"{error.code}: {error}"})
                return

    def start(self, command: StartDeployment) -> Deployment:
        """Let a deployment run again; see :class:`contracts.billing.StartDeployment`."""
        with self.database.begin() as session:
            is_charged = self._begin_start(session, self.clock(), command)
        crash_point("billing.start_recorded")
        answers = self.ask_wallet([command.deployment_id]) if is_charged else []
        error = refusal(answers, command.deployment_id, PeriodKind.MONTH, PeriodKind.ARREARS)
        if error is not None:
            raise type(error)(f"{error} It was not started.", *error.details)
        with self.database.read() as session:
            row = own_deployment(session, command.user_id, command.deployment_id)
            if is_charged and row.status != DeploymentStatus.ACTIVE:
                raise Conflict("It was changed by somebody else just now, and not started.")
            return single(session, row, self.rules)

    def _begin_start(self, session: Session, now: datetime, command: StartDeployment) -> bool:
        """Let it run at once, or write down what that costs. Whether the wallet is to be asked."""
        row = own_deployment(session, command.user_id, command.deployment_id, locked=True)
        if commands.is_repeated(session, command):
            return False
        runways.look_soon(session, now, command.user_id)
        if row.status == DeploymentStatus.ACTIVE:
            if row.ends_with_month:
                row.ends_with_month = False
                row.due_at = ladder.due_at(row, now, self.rules)
                lifecycle.note(session, now, row, ChangeCause.WILL_GO_ON, command)
            return False
        if row.status not in (DeploymentStatus.STOPPED, DeploymentStatus.SUSPENDED):
            raise Conflict(f"This deployment is {row.status}: it cannot be started.")
        refuse_unpaid_usage(session, row)
        is_paid = row.paid_until is not None and row.paid_until > now
        if not is_paid:
            prices.take_price(row, now)
        if is_paid or not ladder.is_renewed(row):
            active = DeploymentStatus.ACTIVE
            lifecycle.change_status(
                session, now, row, active, ChangeCause.OWNER, self.rules, command=command
            )
            return False
        if not periods.is_month_due(session, row.deployment_id):
            periods.owe_month(session, now, row, now)
        row.due_at = now + DUE.lease
        return True

    def _look(self, session: Session, deployment_ids: Sequence[UUID]) -> None:
        now = self.clock()
        rows = _locked(session, deployment_ids)
        resized = resizing.pending(session, deployment_ids)
        # A month is not renewed before it is known which size it is for.
        looked = [row for row in rows if row.deployment_id not in resized]
        months = [rungs.look(session, now, row, self.rules) for row in looked]
        periods.owe(session, [each for each in months if each is not None])
        session.flush()
        is_open = periods.with_open_ones(session, deployment_ids)
        for row in rows:
            # What the wallet is asked about stays leased until it has answered.
            if row.deployment_id not in is_open:
                row.due_at = ladder.due_at(row, now, self.rules)

    def ask_wallet(self, deployment_ids: Iterable[UUID]) -> list[Answer]:
        """Ask about all that is open for these deployments, which are leased.

        What it answered, which is recorded. Raises ``ServiceError`` when the wallet did not
        answer: what is due stays due.
        """
        with self.database.read() as session:
            asked = periods.open_periods(session, deployment_ids)
            names = _names(session, asked)
            ids = {each.deployment_id for each in asked}
            beyond = beyond_limit(session, self.clock(), ids, self.rules)
        crash_point("billing.periods_recorded")
        answers = self._answers(asked, names, beyond)
        crash_point("billing.periods_charged")
        by_deployment: dict[UUID, list[Answer]] = defaultdict(list)
        for answer in answers:
            by_deployment[answer.period.deployment_id].append(answer)
        if by_deployment:
            self._each(list(by_deployment), partial(self._record, by_deployment))
        crash_point("billing.periods_settled")
        return answers

    def _answers(
        self, asked: Sequence[PeriodRow], names: Mapping[UUID, str], beyond: Container[UUID]
    ) -> list[Answer]:
        """Debits go together; what is closed or given back, which is rare, each by itself.

        What is ``beyond`` the limit is not charged.
        """
        owed = [each for each in asked if each.status == PeriodStatus.DUE]
        due = [each for each in owed if each.deployment_id not in beyond]
        answers = [Answer(each, None, TOO_OFTEN) for each in owed if each.deployment_id in beyond]
        for start in range(0, len(due), COMMANDS_MAX):
            part = due[start : start + COMMANDS_MAX]
            debits = [periods.debit(each, names[each.deployment_id]) for each in part]
            outcomes = self.rpc.call(DebitAll(debits=debits))
            answers += [
                Answer(period, result.transaction, result.error)
                for period, result in zip(part, outcomes.results, strict=True)
            ]
        for period in asked:
            if period.status == PeriodStatus.CLOSING:
                answers.append(self._answer(period, periods.closure(period)))
            elif period.status == PeriodStatus.REFUNDING:
                refund = periods.refund(period, names[period.deployment_id])
                answers.append(self._answer(period, refund))
        return answers

    def _answer(self, period: PeriodRow, command: Command[Any]) -> Answer:
        try:
            return Answer(period, self.rpc.call(command), None)
        except NO_ANSWER:
            raise
        except ServiceError as error:
            return Answer(period, None, BatchError(code=error.code, message=str(error)))

    def _record(
        self,
        answers: Mapping[UUID, Sequence[Answer]],
        session: Session,
        deployment_ids: Sequence[UUID],
    ) -> None:
        rows = {row.deployment_id: row for row in _locked(session, deployment_ids)}
        outcomes = Outcomes(session, self.clock(), self.rules, rows)
        outcomes.record(answer for each in deployment_ids for answer in answers[each])

    def _each(
        self, deployment_ids: Sequence[UUID], act: Callable[[Session, Sequence[UUID]], None]
    ) -> None:
        """Do something with all of them together; where that fails, with each by itself."""
        try:
            with self.database.begin() as session:
                act(session, deployment_ids)
        except Exception as error:
            if is_lost(error):
                raise
            for deployment_id in deployment_ids:
                self._alone(deployment_id, act)

    def _alone(self, deployment_id: UUID, act: Callable[[Session, Sequence[UUID]], None]) -> None:
        try:
            with self.database.begin() as session:
                act(session, [deployment_id])
        except Exception as error:
            if is_lost(error):
                raise
            log.exception("a deployment is left out", extra={"deployment_id": str(deployment_id)})


def refusal(
    answers: Iterable[Answer], deployment_id: UUID, *kinds: PeriodKind
) -> ServiceError | None:
    """Why the wallet did not pay a period of these kinds, if it did not."""
    for answer in answers:
        period, error = answer.period, answer.error
        if error is not None and period.deployment_id == deployment_id and period.kind in kinds:
            return _NO_MONEY.get(error.code, Conflict)(error.message, *error.details)
    return None


AWAITS_MONEY = "EXISTS (SELECT FROM periods WHERE user_id = new.user_id AND status = 'due')"
"""Whether :func:`money_came` would find anything, as SQL over users named ``new``."""


def money_came(session: Session, now: datetime, user_id: UUID) -> None:
    """What this user's wallet did not pay is to be tried again at once."""
    owing = select(PeriodRow.deployment_id).where(
        PeriodRow.user_id == user_id, PeriodRow.status == PeriodStatus.DUE
    )
    session.execute(
        update(DeploymentRow)
        .where(DeploymentRow.deployment_id.in_(owing))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )


def _locked(session: Session, deployment_ids: Sequence[UUID]) -> Sequence[DeploymentRow]:
    return session.scalars(
        for_update(
            select(DeploymentRow)
            .where(DeploymentRow.deployment_id.in_(deployment_ids))
            .order_by(DeploymentRow.deployment_id)
        )
    ).all()


def _names(session: Session, asked: Iterable[PeriodRow]) -> dict[UUID, str]:
    ids = {each.deployment_id for each in asked}
    query = select(DeploymentRow.deployment_id, DeploymentRow.name)
    rows = session.execute(query.where(DeploymentRow.deployment_id.in_(ids)))
    return {row.deployment_id: row.name for row in rows}
