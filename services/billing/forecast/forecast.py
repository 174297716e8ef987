"""The balance of the days to come: what :mod:`services.billing.forecast.months_ahead` finds.

First what would be due if all of it were paid. Where months simply follow each other and the
balance covers them, that is it (:mod:`services.billing.forecast.covered`). Where it does not, or
would fall below the level of auto top-up, the top-up service plays its rule against it; then comes
what the wallet and those charges really pay of it.
"""

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import chain, islice
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.client import RpcClient
from chassis.clock import midnight
from chassis.database import Connected
from chassis.identifiers import new_id
from chassis.together import AskedTogether
from contracts.billing import (
    DueCharge,
    Forecast,
    ForecastDay,
    ForecastEvent,
    ForecastKind,
    GetForecast,
    ListPurchases,
    PurchasePage,
    PurchaseStatus,
)
from contracts.errors import ServiceError
from contracts.messages import MAX_AMOUNT_MICROS, ReplyT, Request
from contracts.topup import (
    AutoTopupState,
    ForecastSchedule,
    GetAutoTopupStates,
    ScheduleForecast,
    Spending,
)
from contracts.wallet import AccountStatus, Expiring, Wallet
from services.billing.deployments.queries import AskedToBurn, all_that_burns, own_deployment
from services.billing.forecast import covered
from services.billing.forecast.balances import Funds, all_funds
from services.billing.forecast.burn_rate import analyse
from services.billing.forecast.covered import Charge, DayOfCharges
from services.billing.forecast.months_ahead import (
    Change,
    Due,
    MonthsAhead,
    Shortage,
    Tenancy,
    schedule,
    tenancies,
)
from services.billing.forecast.promotions_ahead import PromotionsAhead, lapses
from services.billing.forecast.usage_ahead import UsageAhead, usage_ahead
from services.billing.models import HAS_WAITING
from services.billing.settings import BillingSettings
from services.billing.usage.rates import HAVE_USED

log = logging.getLogger(__name__)

DUE_NEXT_MAX = 20
SPENDINGS_MAX = 10_000
AUTO_TOPUP_WITHIN_S = 1.0
"""How long the forecast waits for what the top-up service would charge; it is one without then."""

_DAY = timedelta(days=1)


class Found(NamedTuple):
    """What there is at present; None: no wallet yet, and whether auto top-up is on is not known."""

    wallet: Wallet | None
    auto_topup: AutoTopupState | None
    expiring: Sequence[Expiring] = ()

    @property
    def balance_micros(self) -> int:
        return self.wallet.balance_micros if self.wallet else 0

    @property
    def available_micros(self) -> int:
        return self.wallet.available_micros if self.wallet else 0

    @property
    def is_frozen(self) -> bool:
        return self.wallet is not None and self.wallet.status is AccountStatus.FROZEN

    @property
    def floor_micros(self) -> int | None:
        """Below it auto top-up charges; None: it is not known."""
        if self.auto_topup is None or self.auto_topup.state != "active":
            return None if self.auto_topup is None else 0
        return self.auto_topup.threshold_micros or 0

    def covers(self, needed_micros: int) -> bool:
        """Whether all of it is paid, and nothing is charged for it."""
        floor_micros = max(self.floor_micros or 0, 0)
        return not self.is_frozen and self.available_micros - needed_micros >= floor_micros


Means = tuple[Funds | None, AutoTopupState | None]


class DayAhead(NamedTuple):
    """What changes on a day: the first events, how many there are, and what it comes to."""

    events: list[ForecastEvent]
    total: int
    micros: int


class Outlook(NamedTuple):
    """What is to come, and what auto top-up would charge; None: it is not known."""

    days: Mapping[date, DayAhead]
    due_next: list[DueCharge]
    automatic: ScheduleForecast | None
    shortage: Shortage | None = None


def foretell(
    database: Connected,
    rpc: RpcClient,
    request: GetForecast,
    now: datetime,
    rules: BillingSettings,
    list_purchases: Callable[[ListPurchases], PurchasePage] | None = None,
) -> Forecast:
    """See :class:`contracts.billing.GetForecast`; ``list_purchases`` finds those that wait."""
    user_id, until = request.user_id, midnight(now.date() + _DAY * (request.days + 1))
    if request.without is not None:
        with database.read() as session:
            own_deployment(session, user_id, request.without)
    usage, groups, burning, waits = database.answer(_present, (request, now))
    told = _ask(rpc, user_id, until, rules)
    outlook = None
    if groups is not None and not told.expiring:
        outlook = _covered(covered.day_by_day(groups, until), told, request.events_max)
    if outlook is None:
        with database.read() as session:
            found = tenancies(session, user_id, {*usage.used, *usage.unpaid})
        found = [each for each in found if each.deployment_id != request.without]
        outlook = _played(rpc, request, found, usage, told, now, until, rules)
    shortage = outlook.shortage
    return Forecast(
        available_micros=told.available_micros,
        days=_days(now.date(), request.days, told.available_micros, outlook.days),
        due_next=outlook.due_next,
        short_on=shortage.day if shortage else None,
        short_at=shortage.at if shortage else None,
        short_by_micros=min(shortage.by_micros, MAX_AMOUNT_MICROS) if shortage else 0,
        days_until_empty=(shortage.day - now.date()).days if shortage else None,
        is_auto_topup_known=outlook.automatic is not None,
        auto_topup_refusal=outlook.automatic.reason if outlook.automatic else "",
        burn_rate=analyse(told.balance_micros, burning, now) if burning else None,
        waiting=list_purchases(_waiting(request)).purchases if waits and list_purchases else [],
        wallet=told.wallet,
        auto_topup=told.auto_topup,
    )


def _present(session: Session, asked: Sequence[tuple[GetForecast, datetime]]) -> list[Any]:
    """Of several questions what the database says about each: the usage, the groups of what need
    not be played, and, where that was asked for, what burns and whether a purchase waits."""
    has = {row.user_id: row for row in _HAS.execute(session, {(of.user_id,) for of, _ in asked})}
    usage = [
        usage_ahead(session, request.user_id, now) if has[request.user_id].used else UsageAhead()
        for request, now in asked
    ]
    waits = [of.waiting is not None and has[of.user_id].waiting for of, _ in asked]
    plain = [place for place, each in enumerate(usage) if not each.used and not each.unpaid]
    burns = [place for place, (request, _) in enumerate(asked) if request.dearest is not None]
    groups = covered.renewed_alike(session, [_groups_for(*asked[place]) for place in plain])
    burning = all_that_burns(
        session,
        [
            AskedToBurn(
                asked[place][0].user_id, asked[place][0].dearest or 0, usage[place].monthly_micros
            )
            for place in burns
        ],
    )
    groups_of, burning_of = (
        dict(zip(plain, groups, strict=True)),
        dict(zip(burns, burning, strict=True)),
    )
    return [
        (each, groups_of.get(place), burning_of.get(place), waits[place])
        for place, each in enumerate(usage)
    ]


_HAS = Bulk(
    f"SELECT new.user_id, {HAVE_USED} AS used, {HAS_WAITING} AS waiting"  # noqa: S608 - our words
    " FROM {rows}",
    user_id="uuid",
)


def _waiting(request: GetForecast) -> ListPurchases:
    return ListPurchases(
        user_id=request.user_id,
        statuses=[PurchaseStatus.AWAITING_FUNDS, PurchaseStatus.PENDING],
        limit=request.waiting or 1,
    )


def _groups_for(request: GetForecast, now: datetime) -> covered.Asked:
    first = max(request.events_max, DUE_NEXT_MAX)
    return covered.Asked(request.user_id, now, first, request.without)


def _ask(rpc: RpcClient, user_id: UUID, until: datetime, rules: BillingSettings) -> Found:
    """Raises what the wallet raises."""
    funds, automatic = _means(rpc, rules.call_timeout_s).find(user_id) or (None, None)
    wallet, expiring = funds or (None, ())
    return Found(wallet, automatic, [each for each in expiring if each.expires_at < until])


@functools.cache
def _means(rpc: RpcClient, timeout_s: float) -> AskedTogether[UUID, Means]:
    """Asks the wallet and the top-up service at once, for all whose forecast is made at the same
    moment. Raises what the wallet raises."""

    def ask(user_ids: Sequence[UUID]) -> dict[UUID, Means]:
        states = _begin(rpc, GetAutoTopupStates(user_ids=list(user_ids)))
        try:
            funds = all_funds(rpc, user_ids, timeout_s)
        finally:
            told = states()
        automatic = dict(zip(user_ids, told.states, strict=True)) if told else {}
        return {each: (funds.get(each), automatic.get(each)) for each in user_ids}

    return AskedTogether(ask)


def _covered(days: Sequence[DayOfCharges], told: Found, events_max: int) -> Outlook | None:
    """All of it is paid when it is due; None where it is to be played."""
    if not told.covers(sum(each.micros for each in days)):
        return None
    due_next = chain.from_iterable(each.first(DUE_NEXT_MAX) for each in days)
    return Outlook(
        {
            each.day: DayAhead(_renewals(each.first(events_max)), each.total, -each.micros)
            for each in days
        },
        [
            DueCharge(
                at=charge.at,
                amount_micros=charge.micros,
                deployment_id=charge.deployment_id,
                name=charge.name,
            )
            for charge in islice(due_next, DUE_NEXT_MAX)
        ],
        ScheduleForecast(charges=[]) if told.floor_micros is not None else None,
    )


def _played(
    rpc: RpcClient,
    request: GetForecast,
    found: Sequence[Tenancy],
    usage: UsageAhead,
    told: Found,
    now: datetime,
    until: datetime,
    rules: BillingSettings,
) -> Outlook:
    planned = schedule(found, now, until, rules, usage)
    spendings = [_spending(each) for each in planned]
    if told.expiring:
        spendings = _with_lapses(spendings, told, now, until)
    automatic = None
    if told.floor_micros is not None:
        automatic = ScheduleForecast(charges=[])
        if _lowest(told.available_micros, spendings) < told.floor_micros:
            automatic = _begin(rpc, _question(request.user_id, spendings, until))()
    ahead = MonthsAhead(
        now,
        rules,
        told.available_micros,
        told.is_frozen,
        _credits(automatic),
        usage,
        PromotionsAhead(now, told.expiring),
    )
    ahead.play(found, until)
    return Outlook(
        _by_day(ahead.changes, request),
        [_due_charge(each) for each in _next(planned)[:DUE_NEXT_MAX]],
        automatic,
        ahead.shortage,
    )


def _lowest(available_micros: int, spendings: Sequence[Spending]) -> int:
    """The balance if all of it were paid: what stays above auto top-up's level sets off nothing."""
    return available_micros - sum(each.amount_micros for each in spendings)


def _with_lapses(
    spendings: Sequence[Spending], told: Found, now: datetime, until: datetime
) -> list[Spending]:
    """What auto top-up is to see leave the wallet, with what of promotional credit lapses. That is
    never more than there is, and waits for no money."""
    charges = ((each.at, each.amount_micros) for each in spendings)
    ahead = PromotionsAhead(now, told.expiring)
    lapsed = [
        Spending(
            reference=new_id(),
            amount_micros=each.micros,
            at=each.at,
            waits_until=each.at,
            is_waiting=True,
        )
        for each in lapses(ahead, charges, told.available_micros, until)
    ]
    return sorted([*spendings, *lapsed], key=lambda each: each.at)


def _question(user_id: UUID, spendings: Sequence[Spending], until: datetime) -> ForecastSchedule:
    return ForecastSchedule(user_id=user_id, spendings=spendings[:SPENDINGS_MAX], until=until)


def _begin(rpc: RpcClient, question: Request[ReplyT]) -> Callable[[], ReplyT | None]:
    """Ask for what a forecast can do without."""

    def without(error: ServiceError) -> None:
        log.warning("a forecast is made without auto top-ups", extra={"reason": str(error)})

    try:
        reply = rpc.begin(question, AUTO_TOPUP_WITHIN_S)
    except ServiceError as error:
        without(error)
        return lambda: None

    def answer() -> ReplyT | None:
        try:
            return reply()
        except ServiceError as error:
            without(error)
            return None

    return answer


def _spending(due: Due) -> Spending:
    return Spending(
        reference=due.tenancy.deployment_id,
        amount_micros=due.amount_micros,
        at=due.at,
        waits_until=due.waits_until,
        is_waiting=due.is_waiting,
        owed_micros=due.owed_micros,
    )


def _credits(automatic: ScheduleForecast | None) -> list[Change]:
    charges = automatic.charges if automatic else []
    return [Change(each.at, each.amount_micros) for each in charges]


def _due_charge(due: Due) -> DueCharge:
    return DueCharge(
        at=due.at,
        amount_micros=due.amount_micros,
        deployment_id=due.tenancy.deployment_id,
        name=due.tenancy.name,
        kind=ForecastKind.USAGE if due.is_usage else ForecastKind.RENEWAL,
    )


def _next(planned: Sequence[Due]) -> list[Due]:
    """Usage is due every day: of each deployment's the first one stands for all."""
    shown: set[UUID] = set()
    found = []
    for due in planned:
        deployment_id = due.tenancy.deployment_id
        if not due.is_usage or deployment_id not in shown:
            found.append(due)
        if due.is_usage:
            shown.add(deployment_id)
    return found


def _days(
    today: date, days: int, available_micros: int, ahead: Mapping[date, DayAhead]
) -> list[ForecastDay]:
    told, nothing = [], DayAhead([], 0, 0)
    for day in (today + number * _DAY for number in range(days + 1)):
        changes = ahead.get(day, nothing)
        available_micros += changes.micros
        told.append(
            ForecastDay(
                date=day,
                balance_micros=available_micros,
                events=changes.events,
                events_total=changes.total,
            )
        )
    return told


def _by_day(changes: Iterable[Change], request: GetForecast) -> dict[date, DayAhead]:
    by_day: dict[date, list[Change]] = defaultdict(list)
    for change in changes:
        by_day[change.at.date()].append(change)
    return {day: _day_ahead(_usage_together(by_day[day]), request) for day in by_day}


def _day_ahead(changes: Sequence[Change], request: GetForecast) -> DayAhead:
    """What is no charge is named however much is charged before it."""
    named = [
        each
        for each in changes
        if request.with_promotion_ends or _kind(each) is not ForecastKind.PROMOTION_END
    ]
    others = [each for each in named[request.events_max :] if each.tenancy is None]
    events = [_event(each) for each in (*named[: request.events_max], *others)]
    return DayAhead(events, len(changes), sum(each.micros for each in changes))


_EVENTS = TypeAdapter(list[ForecastEvent])


def _renewals(charges: Iterable[Charge]) -> list[ForecastEvent]:
    """Checked together, which takes a fifth less: a year of many deployments has thousands."""
    return _EVENTS.validate_python(
        [
            {
                "kind": ForecastKind.RENEWAL,
                "at": charge.at,
                "amount_micros": charge.micros,
                "deployment_id": charge.deployment_id,
                "name": charge.name,
            }
            for charge in charges
        ]
    )


def _usage_together(changes: Sequence[Change]) -> list[Change]:
    """The usage of a deployment on one day is one event, at the moment of its last charge."""
    used: Counter[UUID] = Counter()
    together = []
    for change in reversed(changes):
        if change.is_usage and change.tenancy is not None:
            used[change.tenancy.deployment_id] += change.micros
    for change in reversed(changes):
        if change.is_usage and change.tenancy is not None:
            micros = used.pop(change.tenancy.deployment_id, 0)
            together += [change._replace(micros=micros)] if micros else []
        else:
            together.append(change)
    return together[::-1]


def _kind(change: Change) -> ForecastKind:
    if change.tenancy is None:
        return ForecastKind.PROMOTION_END if change.micros < 0 else ForecastKind.AUTO_TOPUP
    return ForecastKind.USAGE if change.is_usage else ForecastKind.RENEWAL


def _event(change: Change) -> ForecastEvent:
    kind, tenancy = _kind(change), change.tenancy
    if tenancy is None:
        return ForecastEvent(kind=kind, at=change.at, amount_micros=abs(change.micros))
    return ForecastEvent(
        kind=kind,
        at=change.at,
        amount_micros=-change.micros,
        deployment_id=tenancy.deployment_id,
        name=tenancy.name,
    )
