"""What `make run` says when it cannot start, and what it keeps."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import run
from deploy.local.startup import StartupError, free_port

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
            timeout=60,
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
