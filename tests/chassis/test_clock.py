"""Days as an operator or a person writes them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from chassis import clock
from chassis.clock import start_of_day, utc_now


def test_a_day_begins_at_midnight_in_utc() -> None:
    assert start_of_day("2026-11-28") == datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    ["", "20261128", "2026-W48-6", "2026-1-1", "2026-02-30", "２０２６-11-28", "0.5", "0000-01-01"],
)
def test_what_only_looks_like_a_day_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"day|month|year"):
        start_of_day(written)


@pytest.fixture
def _read_again() -> Iterator[None]:
    clock.ahead.cache_clear()
    yield
    clock.ahead.cache_clear()


@pytest.mark.usefixtures("_read_again")
def test_a_process_may_live_days_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_OFFSET_DAYS", "31")

    assert timedelta(days=31) <= utc_now() - datetime.now(UTC) + timedelta(seconds=1)
    assert utc_now().tzinfo is UTC


@pytest.mark.usefixtures("_read_again")
@pytest.mark.parametrize("written", ["-1", "3651", "a month", "1.5"])
def test_an_absurd_offset_stops_the_process_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], written: str
) -> None:
    monkeypatch.setenv("CLOCK_OFFSET_DAYS", written)

    with pytest.raises(SystemExit):
        utc_now()

    assert capsys.readouterr().err.startswith("Setting CLOCK_OFFSET_DAYS: ")
