"""Periodic work that one replica does at a time.

::

    @timer(interval_s=60)
    def compare(self) -> None: ...

    @timer(interval_s=1, asleep_s=5)
    def sweep(self) -> datetime | None: ...      # when something is due next

The second kind looks at most once in ``interval_s``, and only when there is reason to: this
process wrote to its database, or what the last look named is due. Besides, it looks every
``asleep_s`` for what another process wrote. Whoever writes mostly goes on with it at once, and
somebody waits for that: it looks when nothing more is written, or a second later.
"""

import functools
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from eventlet import Timeout
from eventlet.event import Event as Signal
from nameko.timer import Timer as NamekoTimer

from chassis import instruments
from chassis.clock import utc_now
from chassis.leadership import Leadership
from chassis.service_database import DatabaseConnection

log = logging.getLogger(__name__)

Work = Callable[[Any], datetime | None]

QUIET_S = 0.3
"""So long nothing is written when what was written is done with: a purchase that is short of
credits goes on after a charge to a card, in less."""
WRITES_WITHIN_S = 1.0
"""So long it waits for that."""


class Timer(NamekoTimer):
    """Runs in the leader among the replicas; a failure is logged, and tried again next time."""

    connection = DatabaseConnection()
    leadership = Leadership()

    def __init__(self, interval_s: float, asleep_s: float | None) -> None:
        self._asleep_s = asleep_s
        self._due_at: datetime | None = None
        self._wake = Signal()
        super().__init__(interval_s)

    def start(self) -> None:
        if self._asleep_s is not None:
            self.connection.connected.on_change.append(self.wake)
        super().start()

    def stop(self) -> None:
        self.wake()
        super().stop()

    def wake(self) -> None:
        """Something may have become due: look soon."""
        if not self._wake.ready():
            self._wake.send()

    def handle_result(
        self, worker_ctx: object, result: Any = None, exc_info: Any = None
    ) -> tuple[Any, Any]:
        self._due_at = result
        super().handle_result(worker_ctx, result, exc_info)
        return result, exc_info

    def _run(self) -> None:
        began = time.monotonic()
        while not self._is_told_to_stop(began + self.interval - time.monotonic()):
            self._let_others_write()
            if self.should_stop.ready():
                return
            began = time.monotonic()
            if self.leadership.is_ours():
                self.handle_timer_tick()
                self.worker_complete.wait()
                self.worker_complete.reset()
            if self._asleep_s is not None:
                self._sleep(self._asleep_s)

    def _let_others_write(self) -> None:
        until = time.monotonic() + WRITES_WITHIN_S
        while self._wake.ready():
            self._wake.reset()
            quiet_s = min(QUIET_S, until - time.monotonic())
            if quiet_s <= 0:
                return
            with Timeout(quiet_s, exception=False):
                self._wake.wait()

    def _is_told_to_stop(self, within_s: float) -> bool:
        with Timeout(max(within_s, 0), exception=False):
            self.should_stop.wait()
        return bool(self.should_stop.ready())

    def _sleep(self, asleep_s: float) -> None:
        if self._due_at is not None:
            asleep_s = min((self._due_at - utc_now()).total_seconds(), asleep_s)
        with Timeout(max(asleep_s, 0), exception=False):
            self._wake.wait()


def timer(interval_s: float, asleep_s: float | None = None) -> Callable[[Work], Work]:
    """Run a method every so often; see the head of this file."""

    def decorate(method: Work) -> Work:
        duration = instruments.TIMERS.labels(method.__name__)
        failures = instruments.TIMER_FAILURES.labels(method.__name__)
        # From the start: an alert is to miss what never was done.
        succeeded = instruments.TIMER_SUCCEEDED.labels(method.__name__)

        @functools.wraps(method)
        def tick(service: Any) -> datetime | None:
            try:
                with duration.time():
                    due_at = method(service)
            except Exception:
                failures.inc()
                log.exception("periodic work failed", extra={"timer": method.__name__})
                return None
            succeeded.set_to_current_time()
            return due_at

        decorated: Work = Timer.decorator(interval_s, asleep_s)(tick)
        return decorated

    return decorate
