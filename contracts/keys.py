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

WALLETS_OWN = (_TOPUP, _REVERSAL, _RESTORED, _OPENED, _EXPIRY)
"""How the keys begin under which the wallet acts by itself, on an event or a timer."""


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


def payout_refused_key(payout_id: UUID) -> str:
    """What is not paid out is released."""
    return f"refused:{payout_key(payout_id)}"


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


def opened_key(settled_by: str) -> str:
    """A frozen wallet is opened, by the top-up or the reversal that settled its debt."""
    return f"{_OPENED}{settled_by}"


def expiry_key(hold_id: UUID) -> str:
    """A hold expires."""
    return f"{_EXPIRY}{hold_id}"
