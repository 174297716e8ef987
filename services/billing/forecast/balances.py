"""Asking the wallet what a user has."""

import functools
from collections.abc import Sequence
from uuid import UUID

from chassis.client import RpcClient
from chassis.together import AskedTogether
from contracts.wallet import GetWallets, Wallet


def wallet_of(rpc: RpcClient, user_id: UUID, timeout_s: float) -> Wallet | None:
    """The user's wallet; None for one who has none yet. Raises what the wallet raises."""
    return _wallets(rpc, timeout_s).find(user_id)


@functools.cache
def _wallets(rpc: RpcClient, timeout_s: float) -> AskedTogether[UUID, Wallet]:
    """One for all workers, who ask together what they ask at the same moment."""

    def ask(user_ids: Sequence[UUID]) -> dict[UUID, Wallet]:
        found = rpc.call(GetWallets(user_ids=list(user_ids)), timeout_s)
        return {wallet.user_id: wallet for wallet in found.wallets}

    return AskedTogether(ask)
