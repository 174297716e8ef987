"""What users want to stand on their receipts, in their own words.

It is sent along when a receipt is issued, and stays on that as it was then.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from contracts.papers import BillingDetails
from services.gateway.models import BillingDetailsRow


def details_of(session: Session, user_id: UUID) -> BillingDetails:
    """What this user entered; empty where that is nothing."""
    row = session.get(BillingDetailsRow, user_id)
    if row is None:
        return BillingDetails()
    return BillingDetails(
        name=row.name, address=row.address, country=row.country, tax_id=row.tax_id
    )


def save(session: Session, now: datetime, user_id: UUID, details: BillingDetails) -> None:
    """For the receipts that are issued from now on."""
    said = {**details.model_dump(), "updated_at": now}
    session.execute(
        insert(BillingDetailsRow)
        .values(user_id=user_id, **said)
        .on_conflict_do_update(index_elements=[BillingDetailsRow.user_id], set_=said)
    )
