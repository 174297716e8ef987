"""Customers: each user is one customer at the card processor, made once.

One that is deleted there is forgotten here, and another one is made when it is needed.
"""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.topup import spent_keys
from services.topup.models import Customer
from services.topup.processor import Object, Processor
from services.topup.till import Till

KEYS_LIVE = timedelta(hours=23)
"""The processor forgets idempotency keys after a day; after this we look before we create."""


def ensure(till: Till, user_id: UUID, email: str) -> str:
    """The processor's id of this user, made when there is none. Raises ``ProcessorError``.

    The row is stored first, and its first address is what is sent, so that a retry sends the
    same body under the same key. Another customer, after one that was deleted, is begun at
    another time and so has another key.
    """
    now = till.clock()
    with till.database.begin() as session:
        customer = _remember(session, user_id, email, now)
    if customer.customer_id is not None:
        return customer.customer_id
    found = None
    if now - customer.created_at > KEYS_LIVE:
        found = _find(till.processor, customer)
    customer_id = (found or _create(till, customer))["id"]
    with till.database.begin() as session:
        session.execute(
            update(Customer)
            .where(Customer.user_id == user_id, Customer.customer_id.is_(None))
            .values(customer_id=customer_id)
        )
    return str(customer_id)


def forget(session: Session, customer_id: str, now: datetime) -> None:
    """The processor has deleted this customer: another one is begun now."""
    session.execute(
        update(Customer)
        .where(Customer.customer_id == customer_id)
        .values(customer_id=None, created_at=now)
    )


def user_of(session: Session, customer_id: str | None) -> UUID | None:
    """Which user this customer is; None where it is no customer of ours, or a card has none."""
    if customer_id is None:
        return None
    return session.scalar(select(Customer.user_id).where(Customer.customer_id == customer_id))


def _remember(session: Session, user_id: UUID, email: str, now: datetime) -> Customer:
    session.execute(
        insert(Customer)
        .values(user_id=user_id, email=email, created_at=now)
        .on_conflict_do_nothing()
    )
    return session.get_one(Customer, user_id)


def _create(till: Till, customer: Customer) -> Object:
    def create(key: str) -> Object:
        return till.processor.create_customer(
            str(customer.user_id), customer.email, idempotency_key=key
        )

    key = f"customer-{customer.user_id}-{customer.created_at:%Y%m%dT%H%M%S%f}"
    return spent_keys.make(till, key, create, lambda: _find(till.processor, customer))


def _find(processor: Processor, customer: Customer) -> Object | None:
    wanted = str(customer.user_id)
    found = processor.customers_by_email(customer.email)
    return next((each for each in found if each["metadata"].get("user_id") == wanted), None)
