"""How a test waits for what happens by itself."""

import time
from collections.abc import Callable
from typing import TypeVar

from contracts.errors import Overloaded

Seen = TypeVar("Seen")

PATIENCE_S = 60.0
"""What takes milliseconds takes this long on no machine, however busy it is."""

START_PATIENCE_S = 240.0
"""Nor does a process that starts: the first ones read every module from a cold disk, together."""


def eventually(
    look: Callable[[], Seen],
    is_right: Callable[[Seen], object] = bool,
    interval_s: float = 0.05,
    within_s: float = PATIENCE_S,
) -> Seen:
    """Look until it is right, and give back what was seen; fails with the last sight."""
    deadline = time.monotonic() + within_s
    while not is_right(seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {within_s:.0f} s"
        time.sleep(interval_s)
    return seen


def insist(ask: Callable[[], Seen]) -> Seen:
    """Ask as a caller does who is told to try again in a moment; ``ask`` keeps its key."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Overloaded:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
