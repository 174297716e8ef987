"""What somebody's staking takes off what they buy: off the purchase itself, never off its renewals.

The marketplace bears it. Who sells gets what they would get without it, and so it is never more
than the fee on that price: a provider with a fee of 3 % sells for at most 3 % less. The part of
the price is rounded down to the micro-dollar, so that nothing of it is ever the seller's.
"""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import and_, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.money import bps_of
from contracts.billing import Discounts, GetDiscounts
from contracts.legacy import StakingDiscountChanged
from services.billing.models import DiscountRow, PurchaseLineRow
from services.billing.sales.fees import in_force
from services.billing.sales.shares import Price
from services.billing.settings import BillingSettings


def note(session: Session, event: StakingDiscountChanged) -> None:
    """Keep the newest: one that was overtaken on its way changes nothing."""
    new = insert(DiscountRow).values(
        user_id=event.user_id,
        discount_bps=event.discount_bps,
        position=event.position,
        told_at=event.occurred_at,
    )
    told = new.excluded
    # Another table of discounts is told at the position that the stake has.
    is_newer = or_(
        told.position > DiscountRow.position,
        and_(
            told.position == DiscountRow.position,
            or_(DiscountRow.told_at.is_(None), told.told_at >= DiscountRow.told_at),
        ),
    )
    session.execute(
        new.on_conflict_do_update(
            index_elements=[DiscountRow.user_id],
            set_={name: told[name] for name in ("discount_bps", "position", "told_at")},
            where=is_newer,
        )
    )


def get_discounts(session: Session, request: GetDiscounts, rules: BillingSettings) -> Discounts:
    """See :class:`contracts.billing.GetDiscounts`."""
    own_bps = session.scalar(
        select(DiscountRow.discount_bps).where(DiscountRow.user_id == request.user_id)
    )
    if not own_bps:
        return Discounts(discounts_bps=[0] * len(request.provider_ids))
    fees = in_force(session, filter(None, request.provider_ids), rules)
    return Discounts(discounts_bps=[at_most(own_bps, fees, each) for each in request.provider_ids])


def at_most(discount_bps: int, fees: Mapping[UUID, int], provider_id: UUID | None) -> int:
    """What of a discount is taken off what somebody sells, whose fee is among these."""
    if provider_id is None:
        return discount_bps
    return min(discount_bps, fees[provider_id])


def unit_discount_micros(
    price_micros: int, discount_bps: int, fees: Mapping[UUID, int], provider_id: UUID | None
) -> int:
    """What is taken off the price of one."""
    return bps_of(price_micros, at_most(discount_bps, fees, provider_id))


def price_of(line: PurchaseLineRow) -> Price:
    """What was paid for a line, with the fee of its price less what was taken off."""
    price = Price(line.amount_micros, line.provider_id, line.fee_bps)
    off_micros = line.unit_discount_micros * line.quantity
    if not off_micros or price.earner_id is None:
        return price
    whole = price._replace(amount_micros=line.amount_micros + off_micros)
    return price._replace(given_fee_micros=whole.fee_micros - off_micros)


def price_of_unit(line: PurchaseLineRow, number: int) -> Price:
    """What was paid for one of a line's units, counted from 1."""
    price = Price(line.unit_price_micros, line.provider_id, line.fee_bps)
    if not line.unit_discount_micros or price.earner_id is None:
        return price
    return price._replace(given_fee_micros=fee_of_unit(line, number))


def fee_of_unit(line: PurchaseLineRow, number: int) -> int:
    """The fee of one of several units: all of them come to the line's."""
    fee_micros, units = price_of(line).fee_micros, line.quantity
    return fee_micros * number // units - fee_micros * (number - 1) // units
