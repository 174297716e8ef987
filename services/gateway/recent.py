"""What was found out a moment ago, and is not asked again until it is too old."""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, cast

FoundT = TypeVar("FoundT")
LookedT = TypeVar("LookedT")


RENEWED_AT = 0.75
"""After this part of its time the first who asks looks anew, and the others still take what is
known: nobody but him waits, as long as somebody asks often enough."""


class _Look(Future[Any]):
    """Somebody's look, which others wait for; what it finds is good until ``until_s``."""

    def __init__(self, until_s: float) -> None:
        super().__init__()
        self.until_s = until_s


class Recent(Generic[FoundT]):
    """Of each key what was found, at most ``age_s`` ago; of ``size_max`` keys. Safe for threads."""

    def __init__(
        self, age_s: float, size_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._age_s = age_s
        self._size_max = size_max
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[Hashable, tuple[float, FoundT]] = {}
        self._looks: dict[Hashable, _Look] = {}

    def known(self, key: Hashable) -> FoundT | None:
        """What was found for this key, unless it is too old by now."""
        until_s, found = self._found.get(key, (0.0, None))
        return found if self._clock() < until_s else None

    def find(self, key: Hashable, look: Callable[[], LookedT]) -> FoundT | LookedT:
        """The same, or what ``look`` finds now. Its age counts from before the look; None, for
        what is not there, is not kept. What is found again as it was stays the same object. A look
        that fails leaves what is known, which is the answer while it is not too old.

        One looks: who asks for the same meanwhile takes what is known, or where that is too old
        waits, and gets or raises what that one does.
        """
        now_s = self._clock()
        until_s, known = self._found.get(key, (0.0, None))
        if now_s < until_s - (1 - RENEWED_AT) * self._age_s:
            return cast(FoundT, known)
        with self._lock:
            other = self._looks.get(key)
            if other is None or now_s >= other.until_s:
                mine = self._looks[key] = _Look(now_s + self._age_s)
                other = None
        if other is not None and now_s < until_s:
            return cast(FoundT, known)
        if other is not None:
            return cast(LookedT, other.result())
        return self._look(key, mine, look)

    def forget(self, key: Hashable) -> None:
        """It is not as it was: the next one looks again, and who looks now keeps nothing."""
        with self._lock:
            self._looks.pop(key, None)
            self._found.pop(key, None)

    def _look(self, key: Hashable, mine: _Look, look: Callable[[], LookedT]) -> LookedT:
        try:
            found = look()
        except BaseException as error:
            self._end(key, mine)
            known = self.known(key) if isinstance(error, Exception) else None
            if known is None:
                mine.set_exception(error)
                raise
            found = cast(LookedT, known)
        else:
            self._keep(key, mine, cast(FoundT, found))
        mine.set_result(found)
        return found

    def _end(self, key: Hashable, mine: _Look) -> None:
        with self._lock:
            if self._looks.get(key) is mine:
                del self._looks[key]

    def _keep(self, key: Hashable, mine: _Look, found: FoundT | None) -> None:
        # Compared before the lock is taken, which others wait for.
        _, known = self._found.get(key, (0.0, None))
        kept = known if known == found else found
        with self._lock:
            if self._looks.get(key) is not mine:
                return
            del self._looks[key]
            if kept is None:
                self._found.pop(key, None)
                return
            if len(self._found) >= self._size_max:
                self._found.clear()
            self._found[key] = mine.until_s, kept
