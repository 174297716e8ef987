"""What it takes to take money: the parts that the steps between transactions need."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from chassis.database import Connected
from contracts.errors import NotFound
from contracts.messages import ReplyT, Request
from contracts.wallet import AccountStatus, GetWallet, Statement, TransactionKind
from services.topup.policy import Policy
from services.topup.processor import Processor

log = logging.getLogger(__name__)

WALLET_TIMEOUT_S = 3.0
IDLE_AFTER = timedelta(days=35)
"""Longer than a month, so that whoever has something running has paid for it within this."""
SPENDING = [TransactionKind.PURCHASE, TransactionKind.RENEWAL, TransactionKind.USAGE]


@dataclass(frozen=True)
class Funds:
    """What a wallet holds at present. ``is_idle``: nothing was bought or renewed for a month."""

    available_micros: int
    is_frozen: bool = False
    is_idle: bool = False


class CallsServices(Protocol):
    """Whatever can make a call: the service's ``Caller``, or a client of a test's."""

    def call(self, request: Request[ReplyT], timeout_s: float = ...) -> ReplyT: ...


class WalletQuestions:
    """The only thing that this service asks of another one."""

    def __init__(self, caller: CallsServices) -> None:
        self._caller = caller

    def funds(self, user_id: UUID, now: datetime) -> Funds:
        """Errors: ``Unavailable``, ``DeadlineExceeded``. Nobody's wallet is an empty one."""
        try:
            wallet = self._caller.call(GetWallet(user_id=user_id), WALLET_TIMEOUT_S)
            spent = self._caller.call(
                Statement(user_id=user_id, kinds=SPENDING, since=now - IDLE_AFTER, limit=1),
                WALLET_TIMEOUT_S,
            )
        except NotFound:
            return Funds(available_micros=0, is_idle=True)
        return Funds(
            available_micros=wallet.available_micros,
            is_frozen=wallet.status == AccountStatus.FROZEN,
            is_idle=not spent.transactions,
        )


class AsksWallet(Protocol):
    """What is known of a wallet; a simulation has its own."""

    def funds(self, user_id: UUID, now: datetime) -> Funds: ...


@dataclass(frozen=True)
class Till:
    """``later`` runs something soon, outside the present call; a sweeper finds what it loses."""

    database: Connected
    processor: Processor
    wallet: AsksWallet
    policy: Policy
    public_url: str
    clock: Callable[[], datetime]
    later: Callable[..., Any]

    def address(self, path: str, **query: str) -> str:
        """A page of the site."""
        joined = "&".join(f"{name}={value}" for name, value in query.items())
        mark = "&" if "?" in path else "?"
        return f"{self.public_url.rstrip('/')}{path}" + (f"{mark}{joined}" if joined else "")
