"""Charging months when they are due, by any number of workers.

Whatever is due is leased, what the wallet is to be asked is written down, and one call asks it
about all of it; then the answers are recorded::

    leased, month recorded ─▶ wallet asked ─▶ paid: the month runs
                                           └▶ too little: the ladder begins

What is due next is leased, written down and handed in before the wallet has answered, and what it
answered is recorded while it works on that. Months that simply follow each other, nearly all, are
written in a statement for many (:mod:`services.billing.renewals.plain`).

A crash between any two lines leaves a lease that runs out: the same is asked again, under the same
keys. A deployment that cannot be dealt with keeps none beside it. Months that an outage left
undone are charged one after the other, the oldest first.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, NoReturn, TypeVar
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chassis.client import RpcClient
from chassis.clock import Clock
from chassis.crash_points import crash_point
from chassis.database import Connected, is_lost
from chassis.leases import Leases
from chassis.locks import for_update
from contracts.billing import ChangeCause, Deployment, DeploymentStatus, StartDeployment
from contracts.errors import (
    NO_ANSWER,
    AccountFrozen,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    ServiceError,
)
from contracts.messages import Command, ReplyT, Request
from contracts.wallet import BatchError, ClosedKey, CloseKey, DebitAll, DebitOutcomes, Transaction
from services.billing.deployments import (
    commands,
    ladder,
    lifecycle,
    periods,
    prices,
    resizing,
    shortages,
    starting,
)
from services.billing.deployments.available import Settled, settled
from services.billing.deployments.charge_limit import TOO_OFTEN, beyond_limit
from services.billing.deployments.periods import Payable, PeriodKind, PeriodStatus
from services.billing.deployments.queries import own_deployment, single
from services.billing.forecast import runways
from services.billing.models import DeploymentRow, PeriodRow
from services.billing.renewals import plain, rungs
from services.billing.renewals.catching_up import CaughtUp
from services.billing.renewals.outcomes import Answer, Outcomes
from services.billing.renewals.plain import Month, PaidMonth
from services.billing.settings import BillingSettings
from services.billing.usage.charging import UsageCharges
from services.billing.usage.shortage import refuse_unpaid_usage

log = logging.getLogger(__name__)

FoundT = TypeVar("FoundT")

AT_ONCE = 400
"""How many deployments one call to the wallet is about; each may owe a month and arrears."""

COMMANDS_MAX = 1_000
"""How much one call to the wallet may hold."""

ROUNDS_MAX = 50

_TOLD: dict[str, type[ServiceError]] = {
    error.code: error for error in (InsufficientFunds, AccountFrozen, *NO_ANSWER)
}

_CHECKING = (
    "It is not known yet whether it was paid. We are checking: look at it again in a minute."
)

DUE = Leases(
    due_at=DeploymentRow.due_at,
    owner=DeploymentRow.user_id,
    lease=timedelta(seconds=60),
    limit=AT_ONCE,
)


class WhenAsked(NamedTuple):
    """A deployment as the wallet was asked about it."""

    name: str
    due_at: datetime | None


@dataclass(frozen=True)
class Asked:
    """What the wallet is asked in one go, or is to be asked when that is answered.

    ``debits`` are under way, each part with what waits for its answer; ``refused`` is charged too
    often; what is closed or given back is asked ``alone``. Of the debits ``months`` are plain.
    ``at`` is no later than any of this, and ``stood`` how the deployments did then.
    """

    at: datetime
    debits: Sequence[tuple[Sequence[Payable], Callable[[], DebitOutcomes]]]
    refused: Sequence[PeriodRow]
    alone: Sequence[PeriodRow]
    stood: Mapping[UUID, WhenAsked]
    months: Mapping[UUID, Month]


@dataclass(frozen=True)
class Renewals:
    """What it takes to renew: a database, the wallet, a clock."""

    database: Connected
    rpc: RpcClient
    rules: BillingSettings
    clock: Clock

    def run(self) -> None:
        """Deal with everything that is due, of every owner in turn."""
        under_way: deque[Asked] = deque()
        caught_up = CaughtUp()
        try:
            for _ in range(ROUNDS_MAX):
                taken, months = self._take(caught_up)
                if taken:
                    under_way.append(self._ask(taken, months, caught_up))
                elif not under_way:
                    return
                # The wallet has one to work on while the next is prepared.
                if (len(under_way) > 1 or not taken) and not self._is_settled(under_way.popleft()):
                    break
        finally:
            # Also where the next one could not be prepared: this one is charged.
            for asked in under_way:
                self._is_settled(asked)
            caught_up.tell()

    def start(self, command: StartDeployment) -> Deployment:
        """Let a deployment run again; see :class:`contracts.billing.StartDeployment`."""
        due = self._start_due(command)
        if due is PeriodKind.ARREARS:
            self._pay(command.deployment_id, due)
            due = self._start_due(command)
        if due is not None:
            self._pay(command.deployment_id, due)
        with self.database.read() as session:
            row = own_deployment(session, command.user_id, command.deployment_id)
            if due is not None and row.status != DeploymentStatus.ACTIVE:
                raise Conflict("It was changed by somebody else just now, and not started.")
            return single(session, self.clock(), row, self.rules)

    def _start_due(self, command: StartDeployment) -> PeriodKind | None:
        with self.database.begin() as session:
            due = self._begin_start(session, command)
        crash_point("billing.start_recorded")
        return due

    def _pay(self, deployment_id: UUID, kind: PeriodKind) -> None:
        """Ask the wallet about what a start needs. Raises why it is not paid."""
        try:
            answers = self.ask_wallet([deployment_id])
        except ServiceError as error:
            raise DeadlineExceeded(_CHECKING) from error
        refused = refusal(answers, deployment_id, kind)
        if isinstance(refused, NO_ANSWER):
            raise DeadlineExceeded(_CHECKING) from refused
        if refused is not None:
            raise type(refused)(self._not_started(deployment_id, refused), *refused.details)

    def _not_started(self, deployment_id: UUID, refused: ServiceError) -> str:
        """Why a start is not paid. What it owed may be, though its month is not."""
        with self.database.read() as session:
            row = session.get_one(DeploymentRow, deployment_id)
            paid_micros = starting.arrears_paid_micros(session, row)
        if not paid_micros:
            return f"{refused} It was not started."
        # The wallet says that nothing was taken, and means the month.
        is_short = isinstance(refused, InsufficientFunds)
        why = "Too little is left for its month." if is_short else str(refused)
        return f"{why} {starting.what_was_charged(paid_micros)}"

    def _begin_start(self, session: Session, command: StartDeployment) -> PeriodKind | None:
        """Let it run at once, or write down what that costs. What is to be paid for it next."""
        row = own_deployment(session, command.user_id, command.deployment_id, locked=True)
        if commands.is_repeated(session, command):
            return None
        now = self.clock()
        runways.look_soon(session, now, command.user_id)
        if row.status == DeploymentStatus.ACTIVE:
            self._keep(session, now, row, command)
            return None
        if row.status not in starting.STARTABLE:
            raise Conflict(f"This deployment is {row.status}: it cannot be started.")
        refuse_unpaid_usage(session, row)
        month = periods.due(session, row.deployment_id, PeriodKind.MONTH)
        if month is None:
            starting.check_amount(session, row, command.expected_amount_micros, now)
        is_paid = row.paid_until is not None and row.paid_until > now
        if not is_paid:
            prices.take_price(row, now)
        if is_paid or not ladder.is_renewed(row):
            active = DeploymentStatus.ACTIVE
            lifecycle.change_status(
                session, now, row, active, ChangeCause.OWNER, self.rules, command=command
            )
            return None
        row.due_at = now + DUE.lease
        if month is None:
            if periods.due(session, row.deployment_id, PeriodKind.ARREARS):
                # No month is taken from who does not pay what is owed.
                return PeriodKind.ARREARS
            periods.owe_month(session, now, row, now, command)
        elif month.resize not in (None, periods.wish_of(command)):
            # One key is remembered: whoever repeats another one later would start it anew.
            raise Conflict("It is being started already. Look at it again in a moment.")
        return PeriodKind.MONTH

    def _keep(
        self, session: Session, now: datetime, row: DeploymentRow, command: StartDeployment
    ) -> None:
        """It runs, and goes on after its month."""
        if row.ends_with_month:
            row.ends_with_month = False
            ladder.look_again(row, now, self.rules)
            lifecycle.note(session, now, row, ChangeCause.WILL_GO_ON, command)

    def _take(self, caught_up: CaughtUp) -> tuple[Sequence[UUID], Sequence[Month]]:
        """Lease what is due, and write down the months of what is plain in one go; where that
        fails it is leased alone."""

        def take(session: Session) -> tuple[Sequence[UUID], Sequence[Month]]:
            now = self.clock()
            leased = DUE.take_with(session, now, *plain.TOLD_BY_LEASE)
            months = plain.owe(session, now, leased, self.rules)
            caught_up.note(session, (month.owed for month in months))
            return [each[0] for each in leased], months

        return self._together(take) or (self._lease(), [])

    def _lease(self) -> list[UUID]:
        with self.database.begin() as session:
            return list(DUE.take(session, self.clock()))

    def _ask(self, taken: Sequence[UUID], months: Sequence[Month], caught_up: CaughtUp) -> Asked:
        """Do what is due by now for what else was leased, and ask the wallet about all of it."""
        are_plain = {month.deployment.deployment_id for month in months}
        others = [each for each in taken if each not in are_plain]
        if others:
            self._each(others, partial(self._look, caught_up))
        return self._begin(others, months)

    def _look(self, caught_up: CaughtUp, session: Session, deployment_ids: Sequence[UUID]) -> None:
        rows = _locked(session, deployment_ids)
        now = self.clock()
        resized = resizing.pending(session, deployment_ids)
        # A month is not renewed before it is known which size it is for.
        looked = [row for row in rows if row.deployment_id not in resized]
        waited = [row for row in looked if shortages.waits(row)]
        found = [rungs.look(session, now, row, self.rules) for row in looked]
        months = [each for each in found if each is not None]
        written = periods.owe(session, months)
        caught_up.note(session, (each for each in months if each.deployment_id in written))
        session.flush()
        is_open = periods.with_open_ones(session, deployment_ids)
        for row in rows:
            # What the wallet is asked about stays leased until it has answered.
            if row.deployment_id not in is_open:
                row.due_at = ladder.due_at(row, now, self.rules)
        # In one order, as for whoever tells of a shortage.
        for user_id in sorted({row.user_id for row in waited if not shortages.waits(row)}):
            shortages.tell_less(session, now, user_id)

    def ask_wallet(self, deployment_ids: Iterable[UUID]) -> list[Answer]:
        """Ask about all that is open for these deployments, which are leased.

        What it answered, which is recorded. Raises ``ServiceError`` when the wallet did not
        answer: what is due stays due.
        """
        return self._settle(self._begin(list(deployment_ids)))

    def _begin(self, deployment_ids: Sequence[UUID], months: Sequence[Month] = ()) -> Asked:
        """Hand in the debits of what is open for these deployments, and of these months.

        What is charged too often is not charged.
        """
        asked: Sequence[PeriodRow] = []
        now = self.clock()
        plain_ones = [each.deployment for each in months]
        stood = {each.deployment_id: WhenAsked(each.name, each.due_at) for each in plain_ones}
        beyond: set[UUID] = set()
        if deployment_ids:
            with self.database.read() as session:
                asked = periods.open_periods(session, deployment_ids)
                ids = {each.deployment_id for each in asked}
                stood |= _when_asked(session, ids)
                beyond = beyond_limit(session, now, ids, self.rules)
        crash_point("billing.periods_recorded")
        owed = [each for each in asked if each.status == PeriodStatus.DUE]
        due: list[Payable] = [each for each in owed if each.deployment_id not in beyond]
        due += [each.owed for each in months]
        due.sort(key=lambda each: (each.starts_at, each.deployment_id, each.kind))
        parts = [due[start : start + COMMANDS_MAX] for start in range(0, len(due), COMMANDS_MAX)]
        # All of them before one is sent, which has to be waited for.
        debits = [_debits(part, stood) for part in parts]
        return Asked(
            at=now,
            debits=[(part, self._sent(each)) for part, each in zip(parts, debits, strict=True)],
            refused=[each for each in owed if each.deployment_id in beyond],
            alone=[each for each in asked if each.status != PeriodStatus.DUE],
            stood=stood,
            months={each.deployment.deployment_id: each for each in months},
        )

    def _sent(self, request: Request[ReplyT]) -> Callable[[], ReplyT]:
        """What is returned waits for the answer; it raises what kept the call from being sent."""
        try:
            return self.rpc.begin(request)
        except ServiceError as error:
            return partial(_raise, error)

    def _is_settled(self, asked: Asked) -> bool:
        """Record what the wallet answers. False where it did not answer."""
        try:
            self._settle(asked)
        except ServiceError as error:
            log.warning("the wallet did not answer", extra={"error": f"{error.code}: {error}"})
            return False
        return True

    def _settle(self, asked: Asked, teller_at: datetime | None = None) -> list[Answer]:
        """Record what was answered. Then raises ``ServiceError`` where something was not, which is
        left to its lease. ``teller_at``: nobody is told by this what they lack, but by who asked
        then."""
        answers, unanswered = self._answers(asked)
        crash_point("billing.periods_charged")
        recorded, found = answers, None
        if teller_at is None:
            try:
                recorded, found = self._settle_others(answers, asked.at)
            except ServiceError as error:
                unanswered.append(error)
                # What is told is all that is due, or nothing: they are asked again.
                recorded = [answer for answer in answers if not answer.may_be_news]
        by_deployment: dict[UUID, list[Answer]] = defaultdict(list)
        for answer in self._not_run_on(recorded, asked.months):
            by_deployment[answer.period.deployment_id].append(answer)
        if by_deployment:
            as_of = replace(asked, at=teller_at or asked.at)
            self._each(list(by_deployment), partial(self._record, as_of, by_deployment, found))
        crash_point("billing.periods_settled")
        if unanswered:
            raise unanswered[0]
        return answers

    def _settle_others(
        self, answers: list[Answer], asked_at: datetime
    ) -> tuple[list[Answer], Settled]:
        """Settle what else is due of those who may have to be told that they lack money: what
        they are told is one gap then, whatever of it was refused first, and nothing of it was
        paid before that and not recorded. The answers that are not overtaken by money that came.
        Raises ``ServiceError`` when the wallet is silent."""
        user_ids = {answer.period.user_id for answer in answers if answer.may_be_news}
        if not user_ids:
            return answers, Settled()
        own = {answer.period.deployment_id for answer in answers}
        used = UsageCharges(self.database, self.rpc, self.rules, self.clock, self.settle_months)
        months = self.settle_months(user_ids, asked_at, own)
        others = months | used.settle(user_ids, asked_at)
        paid = {each.period.user_id for each in answers if isinstance(each.reply, Transaction)}
        found = settled(self.rpc, user_ids & (others | paid))
        return [
            answer
            for answer in answers
            if not answer.may_be_news or not found.is_overtaken(answer.period.user_id, answer.error)
        ], found

    def settle_months(
        self, user_ids: Collection[UUID], teller_at: datetime, besides: Collection[UUID] = ()
    ) -> set[UUID]:
        """Ask for all other months of these users that are due, and for what they owe, and whose
        there were. They are told of nothing by this, but by who asked for something else of theirs
        then. Raises ``ServiceError``."""
        whose: dict[UUID, UUID] = {}
        while some := self._due_of(user_ids, besides, max(whose, default=None)):
            whose |= some
            caught_up = CaughtUp()
            asked = self._ask(list(some), (), caught_up)
            caught_up.tell()
            self._settle(asked, teller_at)
        return set(whose.values())

    def _due_of(
        self, user_ids: Collection[UUID], besides: Collection[UUID], after: UUID | None
    ) -> dict[UUID, UUID]:
        with self.database.read() as session:
            return _due_of(session, self.clock(), user_ids, besides, after)

    def _answers(self, asked: Asked) -> tuple[list[Answer], list[ServiceError]]:
        """What was answered, and what came in the place of other answers.

        Debits go together; what is closed or given back, which is rare, each by itself: one whose
        wallet is locked keeps nobody waiting.
        """
        alone = [(each, self._sent(_closure_or_refund(each, asked.stood))) for each in asked.alone]
        answers = [Answer(each, None, TOO_OFTEN) for each in asked.refused]
        unanswered: list[ServiceError] = []
        hear: list[Callable[[], Iterable[Answer]]] = [
            *(partial(_debited, part, reply) for part, reply in asked.debits),
            *(partial(_answered, period, reply) for period, reply in alone),
        ]
        # All of them, also where one is lost: each has to be waited for.
        for each in hear:
            try:
                answers += each()
            except ServiceError as error:
                unanswered.append(error)
        return [self._made_before(each) for each in answers], unanswered

    def _made_before(self, answer: Answer) -> Answer:
        """What was made under its key in other words, if it was: periods of versions that kept no
        name said another one before their deployments were renamed. A used key that is closed
        says what was made under it."""
        if answer.error is None or answer.error.code != IdempotencyConflict.code:
            return answer
        try:
            made = self.rpc.call(CloseKey(idempotency_key=periods.asked_key(answer.period)))
        except ServiceError:
            return answer
        if made.transaction is None:
            return answer
        return Answer(answer.period, made.transaction, None)

    def _not_run_on(self, answers: list[Answer], months: Mapping[UUID, Month]) -> Sequence[Answer]:
        """Record together what is paid and simply runs on; the other answers."""
        paid = [
            PaidMonth(*months[answer.period.deployment_id], answer.reply.transaction_id)
            for answer in answers
            if answer.period.deployment_id in months and isinstance(answer.reply, Transaction)
        ]
        if not paid:
            return answers

        def run_on(session: Session) -> set[UUID]:
            return plain.run_on(session, self.clock, paid, self.rules)

        done = self._together(run_on) or ()
        return [each for each in answers if each.period.deployment_id not in done]

    def _record(
        self,
        asked: Asked,
        answers: Mapping[UUID, Sequence[Answer]],
        found: Settled | None,
        session: Session,
        deployment_ids: Sequence[UUID],
    ) -> None:
        rows = {row.deployment_id: row for row in _locked(session, deployment_ids)}
        was_due = {each: asked.stood[each].due_at for each in rows}
        outcomes = Outcomes(session, self.clock(), self.rules, rows, asked.at, was_due, found)
        outcomes.record(answer for each in deployment_ids for answer in answers[each])

    def _together(self, act: Callable[[Session], FoundT]) -> FoundT | None:
        """Do something with all that is plain. None where that fails: it goes the others' way."""
        try:
            with self.database.begin() as session:
                return act(session)
        except Exception as error:
            if is_lost(error):
                raise
            log.exception("months are dealt with one by one")
            return None

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
            log.warning("deployments are dealt with one by one", exc_info=True)
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


def _debits(part: Sequence[Payable], stood: Mapping[UUID, WhenAsked]) -> DebitAll:
    return DebitAll(debits=[periods.debit(each, stood[each.deployment_id].name) for each in part])


def _raise(error: ServiceError) -> NoReturn:
    raise error


def _debited(part: Sequence[Payable], reply: Callable[[], DebitOutcomes]) -> list[Answer]:
    """Raises ``ServiceError`` when nothing was answered."""
    results = zip(part, reply().results, strict=True)
    return [Answer(period, result.transaction, result.error) for period, result in results]


def _answered(period: PeriodRow, reply: Callable[[], Transaction | ClosedKey]) -> list[Answer]:
    """Raises ``ServiceError`` when nothing was answered."""
    try:
        return [Answer(period, reply(), None)]
    except NO_ANSWER:
        raise
    except ServiceError as error:
        return [Answer(period, None, BatchError(code=error.code, message=str(error)))]


def _closure_or_refund(
    period: PeriodRow, stood: Mapping[UUID, WhenAsked]
) -> Command[Transaction] | Command[ClosedKey]:
    if period.status == PeriodStatus.CLOSING:
        return periods.closure(period)
    return periods.refund(period, stood[period.deployment_id].name)


def refusal(
    answers: Iterable[Answer], deployment_id: UUID, *kinds: PeriodKind
) -> ServiceError | None:
    """Why the wallet did not pay a period of these kinds, if it did not."""
    for answer in answers:
        period, error = answer.period, answer.error
        if error is not None and period.deployment_id == deployment_id and period.kind in kinds:
            return _TOLD.get(error.code, Conflict)(error.message, *error.details)
    return None


AWAITS_MONEY = "EXISTS (SELECT FROM periods WHERE user_id = new.user_id AND status = 'due')"
"""Whether :func:`money_came` would find anything, as SQL over users named ``new``."""


def money_came(session: Session, now: datetime, user_id: UUID) -> None:
    """What this user's wallet did not pay is to be tried again at once, and told again where
    something else took the money first."""
    is_due = (PeriodRow.user_id == user_id, PeriodRow.status == PeriodStatus.DUE)
    owing = select(PeriodRow.deployment_id).where(*is_due)
    # Held first, in the order in which everybody takes several.
    held = session.scalars(
        for_update(
            select(DeploymentRow.deployment_id)
            .where(DeploymentRow.deployment_id.in_(owing))
            .order_by(DeploymentRow.deployment_id)
        )
    ).all()
    session.execute(
        update(DeploymentRow)
        .where(DeploymentRow.deployment_id.in_(held))
        .values(due_at=now)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(PeriodRow)
        .where(*is_due, PeriodRow.kind != PeriodKind.RESIZE)
        .values(money_came_at=now)
        .execution_options(synchronize_session=False)
    )


def _due_of(
    session: Session,
    now: datetime,
    user_ids: Collection[UUID],
    besides: Collection[UUID],
    after: UUID | None,
) -> dict[UUID, UUID]:
    """The other deployments of these users that owe something, or whose month has begun, whoever
    is about to ask for it: a page of them, and whose they are."""
    row = DeploymentRow
    owes = select(PeriodRow.deployment_id).where(
        PeriodRow.user_id.in_(user_ids),
        PeriodRow.status == PeriodStatus.DUE,
        PeriodRow.kind != PeriodKind.RESIZE,
    )
    has_begun = (
        (row.status == DeploymentStatus.ACTIVE)
        & row.ends_with_month.is_(False)
        & (row.monthly_cost_micros > 0)
        & (row.paid_until <= now)
    )
    query = select(row.deployment_id, row.user_id).where(
        row.user_id.in_(user_ids),
        row.deployment_id.not_in(list(besides)),
        row.deployment_id.in_(owes) | has_begun,
    )
    if after is not None:
        query = query.where(row.deployment_id > after)
    found = session.execute(query.order_by(row.deployment_id).limit(AT_ONCE))
    return {each.deployment_id: each.user_id for each in found}


def _locked(session: Session, deployment_ids: Sequence[UUID]) -> Sequence[DeploymentRow]:
    return session.scalars(
        for_update(
            select(DeploymentRow)
            .where(DeploymentRow.deployment_id.in_(deployment_ids))
            .order_by(DeploymentRow.deployment_id)
        )
    ).all()


def _when_asked(session: Session, deployment_ids: Iterable[UUID]) -> dict[UUID, WhenAsked]:
    row = DeploymentRow
    query = select(row.deployment_id, row.name, row.due_at)
    rows = session.execute(query.where(row.deployment_id.in_(deployment_ids)))
    return {each.deployment_id: WhenAsked(each.name, each.due_at) for each in rows}
