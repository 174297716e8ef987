"""Promotional credit that comes to its end while the forecast is played.

What is charged takes of it first, of what ends soonest, and at its end the wallet takes back what
is left and available: see the wallet's ``book/promotions.py``, whose rule this is.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from contracts.wallet import Expiring


class Lapse(NamedTuple):
    """So much is taken back at a moment."""

    at: datetime
    micros: int


@dataclass
class _Left:
    ends_at: datetime
    micros: int


@dataclass
class PromotionsAhead:
    """What is left of each promotion, beginning at ``now``, the one that ends soonest first."""

    now: datetime
    expiring: Sequence[Expiring] = ()
    _left: list[_Left] = field(init=False)

    def __post_init__(self) -> None:
        found = [_Left(max(each.expires_at, self.now), each.left_micros) for each in self.expiring]
        self._left = sorted(found, key=lambda each: each.ends_at)

    @property
    def next_at(self) -> datetime | None:
        """When the next one ends."""
        return self._left[0].ends_at if self._left else None

    def spend(self, micros: int) -> None:
        """So much is charged."""
        for each in self._left:
            part = min(each.micros, micros)
            each.micros -= part
            micros -= part

    def lapse(self, at: datetime, available_micros: int) -> int:
        """What is taken back of those that have ended by now, of so much that is available."""
        taken = 0
        while self._left and self._left[0].ends_at <= at:
            taken += min(self._left.pop(0).micros, max(available_micros - taken, 0))
        return taken


def lapses(
    ahead: PromotionsAhead,
    charges: Iterable[tuple[datetime, int]],
    available_micros: int,
    until: datetime,
) -> list[Lapse]:
    """What is taken back before ``until`` if all of these are paid, the earliest first. What is
    due at the moment of an end is paid before it."""
    found: list[Lapse] = []
    waiting = deque(charges)
    while (at := ahead.next_at) is not None and at < until:
        while waiting and waiting[0][0] <= at:
            _, micros = waiting.popleft()
            ahead.spend(micros)
            available_micros -= micros
        if taken := ahead.lapse(at, available_micros):
            available_micros -= taken
            found.append(Lapse(at, taken))
    return found
