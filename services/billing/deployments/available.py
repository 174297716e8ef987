"""What users have left, once all that is due of them was asked for."""

from collections.abc import Collection, Mapping
from typing import NamedTuple
from uuid import UUID

from chassis.client import RpcClient
from contracts.errors import AccountFrozen, InsufficientFunds
from contracts.wallet import AccountStatus, BatchError, GetWallets

_AT_ONCE = 100
"""So many users one question may be about."""


class Settled(NamedTuple):
    """What was settled before somebody is told what their wallet lacks, so that it is all of it.

    ``available_micros`` says what wallets had after that; who is missing had nothing else due.
    """

    available_micros: Mapping[UUID, int] = {}

    def left_micros(self, user_id: UUID, error: BatchError) -> int:
        """What the wallet had that refused this, and what else was due."""
        return min(had_micros(error), self.available_micros.get(user_id, had_micros(error)))

    def is_overtaken(self, user_id: UUID, error: BatchError | None) -> bool:
        """Whether money has come since this was refused: it is asked for again."""
        left_micros = self.available_micros.get(user_id)
        return left_micros is not None and error is not None and left_micros > had_micros(error)


def had_micros(error: BatchError) -> int:
    """What a wallet had that refused something; of one that is frozen that is nothing."""
    return int(error.details[0]) if error.code == InsufficientFunds.code and error.details else 0


def entry_count(error: BatchError) -> int | None:
    """How many entries the wallet had that refused something; None where it does not say."""
    place = {InsufficientFunds.code: 2, AccountFrozen.code: 0}.get(error.code, len(error.details))
    return int(error.details[place]) if place < len(error.details) else None


def settled(rpc: RpcClient, user_ids: Collection[UUID]) -> Settled:
    """What these users have now that others of theirs were settled. Raises ``ServiceError``."""
    asked = sorted(user_ids)
    found = [
        wallet
        for start in range(0, len(asked), _AT_ONCE)
        for wallet in rpc.call(GetWallets(user_ids=asked[start : start + _AT_ONCE])).wallets
    ]
    available_micros = {
        wallet.user_id: 0 if wallet.status is AccountStatus.FROZEN else wallet.available_micros
        for wallet in found
    }
    return Settled(available_micros)
