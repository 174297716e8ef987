"""Lines from numbers: where they go, and the marks at their scale."""

from services.gateway.pages.charts import SIDE, draw_line, ticks_around


def test_a_line_goes_through_all_numbers_from_edge_to_edge() -> None:
    drawn = draw_line([0, 10, 5])

    assert drawn.ticks == [10, 5, 0]
    assert drawn.line == f"M0 {SIDE}L500 0L1000 500"
    assert drawn.area == f"{drawn.line}V{SIDE}H0Z"
    assert drawn.grid == [0, 500, 1000]


def test_where_nothing_is_known_the_line_goes_on_to_the_next_number() -> None:
    assert draw_line([None, 10, None, 0]).line == "M333 0L1000 1000"


def test_one_number_is_a_dot_and_none_no_line() -> None:
    assert draw_line([None, 4]).line == "M1000 0h0"
    assert (draw_line([]).line, draw_line([None, None]).area) == ("", "")


def test_what_is_below_zero_is_on_the_scale() -> None:
    drawn = draw_line([-3, 3])

    assert drawn.ticks == [4, 2, 0, -2, -4]
    assert drawn.line == "M0 875L1000 125"


def test_marks_are_round_and_few_whatever_the_numbers() -> None:
    assert ticks_around(0, 1, 1) == [1, 0]
    assert ticks_around(0, 41, 10) == [60, 40, 20, 0]
    assert ticks_around(0, 9_999, 1) == [10_000, 5_000, 0]
