"""Processor time by process, as the system's own accounting has it."""

import contextlib
import time
from collections.abc import Mapping

import psutil

SETTLES_WITHIN_S = 30.0
LOOK_EVERY_S = 0.5
REST = 0.12
"""Part of one processor that all processes together use when nothing is left to do."""


def used_s(processes: Mapping[str, int]) -> dict[str, float]:
    """Of each process with all that it started, also of what has ended since."""
    return {name: _of_tree(psutil.Process(pid)) for name, pid in processes.items()}


def used_at_rest_s(processes: Mapping[str, int]) -> dict[str, float]:
    """The same, once what the last requests set in motion has come to its end."""
    deadline = time.monotonic() + SETTLES_WITHIN_S
    now = used_s(processes)
    while time.monotonic() < deadline:
        before = now
        time.sleep(LOOK_EVERY_S)
        now = used_s(processes)
        if sum(now.values()) - sum(before.values()) < REST * LOOK_EVERY_S:
            break
    return now


def _of_tree(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        # Whoever ends between our look and our question is in its parent's figures next time.
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
