"""The HTTP API: one module for each feature."""

from services.gateway.api import (
    accounts,
    auto_topup,
    deployments,
    document,
    notifications,
    products,
    purchases,
    topups,
    wallet,
    webhooks,
)

blueprints = [
    accounts.blueprint,
    products.blueprint,
    wallet.blueprint,
    topups.blueprint,
    purchases.blueprint,
    auto_topup.blueprint,
    deployments.blueprint,
    notifications.blueprint,
    webhooks.blueprint,
    document.blueprint,
]
