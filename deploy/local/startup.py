"""What every part of the local runner needs when it starts something."""

import fcntl
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

# Below the range that Linux hands to outgoing connections (32768 and up): a port from there
# could be taken by some connection between our look and our listening, or during a restart.
FREE_PORTS = range(20_000, 32_000)


_given: set[int] = set()
"""Nobody listens at these yet, maybe; they are somebody's all the same."""


class StartupError(Exception):
    """Something cannot start. The message is one line and says what to do."""


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(*preferred: int) -> int:
    """The first preferred port that is free, else any free one; none that was given before."""
    for port in (*preferred, *random.sample(FREE_PORTS, 200)):
        if port not in _given and is_port_free(port):
            _given.add(port)
            return port
    raise StartupError("No free port was found on 127.0.0.1: stop some of the running servers.")


def wait_for(is_true: Callable[[], bool], timeout_s: float, interval_s: float = 0.05) -> bool:
    """Ask until the answer is yes; False when it never was within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


def take_lock(directory: Path, owner: str) -> IO[str]:
    """Keep another runner out of a directory until the file is closed, or this process ends."""
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StartupError(
            f"{owner} in {directory} is already running: stop the other `make run` first."
        ) from None
    return lock


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner may read, in one step: a crash leaves the old one."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(content)
    draft.replace(path)
