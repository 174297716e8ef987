"""What the tests run: the lines of the rules, and how long each test takes.

Lines that a process runs which a test starts are not seen. Such tests may run any line.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from coverage import Coverage

from mutants.faults import Fault

EVERY_TEST = ""
"""In place of a test: what ran at import, or in a fixture that tests share."""


@dataclass
class Seen:
    """How long each test takes, and which tests ``ran`` a line, as in ``file.py:12``."""

    took_s: dict[str, float] = field(default_factory=dict)
    with_processes: list[str] = field(default_factory=list)
    ran: dict[str, list[str]] = field(default_factory=dict)

    def tests_for(self, fault: Fault) -> list[str]:
        """The tests that may notice the fault, the quick ones first."""
        ran = {test for line in fault.lines for test in self.ran.get(f"{fault.file}:{line}", ())}
        may_notice = (ran - {EVERY_TEST}).union(self.with_processes)
        if not fault.lines or EVERY_TEST in ran:
            may_notice = set(self.took_s)

        def place(test: str) -> tuple[bool, bool, str, bool, float]:
            # Processes are shared by the tests of a file, and started anew for the next one.
            has_processes = test in self.with_processes
            file = test.partition("::")[0] if has_processes else ""
            has_its_name = Path(file).name == f"test_{Path(fault.file).name}"
            return has_processes, not has_its_name, file, test not in ran, self.took_s[test]

        return sorted(may_notice, key=place)


class Observer:
    """A plugin of pytest that fills in a :class:`Seen`."""

    def __init__(self, seen: Seen, rules: Sequence[str]) -> None:
        self._seen = seen
        self._rules = rules
        self._coverage = Coverage(
            data_file=None, include=rules, config_file=False, concurrency=["thread", "eventlet"]
        )
        self._context = EVERY_TEST
        self._processes = 0
        self._shared_s = 0.0
        self._fixtures_with_processes: set[str] = set()
        sys.addaudithook(self._hear)
        self._coverage.start()

    def _hear(self, event: str, _: object) -> None:
        self._processes += event == "subprocess.Popen"

    @contextmanager
    def _switched(self, context: str) -> Iterator[None]:
        before, self._context = self._context, context
        self._coverage.switch_context(context)
        yield
        self._context = before
        self._coverage.switch_context(before)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        started, processes, self._shared_s = time.monotonic(), self._processes, 0.0
        with self._switched(item.nodeid):
            yield
        self._seen.took_s[item.nodeid] = time.monotonic() - started - self._shared_s
        fixtures = set(getattr(item, "fixturenames", ()))
        if self._processes > processes or fixtures & self._fixtures_with_processes:
            self._seen.with_processes.append(item.nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        started, processes = time.monotonic(), self._processes
        if fixturedef.scope == "function":
            yield
        else:
            with self._switched(EVERY_TEST):
                yield
            if self._context != EVERY_TEST:
                self._shared_s += time.monotonic() - started
        if self._processes > processes:
            self._fixtures_with_processes.add(fixturedef.argname)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        for file in self._rules:
            for line, tests in data.contexts_by_lineno(str(Path(file).resolve())).items():
                self._seen.ran[f"{file}:{line}"] = tests
