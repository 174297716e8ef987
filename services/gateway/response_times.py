"""How fast the site answers, over all of its processes: counted by five minutes.

The plan's targets are for some pages and some calls of the API, each a kind of its own; the alert
is about all of them. Each process adds what it has counted to the database every few seconds, in
the background; what it has not added when it is killed is lost, and nothing depends on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from flask import Request
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.retention import Kept
from services.gateway.gathering import Gathering

STEP = timedelta(minutes=5)
SLOW_S = 1.0
FAST_BPS = 9_500
"""Of a hundred answers so many are to be in time: the slowest five may be anything."""
KEPT = Kept("response_times", "starts_at", days=100)
"""A little longer than the longest trend that is drawn."""


class Kind(StrEnum):
    """What the plan has a target for, and the rest."""

    PAGE = "page"
    API = "api"
    OTHER = "other"


IN_TIME_S = {Kind.PAGE: 0.5, Kind.API: 0.2, Kind.OTHER: SLOW_S}

_PAGES = frozenset({"wallet", "marketplace"})
_API = frozenset(
    {
        "/api/navbar/dropdown-data",
        "/api/purchases",
        "/api/wallet/check-affordability",
        "/api/wallet/info",
        "/api/wallet/instant-purchase",
        "/api/wallet/purchase-with-topup",
    }
)

_ADD = text(
    "INSERT INTO response_times (starts_at, kind, answered, in_time, slow)"
    " VALUES (:starts_at, :kind, :answered, :in_time, :slow)"
    " ON CONFLICT (starts_at, kind) DO UPDATE SET"
    " answered = response_times.answered + excluded.answered,"
    " in_time = response_times.in_time + excluded.in_time,"
    " slow = response_times.slow + excluded.slow"
)
_BY_STEP = text(
    "SELECT starts_at, sum(answered)::bigint AS answered, sum(slow)::bigint AS slow"
    " FROM response_times WHERE starts_at >= :since GROUP BY starts_at ORDER BY starts_at"
)
_BY_DAY = text(
    "SELECT date_trunc('day', starts_at, 'UTC') AS starts_at, kind,"
    " sum(answered)::bigint AS answered, sum(in_time)::bigint AS in_time"
    " FROM response_times WHERE starts_at >= :since GROUP BY 1, 2"
)

_BETWEEN = text(
    "SELECT kind, sum(answered)::bigint AS answered, sum(in_time)::bigint AS in_time"
    " FROM response_times WHERE starts_at >= :since AND starts_at < :until GROUP BY kind"
)


@dataclass(frozen=True)
class Counted:
    """Of ``answered`` answers ``count`` were in time, or slow, whichever was asked for."""

    starts_at: datetime
    count: int
    answered: int


def kind_of(request: Request) -> Kind:
    if request.blueprint in _PAGES and request.method == "GET":
        return Kind.PAGE
    return Kind.API if request.path in _API else Kind.OTHER


def start_of_step(at: datetime) -> datetime:
    return at.replace(minute=at.minute - at.minute % 5, second=0, microsecond=0)


def slow_by_step(session: Session, since: datetime) -> list[Counted]:
    """How many of all answers took over a second, five minutes by five minutes."""
    rows = session.execute(_BY_STEP, {"since": since})
    return [Counted(row.starts_at, row.slow, row.answered) for row in rows]


def in_time_by_day(session: Session, since: datetime) -> dict[Kind, list[Counted]]:
    """How many answers of each kind were in time, by the day in UTC."""
    found: dict[Kind, list[Counted]] = {kind: [] for kind in Kind}
    for row in session.execute(_BY_DAY, {"since": since}):
        found[Kind(row.kind)].append(Counted(row.starts_at, row.in_time, row.answered))
    return found


def in_time_between(session: Session, since: datetime, until: datetime) -> dict[Kind, Counted]:
    """How many answers of each kind were in time, of those of one time."""
    found = {kind: Counted(since, 0, 0) for kind in Kind}
    for row in session.execute(_BETWEEN, {"since": since, "until": until}):
        found[Kind(row.kind)] = Counted(since, row.in_time, row.answered)
    return found


class ResponseTimes(Gathering[tuple[datetime, Kind], tuple[int, int, int]]):
    """What one process has counted and not added yet. Safe for threads."""

    def count(self, kind: Kind, now: datetime, seconds: float) -> None:
        answer = (1, int(seconds <= IN_TIME_S[kind]), int(seconds > SLOW_S))
        self._gather((start_of_step(now), kind), answer)

    def _joined(
        self, known: tuple[int, int, int], more: tuple[int, int, int]
    ) -> tuple[int, int, int]:
        return known[0] + more[0], known[1] + more[1], known[2] + more[2]

    def _write(
        self, session: Session, gathered: Mapping[tuple[datetime, Kind], tuple[int, int, int]]
    ) -> None:
        # In one order, so that two processes never wait for each other.
        for (starts_at, kind), (answered, in_time, slow) in sorted(gathered.items()):
            given = {"answered": answered, "in_time": in_time, "slow": slow}
            session.execute(_ADD, {"starts_at": starts_at, "kind": kind, **given})
