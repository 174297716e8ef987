"""The website's pages: one blueprint for each feature."""

from flask import Blueprint

from services.gateway.pages import (
    account,
    accounts,
    auto_topup,
    cards,
    cart,
    dashboard,
    deployments,
    docs,
    home,
    mailed_links,
    marketplace,
    navbar,
    notifications,
    purchases,
    receipts,
    topups,
    wallet,
)

blueprints: list[Blueprint] = [
    navbar.blueprint,
    home.blueprint,
    docs.blueprint,
    accounts.blueprint,
    account.blueprint,
    mailed_links.blueprint,
    marketplace.blueprint,
    cart.blueprint,
    purchases.blueprint,
    receipts.blueprint,
    topups.blueprint,
    dashboard.blueprint,
    deployments.blueprint,
    wallet.blueprint,
    auto_topup.blueprint,
    cards.blueprint,
    notifications.blueprint,
]
