"""The website's pages: one blueprint for each feature."""

from flask import Blueprint

from services.gateway.pages import (
    accounts,
    auto_topup,
    cards,
    dashboard,
    home,
    marketplace,
    navigation,
    notices,
    purchases,
    topups,
    wallet,
)

blueprints: list[Blueprint] = [
    navigation.blueprint,
    home.blueprint,
    accounts.blueprint,
    marketplace.blueprint,
    purchases.blueprint,
    topups.blueprint,
    dashboard.blueprint,
    wallet.blueprint,
    auto_topup.blueprint,
    cards.blueprint,
    notices.blueprint,
]
