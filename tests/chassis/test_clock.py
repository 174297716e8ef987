"""Days as an operator or a person writes them."""

from datetime import UTC, datetime

import pytest

from chassis.clock import start_of_day


def test_a_day_begins_at_midnight_in_utc() -> None:
    assert start_of_day("2026-11-28") == datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    ["", "20261128", "2026-W48-6", "2026-1-1", "2026-02-30", "２０２６-11-28", "0.5", "0000-01-01"],
)
def test_what_only_looks_like_a_day_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"day|month|year"):
        start_of_day(written)
