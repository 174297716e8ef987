"""What renewals and usage will charge and when, played forward in memory.

The ladder and the months that decide here are those by which :mod:`services.billing.renewals`
charges, and the wallet is asked in the same order: the oldest month first, each by itself, never
more than there is.

Usage is charged with each full hour, all of it together, as :mod:`services.billing.usage.charging`
does. As long as the wallet covers them many hours are one step; where it does not, the hour is
found in which it is short.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import and_, bindparam, or_, select
from sqlalchemy.orm import Session

from chassis.clock import midnight
from contracts.billing import DeploymentStatus
from services.billing.deployments import ladder, lifecycle, periods, prices
from services.billing.deployments.ladder import Announced, Step
from services.billing.deployments.months import month_end
from services.billing.deployments.periods import PeriodKind, PeriodStatus
from services.billing.forecast.promotions_ahead import PromotionsAhead
from services.billing.forecast.usage_ahead import UsageAhead
from services.billing.models import DeploymentRow, PeriodRow
from services.billing.settings import BillingSettings

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(slots=True)
class Owed:
    """A period that the wallet is to pay."""

    kind: PeriodKind
    starts_at: datetime
    ends_at: datetime
    amount_micros: int


@dataclass(slots=True, eq=False)
class Tenancy:
    """A deployment that costs something, or owes it, as its row stands and as it goes on."""

    deployment_id: UUID
    name: str
    category: str
    status: str
    status_changed_at: datetime
    billing_period: str
    monthly_cost_micros: int
    active_at: datetime | None
    period_anchor_at: datetime | None
    paid_until: datetime | None
    due_at: datetime | None
    short_since: datetime | None
    usage_short_since: datetime | None
    ends_with_month: bool
    announced: str
    announced_at: datetime | None
    new_price_micros: int | None
    new_price_from: datetime | None
    ended_at: datetime | None
    is_owing: bool = False
    owed: list[Owed] = field(default_factory=list)


_COLUMNS = [
    getattr(DeploymentRow, each.name)
    for each in fields(Tenancy)
    if each.name not in ("is_owing", "owed")
]


_IS_DUE = and_(
    PeriodRow.user_id == bindparam("user_id"), PeriodRow.status == PeriodStatus.DUE.value
)
_IS_OWING = DeploymentRow.deployment_id.in_(select(PeriodRow.deployment_id).where(_IS_DUE))
# Made once: putting a query together takes longer than asking it.
_TENANCIES = (
    select(*[*_COLUMNS, _IS_OWING])
    .where(
        DeploymentRow.user_id == bindparam("user_id"),
        or_(
            and_(
                DeploymentRow.status == DeploymentStatus.ACTIVE.value,
                DeploymentRow.monthly_cost_micros > 0,
                DeploymentRow.paid_until.is_not(None),
            ),
            _IS_OWING,
            DeploymentRow.deployment_id.in_(bindparam("used", expanding=True)),
        ),
    )
    .order_by(DeploymentRow.deployment_id)
)
_OWED = select(PeriodRow).where(_IS_DUE).order_by(PeriodRow.starts_at)


class Due(NamedTuple):
    """What becomes due, and until when it waits for its money; None: until it comes.

    ``is_waiting``: the wallet has refused it before. ``owed_micros``: what of it is owed then if
    it is unpaid.
    """

    at: datetime
    amount_micros: int
    tenancy: Tenancy
    waits_until: datetime | None = None
    is_waiting: bool = False
    is_usage: bool = False
    owed_micros: int = 0


class Change(NamedTuple):
    """What is added to the balance; what is taken from it, for a deployment or because promotional
    credit has ended, is negative."""

    at: datetime
    micros: int
    tenancy: Tenancy | None = None
    is_usage: bool = False


class Shortage(NamedTuple):
    """The first day at whose end a month or usage that is due is not paid, or on which something
    is suspended for that; since when, and what it lacks."""

    day: date
    at: datetime
    by_micros: int


def tenancies(session: Session, user_id: UUID, used: Iterable[UUID] = ()) -> list[Tenancy]:
    """All of this user's that will cost something unless their owner acts; also ``used``, those
    whose use does."""
    rows = session.execute(_TENANCIES, {"user_id": user_id, "used": list(used)})
    found = {row.deployment_id: Tenancy(*row) for row in rows}
    if not any(each.is_owing for each in found.values()):
        return list(found.values())
    for period in session.scalars(_OWED, {"user_id": user_id}):
        tenancy, kind = found.get(period.deployment_id), PeriodKind(period.kind)
        # The month of one that does not run is being asked for, or given up, at this moment.
        is_arrears = kind is PeriodKind.ARREARS
        if kind is PeriodKind.RESIZE:
            # It is paid in this moment, or not at all.
            continue
        if tenancy is not None and (is_arrears or tenancy.status == DeploymentStatus.ACTIVE):
            owed = Owed(kind, period.starts_at, period.ends_at, period.amount_micros)
            tenancy.owed.append(owed)
    return list(found.values())


def schedule(
    found: Iterable[Tenancy],
    now: datetime,
    until: datetime,
    rules: BillingSettings,
    usage: UsageAhead | None = None,
) -> list[Due]:
    """What becomes due before ``until`` if all of it is paid, the earliest first; usage day by
    day, with the last hour that is charged on it."""
    usage = usage or UsageAhead()
    planned = [
        due
        for each in found
        for due in (
            *_planned(each, now, until, rules),
            *_usage_planned(each, usage, now, until, rules),
        )
    ]
    return sorted(planned, key=lambda each: (each.at, each.tenancy.deployment_id, each.is_usage))


def _planned(
    tenancy: Tenancy, now: datetime, until: datetime, rules: BillingSettings
) -> Iterable[Due]:
    starts_at = ladder.renews_at(tenancy)
    for owed in tenancy.owed:
        is_month = owed.kind is PeriodKind.MONTH
        if not is_month:
            yield Due(now, owed.amount_micros, tenancy, is_waiting=True)
            continue
        gives_up_at = (tenancy.short_since or now) + rules.grace
        is_waiting = tenancy.short_since is not None
        owed_micros = periods.arrears_micros(tenancy, owed.starts_at, gives_up_at)
        yield Due(
            now, owed.amount_micros, tenancy, gives_up_at, is_waiting, owed_micros=owed_micros
        )
        starts_at = owed.ends_at
    while starts_at is not None and starts_at < until:
        at = max(starts_at, now)
        price_micros = prices.price_at(tenancy, starts_at)
        if price_micros:
            gives_up_at = at + rules.grace
            owed_micros = periods.arrears_micros(tenancy, starts_at, gives_up_at)
            yield Due(at, price_micros, tenancy, gives_up_at, owed_micros=owed_micros)
        anchor = tenancy.period_anchor_at or starts_at
        starts_at = month_end(anchor, starts_at)


def _usage_planned(
    tenancy: Tenancy, usage: UsageAhead, now: datetime, until: datetime, rules: BillingSettings
) -> Iterable[Due]:
    unpaid_micros = usage.unpaid.get(tenancy.deployment_id, 0)
    if unpaid_micros > 0:
        # Of what does not run it is owed: it waits for money, and asks for none.
        is_running = tenancy.status == DeploymentStatus.ACTIVE
        gives_up_at = (tenancy.usage_short_since or now) + rules.grace if is_running else None
        yield _used(now, unpaid_micros, tenancy, gives_up_at, is_waiting=True)
    used = usage.used.get(tenancy.deployment_id)
    if used is None:
        return
    ends_at = tenancy.paid_until if tenancy.ends_with_month else None
    before_micros, at = 0, next_last_hour(now)
    while at < until:
        due_micros = used.due_micros(min(at, ends_at or at))
        if due_micros > before_micros:
            yield _used(at, due_micros - before_micros, tenancy, at + rules.grace)
        before_micros, at = due_micros, next_last_hour(at)


def _used(
    at: datetime,
    micros: int,
    tenancy: Tenancy,
    gives_up_at: datetime | None,
    *,
    is_waiting: bool = False,
) -> Due:
    """What was used is owed, whatever becomes of what used it."""
    return Due(at, micros, tenancy, gives_up_at, is_waiting, is_usage=True, owed_micros=micros)


def next_last_hour(moment: datetime) -> datetime:
    """When usage is charged for the last time on a day (UTC): the next such moment."""
    today = midnight(moment) + 23 * _HOUR
    return today if moment < today else today + _DAY


def _hour(moment: datetime) -> datetime:
    """The last full hour."""
    return moment.replace(minute=0, second=0, microsecond=0)


@dataclass
class MonthsAhead:
    """What the wallet pays of it, beginning at ``now`` with ``available_micros``.

    The tenancies are changed. ``credits`` come, the earliest first, after what is due at the same
    moment. ``changes`` of the balance, in order, and the first ``shortage`` are what :meth:`play`
    finds.
    """

    now: datetime
    rules: BillingSettings
    available_micros: int
    is_frozen: bool = False
    credits: Sequence[Change] = ()
    usage: UsageAhead = field(default_factory=UsageAhead)
    promotions: PromotionsAhead | None = None
    changes: list[Change] = field(default_factory=list)
    shortage: Shortage | None = None
    _agenda: list[tuple[datetime, int, Tenancy]] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=count)
    _unpaid: dict[UUID, int] = field(default_factory=dict)
    _tenancies: dict[UUID, Tenancy] = field(default_factory=dict)
    _charges_from: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Usage is charged with the hours from now on, this one included if it begins now."""
        self._charges_from = _hour(self.now + _HOUR - self.now.resolution)

    def play(self, found: Iterable[Tenancy], until: datetime) -> None:
        """Until that moment, which is not looked at any more."""
        found = list(found)
        self._tenancies = {each.deployment_id: each for each in found}
        self.usage = self.usage.of(self._tenancies)
        for each in found:
            self._begin(each)
        self._ask_for_unpaid_usage(self.now)
        usage_at = next_last_hour(self.now) if self.usage.used else until
        coming = deque(credit for credit in self.credits if credit.at < until)
        today = self.now.date()
        while True:
            moments = [agenda[0][0] for agenda in (self._agenda, coming) if agenda]
            if self.promotions and (ends_at := self.promotions.next_at):
                moments.append(ends_at)
            at = max(min([usage_at, *moments]), self.now)
            if at >= until:
                break
            if at.date() > today:
                self._note_shortage(today, midnight(today + _DAY))
                today = at.date()
            self._charge_usage(at)
            if at >= usage_at:
                usage_at = next_last_hour(at)
            self._look(at, self._due(at))
            self._lapse(at)
            while coming and coming[0].at <= at and not self._is_due(at):
                self._receive(at, coming.popleft(), found)
        self._note_shortage(today, midnight(today + _DAY))

    def _begin(self, tenancy: Tenancy) -> None:
        if tenancy.status == DeploymentStatus.ACTIVE:
            # That it is announced changes nothing, and need not be played.
            tenancy.announced = Announced.RENEWAL
            if tenancy.short_since is not None:
                self._note_unpaid(tenancy)
            tenancy.due_at = tenancy.due_at and ladder.due_at(tenancy, self.now, self.rules)
        self._note(tenancy)

    def _note(self, tenancy: Tenancy) -> None:
        """Put it on the agenda, unless it can cost nothing any more."""
        if tenancy.due_at is not None and (
            tenancy.status == DeploymentStatus.ACTIVE or tenancy.owed
        ):
            heappush(self._agenda, (tenancy.due_at, next(self._turn), tenancy))

    def _is_due(self, at: datetime) -> bool:
        return bool(self._agenda) and self._agenda[0][0] <= at

    def _due(self, at: datetime) -> list[Tenancy]:
        """What is looked at together; what was put on the agenda anew is there once."""
        due = {}
        while self._is_due(at):
            due_at, _, tenancy = heappop(self._agenda)
            if due_at == tenancy.due_at:
                due[tenancy.deployment_id] = tenancy
        return list(due.values())

    def _look(self, at: datetime, looked: Sequence[Tenancy]) -> None:
        suspended = [each for each in looked if self._step(each, at)]
        self._ask_all(at, looked)
        for each in suspended:
            self._suspend(each, at)
        # What they ran is owed from then on, and asked for at once.
        self._ask_all(at, suspended)
        for each in looked:
            each.due_at = ladder.due_at(each, at, self.rules)
            self._note(each)

    def _ask_all(self, at: datetime, looked: Sequence[Tenancy]) -> None:
        asked = sorted(
            (owed.starts_at, each.deployment_id, owed.kind, index)
            for index, each in enumerate(looked)
            for owed in each.owed
        )
        for starts_at, _, kind, index in asked:
            self._ask(at, looked[index], kind, starts_at)

    def _step(self, tenancy: Tenancy, at: datetime) -> bool:
        """What is due before the wallet is asked; whether it is to be suspended after that."""
        step = ladder.next_step(tenancy, at, self.rules)
        if step is Step.OWE_MONTH:
            self._owe_month(tenancy)
        elif step is Step.GO_DOWN:
            return self._goes_down_later(tenancy, at)
        elif step is Step.ANNOUNCE_DELETION:
            tenancy.announced, tenancy.announced_at = ladder.next_announcement(tenancy), at
        return False

    def _owe_month(self, tenancy: Tenancy) -> None:
        starts_at = tenancy.paid_until
        is_owed = any(each.kind is PeriodKind.MONTH for each in tenancy.owed)
        if starts_at is None or is_owed:
            return
        prices.take_price(tenancy, starts_at)
        if tenancy.monthly_cost_micros > 0:
            ends_at = periods.month_ends_at(tenancy, starts_at)
            month = Owed(PeriodKind.MONTH, starts_at, ends_at, tenancy.monthly_cost_micros)
            tenancy.owed.append(month)

    def _goes_down_later(self, tenancy: Tenancy, at: datetime) -> bool:
        rung = ladder.next_rung(tenancy, self.rules)
        if rung is not None and rung.status is DeploymentStatus.SUSPENDED:
            tenancy.owed = [each for each in tenancy.owed if each.kind is PeriodKind.ARREARS]
            return True
        if rung is not None:
            lifecycle.enter(tenancy, at, rung.status, self.rules)
        return False

    def _ask(self, at: datetime, tenancy: Tenancy, kind: str, starts_at: datetime) -> None:
        owed = next(
            each for each in tenancy.owed if (each.kind, each.starts_at) == (kind, starts_at)
        )
        if self.is_frozen or owed.amount_micros > self.available_micros:
            if owed.kind is PeriodKind.MONTH:
                tenancy.short_since = tenancy.short_since or at
                self._note_unpaid(tenancy)
            return
        self._change(Change(at, -owed.amount_micros, tenancy))
        tenancy.owed.remove(owed)
        if owed.kind is PeriodKind.MONTH:
            tenancy.paid_until, tenancy.short_since = owed.ends_at, None
            self._unpaid.pop(tenancy.deployment_id, None)

    def _suspend(self, tenancy: Tenancy, at: datetime) -> None:
        """It ran until now, which it owes."""
        starts_at = tenancy.paid_until or at
        amount_micros = periods.arrears_micros(tenancy, starts_at, at)
        if amount_micros > 0:
            tenancy.owed.append(Owed(PeriodKind.ARREARS, starts_at, at, amount_micros))
        self._note_shortage(at.date(), at)
        self._unpaid.pop(tenancy.deployment_id, None)
        lifecycle.enter(tenancy, at, DeploymentStatus.SUSPENDED, self.rules)

    def _change(self, change: Change) -> None:
        self.available_micros += change.micros
        self.changes.append(change)
        if self.promotions and change.tenancy is not None:
            self.promotions.spend(-change.micros)

    def _lapse(self, at: datetime) -> None:
        """Promotional credit ends, after what is due at the same moment; a frozen wallet's too."""
        if self.promotions and not self._is_due(at):
            taken_micros = self.promotions.lapse(at, self.available_micros)
            if taken_micros:
                self._change(Change(at, -taken_micros))

    def _receive(self, at: datetime, credit: Change, found: Iterable[Tenancy]) -> None:
        """Money comes: whatever is owed is asked for again."""
        self._change(credit._replace(at=at))
        self._ask_for_unpaid_usage(at)
        self._look(at, [each for each in found if each.owed])

    def _note_unpaid(self, tenancy: Tenancy) -> None:
        months = [each for each in tenancy.owed if each.kind is PeriodKind.MONTH]
        self._unpaid[tenancy.deployment_id] = sum(each.amount_micros for each in months)

    def _note_shortage(self, day: date, moment: datetime) -> None:
        """What is unpaid at the end of a day, or at the moment at which it is suspended."""
        unpaid_micros = sum(self._unpaid.values())
        if any(each.usage_short_since is not None for each in self._tenancies.values()):
            unpaid_micros += sum(self.usage.unpaid.values()) + self._usage_micros(moment)
        if unpaid_micros and self.shortage is None:
            has_micros = 0 if self.is_frozen else self.available_micros
            at = max(self.now, min(self._short_since(), default=self.now))
            self.shortage = Shortage(day, at, max(unpaid_micros - has_micros, 1))

    def _short_since(self) -> Iterator[datetime]:
        """Since when the wallet has had too little, for each thing that is not paid."""
        for each in self._tenancies.values():
            if each.short_since is not None and each.deployment_id in self._unpaid:
                yield each.short_since
            if each.usage_short_since is not None:
                yield each.usage_short_since

    def _charge_usage(self, at: datetime) -> None:
        """Charge what was used in the hours that are over, all of it together in each, until
        the wallet does not cover it. What is not paid is paid before anything else."""
        first, hours = self._charges_from, (_hour(at) - self._charges_from) // _HOUR + 1
        if not self.usage.used or self.usage.unpaid or hours <= 0:
            return
        has_micros = 0 if self.is_frozen else max(self.available_micros, 0)
        paid = hours
        if self._usage_micros(_hour(at)) > has_micros:
            costs = range(hours)
            paid = bisect_right(
                costs, has_micros, key=lambda number: self._usage_micros(first + number * _HOUR)
            )
        self._charges_from = first + hours * _HOUR
        if paid:
            charged_at = first + (paid - 1) * _HOUR
            for deployment_id, micros in self._write_charge(charged_at).items():
                tenancy = self._tenancies[deployment_id]
                self._change(Change(charged_at, -micros, tenancy, is_usage=True))
        if paid < hours:
            self._refuse_usage(first + paid * _HOUR)

    def _refuse_usage(self, at: datetime) -> None:
        """What runs of a charge that is not paid has its days of grace from then on."""
        self.usage.unpaid = self._write_charge(at)
        for deployment_id in self.usage.unpaid:
            tenancy = self._tenancies[deployment_id]
            if tenancy.status == DeploymentStatus.ACTIVE and tenancy.usage_short_since is None:
                tenancy.usage_short_since = at
                tenancy.due_at = ladder.due_at(tenancy, at, self.rules)
                self._note(tenancy)

    def _ask_for_unpaid_usage(self, at: datetime) -> None:
        """It is charged as a whole; what was used meanwhile with the next hour."""
        if self.is_frozen or sum(self.usage.unpaid.values()) > self.available_micros:
            return
        for deployment_id, micros in self.usage.unpaid.items():
            tenancy = self._tenancies[deployment_id]
            self._change(Change(at, -micros, tenancy, is_usage=True))
            if tenancy.usage_short_since is not None:
                tenancy.usage_short_since = None
                tenancy.due_at = ladder.due_at(tenancy, at, self.rules)
                self._note(tenancy)
            self._charges_from = _hour(at) + _HOUR
        self.usage.unpaid = {}

    def _write_charge(self, at: datetime) -> dict[UUID, int]:
        """What was used by then stands in a charge from now on: so much for each deployment."""
        charged = {}
        for deployment_id, used in self.usage.used.items():
            micros = used.due_micros(self._runs_until(deployment_id, at))
            if micros:
                used.charged_micros += micros
                charged[deployment_id] = micros
        return charged

    def _usage_micros(self, at: datetime) -> int:
        """What was used by then and stands in no charge."""
        return sum(
            used.due_micros(self._runs_until(deployment_id, at))
            for deployment_id, used in self.usage.used.items()
        )

    def _runs_until(self, deployment_id: UUID, at: datetime) -> datetime:
        """What has stopped uses nothing any more."""
        tenancy = self._tenancies[deployment_id]
        is_running = tenancy.status == DeploymentStatus.ACTIVE
        return at if is_running else max(min(at, tenancy.status_changed_at), self.now)
