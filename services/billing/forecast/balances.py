"""Asking the wallet what a user has."""

from uuid import UUID

from chassis.client import RpcClient
from contracts.errors import NotFound
from contracts.wallet import GetWallet


def balance_micros(rpc: RpcClient, user_id: UUID, timeout_s: float) -> int:
    """The user's balance in micro-dollars; 0 for one who has no wallet yet."""
    try:
        return rpc.call(GetWallet(user_id=user_id), timeout_s=timeout_s).balance_micros
    except NotFound:
        return 0
