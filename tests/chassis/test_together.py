"""What many ask for at once is done in one go, and nobody pays for another."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from chassis.together import ALONE, Alone, AskedTogether, Together
from contracts.errors import DeadlineExceeded, ServiceError, Unavailable
from tests.patience import PATIENCE_S, eventually


class Work:
    """Doubles numbers; the first group is held up until ``begin`` is set."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.alone: list[int] = []
        self.begin = Event()
        self.fails = False
        self.together = Together(self.double_all, self.double)

    def double_all(self, numbers: Sequence[int]) -> list[int | Exception | Alone]:
        self.groups.append(list(numbers))
        assert self.begin.wait(PATIENCE_S)
        if self.fails:
            raise RuntimeError("the database is away")
        return [_outcome(number) for number in numbers]

    def double(self, number: int) -> int:
        self.alone.append(number)
        return 2 * number


def _outcome(number: int) -> int | Exception | Alone:
    if number == 13:
        return ValueError("an unlucky number")
    return ALONE if number == 1 else 2 * number


def all_at_once(work: Work, *numbers: int) -> list[int | BaseException]:
    """The first number leads, and the others come while its group is under way."""
    with ThreadPoolExecutor(len(numbers)) as callers:
        asked = [callers.submit(work.together.do, numbers[0])]
        eventually(lambda: work.groups)
        asked += [callers.submit(work.together.do, number) for number in numbers[1:]]
        eventually(lambda: len(work.together._waiting) == len(numbers) - 1)
        work.begin.set()
        return [each.exception() or each.result() for each in asked]


def test_who_comes_while_a_group_is_under_way_is_in_the_next_one() -> None:
    work = Work()

    assert all_at_once(work, 2, 3, 4, 5) == [4, 6, 8, 10]
    assert [len(group) for group in work.groups] == [1, 3]


def test_one_that_is_refused_fails_by_itself() -> None:
    work = Work()

    _, refused, fine = all_at_once(work, 2, 13, 4)

    assert (type(refused), fine) == (ValueError, 8)


def test_one_that_cannot_be_done_with_the_others_is_done_alone() -> None:
    work = Work()

    assert all_at_once(work, 2, 1, 4) == [4, 2, 8]
    assert work.alone == [1]


def test_each_is_done_alone_where_the_whole_fails() -> None:
    work = Work()
    work.fails = True

    assert all_at_once(work, 2, 3, 4) == [4, 6, 8]
    assert sorted(work.alone) == [2, 3, 4]


def test_the_next_caller_leads_after_a_failure() -> None:
    work = Work()
    work.begin.set()
    work.fails = True
    work.together.do(2)
    work.fails = False

    assert work.together.do(3) == 6
    assert work.groups == [[2], [3]]


def test_a_span_that_cannot_be_begun_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no span")

    monkeypatch.setattr("chassis.traces.grouped", fail)
    work = Work()

    with ThreadPoolExecutor(1) as callers:
        assert callers.submit(work.together.do, 2).result(PATIENCE_S) == 4
        assert callers.submit(work.together.do, 3).result(PATIENCE_S) == 6
    assert (work.groups, work.alone) == ([], [2, 3])


def test_out_of_turn_nobody_waits_for_a_group_that_he_is_no_part_of() -> None:
    work = Work()
    work.together = Together(work.double_all, work.double, turn_s=0)

    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(work.together.do, number) for number in (2, 3)]
        eventually(lambda: sum(len(group) for group in work.groups) == 2)
        work.begin.set()

        assert [each.result() for each in asked] == [4, 6]


def test_a_group_whose_turn_is_over_keeps_the_next_one_waiting_no_longer() -> None:
    work = Work()
    work.together = Together(work.double_all, work.double, turn_s=0.05)

    with ThreadPoolExecutor(3) as callers:
        asked = [callers.submit(work.together.do, 2)]
        eventually(lambda: work.groups == [[2]])
        asked += [callers.submit(work.together.do, number) for number in (3, 4)]
        eventually(lambda: sum(len(group) for group in work.groups) == 3)
        work.begin.set()

        assert [each.result() for each in asked] == [4, 6, 8]
    assert work.together.do(5) == 10
    assert work.alone == []


def test_who_found_no_place_in_a_full_group_waits_no_longer_than_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chassis.together.GROUP_MAX", 2)
    groups: list[list[int]] = []
    is_first_done, are_all_done = Event(), Event()

    def double_all(numbers: Sequence[int]) -> list[int | Exception | Alone]:
        groups.append(list(numbers))
        assert (are_all_done if 2 not in numbers else is_first_done).wait(2 * PATIENCE_S)
        return [2 * number for number in numbers]

    together = Together(double_all, lambda number: 2 * number, turn_s=PATIENCE_S)
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(together.do, 2)]
        eventually(lambda: groups)
        asked += [callers.submit(together.do, number) for number in (3, 4, 5)]
        eventually(lambda: len(together._waiting) == 3)
        together._turn_s = 0.05
        is_first_done.set()
        try:
            eventually(lambda: len(groups) == 3)
        finally:
            are_all_done.set()

        assert [each.result() for each in asked] == [4, 6, 8, 10]
    assert [len(group) for group in groups] == [1, 2, 1]


def test_who_comes_within_a_turn_is_in_the_group_after_it() -> None:
    work = Work()
    work.together = Together(work.double_all, work.double, turn_s=PATIENCE_S)

    assert all_at_once(work, 2, 3, 4) == [4, 6, 8]
    assert [len(group) for group in work.groups] == [1, 2]


@pytest.mark.parametrize("number", [13])
def test_what_is_refused_by_itself_is_raised(number: int) -> None:
    work = Work()
    work.begin.set()

    with pytest.raises(ValueError, match="unlucky"):
        work.together.do(number)


def test_a_service_is_asked_once_about_all_who_are_asked_about_meanwhile() -> None:
    asked: list[list[int]] = []
    is_free = Event()

    def ask(numbers: Sequence[int]) -> dict[int, str]:
        asked.append(sorted(numbers))
        if len(asked) == 1:
            is_free.wait(PATIENCE_S)
        return {number: str(number) for number in numbers if number < 9}

    questions = AskedTogether(ask)
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(questions.find, 1)]
        eventually(lambda: asked)
        answers += [pool.submit(questions.find, number) for number in (2, 2, 9)]
        eventually(lambda: len(questions._questions._waiting), is_right=lambda count: count == 3)
        is_free.set()
        assert [answer.result(PATIENCE_S) for answer in answers] == ["1", "2", "2", None]

    assert asked == [[1], [2, 9]]


@pytest.mark.parametrize(
    "error", [Unavailable("away"), DeadlineExceeded("silent"), ServiceError("not so")]
)
def test_what_came_of_one_question_is_raised_and_not_asked_again(error: Exception) -> None:
    asked: list[Sequence[int]] = []

    def ask(numbers: Sequence[int]) -> dict[int, str]:
        asked.append(numbers)
        raise error

    with pytest.raises(type(error)):
        AskedTogether(ask).find(1)

    assert asked == [[1]]
