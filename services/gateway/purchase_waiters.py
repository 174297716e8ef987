"""Requests that wait for a purchase to end, woken by the services' events.

An event wakes, and of a completed purchase it says all that is new; whatever else is true is asked
of billing afterwards. A missed event therefore costs the waiter its patience and never its answer.
Events are sorted by user, because a request takes its place before it starts the purchase and
learns the purchase's id after.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from chassis.client import RpcClient
from contracts.billing import PurchaseCompleted, PurchaseEnded
from contracts.topup import AutoTopupRefused, RefusalCode, TopupFailed

WAITERS_MAX = 10
"""Each waiter holds one thread of the worker; beyond this the answer is given at once."""

Setback = tuple[str, str]
"""Why no money came: a code for a program, a sentence for a person."""


class Waiter:
    """One request's place. ``setbacks`` are by purchase id, as text; ``completed`` is what was told
    of purchases meanwhile."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self.setbacks: dict[str, Setback] = {}
        self.completed: dict[UUID, PurchaseCompleted] = {}

    def wake(self) -> None:
        self._woken.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until something happened to this user, or the time is over (False)."""
        was_woken = self._woken.wait(timeout_s)
        self._woken.clear()
        return was_woken


class PurchaseWaiters:
    """The waiting requests of this process, by user."""

    def __init__(self, rpc: RpcClient) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[UUID, list[Waiter]] = defaultdict(list)
        self._count = 0
        listen = partial(rpc.subscribe, is_awaited=lambda: self._count)
        listen(PurchaseCompleted, self._completed)
        listen(PurchaseEnded, lambda event: self._wake(event.user_id))
        listen(TopupFailed, self._topup_failed)
        listen(AutoTopupRefused, self._topup_refused)

    @contextmanager
    def place_of(self, user_id: UUID) -> Iterator[Waiter | None]:
        """A place for one request of this user; None when too many requests wait already."""
        with self._lock:
            waiter = Waiter() if self._count < WAITERS_MAX else None
            if waiter is not None:
                self._count += 1
                self._waiters[user_id].append(waiter)
        try:
            yield waiter
        finally:
            if waiter is not None:
                self._leave(user_id, waiter)

    def _leave(self, user_id: UUID, waiter: Waiter) -> None:
        with self._lock:
            self._count -= 1
            self._waiters[user_id].remove(waiter)
            if not self._waiters[user_id]:
                del self._waiters[user_id]

    def _of(self, user_id: UUID) -> list[Waiter]:
        with self._lock:
            return list(self._waiters.get(user_id, ()))

    def _wake(
        self, user_id: UUID, reference: str | None = None, setback: Setback | None = None
    ) -> None:
        for waiter in self._of(user_id):
            if reference and setback:
                waiter.setbacks[reference] = setback
            waiter.wake()

    def _completed(self, event: PurchaseCompleted) -> None:
        for waiter in self._of(event.user_id):
            waiter.completed[event.purchase_id] = event
            waiter.wake()

    def _topup_failed(self, event: TopupFailed) -> None:
        self._wake(event.user_id, event.trigger_reference, (event.failure_code, event.message))

    def _topup_refused(self, event: AutoTopupRefused) -> None:
        # Another charge on its way may still pay for this purchase: that is no setback yet.
        if event.refusal_code is not RefusalCode.IN_FLIGHT:
            self._wake(event.user_id, event.trigger_reference, (event.refusal_code, event.reason))
