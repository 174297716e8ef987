"""How the tests wait: a stall is no failure, and what is wrong each time is."""

from collections.abc import Callable, Iterator

import pytest
import requests
from psycopg2.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError

from contracts.errors import Overloaded
from tests import patience
from tests.patience import GAP, answered, eventually, insist, least_s, min_of


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)


def answer(status: int) -> requests.Response:
    given = requests.Response()
    given.status_code = status
    return given


def each(*values: float) -> tuple[Callable[[], float], Iterator[float]]:
    left = iter(values)
    return left.__next__, left


def test_a_stall_spoils_one_measurement_and_no_more_are_made_than_needed() -> None:
    measure, left = each(9.0, 1.0, 2.0)

    assert min_of(measure, 5) == 1.0
    assert list(left) == [2.0]


def test_what_takes_too_long_each_time_does() -> None:
    assert min_of(lambda: 9.0, 5) == 9.0
    assert least_s(lambda: None, 0.0) > 0


def test_what_is_never_right_fails_with_the_last_sight() -> None:
    sights = iter(range(1_000_000))

    with pytest.raises(AssertionError, match=r"still [1-9]\d* after 0 s"):
        eventually(lambda: next(sights), lambda seen: seen < 0, interval_s=0.001, within_s=0.01)


def test_who_is_told_that_a_service_is_too_busy_asks_again() -> None:
    answers = iter([answer(503), answer(504), answer(409), answer(200)])

    assert answered(lambda: next(answers)).status_code == 409


def test_who_is_put_off_for_ever_gets_what_was_said_at_last(impatient: None) -> None:
    assert answered(lambda: answer(503)).status_code == 503

    def refuse() -> None:
        raise Overloaded("Too many wait.")

    with pytest.raises(Overloaded):
        insist(refuse)


@pytest.mark.parametrize(
    "error", [Overloaded("Too many wait."), OperationalError("", {}, LockNotAvailable())]
)
def test_who_finds_too_many_or_a_row_that_is_held_asks_again(error: Exception) -> None:
    errors = [error]

    def ask() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert insist(ask) == "done"


def test_a_gap_in_a_page_is_found_and_what_stands_in_any_is_none() -> None:
    gaps = (
        "Your burn rate cannot be shown at the moment. Active deployments keep running.",
        "Your balance cannot be read at the moment. Your credits are safe.",
        "What auto top-up will charge cannot be shown at the moment.",
        "Without auto top-ups, which cannot be shown at the moment.",
    )
    others = ("Cannot be shown at the moment. Try again.", "There is none left at the moment")

    assert [bool(GAP.search(text)) for text in (*gaps, *others)] == [True] * 4 + [False] * 2
