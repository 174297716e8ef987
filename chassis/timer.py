"""Periodic work that one replica does at a time."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from nameko.timer import Timer

log = logging.getLogger(__name__)


def timer(interval_s: float) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Run a method every ``interval_s``, in whichever replica holds its advisory lock.

    The service needs a ``database``. A failure is logged; the next tick tries again.
    """

    def decorate(method: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(method)
        def tick(service: Any) -> None:
            try:
                with service.database.exclusively(f"timer:{method.__name__}") as mine:
                    if mine:
                        method(service)
            except Exception:
                log.exception("periodic work failed", extra={"timer": method.__name__})

        decorated: Callable[[Any], None] = Timer.decorator(interval=interval_s)(tick)
        return decorated

    return decorate
