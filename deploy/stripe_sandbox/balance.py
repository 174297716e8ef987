"""The balance and its transactions: every movement of money, with its fee, in cents."""

from . import listing
from .sandbox import Call, Sandbox
from .store import Object, new_id

_PAYOUT_DELAY_S = 2 * 86_400
DISPUTE_FEE = 1_500


def fee_of(amount: int) -> int:
    """Stripe's list price for a card in the US: 2.9 % + 30 cents, half a cent rounds up."""
    return (amount * 29 + 500) // 1_000 + 30


def move(
    sandbox: Sandbox,
    *,
    kind: str,
    category: str,
    amount: int,
    currency: str,
    source: str,
    description: str | None,
    fee: int = 0,
    is_available: bool = False,
) -> Object:
    """Record a movement; `amount` and `fee` in cents, negative when money leaves."""
    fees = [
        {
            "amount": fee,
            "application": None,
            "currency": currency,
            "description": "Dispute fee" if category == "dispute" else "Stripe processing fees",
            "type": "stripe_fee",
        }
    ]
    return sandbox.store.put(
        "balance_transaction",
        {
            "id": new_id("txn"),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": sandbox.now() + (0 if is_available else _PAYOUT_DELAY_S),
            "balance_type": "payments",
            "created": sandbox.now(),
            "currency": currency,
            "description": description,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": fees if fee else [],
            "net": amount - fee,
            "reporting_category": category,
            "source": source,
            "status": "available" if is_available else "pending",
            "type": kind,
        },
    )


def retrieve_transaction(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/balance_transactions/{id}."""
    return sandbox.store.get("balance_transaction", call["id"])


def list_transactions(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/balance_transactions: by time, source, type, currency. There are no payouts."""
    items = sandbox.store.newest("balance_transaction")
    if call.params.get("payout"):
        items = []
    return listing.page(items, call, equal=("source", "type", "currency"))


def retrieve(sandbox: Sandbox, _call: Call) -> Object:
    """GET /v1/balance: the sum of all movements, by what is available."""
    totals = {"available": 0, "pending": 0}
    for item in sandbox.store.newest("balance_transaction"):
        totals[item["status"]] += item["net"]
    return {
        "object": "balance",
        "livemode": False,
        **{name: [{"amount": total, "currency": "usd"}] for name, total in totals.items()},
    }
