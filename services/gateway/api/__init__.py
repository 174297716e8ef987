"""The HTTP API: one module for each feature."""

from services.gateway.api import (
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
    topups,
    wallet,
    webhooks,
)
from services.gateway.api.endpoint import OPERATIONS

__all__ = ["OPERATIONS", "blueprints"]

blueprints = [
    accounts.blueprint,
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
