"""What tells a retry from another purchase under the same key."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.idempotency import is_retry
from contracts.billing import StartPurchase
from contracts.errors import IdempotencyConflict
from services.billing.models import PurchaseRow


def find_replay(session: Session, command: StartPurchase) -> PurchaseRow | None:
    """The purchase that was made under this key. Raises ``IdempotencyConflict``."""
    row = session.scalar(
        select(PurchaseRow).where(
            PurchaseRow.user_id == command.user_id,
            PurchaseRow.idempotency_key == command.idempotency_key,
        )
    )
    if row is not None:
        require_same(row.body_hash, command)
    return row


def require_same(body_hash: str, command: StartPurchase) -> None:
    """Raise ``IdempotencyConflict`` unless a stored hash is this command's."""
    if not is_retry(body_hash, command, _once_hashed(command)):
        raise IdempotencyConflict(
            "This idempotency key was used for another purchase. Use a new key for a new purchase."
        )


def _once_hashed(command: StartPurchase) -> dict[str, Any]:
    line = {"product_id", "quantity", "expected_unit_price_micros"}
    return command.model_dump(mode="json", include={"user_id": True, "lines": {"__all__": line}})
