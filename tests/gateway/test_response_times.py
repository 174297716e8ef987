"""How many answers came in time, over all processes."""

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask, request
from sqlalchemy import text

from chassis.database import Connected, connect
from services.gateway.response_times import (
    Counted,
    Kind,
    ResponseTimes,
    in_time_by_day,
    kind_of,
    slow_by_step,
)

STEP = timedelta(minutes=5)
NEVER_S = 3600.0
"""A test adds when it wants."""


@pytest.fixture
def noon(database: Connected) -> datetime:
    with database.begin() as session:
        session.execute(text("TRUNCATE response_times"))
    return datetime(2026, 11, 28, 12, tzinfo=UTC)


def test_what_two_processes_count_is_added_up(database: Connected, noon: datetime) -> None:
    for _ in range(2):
        counting = ResponseTimes(database, NEVER_S)
        counting.count(Kind.PAGE, noon, 0.5)
        counting.count(Kind.PAGE, noon + STEP - timedelta(microseconds=1), 0.51)
        counting.count(Kind.API, noon, 0.2)
        counting.count(Kind.OTHER, noon + STEP, 1.01)
        counting.add()
        counting.stop()

    with database.read() as session:
        slow = slow_by_step(session, noon)
        fast = in_time_by_day(session, noon)

    day = noon.replace(hour=0)
    assert slow == [Counted(noon, 0, 6), Counted(noon + STEP, 2, 2)]
    assert fast == {
        Kind.PAGE: [Counted(day, 2, 4)],
        Kind.API: [Counted(day, 2, 2)],
        Kind.OTHER: [Counted(day, 0, 2)],
    }


def test_what_is_counted_while_the_database_is_away_is_added_later(
    database: Connected, noon: datetime
) -> None:
    away = connect("postgresql+psycopg2://nobody@127.0.0.1:1/none", pool_size=1)
    counting = ResponseTimes(away, NEVER_S)
    counting.count(Kind.API, noon, 0.1)
    counting.add()
    counting.count(Kind.API, noon, 0.3)
    counting._database = database
    counting.add()
    counting.add()
    counting.stop()

    with database.read() as session:
        assert in_time_by_day(session, noon)[Kind.API] == [Counted(noon.replace(hour=0), 1, 2)]


def test_what_is_not_added_yet_is_added_at_the_end(database: Connected, noon: datetime) -> None:
    counting = ResponseTimes(database, NEVER_S)
    counting.count(Kind.API, noon, 0.1)
    counting.stop()
    counting.stop()

    with database.read() as session:
        assert in_time_by_day(session, noon)[Kind.API] == [Counted(noon.replace(hour=0), 1, 1)]


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/marketplace", Kind.PAGE),
        ("GET", "/dashboard/wallet", Kind.PAGE),
        ("GET", "/dashboard", Kind.OTHER),
        ("GET", "/api/wallet/info", Kind.API),
        ("POST", "/api/wallet/instant-purchase", Kind.API),
        ("GET", "/api/wallet/payment-methods", Kind.OTHER),
    ],
)
def test_what_the_plan_has_a_target_for_is_a_kind_of_its_own(
    alone: Flask, method: str, path: str, kind: Kind
) -> None:
    with alone.test_request_context(path, method=method):
        assert kind_of(request) == kind
