"""What the tests run: the lines of the rules, and how long each test takes."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mutants.at_start.sitecustomize import ROW_BYTES, follow
from mutants.faults import Fault

ROWS_MAX = 10_000
AT_START = Path(__file__).parent / "at_start"


@dataclass
class Seen:
    """How long each test takes, and which tests ``ran`` a line, as in ``file.py:12``."""

    took_s: dict[str, float] = field(default_factory=dict)
    fixtures_s: float = 0.0
    """How long one test at most set up what it shares with others."""
    with_processes: list[str] = field(default_factory=list)
    ran: dict[str, list[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    """Those that fail without a fault, as on a machine that is too busy for them."""

    def tests_for(self, fault: Fault) -> list[str]:
        """The tests that may notice the fault, the quick ones first."""
        ran = {test for line in fault.lines for test in self.ran.get(f"{fault.file}:{line}", ())}
        tests = (ran if fault.lines else self.took_s.keys()) - set(self.failed)

        def place(test: str) -> tuple[bool, bool, bool, str, float]:
            file = test.partition("::")[0]
            is_of_others = Path(file).name != f"test_{Path(fault.file).name}"
            has_processes = test in self.with_processes
            return (
                # What runs at import is run by all: for an entrypoint, most of them in vain.
                is_of_others and not fault.lines,
                has_processes,
                # Processes are shared by the tests of a file, and started anew for the next one.
                has_processes and is_of_others,
                file if has_processes else "",
                self.took_s[test],
            )

        return sorted(tests, key=place)

    def took_in_all_s(self, test: str) -> float:
        """How long a test takes, if it is the one that starts the processes it shares."""
        return self.took_s[test] + (self.fixtures_s if test in self.with_processes else 0)


class Observer:
    """A plugin of pytest that fills in a :class:`Seen`."""

    def __init__(self, seen: Seen, rules: Sequence[str], scratch: Path) -> None:
        self._seen = seen
        # What runs outside of any test, or in a fixture that tests share, is run by all of them.
        self._rows = [""]
        self._row = 0
        self._tests_with: dict[str, list[str]] = defaultdict(list)
        self._lines: list[str] = []
        starts = {}
        for rule in rules:
            starts[str(Path(rule).resolve())] = len(self._lines)
            count = len(Path(rule).read_text().splitlines())
            self._lines += [f"{rule}:{line}" for line in range(count + 1)]
        table = scratch / "lines"
        table.touch()
        os.truncate(table, ROW_BYTES + ROWS_MAX * len(self._lines))
        plan = {"table": str(table), "width": len(self._lines), "starts": starts}
        self._plan = scratch / "lines.json"
        self._plan.write_text(json.dumps(plan))
        self._processes = 0
        self._shared_s = 0.0
        self._fixtures_with_processes: set[str] = set()
        self._follow_processes()
        self._table = follow(str(self._plan))

    def _follow_processes(self) -> None:
        begin = subprocess.Popen.__init__

        def begin_followed(process: Any, *arguments: Any, **options: Any) -> None:
            self._processes += 1
            environment = dict(options.get("env") or os.environ)
            path = [str(AT_START), *filter(None, [environment.get("PYTHONPATH")])]
            environment |= {"LINES_PLAN": str(self._plan), "PYTHONPATH": os.pathsep.join(path)}
            begin(process, *arguments, **{**options, "env": environment})

        subprocess.Popen.__init__ = begin_followed  # type: ignore[method-assign]

    @contextmanager
    def _row_of(self, name: str) -> Iterator[None]:
        before = self._row
        self._rows.append(name)
        self._write_to(len(self._rows) - 1)
        yield
        self._write_to(before)

    def _write_to(self, row: int) -> None:
        self._row = row
        self._table[:ROW_BYTES] = row.to_bytes(ROW_BYTES, "little")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        test, fixtures = item.nodeid, set(getattr(item, "fixturenames", ()))
        for name in ("", test, *fixtures):
            self._tests_with[name].append(test)
        started, processes, self._shared_s = time.monotonic(), self._processes, 0.0
        with self._row_of(test):
            yield
        self._seen.took_s[test] = time.monotonic() - started - self._shared_s
        self._seen.fixtures_s = max(self._seen.fixtures_s, self._shared_s)
        if self._processes > processes or fixtures & self._fixtures_with_processes:
            self._seen.with_processes.append(test)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        started, processes, shared_s = time.monotonic(), self._processes, self._shared_s
        if fixturedef.scope == "function":
            yield
        else:
            with self._row_of(fixturedef.argname):
                yield
            self._shared_s = shared_s + time.monotonic() - started
        if self._processes > processes:
            self._fixtures_with_processes.add(fixturedef.argname)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._seen.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        ran: dict[str, set[str]] = defaultdict(set)
        for row, name in enumerate(self._rows):
            start = ROW_BYTES + row * len(self._lines)
            noted = self._table[start : start + len(self._lines)]
            for line, is_noted in zip(self._lines, noted, strict=True):
                if is_noted:
                    ran[line].update(self._tests_with[name])
        self._seen.ran = {line: sorted(tests) for line, tests in ran.items()}
