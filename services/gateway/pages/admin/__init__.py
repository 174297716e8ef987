"""/admin: pages for roles, each of which says for which ones: ``reads`` and ``acts``."""

from services.gateway.pages.admin import (
    adjustments,
    audit,
    charges,
    finance,
    home,
    operations,
    promotions,
    roles,
    support,
)

blueprints = [
    home.blueprint,
    support.blueprint,
    charges.blueprint,
    operations.blueprint,
    finance.blueprint,
    adjustments.blueprint,
    promotions.blueprint,
    roles.blueprint,
    audit.blueprint,
]
