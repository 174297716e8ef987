"""What a process counts beside its requests: gathered in memory, written down every few seconds.

A thread in the background writes; no request waits for it. What is gathered when a process is
killed is lost, so that nothing may depend on it.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chassis.database import Connected

log = logging.getLogger(__name__)

ADD_EVERY_S = 2.0
GATHERED_MAX = 20_000
"""Where the database stays away, nothing new is gathered past this."""

K = TypeVar("K")
V = TypeVar("V")


class Gathering(ABC, Generic[K, V]):
    """What one process has gathered and not written yet. Safe for threads."""

    def __init__(self, database: Connected, every_s: float = ADD_EVERY_S) -> None:
        self._database = database
        self._every_s = every_s
        self._lock = threading.Lock()
        self._gathered: dict[K, V] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _joined(self, known: V, more: V) -> V:
        """What two that were gathered of the same come to."""

    @abstractmethod
    def _write(self, session: Session, gathered: Mapping[K, V]) -> None:
        """Write it down, in one transaction."""

    def _gather(self, key: K, value: V) -> None:
        with self._lock:
            self._keep(key, value)
            if self._thread is None:
                # Not before: a thread would not survive a fork.
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def add(self) -> None:
        """Write down what was gathered; where the database is away, it is kept."""
        with self._lock:
            gathered, self._gathered = self._gathered, {}
        try:
            with self._database.begin() as session:
                self._write(session, gathered)
        except SQLAlchemyError:
            with self._lock:
                for key, value in gathered.items():
                    self._keep(key, value)

    def stop(self) -> None:
        """Write down what is left, too."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(ADD_EVERY_S)
        if self._gathered:
            self.add()

    def _keep(self, key: K, value: V) -> None:
        known = self._gathered.get(key)
        if known is not None:
            value = self._joined(known, value)
        elif len(self._gathered) >= GATHERED_MAX:
            return
        self._gathered[key] = value

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            if self._gathered:
                try:
                    self.add()
                except Exception:
                    # What cannot be written is lost; what comes after it is not.
                    log.exception("what was gathered could not be written")
