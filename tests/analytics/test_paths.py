"""Paths: whose they are is nowhere, how far each came is kept for days, and the counts stay."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, text

from chassis.database import Connected
from chassis.retention import forget
from contracts.messages import Event
from services.analytics.models import FactRow
from services.analytics.service import STEPS_KEPT
from tests.analytics.conftest import BUY_NOW, at, steps, story
from tests.counted import all_counts, hear

LOOKED = steps(2, ("a", BUY_NOW, "product_page", "10:00:00"))
OPENED = steps(2, ("a", BUY_NOW, "dialog", "10:59:00"))
BOUGHT = steps(2, ("a", BUY_NOW, "completed", "11:00:00"))


def by_hour(database: Connected) -> dict[tuple[str, int], int]:
    counts = all_counts(database).items()
    return {(key[1], key[2].hour): n for key, n in counts if key[0] == "hour"}


@pytest.mark.parametrize(
    ("heard", "by_hand"),
    [
        (
            [LOOKED],
            {("paths_buy_now_product_page", 10): 1, ("left_buy_now_product_page", 10): 1},
        ),
        (
            [OPENED, LOOKED],
            {
                ("paths_buy_now_product_page", 10): 1,
                ("paths_buy_now_dialog", 10): 1,
                ("left_buy_now_dialog", 10): 1,
            },
        ),
        (
            [BOUGHT, LOOKED, OPENED, LOOKED],
            {
                ("paths_buy_now_product_page", 10): 1,
                ("paths_buy_now_dialog", 10): 1,
                ("paths_buy_now_completed", 11): 1,
            },
        ),
    ],
)
def test_a_path_ends_where_it_came_last_in_whatever_order_that_is_heard(
    database: Connected, heard: list[Event], by_hand: dict[tuple[str, int], int]
) -> None:
    for event in heard:
        hear(database, [event])

    assert by_hour(database) == by_hand


def test_paths_are_forgotten_after_days_and_their_counts_stay(database: Connected) -> None:
    hear(database, story())
    counted, now = all_counts(database), at(5, "09:00:00")
    with database.read() as session:
        others = session.scalar(select(func.count()).where(FactRow.kind != "step"))

    gone = forget(database, now, [STEPS_KEPT])

    with database.read() as session:
        left = session.scalars(select(FactRow.at).where(FactRow.kind == "step")).all()
        assert session.scalar(select(func.count()).where(FactRow.kind != "step")) == others
    # Those of the 2nd; of the 3rd, right on the hour, none is older than two days.
    assert gone == {"facts": 5}
    assert min(left) == now - timedelta(days=2)
    assert all_counts(database) == counted
    assert forget(database, now + timedelta(days=30), [STEPS_KEPT]) == {"facts": 13}
    assert all_counts(database) == counted


def test_old_steps_are_found_by_an_index(database: Connected) -> None:
    with database.begin() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        given = {"before": at(9, "00:00:00"), "limit": 10}
        plan = session.scalars(text(f"EXPLAIN {STEPS_KEPT.statement}"), given).all()

    assert any("facts_of_paths" in line for line in plan)
