"""Which scope of a token each endpoint of the API asks for.

What reads asks for ``read``, which every token has, and is not listed; what is for roles asks for
``admin``, and what is for sellers for ``sell``. Everything else stands in this table, and an
endpoint that does not cannot be declared.
"""

from services.gateway.access import Role
from services.gateway.people.tokens import EVERYTHING, Scope

READ = frozenset({Scope.READ})
BUY = frozenset({Scope.BUY})
MONEY = frozenset({Scope.MONEY})
SELL = frozenset({Scope.SELL})
ADMIN = frozenset({Scope.ADMIN})
SELLERS = frozenset({Role.SELLER})

CHANGING: dict[tuple[str, str], frozenset[Scope]] = {
    # It ends the token itself.
    ("POST", "/api/auth/logout"): READ,
    ("POST", "/api/notifications/<uuid:notification_id>/read"): READ,
    # What is paid from the wallet, and what was bought.
    ("POST", "/api/wallet/instant-purchase"): BUY,
    ("POST", "/api/wallet/purchase-with-topup"): BUY,
    ("POST", "/api/cart"): BUY,
    ("PATCH", "/api/cart/<uuid:line_id>"): BUY,
    ("DELETE", "/api/cart/<uuid:line_id>"): BUY,
    ("POST", "/api/cart/checkout"): BUY,
    ("POST", "/api/purchases/<uuid:purchase_id>/cancel"): BUY,
    ("POST", "/api/purchases/<uuid:purchase_id>/refund"): BUY,
    ("POST", "/api/purchases/<uuid:purchase_id>/receipt"): BUY,
    ("PATCH", "/api/deployments/<uuid:deployment_id>"): BUY,
    ("POST", "/api/deployments/<uuid:deployment_id>/stop"): BUY,
    ("POST", "/api/deployments/<uuid:deployment_id>/start"): BUY,
    ("POST", "/api/deployments/<uuid:deployment_id>/cancel"): BUY,
    ("POST", "/api/deployments/<uuid:deployment_id>/resize"): BUY,
    (
        "POST",
        "/api/deployments/<uuid:deployment_id>/charges/<uuid:transaction_id>/receipt",
    ): BUY,
    ("POST", "/api/usage-receipts/<string(maxlength=100):month>"): BUY,
    # Cards, what they are charged by themselves, what leaves the wallet, whom it is told to.
    ("POST", "/api/wallet/topups"): MONEY,
    ("POST", "/api/wallet/payment-methods"): MONEY,
    ("POST", "/api/wallet/auto-topup/configure"): MONEY,
    ("POST", "/api/wallet/auto-topup/trigger"): MONEY,
    ("POST", "/api/payouts"): MONEY,
    ("POST", "/api/wallet/transfers"): MONEY,
    ("POST", "/api/wallet/refunds"): MONEY,
    ("PUT", "/api/wallet/alert"): MONEY,
    ("PUT", "/api/billing-details"): MONEY,
    # Who may do anything may change what others may do.
    ("POST", "/api/tokens"): EVERYTHING,
    ("DELETE", "/api/tokens/<uuid:token_id>"): EVERYTHING,
    ("DELETE", "/api/sessions/<uuid:session_id>"): EVERYTHING,
    ("POST", "/api/webhooks"): EVERYTHING,
    ("DELETE", "/api/webhooks/<uuid:webhook_id>"): EVERYTHING,
    ("POST", "/api/webhooks/<uuid:webhook_id>/secret"): EVERYTHING,
    ("POST", "/api/webhooks/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/replay"): EVERYTHING,
    ("PATCH", "/api/account"): EVERYTHING,
    ("DELETE", "/api/account"): EVERYTHING,
    ("POST", "/api/account/password"): EVERYTHING,
}


def scopes_of(
    method: str, path: str, *, is_public: bool, roles: frozenset[Role]
) -> frozenset[Scope]:
    """What a token must be allowed for an endpoint. Raises LookupError for one that nobody has
    thought about."""
    if roles:
        return SELL if roles == SELLERS else ADMIN
    if is_public:
        return frozenset()
    if method == "GET":
        return READ
    try:
        return CHANGING[method, path]
    except KeyError:
        raise LookupError(f"{method} {path} has no scope: add it to api/scopes.py") from None
