"""The marketplace's fee: a setting, and another one for a provider with whom that was agreed.

The one that holds when something is sold is written down with it, and is its fee for good.
"""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chassis.bulk import Bulk
from chassis.clock import Clock
from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from contracts.billing import ProviderFee, SetProviderFee
from contracts.errors import IdempotencyConflict
from services.billing.models import FeeChangeRow
from services.billing.settings import BillingSettings

_AGREED = Bulk(
    "SELECT provider_id, fee_bps FROM {rows} JOIN fee_changes USING (provider_id)"
    " ORDER BY change_id",
    provider_id="uuid",
)


def in_force(
    session: Session, provider_ids: Iterable[UUID], rules: BillingSettings
) -> dict[UUID, int]:
    """The fee of each of these providers now, in basis points."""
    wanted = set(provider_ids)
    if not wanted:
        return {}
    fees = dict.fromkeys(wanted, rules.marketplace_fee_bps)
    for row in _AGREED.execute(session, [(each,) for each in wanted]):
        fees[row.provider_id] = rules.marketplace_fee_bps if row.fee_bps is None else row.fee_bps
    return fees


def set_fee(
    session: Session, clock: Clock, command: SetProviderFee, rules: BillingSettings
) -> ProviderFee:
    """Set a provider's own fee, or let the default hold again. Raises ``IdempotencyConflict``."""
    lock_until_commit(session, f"fee:{command.provider_id}")
    body_hash = request_hash(command).hex()
    known = session.scalar(
        select(FeeChangeRow.body_hash).where(
            FeeChangeRow.idempotency_key == command.idempotency_key
        )
    )
    if known is not None and known != body_hash:
        raise IdempotencyConflict(
            "This idempotency key was used for another fee. Use a new key for a new fee."
        )
    if known is None:
        session.add(
            FeeChangeRow(
                change_id=new_id(),
                provider_id=command.provider_id,
                fee_bps=command.fee_bps,
                reason=command.reason,
                actor=command.actor,
                changed_at=clock(),
                idempotency_key=command.idempotency_key,
                body_hash=body_hash,
            )
        )
        session.flush()
    (fee_bps,) = in_force(session, [command.provider_id], rules).values()
    return ProviderFee(provider_id=command.provider_id, fee_bps=fee_bps)
