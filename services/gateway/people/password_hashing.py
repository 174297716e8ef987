"""Hashes of passwords: slow and large on purpose, and therefore few at a time.

A hash keeps a processor busy for tens of milliseconds. One is made at a time in each worker
process, and few requests wait for their turn: whoever sends logins by the hundred takes neither
all processors nor all threads from the others.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from contracts.errors import Overloaded

# OWASP's first choice for Argon2id: 19 MiB, two passes, one lane.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

IN_HAND_MAX = 8
"""The one that is made, and those that wait: half of a worker's threads."""

_in_hand = threading.BoundedSemaphore(IN_HAND_MAX)
_turn = threading.Lock()


def hash_of(password: str) -> str:
    """Raises :class:`Overloaded`, as do the others."""
    with _turn_taken():
        return _hasher.hash(password)


def is_hash_of(password_hash: str, password: str) -> bool:
    with _turn_taken():
        try:
            return _hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether it was made with other parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)


@contextmanager
def _turn_taken() -> Iterator[None]:
    if not _in_hand.acquire(blocking=False):
        raise Overloaded("Many people are logging in at the moment. Try again in a few seconds.")
    try:
        with _turn:
            yield
    finally:
        _in_hand.release()
