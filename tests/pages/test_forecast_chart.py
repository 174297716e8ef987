"""The forecast as it is drawn and tabulated."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.billing import Forecast, ForecastDay, ForecastEvent, ForecastKind
from contracts.topup import AutoTopupStatus
from services.gateway.pages.forecast_chart import EVENTS_SHOWN_MAX, SIDE, draw

TODAY = date(2026, 11, 28)
DOLLAR = 1_000_000
RENEWAL, AUTO_TOPUP = ForecastKind.RENEWAL, ForecastKind.AUTO_TOPUP
ENDS = ForecastKind.PROMOTION_END


def event(day: int, kind: ForecastKind = RENEWAL, dollars: int = 10) -> ForecastEvent:
    return ForecastEvent(
        kind=kind,
        at=datetime(2026, 11, 28, 12, tzinfo=UTC) + timedelta(days=day),
        amount_micros=dollars * DOLLAR,
        deployment_id=UUID(int=1) if kind is RENEWAL else None,
        name="VM-Production" if kind is RENEWAL else "",
    )


def foretold(
    balances: list[int], events: dict[int, list[ForecastEvent]] | None = None, **more: Any
) -> Forecast:
    """The balances of days in dollars; the first is what there is now."""
    return Forecast(
        available_micros=balances[0] * DOLLAR,
        days=[
            ForecastDay(
                date=TODAY + timedelta(days=number),
                balance_micros=balance * DOLLAR,
                events=(found := (events or {}).get(number, [])),
                events_total=len(found),
            )
            for number, balance in enumerate(balances)
        ],
        due_next=[],
        **more,
    )


def topping_up(state: str = "active") -> AutoTopupStatus:
    return AutoTopupStatus(enabled=True, state=state, threshold_micros=10 * DOLLAR)


def test_the_balance_stays_level_and_falls_in_steps() -> None:
    chart = draw(foretold([40, 40, 30, 30], {2: [event(2)]}), None)

    assert chart.ticks == [tick * DOLLAR for tick in (40, 30, 20, 10, 0)]
    assert chart.line == f"M0 0H{SIDE // 2}V{SIDE // 4}H{SIDE}"
    assert chart.area == f"{chart.line}V{SIDE}H0Z"


def test_what_happens_is_marked_by_its_kind() -> None:
    events = {1: [event(1)], 2: [event(2, AUTO_TOPUP), event(2)]}
    chart = draw(foretold([40, 30, 40, 40], events), None)

    assert [(mark.kind, mark.x, mark.y) for mark in chart.marks] == [
        (RENEWAL, 250, 250),
        (AUTO_TOPUP, 500, 0),
        (RENEWAL, 500, 250),
    ]
    assert (chart.has("renewal"), chart.has("auto_topup"), chart.has("usage")) == (
        True,
        True,
        False,
    )


def test_promotional_credit_that_ends_is_marked_where_the_balance_falls() -> None:
    chart = draw(foretold([40, 30, 30, 40], {1: [event(1, ENDS)]}), None)

    assert [(mark.kind, mark.x, mark.y) for mark in chart.marks] == [(ENDS, 250, 250)]


def test_no_renewal_of_the_same_day_covers_the_mark_of_promotional_credit_that_ends() -> None:
    chart = draw(foretold([40, 20], {1: [event(1), event(1, ENDS)]}), None)

    assert [mark.kind for mark in chart.marks] == [RENEWAL, ENDS]


@pytest.mark.parametrize(
    ("balances", "ticks"),
    [
        ([0, 0], [1, 0]),
        ([1, 0], [1, 0]),
        ([5, 4], [6, 4, 2, 0]),
        ([47, 18], [60, 40, 20, 0]),
        ([101, 0], [150, 100, 50, 0]),
        ([999, 0], [1000, 500, 0]),
        ([-3, 20], [20, 10, 0, -10]),
    ],
)
def test_the_scale_is_in_round_dollars_and_holds_every_balance(
    balances: list[int], ticks: list[int]
) -> None:
    chart = draw(foretold(balances), None)

    assert chart.ticks == [tick * DOLLAR for tick in ticks]
    assert len(chart.grid) == len(ticks)


@pytest.mark.parametrize(("state", "threshold_y"), [("active", SIDE // 2), ("paused", None)])
def test_the_threshold_is_drawn_while_auto_topup_is_on(state: str, threshold_y: int | None) -> None:
    assert draw(foretold([20, 20]), topping_up(state)).threshold_y == threshold_y


def test_the_time_in_which_it_is_short_is_marked_and_said() -> None:
    short_on = TODAY + timedelta(days=2)
    chart = draw(foretold([5, 5, 5, 5], short_on=short_on, short_by_micros=29 * DOLLAR), None)

    assert chart.short_x == SIDE // 2
    assert [(row.day.date, row.short_by_micros) for row in chart.rows] == [
        (TODAY, 0),
        (short_on, 29 * DOLLAR),
        (TODAY + timedelta(days=3), 0),
    ]


def test_a_day_on_which_much_happens_names_some_of_it_and_counts_the_rest() -> None:
    events = {1: [event(1, dollars=1) for _ in range(EVENTS_SHOWN_MAX + 3)]}
    _, row, _ = draw(foretold([40, 33, 33], events), None).rows

    assert (len(row.day.events), row.more) == (EVENTS_SHOWN_MAX, 3)


@pytest.mark.parametrize("kind", [ENDS, AUTO_TOPUP])
def test_what_is_no_charge_is_named_however_much_is_charged_before_it(kind: ForecastKind) -> None:
    charges = [event(1, dollars=1) for _ in range(EVENTS_SHOWN_MAX + 2)]
    _, row, _ = draw(foretold([40, 33, 33], {1: [*charges, event(1, kind)]}), None).rows

    assert [each.kind for each in row.day.events] == [RENEWAL] * EVENTS_SHOWN_MAX + [kind]
    assert row.more == 2


def test_beginning_middle_and_end_are_dated() -> None:
    assert [(day - TODAY).days for day in draw(foretold([1] * 32), None).dates] == [0, 16, 31]
