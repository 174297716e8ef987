"""The website's pages: one blueprint for each feature."""

from flask import Blueprint

from services.gateway.pages import (
    accounts,
    auto_topup,
    cards,
    dashboard,
    home,
    marketplace,
    navbar,
    notifications,
    purchases,
    topups,
    wallet,
)

blueprints: list[Blueprint] = [
    navbar.blueprint,
    home.blueprint,
    accounts.blueprint,
    marketplace.blueprint,
    purchases.blueprint,
    topups.blueprint,
    dashboard.blueprint,
    wallet.blueprint,
    auto_topup.blueprint,
    cards.blueprint,
    notifications.blueprint,
]
