"""What is asked of the wallet: what it holds, and what its ledger did under a key of ours.

And the one thing that it is asked to do: to set credit aside that is to go back to a card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from chassis.together import AskedTogether
from contracts.errors import NotFound
from contracts.keys import card_refund_key
from contracts.messages import ReplyT, Request
from contracts.wallet import (
    HOLD_SECONDS_MAX,
    AccountStatus,
    CreditPage,
    GetByKey,
    GetUnusedTopups,
    GetWallet,
    GetWallets,
    KeyState,
    ListCredits,
    PlaceHold,
    Statement,
    Totals,
    TransactionKind,
    UnusedTopups,
    Wallet,
)

WALLET_TIMEOUT_S = 3.0
TOPUPS = (TransactionKind.TOPUP, TransactionKind.AUTO_TOPUP)
IDLE_AFTER = timedelta(days=35)
"""Longer than a month, so that whoever has something running has paid for it within this."""
HELD_FOR_S = HOLD_SECONDS_MAX
"""As long as the wallet sets anything aside: the card processor may not answer for days."""
SPENDING = [TransactionKind.PURCHASE, TransactionKind.RENEWAL, TransactionKind.USAGE]


@dataclass(frozen=True)
class Funds:
    """What a wallet holds at present. ``is_idle``: nothing was bought or renewed for a month."""

    available_micros: int
    is_frozen: bool = False
    is_idle: bool = False


@dataclass(frozen=True)
class Entry:
    """What the ledger did under an idempotency key; positive is money into a wallet."""

    amount_micros: int
    recorded_at: datetime


class CallsServices(Protocol):
    """Whatever can make a call: the service's ``Caller``, or a client of a test's."""

    def call(self, request: Request[ReplyT], timeout_s: float = ...) -> ReplyT: ...


class WalletQuestions:
    """All that this service asks of another one."""

    def __init__(self, caller: CallsServices) -> None:
        self._caller = caller
        self._balances = AskedTogether(self.balances_of)

    def funds(self, user_id: UUID, now: datetime) -> Funds:
        """Errors: ``Unavailable``, ``DeadlineExceeded``. Nobody's wallet is an empty one."""
        try:
            held = self._balance(user_id)
            spent = self._caller.call(
                Statement(user_id=user_id, kinds=SPENDING, since=now - IDLE_AFTER, limit=1),
                WALLET_TIMEOUT_S,
            )
        except NotFound:
            return Funds(available_micros=0, is_idle=True)
        return replace(held, is_idle=not spent.transactions)

    def balance(self, user_id: UUID) -> Funds:
        """The same without a look whether it is idle: one question. Errors: as :meth:`funds`."""
        return self._balances.find(user_id) or Funds(available_micros=0)

    def _balance(self, user_id: UUID) -> Funds:
        return _funds(self._caller.call(GetWallet(user_id=user_id), WALLET_TIMEOUT_S))

    def balances_of(self, user_ids: Sequence[UUID]) -> dict[UUID, Funds]:
        """The same of several; nobody's wallet is left out."""
        found = self._caller.call(GetWallets(user_ids=list(user_ids)), WALLET_TIMEOUT_S)
        return {wallet.user_id: _funds(wallet) for wallet in found.wallets}

    def entry(self, key: str) -> Entry | None:
        """What the ledger did under this key, None if nothing. Errors: as :meth:`funds`."""
        outcome = self._caller.call(GetByKey(idempotency_key=key), WALLET_TIMEOUT_S)
        if outcome.state != KeyState.DONE or outcome.reply is None or outcome.recorded_at is None:
            return None
        return Entry(int(outcome.reply["amount_micros"]), outcome.recorded_at)

    def topup_credits_micros(self, since: datetime, until: datetime) -> int:
        """All that the ledger credited as top-ups in whole UTC days. Errors: as :meth:`funds`."""
        report = self._caller.call(Totals(since=since, until=until))
        return sum(day.credited_micros for day in report.days if day.kind in TOPUPS)

    def unused(self, user_id: UUID, topup_ids: Sequence[UUID]) -> UnusedTopups:
        """What is left of top-ups. Errors: ``Unavailable``, ``DeadlineExceeded``, ``NotFound``."""
        question = GetUnusedTopups(user_id=user_id, topup_ids=list(topup_ids))
        return self._caller.call(question, WALLET_TIMEOUT_S)

    def set_aside(self, user_id: UUID, refund_id: UUID, amount_micros: int) -> UUID:
        """Hold credit for a refund, once for each; the hold. Errors: those of a debit."""
        command = PlaceHold(
            idempotency_key=card_refund_key(refund_id),
            user_id=user_id,
            amount_micros=amount_micros,
            expires_in_s=HELD_FOR_S,
            description="Refund to the card",
            is_paid_alone=True,
        )
        return self._caller.call(command, WALLET_TIMEOUT_S).hold_id

    def credits(self, after_position: int) -> CreditPage:
        """What came into wallets after a position of the ledger. Errors: as :meth:`funds`."""
        return self._caller.call(ListCredits(after_position=after_position))


def _funds(wallet: Wallet) -> Funds:
    return Funds(
        available_micros=wallet.available_micros,
        is_frozen=wallet.status == AccountStatus.FROZEN,
    )


class AsksWallet(Protocol):
    """What is known of wallets; a simulation has its own."""

    def funds(self, user_id: UUID, now: datetime) -> Funds: ...

    def balance(self, user_id: UUID) -> Funds: ...

    def balances_of(self, user_ids: Sequence[UUID]) -> Mapping[UUID, Funds]: ...

    def entry(self, key: str) -> Entry | None: ...

    def topup_credits_micros(self, since: datetime, until: datetime) -> int: ...

    def unused(self, user_id: UUID, topup_ids: Sequence[UUID]) -> UnusedTopups: ...

    def set_aside(self, user_id: UUID, refund_id: UUID, amount_micros: int) -> UUID: ...

    def credits(self, after_position: int) -> CreditPage: ...
