"""What `make run` says when it cannot start, and what it keeps."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local import run
from deploy.local.startup import StartupError, free_port
from tests.patience import START_PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


def test_a_port_in_use_is_one_line_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        environment = {**os.environ, "GATEWAY_PORT": str(port)}
        started = subprocess.run(
            [sys.executable, "-m", "deploy.local.run"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=START_PATIENCE_S,
            check=False,
        )

    message = (
        f"mycelium: Port {port} of the website is in use: stop what listens there,"
        f" or choose another with `make run GATEWAY_PORT={port + 1}`.\n"
    )
    assert (started.returncode, started.stderr) == (1, message)


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1"])
def test_a_port_that_is_no_port_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("SANDBOX_PORT", port)
    monkeypatch.setenv("GATEWAY_PORT", str(free_port()))

    with pytest.raises(StartupError, match="SANDBOX_PORT"):
        run.chosen_ports()


def test_secrets_are_made_once_and_are_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first = run.kept_secrets(path)

    assert run.kept_secrets(path) == first
    assert path.stat().st_mode & 0o077 == 0


def test_no_real_card_is_charged_for_a_month_that_has_not_passed() -> None:
    with pytest.raises(StartupError, match="payment sandbox alone"):
        run.chosen_clock({"CLOCK_OFFSET_DAYS": "31", "STRIPE_API_KEY": "sk_test_mine"})

    assert run.chosen_clock({"STRIPE_API_KEY": "sk_test_mine"}) == 0
    assert run.chosen_clock({"CLOCK_OFFSET_DAYS": "31"}) == 31


@pytest.mark.parametrize("days", ["-1", "3651", "a month", "1.5"])
def test_an_offset_that_is_none_is_named(days: str) -> None:
    with pytest.raises(StartupError, match="CLOCK_OFFSET_DAYS is "):
        run.chosen_clock({"CLOCK_OFFSET_DAYS": days})


def test_time_does_not_go_back_for_data_that_has_lived(tmp_path: Path) -> None:
    path, now = tmp_path / "clock", datetime.now(UTC)
    run.keep_clock(path, now)
    run.keep_clock(path, now + timedelta(days=31))
    run.keep_clock(path, now + timedelta(days=31))

    with pytest.raises(StartupError, match="`CLOCK_OFFSET_DAYS=31 make run`"):
        run.keep_clock(path, now + timedelta(days=30))
