"""The numbers of now and the alerts: at most a second old, whoever looks at them and how often."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.clock import midnight
from contracts.analytics import GetNumbers, Point, Step
from contracts.topup import ListProblems
from services.gateway.backend import ask_all, current_backend, database
from services.gateway.response_times import slow_by_step
from services.gateway.staff import alerts
from services.gateway.staff.alerts import Alert

LIVE_FOR = timedelta(days=1)
PROBLEMS_MAX = 200


@dataclass(frozen=True)
class Live:
    """As of ``at``; None is what could not be told. ``missing`` names what is not watched."""

    at: datetime
    today: Point | None
    hour: Point | None
    alerts: list[Alert]
    missing: list[str]


def live(now: datetime) -> Live:
    """What is so now, or was a second ago."""
    found: Live = current_backend().live.find("live", lambda: _look(now))
    return found


def _look(now: datetime) -> Live:
    until = now + timedelta(seconds=1)
    hours, days, problems = ask_all(
        GetNumbers(since=now - LIVE_FOR, until=until, step=Step.HOUR),
        GetNumbers(since=midnight(now), until=until, step=Step.DAY),
        ListProblems(limit=PROBLEMS_MAX),
    )
    with database().read() as session:
        steps = slow_by_step(session, now - LIVE_FOR)
    found = alerts.of_answers(steps, now)
    missing = []
    if hours:
        found += alerts.of_purchases(hours, now) + alerts.of_topups(hours, now)
    else:
        missing.append("purchases and automatic top-ups")
    if problems:
        found += alerts.of_payments(problems.problems)
    else:
        missing.append("payments")
    return Live(
        now,
        days.points[-1] if days else None,
        hours.points[-1] if hours else None,
        sorted(found, key=lambda alert: alert.since),
        missing,
    )
