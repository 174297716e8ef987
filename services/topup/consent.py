"""What a person agrees to before a card is charged while they are away.

Card networks ask that it says who starts the charges, how often, and how the amount is found.
A change of the text needs a new version: what was agreed to is stored with every save.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from chassis.identifiers import new_id
from contracts.errors import BadRequest
from services.topup.models import Consent

VERSION = "2026-11"
TEXT = (
    "I allow Mycelium to charge the card I choose here, or one that I add to replace it, while I "
    "am not present. Mycelium starts a charge when my balance falls below the threshold, or when "
    "a purchase or a renewal of mine lacks funds. Each charge is the top-up amount I set, or the "
    "whole amount that is lacking where that is more, rounded up to a cent. There is never more "
    "than one charge at a time, and never more in a UTC day or month than the limits I set. I "
    "am told of every charge. I can change or end this at any time on this page."
)


def require(is_given: bool, version: str) -> None:
    """Raises ``BadRequest`` unless the person agreed, and to the text that is valid now."""
    if not is_given:
        raise BadRequest(
            "Automatic top-up needs your consent to charge the card: tick the box.", "consent"
        )
    if version and version != VERSION:
        raise BadRequest(
            "The terms of automatic top-up have changed. Read them again and agree anew.",
            "consent_version",
        )


def record(
    session: Session, user_id: UUID, client_address: str, terms: dict[str, Any], now: datetime
) -> UUID:
    """Store what was agreed to; the id of the record."""
    consent = Consent(
        consent_id=new_id(),
        user_id=user_id,
        version=VERSION,
        text=TEXT,
        client_address=client_address,
        terms=terms,
        agreed_at=now,
    )
    session.add(consent)
    return consent.consent_id
