"""Whether a process can do its work, found out in the background.

``/readyz`` answers at once with what the last checks found, which is a few seconds old at most.
A check that hangs counts as failed, and the log tells once when a process cannot work, and once
when it can again.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

CHECK_EVERY_S = 5.0
CHECK_AGAIN_AFTER_S = 2.0
"""Where the last check failed."""
ANSWER_WITHIN_S = 2.0
TOLD_AFTER_FAILURES = 2
"""In a row: a process that starts is not ready for a moment."""

_UNKNOWN = "not known yet"
_NO_ANSWER = "no answer"


class Readiness:
    """Watches by ``checks``: each raises, with the reason, when its part is not ready."""

    def __init__(self, checks: Mapping[str, Callable[[], None]]) -> None:
        self._stopping = threading.Event()
        self._watches = [_Watch(name, check, self._stopping) for name, check in checks.items()]

    def start(self) -> None:
        """Begin to watch, each part in a thread of its own."""
        for watch in self._watches:
            threading.Thread(target=watch.run, name=f"ready-{watch.name}", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def problems(self) -> dict[str, str]:
        """What is not ready, and why. It takes ``ANSWER_WITHIN_S`` at most, at the first time."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        problems = {watch.name: watch.problem(deadline) for watch in self._watches}
        return {name: problem for name, problem in problems.items() if problem is not None}


class _Watch:
    def __init__(self, name: str, check: Callable[[], None], stopping: threading.Event) -> None:
        self.name = name
        self._check = check
        self._stopping = stopping
        self._is_known = threading.Event()
        self._lock = threading.Lock()
        self._problem: str | None = _UNKNOWN
        self._failures = 0
        self._began_at: float | None = None

    def run(self) -> None:
        while not self._stopping.is_set():
            self._began_at = time.monotonic()
            try:
                self._check()
            except Exception as error:
                self._note(str(error).partition("\n")[0][:200] or type(error).__name__)
            else:
                self._note(None)
            self._began_at = None
            self._stopping.wait(CHECK_AGAIN_AFTER_S if self._problem else CHECK_EVERY_S)

    def problem(self, deadline: float) -> str | None:
        self._is_known.wait(max(deadline - time.monotonic(), 0.0))
        began_at = self._began_at
        if began_at is not None and time.monotonic() - began_at > ANSWER_WITHIN_S:
            self._note(_NO_ANSWER)
        return self._problem

    def _note(self, problem: str | None) -> None:
        with self._lock:
            self._problem = problem
            self._is_known.set()
            if problem is None and self._failures >= TOLD_AFTER_FAILURES:
                log.warning("ready again", extra={"check": self.name})
            self._failures = 0 if problem is None else self._failures + 1
            if self._failures == TOLD_AFTER_FAILURES:
                log.error("not ready", extra={"check": self.name, "problem": problem})
