"""The client package, built from the repository and installed where nothing else of ours is."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts.wallet import Credit, OpenAccount
from deploy.local.processes import ROOT
from tests.gateway.conftest import Api, new_member, product, system_database, visitor
from tests.patience import START_PATIENCE_S
from tests.system import System

__all__ = ["new_member", "product", "system_database", "visitor"]

PACKAGE = ROOT / "clients" / "python"
PACKAGES = Path(sys.prefix) / "client-packages"
"""Where `make install-test` puts the packages of its lock."""


@pytest.fixture(scope="session")
def installed(scratch: Path) -> Path:
    """The folder of the programs of a venv that has the package and what it needs, and no more."""
    venv, wheels = scratch / "client", scratch / "client-wheel"
    _run("hatchling", "build", "-t", "wheel", "-d", str(wheels), directory=PACKAGE)
    [wheel] = wheels.iterdir()
    _run("uv", "venv", "-q", "--offline", "-p", sys.executable, str(venv))
    install = ("uv", "pip", "install", "-q", "--offline", "--no-index", "-p", str(venv))
    lock = ("--require-hashes", "-r", str(PACKAGE / "requirements.txt"))
    _run(*install, "--find-links", str(PACKAGES), *lock)
    # With `--no-deps` the wheel might ask for what the lock has not.
    _run(*install, str(wheel))
    return venv / "bin"


def _run(module: str, *arguments: str, directory: Path = ROOT) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=directory, capture_output=True, text=True, check=False, timeout=START_PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@dataclass
class Terminal:
    """Somebody with the command ``mycelium`` and a home of their own."""

    program: Path
    home: Path
    site: str
    member: Api
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it. Its token may not be seen, whatever happens."""
        options = {"input": "", "stderr": subprocess.PIPE, **options}
        done = subprocess.run(
            [self.program, *words],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "MYCELIUM_SITE": self.site,
                 **self.environment},
            stdout=subprocess.PIPE, text=True, check=False, timeout=START_PATIENCE_S,
            cwd=self.home, **options,
        )  # fmt: skip
        assert self.member.token
        assert self.member.token not in done.stdout + (done.stderr or "")
        return done


@pytest.fixture
def terminal(
    installed: Path, system: System, new_member: Callable[[], Api], tmp_path: Path
) -> Terminal:
    """A user of the running product with $20.00, who has a token in the environment."""
    member = new_member()
    user_id = member.user_id or UUID(int=0)
    system.rpc.call(OpenAccount(idempotency_key=str(user_id), user_id=user_id))
    system.rpc.call(
        Credit(
            idempotency_key=str(uuid4()),
            user_id=user_id,
            amount_micros=20_000_000,
            description="a gift",
        )
    )
    return Terminal(
        installed / "mycelium", tmp_path, system.base_url, member,
        {"MYCELIUM_TOKEN": str(member.token)},
    )  # fmt: skip
