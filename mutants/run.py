"""Tries the faults of one part, in the copy of the repository that is the working directory.

PostgreSQL and the broker are started once. A first run of the tests, without a fault, sees which
lines each of them runs. Each fault gets a process forked from this one, which has imported pytest,
the libraries and, of ours, the contracts, which get no faults. It runs the tests that may notice,
the quick ones first, up to the first that fails. The processes that a test starts read the fault
from the file, as everybody does.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings

from deploy.local.broker import Node, start_node
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from deploy.parts import DATABASES
from mutants.faults import Fault, fault_at, places
from mutants.parts import EQUIVALENT, PARTS, Part
from mutants.seen import Observer, Seen

# What every test process would import anew. Not pytest's plugins, which it wants to rewrite.
IMPORTED = (
    *("alembic.command", "hypothesis.stateful", "kombu", "psycopg2", "pydantic"),
    *("requests", "sqlalchemy.dialects.postgresql.psycopg2", "sqlalchemy.orm", "stripe"),
    *("contracts.billing", "contracts.catalog", "contracts.topup", "contracts.wallet"),
)
IMPORTED_ANEW = {"chassis", "services", "tests"}
NOTICED_MIN = 0.9
LEFT_OUT_MAX = 3
RUN_TIME_LIMIT_S = 3600
# Of one test. A machine may have more to do with a fault than it had without.
TIME_LIMIT_MIN_S = 30.0
TIME_LIMIT_FACTOR = 3.0
ENDED_BY_ALARM = -signal.SIGALRM


class Servers(NamedTuple):
    """Given to pytest as the plugin ``running_servers``: see ``tests/conftest.py``."""

    postgres: Postgres
    broker: Node


class Outcome(StrEnum):
    NOTICED = "noticed"
    TOO_SLOW = "too slow"
    """A hang is noticed, too."""
    SURVIVED = "SURVIVED"


class Trials:
    """The servers, and the tests of a part that run on them."""

    def __init__(self, scratch: Path, part: Part) -> None:
        self._log = scratch / "last-run.log"
        self._last_test = scratch / "last-test"
        self._part = part
        self._seen_file = scratch / "seen.json"
        self._seen = Seen()
        self._servers = Servers(
            start_postgres(scratch / "postgres", is_durable=False),
            start_node(scratch / "rabbitmq"),
        )
        self._written = int(time.time())
        for module in IMPORTED:
            importlib.import_module(module)

    def observe_tests(self) -> float:
        """Run all tests without a fault and see what they run; how long that takes.

        One that fails is not asked any more. Exits if more than a few do.
        """
        started = time.monotonic()
        outcome = self._run()
        if self._seen_file.exists():
            self._seen = Seen(**json.loads(self._seen_file.read_text()))
        failed = self._seen.failed
        if outcome is not Outcome.SURVIVED and not 0 < len(failed) <= LEFT_OUT_MAX:
            sys.exit(f"The tests fail without any fault:\n{self._log.read_text()[-4000:]}")
        for test in failed:
            print(f"Left out, as it failed without any fault: {test}")
        return time.monotonic() - started

    def try_out(self, fault: Fault) -> Outcome:
        """Run the tests that may notice with this fault in its file, and take it out again.

        What may be due to a busy machine counts if it comes twice: a test that takes too long,
        the second time with twice the time, and one that fails with processes of its own.
        """
        tests = self._seen.tests_for(fault)
        file = Path(fault.file)
        source = file.read_text()
        try:
            self._write(file, fault.code)
            while tests:
                self._last_test.write_text("")
                outcome = self._run(tests)
                last = self._last_test.read_text()
                may_be_due_to_load = outcome is Outcome.TOO_SLOW or (
                    outcome is Outcome.NOTICED and last in self._seen.with_processes
                )
                if not (last and may_be_due_to_load):
                    return outcome
                outcome = self._run([last], patience=2)
                if outcome is not Outcome.SURVIVED:
                    return outcome
                tests = tests[tests.index(last) + 1 :]
            return Outcome.SURVIVED
        finally:
            self._write(file, source)

    def stop(self) -> None:
        self._servers.broker.kill()
        self._servers.postgres.stop()

    def _write(self, file: Path, source: str) -> None:
        file.write_text(source)
        # Python knows compiled code by the second of its source and its length, which many
        # faults share.
        self._written += 1
        os.utime(file, (self._written, self._written))

    def _run(self, tests: Sequence[str] = (), patience: int = 1) -> Outcome:
        sys.stdout.flush()
        tester = os.fork()
        if tester == 0:
            os._exit(self._test(tests, patience))
        try:
            return self._outcome(os.waitpid(tester, 0)[1])
        finally:
            # Whatever it started dies with it.
            with suppress(ProcessLookupError):
                os.killpg(tester, signal.SIGKILL)
            for service in DATABASES:
                self._servers.postgres.drop_database(service)

    def _time_limits_s(self, patience: int) -> dict[str, float]:
        """For each test, by what it took without a fault."""
        return {
            test: patience * (TIME_LIMIT_MIN_S + TIME_LIMIT_FACTOR * self._seen.took_in_all_s(test))
            for test in self._seen.took_s
        }

    def _test(self, tests: Sequence[str], patience: int) -> int:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(RUN_TIME_LIMIT_S)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for name in [name for name in sys.modules if name.partition(".")[0] in IMPORTED_ANEW]:
            del sys.modules[name]
        try:
            # Of the plugins installed, which take a second to load, only the one that is needed.
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
            if tests:
                files = dict.fromkeys(test.partition("::")[0] for test in tests)
                choice = Choice(tests, self._time_limits_s(patience), self._last_test)
                plugins = [Setting(self._servers), choice]
                return int(pytest.main(["-x", *options, *files], plugins=plugins))
            observer = Observer(self._seen, self._part.rules, self._seen_file.parent)
            plugins = [Setting(self._servers), observer]
            code = int(pytest.main([*options, *self._part.tests], plugins=plugins))
            self._seen_file.write_text(json.dumps(vars(self._seen)))
            return code
        except Exception:
            traceback.print_exc()
            return int(pytest.ExitCode.INTERNAL_ERROR)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _outcome(self, status: int) -> Outcome:
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(f"pytest ran no test:\n{self._log.read_text()[-4000:]}")
        if code == ENDED_BY_ALARM:
            return Outcome.TOO_SLOW
        return Outcome.SURVIVED if code == pytest.ExitCode.OK else Outcome.NOTICED


class Setting(NamedTuple):
    """A plugin that lets tests run on our servers, and without much ado when one fails."""

    servers: Servers

    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.register(self.servers, "running_servers")
        # The smallest example of a failure is for people.
        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("mutants", deadline=None, phases=phases)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Their own limits are for runs that nobody watches line by line.
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


class Choice(NamedTuple):
    """A plugin that takes these tests, in this order, and ends the process if one takes longer.

    ``last_test`` has the test that ran last.
    """

    tests: Sequence[str]
    time_limits_s: Mapping[str, float]
    last_test: Path

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[test] for test in self.tests if test in found]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.last_test.write_text(item.nodeid)
        # Nobody handles this signal: it ends a wait for the database, too.
        signal.setitimer(signal.ITIMER_REAL, self.time_limits_s[item.nodeid])
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)


def chosen(part: Part, only: str, seed: int, sample: int) -> list[Fault]:
    """The faults to try: all that are not known to be equivalent, or a sample of them."""
    found = [place for file in part.rules if only in file for place in places(file)]
    print(f"{len(found)} faults can be put into {len(part.rules)} files.")
    random.Random(seed).shuffle(found)
    faults = (
        fault
        for place in found
        if (fault := fault_at(place)) is not None and not is_equivalent(fault)
    )
    return sorted(
        islice(faults, sample or None),
        key=lambda fault: (part.rules.index(fault.file), fault.line, fault.kind, fault.after),
    )


def is_equivalent(fault: Fault) -> bool:
    return any(
        all(getattr(fault, name) == entry[name] for name in ("file", "within", "before", "after"))
        for entry in EQUIVALENT
    )


def main(name: str, scratch: str, only: str, seed: str, sample: str) -> int:
    signal.signal(signal.SIGTERM, _end)
    part = PARTS[name]
    faults = chosen(part, only, int(seed), int(sample))
    trials = Trials(Path(scratch), part)
    survivors: list[Fault] = []
    outcomes: Counter[Outcome] = Counter()
    try:
        print(f"The tests take {trials.observe_tests():.0f} s. Trying {len(faults)} faults:")
        for fault in faults:
            started = time.monotonic()
            outcome = trials.try_out(fault)
            outcomes[outcome] += 1
            if outcome is Outcome.SURVIVED:
                survivors.append(fault)
            print(
                f"{outcome:>9} {time.monotonic() - started:4.0f} s  {fault.file}:{fault.line}"
                f" {fault.kind}: {fault.after}",
                flush=True,
            )
    finally:
        trials.stop()
    noticed = len(faults) - len(survivors)
    print(f"\n{name}: {noticed} of {len(faults)} noticed ({outcomes[Outcome.TOO_SLOW]} by a hang).")
    for fault in survivors:
        # As an entry of equivalent.toml, which lacks its reason.
        print(f"\n# line {fault.line}, {fault.kind}\n[[equivalent]]")
        for name in ("file", "within", "before", "after"):
            print(f"{name} = '{getattr(fault, name)}'")
    return 0 if noticed >= NOTICED_MIN * len(faults) else 1


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("ended")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
