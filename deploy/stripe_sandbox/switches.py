"""Switches: what a test wants to go wrong, for whom, and how often.

A switch has a kind, a number of times, and a `match`: every fact named there must fit. Facts of an
API request are `method`, `path` (a shell pattern), `idempotency_key`, `customer` and `metadata`
(a subset); facts of a webhook are `type` (a shell pattern), `customer` and `metadata`. An empty
match fits everything, so tests that share a sandbox should always name their customer or metadata.
"""

import threading
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .errors import InvalidRequest
from .store import new_id

REQUEST_KINDS = {
    "latency": "answers after `seconds`",
    "error_before": "500 before anything happened; the key keeps it unless `keep` is false",
    "error_after": "500 after the effect; the key keeps it unless `keep` is false",
    "timeout_before": "nothing happens, silence for `seconds`, then the connection drops",
    "timeout_after": "the effect, then silence for `seconds`, then the connection drops",
    "reset_before": "the connection drops at once, nothing happened",
    "reset_after": "the effect, then the connection drops",
    "rate_limit": "429 before anything happened",
}
WEBHOOK_KINDS = {
    "webhook_delay": "sent `seconds` later",
    "webhook_repeat": "sent `copies` times",
    "webhook_hold": "kept until /_sandbox/webhooks/release",
    "webhook_drop": "never sent; events.list(delivery_success=False) shows it",
    "webhook_reorder": "gathered until there are `count`, then sent newest first",
}
_FACTS = ("method", "path", "idempotency_key", "customer", "metadata", "type")


@dataclass
class Switch:
    """One thing that is to go wrong."""

    kind: str
    match: dict[str, Any] = field(default_factory=dict)
    times: int | None = 1
    """How many requests or webhooks it is for; None: until it is removed."""
    seconds: float = 30.0
    copies: int = 2
    count: int = 2
    keep: bool = True
    id: str = field(default_factory=lambda: new_id("switch", 12))
    used: int = 0
    gathered: list[str] = field(default_factory=list)

    def fits(self, facts: dict[str, Any]) -> bool:
        """Whether the facts are what this switch is for."""
        for name, wanted in self.match.items():
            found = facts.get(name)
            if name == "metadata":
                if not all((found or {}).get(key) == value for key, value in wanted.items()):
                    return False
            elif found is None or not fnmatchcase(str(found), str(wanted)):
                return False
        return True


class Switches:
    """All switches that are set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: dict[str, Switch] = {}

    def __bool__(self) -> bool:
        return bool(self._set)

    def add(self, given: dict[str, Any]) -> Switch:
        """Set a switch from the body of a control request; raises InvalidRequest."""
        known = REQUEST_KINDS | WEBHOOK_KINDS
        allowed = {"kind", "match", "times", "seconds", "copies", "count", "keep"}
        if given.get("kind") not in known:
            raise InvalidRequest(f"kind must be one of: {', '.join(known)}.", param="kind")
        for name in given:
            if name not in allowed:
                raise InvalidRequest(f"Unknown field {name}: use {sorted(allowed)}.", param=name)
        match = given.get("match", {})
        if not isinstance(match, dict) or not all(name in _FACTS for name in match):
            raise InvalidRequest(f"match takes only: {', '.join(_FACTS)}.", param="match")
        switch = Switch(**given)
        if switch.kind == "webhook_reorder":
            switch.times = switch.count
        with self._lock:
            self._set[switch.id] = switch
        return switch

    def take(self, kinds: dict[str, str], facts: dict[str, Any]) -> list[Switch]:
        """The switches of these kinds that fit now; each is used once."""
        with self._lock:
            fitting = [
                switch
                for switch in self._set.values()
                if switch.kind in kinds
                and (switch.times is None or switch.used < switch.times)
                and switch.fits(facts)
            ]
            for switch in fitting:
                switch.used += 1
            return fitting

    def remove(self, switch_id: str | None = None) -> int:
        """Remove one switch, or all; returns how many."""
        with self._lock:
            gone = [name for name in self._set if switch_id in (None, name)]
            for name in gone:
                del self._set[name]
            return len(gone)

    def listed(self) -> list[dict[str, Any]]:
        """All switches, for the control endpoint."""
        with self._lock:
            return [asdict(switch) for switch in self._set.values()]
