"""How a test waits for what happens by itself, and for answers from a machine that is busy."""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import requests

from chassis.database import is_held
from contracts.errors import Overloaded

Seen = TypeVar("Seen")

PATIENCE_S = 120.0
"""What takes milliseconds takes this long on no machine, however busy it is."""

START_PATIENCE_S = 240.0
"""Nor does a process that starts: the first ones read every module from a cold disk, together."""

TRIES = 5
"""A machine that stalls does not do so every time."""


def eventually(
    look: Callable[[], Seen],
    is_right: Callable[[Seen], object] = bool,
    interval_s: float = 0.05,
    within_s: float = PATIENCE_S,
) -> Seen:
    """Look until it is right, and give back what was seen; fails with the last sight.

    ``is_right`` is all that is held of the sight afterwards: what is almost right at one moment
    may be seen on a busy machine, and what is beside it may come later.
    """
    deadline = time.monotonic() + within_s
    while not is_right(seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {within_s:.0f} s"
        time.sleep(interval_s)
    return seen


def insist(ask: Callable[[], Seen]) -> Seen:
    """Ask as a caller does who is told to try again in a moment; ``ask`` keeps its key.

    So it is told, too, where somebody holds a row for two seconds, which is long for a transaction
    of ours, and is not where many follow each other on a machine that stalls.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Exception as error:
            may_go_on = isinstance(error, Overloaded) or is_held(error)
            if not may_go_on or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


TOO_BUSY = (503, 504)
"""The statuses of answers that say: try again, under the same key."""

GAP = re.compile(r"(Your [\w ]+|uto top-up[\w ]*)(, which)? cannot be (shown|read) at the moment")
"""What a person's page says in the place of what a service did not tell in time."""


def answered(ask: Callable[[], requests.Response]) -> requests.Response:
    """The same over HTTP. Who goes on being put off gets what was said at last."""
    deadline = time.monotonic() + PATIENCE_S
    while (response := ask()).status_code in TOO_BUSY and time.monotonic() < deadline:
        time.sleep(0.2)
    return response


class Browser(requests.Session):
    """Opens pages, and once more where a part of the site was too busy to answer in time."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        send = partial(super().send, request, **options)
        if request.method != "GET":
            return answered(send)
        return eventually(lambda: answered(send), lambda page: not GAP.search(page.text))


def least_s(act: Callable[[], object], limit_s: float) -> float:
    """How long something takes that takes less than ``limit_s`` when nothing else is in its way:
    the least of several times, and of no more than needed. What always takes longer does here."""
    return min_of(lambda: took_s(act), limit_s)


def min_of(measure: Callable[[], float], limit: float) -> float:
    """The least of several measurements, and of no more than one that is below ``limit``."""
    least = measure()
    for _ in range(TRIES - 1):
        if least < limit:
            break
        least = min(least, measure())
    return least


def took_s(act: Callable[[], object]) -> float:
    began_s = time.monotonic()
    act()
    return time.monotonic() - began_s


def answer_of(url: str, timeout_s: float = PATIENCE_S) -> requests.Response | None:
    """What a server says that may not listen yet, or be too busy to answer."""
    try:
        return requests.get(url, timeout=timeout_s)
    except requests.RequestException:
        return None
