"""What it takes to take money: the parts that the steps between transactions need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chassis.clock import Clock
from chassis.database import Connected
from services.topup.policy import Policy
from services.topup.processor import Processor
from services.topup.wallet_questions import AsksWallet


@dataclass(frozen=True)
class Till:
    """``later(work, *arguments, owner=user_id)`` runs something soon, outside the present call, in
    its owner's turn; a sweeper finds what it loses."""

    database: Connected
    processor: Processor
    wallet: AsksWallet
    policy: Policy
    public_url: str
    clock: Clock
    later: Callable[..., Any]

    def address(self, path: str, **query: str) -> str:
        """A page of the site."""
        joined = "&".join(f"{name}={value}" for name, value in query.items())
        mark = "&" if "?" in path else "?"
        return f"{self.public_url.rstrip('/')}{path}" + (f"{mark}{joined}" if joined else "")
