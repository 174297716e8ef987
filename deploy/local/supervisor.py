"""Keeps processes running: one that ends is started again, after a delay that grows.

Written here because the libraries for it decide otherwise: honcho stops all processes when one
ends, and supervisord gives a process up for good after a few failures in a row.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.local.child import Child
from deploy.local.startup import StartupError

BACK_OFF_S = (0.5, 1, 2, 5, 10, 30)
# A process that ran this long was well: its next end counts as the first one again.
WELL_AFTER_S = 60.0
STOP_TIMEOUT_S = 10.0
# EX_CONFIG of sysexits.h: chassis.settings ends a process so. Starting it again is no use.
BAD_SETTINGS = 78


@dataclass
class _Watched:
    child: Child
    started_at: float
    is_adopted: bool = False
    ends: int = 0
    start_again_at: float | None = None


class Supervisor:
    """Starts children, watches them from the main thread, and stops them together."""

    def __init__(self, children: Sequence[Child], say: Callable[[str], None] = print) -> None:
        self._watched = [_Watched(child, 0.0) for child in children]
        self._say = say

    def adopt(self, children: Sequence[Child]) -> None:
        """Watch children that run already, and leave it to whoever started them to stop them."""
        now = time.monotonic()
        self._watched += [_Watched(child, now, is_adopted=True) for child in children]

    def start(self) -> None:
        """Start every child that is not adopted."""
        for watched in self._own():
            self._start(watched)

    def watch(self, stopping: threading.Event, interval_s: float = 0.25) -> None:
        """Start again what ends, until ``stopping`` is set.

        Raises StartupError for a process that refuses its settings.
        """
        while not stopping.wait(interval_s):
            self.tend()

    def tend(self) -> None:
        """Look at every child once: bound its log, plan a new start for one that ended, do it
        when it is due."""
        for watched in self._watched:
            watched.child.bound_log()
            if watched.child.is_running:
                continue
            if watched.start_again_at is None:
                self._plan(watched)
            elif time.monotonic() >= watched.start_again_at:
                self._start(watched)

    def stop(self) -> None:
        """Ask all children that are not adopted to stop, then wait for all."""
        for watched in self._own():
            watched.child.signal_stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for watched in self._own():
            watched.child.stop(max(deadline - time.monotonic(), 0.1))

    def _own(self) -> list[_Watched]:
        return [watched for watched in self._watched if not watched.is_adopted]

    def _start(self, watched: _Watched) -> None:
        watched.start_again_at = None
        watched.started_at = time.monotonic()
        watched.child.start()

    def _plan(self, watched: _Watched) -> None:
        child = watched.child
        if child.exit_code == BAD_SETTINGS:
            raise StartupError(f"{child.name} refuses its settings. {child.tail(1)}")
        if time.monotonic() - watched.started_at > WELL_AFTER_S:
            watched.ends = 0
        delay_s = BACK_OFF_S[min(watched.ends, len(BACK_OFF_S) - 1)]
        watched.ends += 1
        watched.start_again_at = time.monotonic() + delay_s
        self._say(
            f"{child.name} ended with {child.exit_code}; it starts again in {delay_s:g} s."
            f" Its own words are in {child.log_path}."
        )
