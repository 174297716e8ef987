"""Typed calls of Mycelium's internal services, which need nothing of ours but ``contracts``.

::

    from contracts.wallet import GetWallet
    from mycelium_client import Services

    with Services("amqp://reports:…@broker//mycelium") as services:
        wallet = services.call(GetWallet(user_id=user_id), timeout_s=2)

What can be called is in :mod:`contracts`, what may go wrong in :mod:`contracts.errors`.
"""

from mycelium_client.services import Services

__all__ = ["Services"]
