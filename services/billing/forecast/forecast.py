"""The balance of the days to come: what :mod:`services.billing.forecast.months_ahead` finds.

First what would be due if all of it were paid. Where the balance does not cover that, or would fall
below the level of auto top-up, the top-up service plays its rule against it; then comes what the
wallet and those charges really pay of it.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from uuid import UUID

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import (
    DueCharge,
    Forecast,
    ForecastDay,
    ForecastEvent,
    ForecastKind,
    GetForecast,
)
from contracts.errors import ServiceError
from contracts.messages import MAX_AMOUNT_MICROS, ReplyT, Request
from contracts.topup import ForecastSchedule, GetAutoTopupState, ScheduleForecast, Spending
from contracts.wallet import AccountStatus
from services.billing.deployments.queries import own_deployment
from services.billing.forecast.balances import wallet_of
from services.billing.forecast.burn_rate import analyse, burning_among
from services.billing.forecast.months_ahead import (
    Change,
    Due,
    MonthsAhead,
    schedule,
    tenancies,
)
from services.billing.forecast.usage_ahead import usage_ahead
from services.billing.settings import BillingSettings

log = logging.getLogger(__name__)

DUE_NEXT_MAX = 20
EVENTS_PER_DAY_MAX = 100
SPENDINGS_MAX = 10_000
AUTO_TOPUP_WITHIN_S = 1.0
"""How long the forecast waits for what the top-up service would charge; it is one without then."""

_DAY = timedelta(days=1)


class Found(NamedTuple):
    """What there is at present, and what auto top-up would charge; None: it is not known."""

    balance_micros: int
    available_micros: int
    is_frozen: bool
    automatic: ScheduleForecast | None


def foretell(
    database: Connected,
    rpc: RpcClient,
    request: GetForecast,
    now: datetime,
    rules: BillingSettings,
) -> Forecast:
    """See :class:`contracts.billing.GetForecast`."""
    with database.read() as session:
        usage = usage_ahead(session, request.user_id, now)
        found = tenancies(session, request.user_id, {*usage.used, *usage.unpaid})
        monthly_usage = usage.monthly_micros
        burning = burning_among(found, request.dearest, monthly_usage) if request.dearest else None
        if request.without is not None:
            own_deployment(session, request.user_id, request.without)
            found = [each for each in found if each.deployment_id != request.without]
    until = midnight(now.date() + _DAY * (request.days + 1))
    planned = schedule(found, now, until, rules, usage)
    told = _ask(rpc, request.user_id, planned, until, rules)
    # As it is today: what is played changes prices.
    burn_rate = analyse(told.balance_micros, burning, now) if burning else None
    ahead = MonthsAhead(now, rules, told.available_micros, told.is_frozen, _credits(told), usage)
    ahead.play(found, until)
    shortage = ahead.shortage
    return Forecast(
        available_micros=told.available_micros,
        days=_days(now.date(), request.days, told.available_micros, ahead),
        due_next=[_due_charge(each) for each in _next(planned)[:DUE_NEXT_MAX]],
        short_on=shortage.day if shortage else None,
        short_by_micros=min(shortage.by_micros, MAX_AMOUNT_MICROS) if shortage else 0,
        days_until_empty=(shortage.day - now.date()).days if shortage else None,
        is_auto_topup_known=told.automatic is not None,
        auto_topup_refusal=told.automatic.reason if told.automatic else "",
        burn_rate=burn_rate,
    )


def midnight(day: date) -> datetime:
    """The beginning of a day (UTC)."""
    return datetime.combine(day, time(), UTC)


def _ask(
    rpc: RpcClient,
    user_id: UUID,
    planned: Sequence[Due],
    until: datetime,
    rules: BillingSettings,
) -> Found:
    """The wallet and the top-up service at once. Raises what the wallet raises."""
    state = _begin(rpc, GetAutoTopupState(user_id=user_id))
    try:
        wallet = wallet_of(rpc, user_id, rules.call_timeout_s)
    finally:
        automatic = state()
    # Who has no wallet yet has nothing in it.
    balance_micros = wallet.balance_micros if wallet else 0
    available_micros = wallet.available_micros if wallet else 0
    is_frozen = wallet is not None and wallet.status is AccountStatus.FROZEN
    charges = None
    if automatic is not None:
        floor_micros = automatic.threshold_micros or 0 if automatic.state == "active" else 0
        charges = ScheduleForecast(charges=[])
        if _lowest(available_micros, planned) < floor_micros:
            charges = _begin(rpc, _question(user_id, planned, until))()
    return Found(balance_micros, available_micros, is_frozen, charges)


def _lowest(available_micros: int, planned: Sequence[Due]) -> int:
    """The balance if all of it were paid: what stays above auto top-up's level sets off nothing."""
    return available_micros - sum(each.amount_micros for each in planned)


def _question(user_id: UUID, planned: Sequence[Due], until: datetime) -> ForecastSchedule:
    spendings = [_spending(each) for each in planned[:SPENDINGS_MAX]]
    return ForecastSchedule(user_id=user_id, spendings=spendings, until=until)


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
    )


def _credits(told: Found) -> list[Change]:
    charges = told.automatic.charges if told.automatic else []
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


def _days(today: date, days: int, available_micros: int, ahead: MonthsAhead) -> list[ForecastDay]:
    changes: dict[date, list[Change]] = defaultdict(list)
    for change in ahead.changes:
        changes[change.at.date()].append(change)
    told = []
    for number in range(days + 1):
        day = today + number * _DAY
        changes[day] = _usage_together(changes[day])
        available_micros += sum(change.micros for change in changes[day])
        told.append(
            ForecastDay(
                date=day,
                balance_micros=available_micros,
                events=[_event(change) for change in changes[day][:EVENTS_PER_DAY_MAX]],
                events_total=len(changes[day]),
            )
        )
    return told


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


def _event(change: Change) -> ForecastEvent:
    tenancy = change.tenancy
    if tenancy is None:
        return ForecastEvent(
            kind=ForecastKind.AUTO_TOPUP, at=change.at, amount_micros=change.micros
        )
    return ForecastEvent(
        kind=ForecastKind.USAGE if change.is_usage else ForecastKind.RENEWAL,
        at=change.at,
        amount_micros=-change.micros,
        deployment_id=tenancy.deployment_id,
        name=tenancy.name,
    )
