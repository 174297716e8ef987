"""Asking the wallet what a user has."""

import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from chassis.client import RpcClient
from chassis.together import AskedTogether
from contracts.wallet import Expiring, GetWallets, Wallet


class Funds(NamedTuple):
    """A wallet, and what of it is promotional."""

    wallet: Wallet
    expiring: Sequence[Expiring]


def wallet_of(rpc: RpcClient, user_id: UUID, timeout_s: float) -> Wallet | None:
    """The user's wallet; None for one who has none yet. Raises what the wallet raises."""
    return _wallets(rpc, timeout_s).find(user_id)


def all_funds(rpc: RpcClient, user_ids: Sequence[UUID], timeout_s: float) -> dict[UUID, Funds]:
    """Those of several users who have a wallet, with what of it is promotional."""
    found = rpc.call(GetWallets(user_ids=list(user_ids), with_expiring=True), timeout_s)
    expiring = defaultdict(list)
    for each in found.expiring:
        expiring[each.user_id].append(each)
    return {each.user_id: Funds(each, expiring[each.user_id]) for each in found.wallets}


@functools.cache
def _wallets(rpc: RpcClient, timeout_s: float) -> AskedTogether[UUID, Wallet]:
    """One for all workers, who ask together what they ask at the same moment."""

    def ask(user_ids: Sequence[UUID]) -> dict[UUID, Wallet]:
        found = rpc.call(GetWallets(user_ids=list(user_ids)), timeout_s)
        return {each.user_id: each for each in found.wallets}

    return AskedTogether(ask)
