"""What the set-up says and does about what is missing on the system, before it loads anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.patience import START_PATIENCE_S

INSTALL = Path(__file__).resolve().parents[2] / "deploy" / "local" / "install.sh"
# What every system has.
BASE = ("bash", "dirname", "printf", "cat", "rm")
# What only the tests need, by its package; more of them may be missing on the machine that we are.
FOR_TESTS = ("git", "chromium", "docker-compose")


class Machine:
    """A clone on a system that has nothing but a shell; ``add`` gives it a command of ours."""

    def __init__(self, place: Path) -> None:
        self.clone = place / "clone"
        self._bin = place / "bin"
        self._bin.mkdir(parents=True)
        self.script = self.clone / "deploy" / "local" / "install.sh"
        self.script.parent.mkdir(parents=True)
        shutil.copy(INSTALL, self.script)
        for command in BASE:
            (self._bin / command).symlink_to(shutil.which(command) or "")
        self.add("id", "echo 1000")  # an ordinary user

    def add(self, name: str, script: str) -> None:
        command = self._bin / name
        command.write_text(f"#!/bin/bash\n{script}\n")
        command.chmod(0o755)

    def install(self, mode: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", self.script, mode],
            env={"PATH": str(self._bin), "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            timeout=START_PATIENCE_S,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_all_that_is_missing_is_named_in_one_command_before_anything_is_loaded(
    machine: Machine,
) -> None:
    said = machine.install("test")

    assert said.returncode == 1
    (command,) = [part for part in said.stderr.split("`") if "apt-get" in part]
    assert set(FOR_TESTS) <= set(command.split())
    assert not (machine.clone / ".venv").exists()


def test_a_run_needs_nothing_of_the_tests(machine: Machine) -> None:
    machine.add("docker", "exit 0")  # an engine that answers stands in for RabbitMQ
    machine.add(
        "python3.13", 'case "$*" in *ensurepip*|*virtualenv*) exit 1 ;; *%d.*) echo x ;; esac'
    )

    said = machine.install("run")

    (command,) = [part for part in said.stderr.split("`") if "apt-get" in part]
    assert not set(FOR_TESTS) & set(command.split())


def test_what_checks_benchmarks_and_pictures_use_is_asked_for_by_nothing_else(
    machine: Machine,
) -> None:
    asked = {
        mode: set(machine.install(mode).stderr.split("`")[1].split())
        for mode in ("test", "check", "bench", "pictures")
    }

    assert asked["check"] - asked["test"] == {"npm"}
    assert asked["bench"] - asked["check"] == {"wrk"}
    assert asked["pictures"] - asked["check"] == {
        "prometheus-postgres-exporter",
        "prometheus-node-exporter",
    }


def test_all_that_is_missing_is_installed_in_one_go_with_sudo(machine: Machine) -> None:
    calls = machine.clone / "calls"
    machine.add("apt-get", "exit 1")  # only root may
    machine.add("sudo", f'[ "$2" != tee ] || cat >/dev/null; printf "%s\\n" "$*" >>{calls}')

    machine.install("test")

    (install,) = [line for line in calls.read_text().splitlines() if " install " in line]
    assert set(FOR_TESTS) <= set(install.split())
