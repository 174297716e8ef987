"""Tries the faults of one part, in the copy of the repository that is the working directory.

PostgreSQL and the broker are started once. Each fault gets a process forked from this one, which
has imported pytest and the libraries but nothing of ours; it stops at the first test that fails.
The processes that a test starts read the fault from the file, as everybody does.
"""

import importlib
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.local.broker import Node, start_node
from deploy.local.postgres import Postgres
from deploy.local.postgres import start as start_postgres
from deploy.parts import DATABASES
from mutants.faults import Fault, faults_in
from mutants.parts import EQUIVALENT, PARTS, Part

# What every test process would import anew. Not pytest's plugins, which it wants to rewrite.
LIBRARIES = ("alembic.command", "kombu", "psycopg2", "pydantic", "sqlalchemy.orm", "stripe")
OURS = {"chassis", "contracts", "services", "tests"}
NOTICED_MIN = 0.9
PATIENCE_S = 20.0
"""A service with a fault in it may never do what a test waits for."""


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
        self._tests = part.tests
        self._servers = Servers(
            start_postgres(scratch / "postgres"), start_node(scratch / "rabbitmq")
        )
        self._time_limit_s = 3600.0
        self._written = int(time.time())
        for library in LIBRARIES:
            importlib.import_module(library)

    def check_tests(self) -> float:
        """Run the tests without a fault; how long they take. Exits if one fails."""
        started = time.monotonic()
        if self._run() is not Outcome.SURVIVED:
            sys.exit(f"The tests fail without any fault:\n{self._log.read_text()[-4000:]}")
        took_s = time.monotonic() - started
        self._time_limit_s = 60 + 3 * took_s
        return took_s

    def try_out(self, fault: Fault) -> Outcome:
        """Run the tests with this fault in its file, and take it out again."""
        file = Path(fault.file)
        source = file.read_text()
        # The tests named after the file notice most of its faults.
        first = [test for test in self._tests if Path(test).name == f"test_{file.name}"]
        try:
            self._write(file, fault.code)
            return self._run(first)
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

    def _run(self, first: Sequence[str] = ()) -> Outcome:
        sys.stdout.flush()
        tester = os.fork()
        if tester == 0:
            os._exit(self._test(first))
        try:
            return self._outcome(tester)
        finally:
            for service in DATABASES:
                self._servers.postgres.drop_database(service)

    def _test(self, first: Sequence[str]) -> int:
        os.setsid()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        try:
            patience = importlib.import_module("tests.patience")
            patience.PATIENCE_S = PATIENCE_S
            options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "120"]
            tests = dict.fromkeys((*first, *self._tests))
            return int(pytest.main([*options, *tests], plugins=[_named(self._servers)]))
        except Exception:
            traceback.print_exc()
            return int(pytest.ExitCode.INTERNAL_ERROR)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _outcome(self, tester: int) -> Outcome:
        deadline = time.monotonic() + self._time_limit_s
        while True:
            ended, status = os.waitpid(tester, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:
                # What it started dies with it.
                os.killpg(tester, signal.SIGKILL)
                os.waitpid(tester, 0)
                return Outcome.TOO_SLOW
            time.sleep(0.05)
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(f"pytest ran no test:\n{self._log.read_text()[-4000:]}")
        return Outcome.SURVIVED if code == pytest.ExitCode.OK else Outcome.NOTICED


def _named(servers: Servers) -> object:
    class Plugin:
        @staticmethod
        def pytest_configure(config: pytest.Config) -> None:
            config.pluginmanager.register(servers, "running_servers")

    return Plugin()


def chosen(part: Part, only: str, seed: int, sample: int) -> list[Fault]:
    """The faults to try: all that are not known to be equivalent, or a sample of them."""
    faults = [
        fault
        for file in part.rules
        if only in file
        for fault in faults_in(Path(), file)
        if not is_equivalent(fault)
    ]
    print(f"{len(faults)} faults can be put into {len(part.rules)} files.")
    if 0 < sample < len(faults):
        faults = sorted(
            random.Random(seed).sample(faults, sample),
            key=lambda fault: (fault.file, fault.line),
        )
    return faults


def is_equivalent(fault: Fault) -> bool:
    return any(
        all(getattr(fault, name) == entry[name] for name in ("file", "within", "before", "after"))
        for entry in EQUIVALENT
    )


def main(name: str, scratch: str, only: str, seed: str, sample: str) -> int:
    part = PARTS[name]
    faults = chosen(part, only, int(seed), int(sample))
    trials = Trials(Path(scratch), part)
    survivors: list[Fault] = []
    outcomes: Counter[Outcome] = Counter()
    try:
        print(f"The tests take {trials.check_tests():.0f} s. Trying {len(faults)} faults:")
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
