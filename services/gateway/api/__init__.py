"""The HTTP API: one module for each feature."""

from services.gateway.api import (
    account,
    accounts,
    auto_topup,
    cart,
    deployments,
    forecast,
    notifications,
    openapi,
    payouts,
    products,
    purchases,
    receipts,
    sales,
    tokens,
    topups,
    wallet,
    webhooks,
)
from services.gateway.api.endpoint import OPERATIONS

__all__ = ["OPERATIONS", "blueprints"]

blueprints = [
    accounts.blueprint,
    account.blueprint,
    tokens.blueprint,
    products.blueprint,
    wallet.blueprint,
    topups.blueprint,
    cart.blueprint,
    purchases.blueprint,
    receipts.blueprint,
    auto_topup.blueprint,
    deployments.blueprint,
    forecast.blueprint,
    sales.blueprint,
    payouts.blueprint,
    notifications.blueprint,
    webhooks.blueprint,
    openapi.serve(OPERATIONS),
]
