"""Who sells: the profile that buyers see, and what a provider may write and do by themself."""

import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from chassis.locks import for_update, locked_or_none
from chassis.outbox import publish
from contracts.catalog import (
    ChangeProduct,
    CreateProduct,
    GetProvider,
    ProductChanged,
    Provider,
    SetProvider,
)
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, LimitExceeded, NotFound
from services.catalog.models import (
    ProductPriceRow,
    ProductRow,
    ProviderChangeRow,
    ProviderRow,
)
from services.catalog.settings import CatalogSettings

DAY = timedelta(days=1)

_HIDDEN = "\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
"""What is not seen, or turns what follows around: it would make one name look like another."""
_NO_TEXT = re.compile(rf"<[A-Za-z/!?]|[\x00-\x08\x0b-\x1f\x7f{_HIDDEN}]")
_TEXTS = ("name", "summary", "description", "location", "about")
_OF_MORE_LINES = ("description", "about")


def get_provider(session: Session, command: GetProvider) -> Provider:
    """A profile by its id or its name. Raises ``NotFound``."""
    query = select(ProviderRow)
    if command.provider_id is not None:
        query = query.where(ProviderRow.provider_id == command.provider_id)
    if command.name is not None:
        # By the index, and then as it is written.
        query = query.where(
            func.search_form(ProviderRow.name) == func.search_form(command.name),
            ProviderRow.name == command.name,
        )
    row = session.scalar(query)
    if row is None:
        raise NotFound("This provider has no profile.")
    return _as_provider(row)


def set_provider(session: Session, clock: Clock, command: SetProvider) -> Provider:
    """Write a profile; the provider's products show its name. Raises ``Conflict`` for a name of
    somebody else, ``BadRequest`` for what is no plain text."""
    check_texts(command)
    # One at a time: of two who want the same name at once, the second finds it taken.
    lock_until_commit(session, "providers")
    row = locked_or_none(session, ProviderRow, command.provider_id)
    if _is_repeated(session, command):
        return _as_provider(session.get_one(ProviderRow, command.provider_id))
    name = " ".join(command.name.split())
    if _is_anothers(session, command.provider_id, name):
        raise Conflict(f"Somebody else sells under the name {name}. Choose another one.")
    now = clock()
    if row is None:
        row = ProviderRow(provider_id=command.provider_id)
        session.add(row)
    row.name, row.about, row.changed_at = name, command.about, now
    row.support_email, row.support_url = command.support_email, command.support_url
    session.flush()
    session.add(
        ProviderChangeRow(
            change_id=new_id(),
            provider_id=command.provider_id,
            name=name,
            actor=command.actor,
            reason=command.reason,
            changed_at=now,
            idempotency_key=command.idempotency_key,
            body_hash=request_hash(command).hex(),
        )
    )
    _rename_products(session, now, command.provider_id, name)
    return _as_provider(row)


def forget_profile(session: Session, clock: Clock, provider_id: UUID) -> None:
    """What somebody says of themself, and how they are reached. The name stays, with what was
    bought of them, and nobody else takes it."""
    row = locked_or_none(session, ProviderRow, provider_id)
    if row is not None:
        row.about = row.support_email = row.support_url = ""
        row.changed_at = clock()


def admit_new_product(
    session: Session, clock: Clock, provider_id: UUID, rules: CatalogSettings
) -> str:
    """The name under which a provider puts up one more product. Raises ``Conflict`` without a
    profile, ``LimitExceeded`` for one too many.

    The profile is locked: what one provider puts up is counted one after the other.
    """
    row = locked_or_none(session, ProviderRow, provider_id)
    if row is None:
        raise Conflict("Say first who sells: write your profile.")
    of_provider = select(func.count()).where(ProductRow.provider_id == provider_id)
    on_sale = session.scalars(of_provider.where(ProductRow.retired_at.is_(None))).one()
    if on_sale >= rules.seller_products_max:
        raise LimitExceeded(
            f"You have {on_sale} products for sale, which is the most. Retire one first."
        )
    lately = session.scalars(of_provider.where(ProductRow.created_at > clock() - DAY)).one()
    if lately >= rules.seller_new_products_per_day:
        raise LimitExceeded(
            f"You put {lately} products up for sale within a day, which is the most. Put up this"
            " one tomorrow."
        )
    return row.name


def admit_new_price(
    session: Session, now: datetime, product_id: UUID, rules: CatalogSettings
) -> None:
    """Raises ``LimitExceeded`` where a product had its prices of this day. The product is locked
    by the caller."""
    prices = select(func.count()).where(
        ProductPriceRow.product_id == product_id, ProductPriceRow.since > now - DAY
    )
    if session.scalars(prices).one() >= rules.seller_prices_per_day:
        raise LimitExceeded(
            f"This product had {rules.seller_prices_per_day} prices within a day, which is the"
            " most: whoever rents it is told of each. Change it tomorrow."
        )


def admit_family(session: Session, provider_id: UUID, family: str | None) -> None:
    """Sizes of one thing are one provider's. Raises ``Conflict`` for a family in which somebody
    else sells."""
    if family is None:
        return
    # One at a time: of two who want the same one at once, the second finds it taken.
    lock_until_commit(session, f"family:{family}")
    of_others = select(ProductRow.product_id).where(
        ProductRow.family == family,
        or_(ProductRow.provider_id.is_(None), ProductRow.provider_id != provider_id),
    )
    if session.scalar(of_others.limit(1)) is not None:
        raise Conflict(f"Somebody else sells sizes as {family}. Choose another family.")


def check_texts(command: CreateProduct | ChangeProduct | SetProvider) -> None:
    """What a provider writes is plain text. Raises ``BadRequest`` with the field."""
    for name in _TEXTS:
        _check(getattr(command, name, None) or "", name)
    if isinstance(command, SetProvider):
        return
    for part in ("specification", "fields", "meters"):
        for item in getattr(command, part) or ():
            for text in _texts_of(item.model_dump(mode="json")):
                _check(text, part)


def _check(text: str, field: str) -> None:
    is_broken = field not in _OF_MORE_LINES and "\n" in text
    if is_broken or _NO_TEXT.search(text.replace("\r\n", "\n")):
        raise BadRequest("Write plain text, without HTML and hidden characters.", field)


def _texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return []
    return [text for each in value for text in _texts_of(each)]


def _is_repeated(session: Session, command: SetProvider) -> bool:
    """Whether this command was carried out. Raises ``IdempotencyConflict``."""
    known = session.scalar(
        select(ProviderChangeRow).where(
            ProviderChangeRow.idempotency_key == command.idempotency_key
        )
    )
    if known is not None and known.body_hash != request_hash(command).hex():
        raise IdempotencyConflict(
            "This idempotency key was used for something else. Use a new key for a new command."
        )
    return known is not None


def _is_anothers(session: Session, provider_id: UUID, name: str) -> bool:
    """Whether somebody else has this name: in a profile, or written at a product by operators."""
    form = func.search_form(name)
    profile = select(ProviderRow.provider_id).where(
        func.search_form(ProviderRow.name) == form, ProviderRow.provider_id != provider_id
    )
    # The stored text is searched first: to bring each name into that form takes far longer.
    product = select(ProductRow.product_id).where(
        func.strpos(ProductRow.searchable, form) > 0,
        func.search_form(ProductRow.provider_name) == form,
        or_(ProductRow.provider_id.is_(None), ProductRow.provider_id != provider_id),
    )
    return any(session.scalar(query.limit(1)) is not None for query in (profile, product))


def _rename_products(session: Session, now: datetime, provider_id: UUID, name: str) -> None:
    # In the order of their ids, as whoever sets stock aside locks them.
    rows = session.scalars(
        for_update(
            select(ProductRow)
            .where(ProductRow.provider_id == provider_id, ProductRow.provider_name != name)
            .order_by(ProductRow.product_id)
        )
    )
    for row in rows.all():
        row.provider_name = name
        publish(
            session,
            ProductChanged(
                event_id=new_id(),
                occurred_at=now,
                product_id=row.product_id,
                slug=row.slug,
                name=row.name,
            ),
        )


def _as_provider(row: ProviderRow) -> Provider:
    return Provider(
        provider_id=row.provider_id,
        name=row.name,
        about=row.about,
        support_email=row.support_email,
        support_url=row.support_url,
    )
