"""Hashing passwords neither takes all processors and threads nor keeps its memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from contracts.errors import Overloaded
from services.gateway.people import password_hashing
from services.gateway.people.password_hashing import IN_HAND_MAX, hash_of, is_hash_of
from tests.gateway.conftest import Front
from tests.patience import PATIENCE_S

MIB = 1024 * 1024


class SlowHasher:
    """Counts how many hashes are made at a time; each takes until it is released."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.may_end = threading.Event()
        self._lock = threading.Lock()

    def hash(self, password: str) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.may_end.wait(PATIENCE_S)
        with self._lock:
            self.running -= 1
        return password


def test_one_hash_is_made_at_a_time_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = SlowHasher()
    monkeypatch.setattr(password_hashing, "_hasher", hasher)
    refused = threading.Semaphore(0)

    def make() -> str:
        try:
            return hash_of("secret")
        except Overloaded:
            refused.release()
            return "refused"

    with ThreadPoolExecutor(IN_HAND_MAX + 3) as pool:
        results = [pool.submit(make) for _ in range(IN_HAND_MAX + 3)]
        for _ in range(3):
            assert refused.acquire(timeout=PATIENCE_S)
        hasher.may_end.set()
        made = [result.result() for result in results]

    assert hasher.most == 1
    assert (made.count("secret"), made.count("refused")) == (IN_HAND_MAX, 3)


def test_a_place_is_free_again_whatever_the_outcome() -> None:
    right = hash_of("secret")
    for _ in range(IN_HAND_MAX + 1):
        is_hash_of("no hash at all", "secret")

    assert is_hash_of(right, "secret")


def test_a_worker_gives_the_memory_of_hashes_back(start_front: Callable[..., Front]) -> None:
    limits = {"RATE_LIMIT_LOGIN": "9999 per minute", "RATE_LIMIT_LOGIN_ACCOUNT": "9999 per minute"}
    front = start_front(GATEWAY_WORKERS="1", GATEWAY_THREADS="16", **limits)
    [worker] = front.workers()

    def log_in(number: int) -> int:
        credentials = {"email": f"{number}@example.com", "password": "wrong password"}
        address = f"{front.base_url}/api/auth/login"
        return requests.post(address, json=credentials, timeout=PATIENCE_S).status_code

    front.took_s("/login")
    before = worker.memory_info().rss
    with ThreadPoolExecutor(IN_HAND_MAX) as pool:
        statuses = set(pool.map(log_in, range(100)))

    assert statuses == {401}
    assert worker.memory_info().rss - before < 30 * MIB
