"""The alerts of /admin: from which share on, since when, and until when."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.analytics import Figures, Numbers, Point, Step
from contracts.topup import Problem
from services.gateway.response_times import Counted
from services.gateway.staff import alerts
from services.gateway.staff.alerts import Alert

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
START = NOW.replace(minute=0)


def numbers(**figures: list[int]) -> Numbers:
    """Of hours, the last of which is the present one."""
    length = max(map(len, figures.values()))
    points = [
        Point(
            starts_at=START - (length - 1 - number) * HOUR,
            active_users=0,
            auto_topup_users=0,
            burn_micros=0,
            **{name: values[number] for name, values in figures.items()},
        )
        for number in range(length)
    ]
    return Numbers(
        since=points[0].starts_at,
        until=START + HOUR,
        step=Step.HOUR,
        points=points,
        total=Figures(),
        purchases_ended=[],
        topups_failed=[],
    )


def since(found: list[Alert]) -> list[datetime]:
    return [alert.since for alert in found]


@pytest.mark.parametrize(("failed", "fires"), [(5, False), (6, True)])
def test_purchases_are_an_alert_above_five_in_a_hundred_and_not_at_it(
    failed: int, *, fires: bool
) -> None:
    told = numbers(purchases_failed=[failed], purchases_completed=[100 - failed])

    assert since(alerts.of_purchases(told, NOW)) == ([START] if fires else [])


@pytest.mark.parametrize(("failed", "fires"), [(10, False), (11, True)])
def test_automatic_topups_are_an_alert_above_ten_in_a_hundred_and_not_at_it(
    failed: int, *, fires: bool
) -> None:
    told = numbers(topups_auto_failed=[failed], topups_auto=[100 - failed])

    assert since(alerts.of_topups(told, NOW)) == ([START] if fires else [])


def test_an_alert_is_as_old_as_the_first_of_the_bad_hours_in_a_row_and_counts_them_all() -> None:
    told = numbers(purchases_failed=[5, 0, 1, 0, 2], purchases_completed=[0, 20, 1, 0, 1])

    [alert] = alerts.of_purchases(told, NOW)

    # The quiet hour between says nothing; the good one ends what was before it.
    assert alert.since == START - 2 * HOUR
    assert alert.message == "3 of 5 purchases failed; the limit is 5 %."


@pytest.mark.parametrize(("quiet_hours", "fires"), [(1, True), (2, False)])
def test_an_alert_ends_when_nothing_happened_for_an_hour_and_the_next(
    quiet_hours: int, *, fires: bool
) -> None:
    quiet = [0] * quiet_hours
    told = numbers(purchases_failed=[3, *quiet], purchases_completed=[0, *quiet])

    assert bool(alerts.of_purchases(told, NOW)) is fires


def test_answers_are_slow_above_one_of_twenty_and_no_longer_a_quarter_of_an_hour_later() -> None:
    step = [Counted(NOW - timedelta(minutes=5), 6, 100)]

    assert since(alerts.of_answers(step, NOW)) == [NOW - timedelta(minutes=5)]
    assert alerts.of_answers([Counted(NOW, 5, 100)], NOW) == []
    assert alerts.of_answers(step, NOW + timedelta(minutes=10)) == []


def test_payments_need_a_look_since_the_oldest_that_is_not_one_person_s() -> None:
    problems = [
        Problem(code=code, message="m", since=NOW - timedelta(days=age))
        for code, age in (
            ("topup_failed", 9),
            ("dispute_open", 8),
            ("stuck_unknown", 2),
            ("notice_undone", 1),
        )
    ]

    [alert] = alerts.of_payments(problems)

    assert alert.since == NOW - timedelta(days=2)
    assert alert.message == "2 of them: notice undone, stuck unknown."
    assert alerts.of_payments(problems[:2]) == []
