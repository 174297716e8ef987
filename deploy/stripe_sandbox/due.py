"""What is due at a time of its own, found without a look at whatever is due later."""

import heapq
from collections.abc import Iterator
from itertools import count


class Due:
    """Ids and when each is due. Whoever reads or writes holds the store's lock.

    An id may stand here twice, or still after its object has gone: whoever takes it looks.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._numbers = count()

    def put(self, at: float, object_id: str) -> None:
        """Those of one time are taken in the order in which they were put."""
        heapq.heappush(self._heap, (at, next(self._numbers), object_id))

    def take(self, now: float) -> Iterator[str]:
        """Whatever is due, the earliest first, also what is put meanwhile."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def next_at(self) -> float | None:
        """When the next one is due."""
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """Forget everything."""
        self._heap.clear()
