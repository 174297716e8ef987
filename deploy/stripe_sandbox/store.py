"""What the sandbox remembers: JSON objects by kind and id, in memory, written through to sqlite.

Whoever reads or writes holds `store.lock` through `transaction()`. Everything that one request
changes, its idempotency record included, reaches the file in one sqlite transaction.
"""

import json
import secrets
import sqlite3
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import errors

Object = dict[str, Any]

_ALPHABET = string.ascii_letters + string.digits
# Kinds whose name in Stripe's error messages is not the kind itself.
_SPOKEN = {"payment_method": "PaymentMethod", "checkout.session": "checkout.session"}


def new_id(prefix: str, length: int = 24) -> str:
    """An unguessable id with Stripe's prefix."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(length))


class Store:
    """All objects of one sandbox."""

    def __init__(self, data: str = "") -> None:
        self.lock = threading.RLock()
        self._kinds: dict[str, dict[str, Object]] = {}
        # A dict and not a set: new objects reach the file in the order in which they were made.
        self._changed: dict[tuple[str, str], None] = {}
        self._file = _open(data) if data else None
        if self._file is not None:
            for kind, object_id, body in self._file.execute(
                "SELECT kind, id, body FROM objects ORDER BY number"
            ):
                self._kinds.setdefault(kind, {})[object_id] = json.loads(body)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock; write what changed at the end, also when an error reply leaves."""
        with self.lock:
            try:
                yield
            finally:
                self._write()

    def put(self, kind: str, item: Object) -> Object:
        """Keep a new or changed object under its `id`."""
        self._kinds.setdefault(kind, {})[item["id"]] = item
        self._changed[kind, item["id"]] = None
        return item

    def find(self, kind: str, object_id: str | None) -> Object | None:
        """The object, or None."""
        return self._kinds.get(kind, {}).get(object_id or "")

    def get(self, kind: str, object_id: str, param: str = "id") -> Object:
        """The object; raises Stripe's `resource_missing`."""
        item = self.find(kind, object_id)
        if item is None:
            raise errors.missing(_SPOKEN.get(kind, kind), object_id, param)
        return item

    def newest(self, kind: str) -> list[Object]:
        """All objects of the kind, newest first, as Stripe lists them."""
        return list(reversed(self._kinds.get(kind, {}).values()))

    def count(self, kind: str) -> int:
        """How many objects of the kind there are."""
        return len(self._kinds.get(kind, {}))

    def remove(self, kind: str, object_id: str) -> None:
        """Forget the object."""
        self._kinds.get(kind, {}).pop(object_id, None)
        self._changed[kind, object_id] = None

    def clear(self, *kinds: str) -> None:
        """Forget all objects of the kinds, or of every kind."""
        for kind in kinds or tuple(self._kinds):
            for object_id in tuple(self._kinds.get(kind, {})):
                self.remove(kind, object_id)

    def _write(self) -> None:
        if self._file is None:
            self._changed.clear()
            return
        with self._file:
            for kind, object_id in self._changed:
                item = self.find(kind, object_id)
                if item is None:
                    self._file.execute(
                        "DELETE FROM objects WHERE kind = ? AND id = ?", (kind, object_id)
                    )
                else:
                    self._file.execute(
                        "INSERT INTO objects (kind, id, body) VALUES (?, ?, ?)"
                        " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                        (kind, object_id, json.dumps(item)),
                    )
        self._changed.clear()

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _open(data: str) -> sqlite3.Connection:
    path = Path(data)
    if path.suffix not in (".sqlite", ".sqlite3", ".db"):
        path = path / "stripe_sandbox.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, check_same_thread=False)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute(
        "CREATE TABLE IF NOT EXISTS objects ("
        " number INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL,"
        " body TEXT NOT NULL, UNIQUE (kind, id))"
    )
    return file
