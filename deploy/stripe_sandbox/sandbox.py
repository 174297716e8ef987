"""One running sandbox: its settings, its memory, its clock, its switches."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .due import Due
from .settings import Settings
from .store import Store
from .switches import Switches


@dataclass
class Sandbox:
    """What every endpoint is handed; nothing of it is global."""

    settings: Settings
    store: Store
    switches: Switches = field(default_factory=Switches)
    clock_offset_s: int = 0
    deliveries: Due = field(default_factory=Due)
    """Events that are to be sent, in real time."""
    planned: Due = field(default_factory=Due)
    """What happens by itself, in the sandbox's time."""
    open_pages: Due = field(default_factory=Due)
    """Checkout sessions and when they expire, in the sandbox's time."""
    wake: threading.Event = field(default_factory=threading.Event)
    """Set when there is something new to deliver."""
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Take up what an earlier run left."""
        for item in reversed(self.store.newest("later")):
            self.planned.put(item["due_at"], item["id"])
        for session in reversed(self.store.newest("checkout.session")):
            if session["status"] == "open":
                self.open_pages.put(session["expires_at"], session["id"])
        for delivery in reversed(self.store.newest("delivery")):
            if delivery["state"] in ("new", "pending"):
                self.deliveries.put(delivery["due_at"], delivery["id"])

    def now(self) -> int:
        """The sandbox's time in Unix seconds; a test may move it."""
        ahead_s = self.settings.clock_offset_days * 86_400 + self.clock_offset_s
        return int(time.time()) + ahead_s

    @property
    def base_url(self) -> str:
        """The address of the hosted pages."""
        return self.settings.base_url


@dataclass(frozen=True)
class Call:
    """One checked request, as an endpoint sees it."""

    params: dict[str, Any]
    path: dict[str, str]
    url: str
    request_id: str
    idempotency_key: str | None = None

    def __getitem__(self, name: str) -> str:
        """A part of the path: `call["id"]`."""
        return self.path[name]


def is_true(value: Any) -> bool:
    """Whether a parameter that is a boolean or a word (`off_session`) says yes."""
    return value is True or (isinstance(value, str) and value not in ("", "false"))
