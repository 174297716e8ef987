"""Machines on a network of their own, each a network namespace, which can be cut off."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Self

NETWORK = "10.77.0"
BRIDGE = "machines"


class Machine:
    """A network namespace with an address on the bridge; what runs in it, runs on this machine."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs another one here."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]

    def plug_in(self) -> Self:
        """Make the machine."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")
        _ip("link", "set", self.name, "up")
        self.join()
        return self

    def cut(self) -> None:
        """Lose every packet to and from it. Nobody is told: connections stay open at both ends."""
        _ip("link", "set", self.name, "nomaster")

    def join(self) -> None:
        """Have it on the network again."""
        _ip("link", "set", self.name, "master", BRIDGE)

    def kill_all(self) -> None:
        """End everything that runs there, as a loss of power would."""
        while pids := subprocess.check_output(
            ["ip", "netns", "pids", self.name], text=True
        ).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)


def make_network() -> None:
    """The bridge, on which we are a machine as well."""
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
