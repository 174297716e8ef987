"""The HTTP API: one module for each feature."""

from services.gateway.api import (
    account,
    accounts,
    admin,
    auto_topup,
    card_refunds,
    cart,
    deployments,
    finance,
    forecast,
    hooks,
    notifications,
    openapi,
    payouts,
    products,
    purchases,
    receipts,
    sales,
    tokens,
    topups,
    transfers,
    wallet,
    webhooks,
)
from services.gateway.api.endpoint import OPERATIONS

__all__ = ["OPERATIONS", "blueprints"]

blueprints = [
    accounts.blueprint,
    account.blueprint,
    tokens.blueprint,
    hooks.blueprint,
    products.blueprint,
    wallet.blueprint,
    transfers.blueprint,
    topups.blueprint,
    card_refunds.blueprint,
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
    admin.blueprint,
    finance.blueprint,
    openapi.serve(OPERATIONS),
]
