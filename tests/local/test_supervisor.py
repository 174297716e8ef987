"""The supervisor of `make run`, with small programs in place of the services."""

import os
import sys
from pathlib import Path

import pytest

from deploy.local.child import Child
from deploy.local.startup import StartupError
from deploy.local.supervisor import Supervisor
from tests.patience import eventually

WAIT_FOR_EVER = "import signal; signal.pause()"


def program(tmp_path: Path, name: str, code: str) -> Child:
    argv = [sys.executable, "-c", code]
    return Child(name, argv, dict(os.environ), tmp_path / f"{name}.log")


def test_a_process_that_ends_is_started_again_and_the_others_stay(tmp_path: Path) -> None:
    crashing = program(tmp_path, "crashing", WAIT_FOR_EVER)
    steady = program(tmp_path, "steady", WAIT_FOR_EVER)
    said: list[str] = []
    supervisor = Supervisor([crashing, steady], said.append)
    supervisor.start()
    steady_pid, crashed_pid = steady.pid, crashing.pid
    crashing.kill()

    def is_back() -> bool:
        supervisor.tend()
        return crashing.is_running and crashing.pid != crashed_pid

    try:
        eventually(is_back)
        assert steady.pid == steady_pid
        assert "crashing ended with -9" in said[0]
    finally:
        supervisor.stop()


def test_a_log_is_bounded_while_its_process_writes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.child.LOG_BYTES_MAX", 1000)
    endless = "import time\nwhile True: print('a line', flush=True); time.sleep(0.001)"
    talking = program(tmp_path, "talking", endless)
    supervisor = Supervisor([talking])
    supervisor.start()
    full = tmp_path / "talking.log.1"

    def times_full(seen: list[int]) -> int:
        supervisor.tend()
        if full.exists() and full.stat().st_mtime_ns not in seen:
            seen.append(full.stat().st_mtime_ns)
        return len(seen)

    try:
        seen: list[int] = []
        eventually(lambda: times_full(seen), lambda times: times >= 2)
        # The last one may be half written.
        eventually(lambda: set(talking.tail(5).splitlines()) <= {"a line"})
    finally:
        supervisor.stop()


def test_the_delay_grows_with_every_end(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor([program(tmp_path, "broken", "raise SystemExit(1)")], said.append)
    supervisor.start()

    def has_ended_twice() -> bool:
        supervisor.tend()
        return len(said) == 2

    eventually(has_ended_twice)
    assert ("in 0.5 s" in said[0], "in 1 s" in said[1]) == (True, True)


def test_a_process_that_refuses_its_settings_stops_the_start_with_its_own_words(
    tmp_path: Path,
) -> None:
    code = "import sys; print('Setting SECRET_KEY: too short.'); sys.exit(78)"
    refusing = program(tmp_path, "gateway", code)
    supervisor = Supervisor([refusing])
    supervisor.start()
    eventually(lambda: not refusing.is_running)

    with pytest.raises(StartupError, match=r"gateway refuses its settings\. Setting SECRET_KEY"):
        supervisor.tend()


def test_a_process_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
    stubborn = program(tmp_path, "stubborn", f"{code}; [signal.pause() for _ in iter(int, 1)]")
    stubborn.start()
    eventually(lambda: "up" in stubborn.tail())

    stubborn.stop(timeout_s=0.2)

    assert stubborn.exit_code == -9


def test_a_child_ends_when_its_runner_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from deploy.local.child import Child;"
        f"child = Child('c', [sys.executable, '-c', {WAIT_FOR_EVER!r}], dict(os.environ),"
        " Path(sys.argv[1]) / 'c.log'); child.start();"
        " Path(sys.argv[1], 'pid').write_text(str(child.pid)); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-c", code, str(tmp_path)]
    runner = Child("runner", argv, dict(os.environ), tmp_path / "runner.log", directory=root)
    runner.start()
    eventually(lambda: not runner.is_running)

    pid = int((tmp_path / "pid").read_text())

    eventually(lambda: not has_a_life(pid))


def has_a_life(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"
