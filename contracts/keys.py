"""The idempotency keys under which money moves, where both sides of a call know them.

Whoever wants to know what became of a purchase or a top-up asks the wallet by its key.
"""

from datetime import UTC, datetime
from uuid import UUID

_TOPUP = "topup:"
_REVERSAL = "reversal:"
_RESTORED = "restored:"
_OPENED = "opened:"
_EXPIRY = "expire:"
_RELEASED = "released:"
_APPROVED = "approved:"
_PROMOTION = "promotion:"
_LAPSED = "lapsed:"

WALLETS_OWN = (
    _TOPUP,
    _REVERSAL,
    _RESTORED,
    _OPENED,
    _EXPIRY,
    _RELEASED,
    _APPROVED,
    _PROMOTION,
    _LAPSED,
)
"""How the keys begin under which the wallet acts by itself: on an event, a timer, or a decision."""


def wallet_key(user_id: UUID) -> str:
    """A new user's wallet is opened."""
    return f"open:{user_id}"


def purchase_key(purchase_id: UUID) -> str:
    """A purchase is paid."""
    return f"purchase:{purchase_id}"


def period_key(deployment_id: UUID, kind: str, starts_at: datetime) -> str:
    """A period of a deployment is paid: ``month`` or ``arrears``, from this instant."""
    return f"{kind}:{deployment_id}:{starts_at.astimezone(UTC).isoformat()}"


def period_refund_key(deployment_id: UUID, kind: str, starts_at: datetime) -> str:
    """A period that was paid, and did not run, is given back."""
    return f"refund:{period_key(deployment_id, kind, starts_at)}"


def unit_refund_key(purchase_id: UUID, deployment_id: UUID) -> str:
    """What was paid for a unit of a purchase is given back."""
    return f"refund:{purchase_key(purchase_id)}:{deployment_id}"


def debt_key(refund_key: str) -> str:
    """What was advanced in a refund is taken from who owes it."""
    return f"owed:{refund_key}"


def usage_key(charge_id: UUID) -> str:
    """What was used of a user's deployments is paid."""
    return f"usage:{charge_id}"


def usage_refund_key(refund_id: UUID) -> str:
    """What was paid for usage that was corrected is given back."""
    return f"refund:usage:{refund_id}"


def payout_key(payout_id: UUID) -> str:
    """What is to be paid out is set aside."""
    return f"payout:{payout_id}"


def payout_paid_key(payout_id: UUID) -> str:
    """What was paid out is taken."""
    return f"paid:{payout_key(payout_id)}"


def payout_late_key(payout_id: UUID) -> str:
    """What was paid out when it was set aside no more is taken."""
    return f"late:{payout_key(payout_id)}"


def payout_refused_key(payout_id: UUID) -> str:
    """What is not paid out is released."""
    return f"refused:{payout_key(payout_id)}"


def pool_hold_key(order_id: UUID) -> str:
    """The dollars of an order in the old system's pools are set aside."""
    return f"pools:{order_id}"


def pool_taken_key(order_id: UUID) -> str:
    """They are taken."""
    return f"taken:{pool_hold_key(order_id)}"


def pool_released_key(order_id: UUID) -> str:
    """They are released."""
    return f"freed:{pool_hold_key(order_id)}"


def pool_paid_key(order_id: UUID) -> str:
    """What an order came to in dollars is paid into the wallet."""
    return f"paid:{pool_hold_key(order_id)}"


def topup_key(topup_id: UUID) -> str:
    """A top-up is credited."""
    return f"{_TOPUP}{topup_id}"


def is_topup(key: str) -> bool:
    return key.startswith(_TOPUP)


def reversal_key(reversal_id: str) -> str:
    """A refund or a dispute takes a top-up's credit back."""
    return f"{_REVERSAL}{reversal_id}"


def restored_key(reversal_id: str) -> str:
    """What a reversal took is given back."""
    return f"{_RESTORED}{reversal_id}"


def card_refund_key(refund_id: UUID) -> str:
    """Credit that is to go back to a card is set aside."""
    return f"card_refund:{refund_id}"


def released_key(refund_id: UUID) -> str:
    """Credit that does not go back to a card is free again."""
    return f"{_RELEASED}{refund_id}"


def opened_key(settled_by: str) -> str:
    """A frozen wallet is opened, by the top-up or the reversal that settled its debt."""
    return f"{_OPENED}{settled_by}"


def expiry_key(hold_id: UUID) -> str:
    """A hold expires."""
    return f"{_EXPIRY}{hold_id}"


def approved_key(adjustment_id: UUID) -> str:
    """An adjustment that a second person approved is posted."""
    return f"{_APPROVED}{adjustment_id}"


def promotion_key(promotion_id: UUID) -> str:
    """Promotional credit is given."""
    return f"{_PROMOTION}{promotion_id}"


def lapsed_key(promotion_id: UUID, time: int) -> str:
    """What is left of it goes back, for the first time or a later one."""
    return f"{_LAPSED}{promotion_id}:{time}"
