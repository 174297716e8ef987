"""One running sandbox: its settings, its memory, its clock, its switches."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .settings import Settings
from .store import Object, Store
from .switches import Switches


@dataclass
class Sandbox:
    """What every endpoint is handed; nothing of it is global."""

    settings: Settings
    store: Store
    switches: Switches = field(default_factory=Switches)
    clock_offset_s: int = 0
    outgoing: dict[str, Object] = field(default_factory=dict)
    """Deliveries of events that have not come to an end, by event id."""
    wake: threading.Event = field(default_factory=threading.Event)
    """Set when there is something new to deliver."""
    stopping: threading.Event = field(default_factory=threading.Event)

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
