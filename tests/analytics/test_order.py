"""Events come in any order, several times, few or many together: the figures are the same."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.database import Connected
from contracts.analytics import Step
from contracts.messages import Event
from services.analytics.counting import count
from services.analytics.facts import told
from services.analytics.questions import LENGTHS, parts
from tests.analytics.conftest import story
from tests.counted import all_counts, empty, hear
from tests.locks import done_after

EVENTS = story()
START = datetime(2026, 1, 1, tzinfo=UTC)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_neither_order_nor_copies_change_a_figure(database: Connected, data: st.DataObject) -> None:
    heard = data.draw(st.lists(st.sampled_from(EVENTS), min_size=2, unique_by=id), "heard")
    copies = data.draw(st.lists(st.sampled_from(heard), max_size=8), "copies")
    shuffled = data.draw(st.permutations([*heard, *copies]), "in this order")
    together = data.draw(st.integers(1, 12), "so many together")
    empty(database)
    hear(database, sorted(heard, key=lambda event: event.occurred_at))
    once = all_counts(database)

    empty(database)
    for start in range(0, len(shuffled), together):
        hear(database, shuffled[start : start + together])

    assert all_counts(database) == once


def test_all_of_it_backwards_one_by_one_and_then_once_more(database: Connected) -> None:
    hear(database, EVENTS)
    once = all_counts(database)

    empty(database)
    backwards: list[Event] = EVENTS[::-1]
    for event in backwards:
        hear(database, [event])
    hear(database, EVENTS)

    assert all_counts(database) == once
    assert len(once) > 100


@given(first=st.integers(0, 24 * 400), hours=st.integers(1, 24 * 400))
def test_a_time_is_covered_once_by_whole_hours_days_and_weeks(first: int, hours: int) -> None:
    since = START + timedelta(hours=first)
    until = since + timedelta(hours=hours)
    found = sorted(parts(since, until), key=lambda part: part.starts_at)

    assert found[0].starts_at == since
    assert found[-1].ends_at == until
    assert all(a.ends_at == b.starts_at for a, b in itertools.pairwise(found))
    rows = dict.fromkeys(Step, 0)
    for part in found:
        whole, rest = divmod(part.ends_at - part.starts_at, LENGTHS[part.grain])
        assert not rest
        rows[part.grain] += whole
        if part.grain is Step.WEEK:
            assert part.starts_at.weekday() == 0
        if part.grain is not Step.HOUR:
            assert part.starts_at.hour == 0
    # At both ends.
    assert rows[Step.HOUR] <= 2 * 23
    assert rows[Step.DAY] <= 2 * 6


def test_two_who_count_the_same_purchase_at_once_count_it_once(database: Connected) -> None:
    """Neither sees what the other has not committed: both would add what is new to them."""
    done_after(
        database,
        lambda session: count(session, map(told, EVENTS)),
        lambda: hear(database, EVENTS),
    )

    together = all_counts(database)
    empty(database)
    hear(database, EVENTS)
    assert together == all_counts(database)


def test_what_is_interrupted_leaves_nothing_and_counts_once_when_it_comes_again(
    database: Connected,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(database)
    assert all_counts(database) == {}

    hear(database, EVENTS)
    once = all_counts(database)
    hear(database, EVENTS)
    assert all_counts(database) == once


def _interrupted(database: Connected) -> None:
    with database.begin() as session:
        count(session, map(told, EVENTS))
        raise KeyboardInterrupt
