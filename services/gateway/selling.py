"""Becoming a seller: by agreeing to the fee of that day, which is written down, once.

Whoever has agreed has the role, until an operator takes it; nobody gives it back to themself.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.locks import locked
from contracts.errors import Conflict
from services.gateway.access import Role
from services.gateway.models import RoleGrant, SellerAgreement, User
from services.gateway.staff import acts, grants
from services.gateway.staff.acts import Actor

TERMS_VERSION = "2026-11-29"
"""Of the sentences on the page. Other sentences are another version."""


@dataclass(frozen=True)
class Agreed:
    """What somebody has agreed to, and when."""

    terms_version: str
    fee_bps: int
    agreed_at: datetime


def agreed(session: Session, user_id: UUID) -> Agreed | None:
    """What a user has agreed to; None for who never did."""
    row = session.get(SellerAgreement, user_id)
    return Agreed(row.terms_version, row.fee_bps, row.agreed_at) if row else None


def is_seller(session: Session, user_id: UUID) -> bool:
    return Role.SELLER in grants.roles_of(session, user_id)


def sells(session: Session, user_id: UUID) -> bool:
    """Whether they do, or have until an operator took the role."""
    return is_seller(session, user_id) or agreed(session, user_id) is not None


def join(
    session: Session, now: datetime, user_id: UUID, terms_version: str, fee_bps: int, origin: str
) -> None:
    """Agree to what the page has shown, and become a seller. Again, it changes nothing. Raises
    ``Conflict`` for other terms than those of now, without a second step, and for whom an operator
    has taken the role from."""
    # Before the user's row, as whoever gives or takes a role.
    acts.lock(session)
    user = locked(session, User, user_id)
    if user.deleted_at is not None:
        raise Conflict("This account is deleted.")
    if is_seller(session, user_id):
        return
    if agreed(session, user_id) is not None:
        raise Conflict("An operator took your seller role away. Contact support to sell again.")
    if terms_version != TERMS_VERSION:
        raise Conflict("The terms have changed meanwhile. Read them again; nothing was agreed.")
    if user.second_step_since is None:
        raise Conflict("Sellers need a second step when they log in. Switch it on first.")
    before = grants.in_words(grants.roles_of(session, user_id))
    session.add(
        SellerAgreement(
            user_id=user_id,
            terms_version=terms_version,
            fee_bps=fee_bps,
            agreed_at=now,
            address=origin,
        )
    )
    session.add(RoleGrant(user_id=user_id, role=Role.SELLER, granted_at=now, granted_by=None))
    session.flush()
    after = grants.in_words(grants.roles_of(session, user_id))
    acts.record(
        session,
        now,
        Actor(user_id, "", before, origin),
        "seller.join",
        str(user_id),
        "Became a seller and agreed to the terms",
        before={"roles": before},
        after={"roles": after, "terms": terms_version, "fee_bps": fee_bps},
    )
