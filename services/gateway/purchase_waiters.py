"""Requests that wait for a purchase to end, woken by the services' events.

An event only wakes: what is true is asked of billing afterwards. A missed event therefore
costs the waiter its patience and never its answer.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from chassis.client import RpcClient
from contracts.billing import PurchaseCompleted, PurchaseEnded
from contracts.topup import AutoTopupRefused, TopupFailed

WAITERS_MAX = 10
"""Each waiter holds one thread of the worker; beyond this the answer is given at once."""


class Waiter:
    """One request's place in the queue. ``setback`` is why no money came, once that is known."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self.setback: tuple[str, str] | None = None

    def wake(self, setback: tuple[str, str] | None = None) -> None:
        self.setback = setback or self.setback
        self._woken.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until something happened to the purchase, or the time is over (False)."""
        return self._woken.wait(timeout_s)


class PurchaseWaiters:
    """The waiting requests of this process, by purchase."""

    def __init__(self, rpc: RpcClient) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[UUID, list[Waiter]] = defaultdict(list)
        self._count = 0
        rpc.subscribe(PurchaseCompleted, lambda event: self._wake(event.purchase_id))
        rpc.subscribe(PurchaseEnded, lambda event: self._wake(event.purchase_id))
        rpc.subscribe(TopupFailed, self._topup_failed)
        rpc.subscribe(AutoTopupRefused, self._topup_refused)

    @contextmanager
    def waiting_for(self, purchase_id: UUID) -> Iterator[Waiter | None]:
        """A place in the queue while the block runs; None when too many wait already."""
        with self._lock:
            waiter = Waiter() if self._count < WAITERS_MAX else None
            if waiter is not None:
                self._count += 1
                self._waiters[purchase_id].append(waiter)
        try:
            yield waiter
        finally:
            if waiter is not None:
                self._leave(purchase_id, waiter)

    def _leave(self, purchase_id: UUID, waiter: Waiter) -> None:
        with self._lock:
            self._count -= 1
            self._waiters[purchase_id].remove(waiter)
            if not self._waiters[purchase_id]:
                del self._waiters[purchase_id]

    def _wake(self, purchase_id: UUID, setback: tuple[str, str] | None = None) -> None:
        with self._lock:
            waiters = list(self._waiters.get(purchase_id, ()))
        for waiter in waiters:
            waiter.wake(setback)

    def _topup_failed(self, event: TopupFailed) -> None:
        self._wake_by_reference(event.trigger_reference, (event.failure_code, event.message))

    def _topup_refused(self, event: AutoTopupRefused) -> None:
        self._wake_by_reference(event.trigger_reference, (event.refusal_code, event.reason))

    def _wake_by_reference(self, reference: str | None, setback: tuple[str, str]) -> None:
        try:
            purchase_id = UUID(reference or "")
        except ValueError:
            return
        self._wake(purchase_id, setback)
