"""Logs: a failure that repeats is told once and counted, and nothing else is kept back."""

import io
import json
import logging
from typing import Any

import pytest

from chassis.logs import FORGOTTEN_AFTER_S, JsonFormatter, RepetitionFilter


class Log:
    """A logger with our filter and format, at a time of our own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(JsonFormatter())
        handler.addFilter(RepetitionFilter(clock=lambda: self.now_s))
        self.logger = logging.Logger("test")
        self.logger.addHandler(handler)

    def fail(self, message: str = "it failed", **fields: Any) -> None:
        try:
            raise ConnectionError("away\nDETAIL: much more")
        except ConnectionError:
            self.logger.exception(message, extra=fields)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_failure_that_repeats_is_told_once_with_its_stack_and_then_counted(log: Log) -> None:
    for tenth in range(100):
        log.now_s = 1000.0 + tenth / 10
        log.fail()

    assert ["exc_info" in line for line in log.lines] == [True, False, False, False]
    assert [line.get("repeated") for line in log.lines] == [None, 10, 20, 40]
    assert log.lines[1]["failure"] == "ConnectionError: away"


def test_a_failure_of_something_else_is_told_without_the_stack_that_is_known(log: Log) -> None:
    log.fail(topup="a")
    log.fail(topup="b")

    assert [line["topup"] for line in log.lines] == ["a", "b"]
    assert ["exc_info" in line for line in log.lines] == [True, False]


def test_a_failure_that_comes_back_after_a_while_is_told_in_full(log: Log) -> None:
    log.fail()
    log.now_s += FORGOTTEN_AFTER_S + 1
    log.fail()

    assert ["exc_info" in line for line in log.lines] == [True, True]


def test_what_is_no_failure_is_always_told(log: Log) -> None:
    for _ in range(5):
        log.logger.info("request")

    assert len(log.lines) == 5
