"""What those who sell do with products: put up for sale, change, retire.

Each command is carried out once per key, together with its line in the history and the events that
tell of it; the same command again returns the product as it is by now.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from chassis.clock import Clock
from chassis.database import lock_until_commit
from chassis.idempotency import request_hash
from chassis.identifiers import new_id
from chassis.locks import locked_or_none
from chassis.outbox import publish
from contracts.catalog import (
    ChangeProduct,
    CreateProduct,
    GetPriceHistory,
    Meter,
    PastPrice,
    PriceHistory,
    Product,
    ProductChanged,
    ProductPriceChanged,
    ProductRetired,
    RetireProduct,
)
from contracts.errors import BadRequest, Conflict, IdempotencyConflict, NotFound
from contracts.messages import Event
from services.catalog.models import ProductChangeRow, ProductPriceRow, ProductRow
from services.catalog.products import as_product
from services.catalog.providers import (
    admit_family,
    admit_new_price,
    admit_new_product,
    check_texts,
    forget_profile,
)
from services.catalog.settings import CatalogSettings

PRICES_MAX = 200

SellersCommand = CreateProduct | ChangeProduct | RetireProduct

_AS_GIVEN = ("name", "summary", "description", "provider_name", "location", "family")
_AS_JSON = ("specification", "fields", "meters")


def create(
    session: Session, clock: Clock, command: CreateProduct, rules: CatalogSettings
) -> Product:
    """Put a product up for sale. Raises ``Conflict`` for a slug that is taken, and for what a
    provider wants see :mod:`services.catalog.providers`."""
    row = _made_before(session, command)
    if row is not None:
        return as_product(row)
    provider_name = command.provider_name
    if provider_name is None and command.provider_id is not None:
        check_texts(command)
        admit_family(session, command.provider_id, command.family)
        provider_name = admit_new_product(session, clock, command.provider_id, rules)
    now = clock()
    given = command.model_dump(mode="json", exclude={"idempotency_key", "reason", "actor"})
    values = {
        **given,
        "product_id": new_id(),
        "provider_id": command.provider_id,
        "provider_name": provider_name,
        "created_at": now,
    }
    made = session.scalar(
        insert(ProductRow).values(values).on_conflict_do_nothing().returning(ProductRow.product_id)
    )
    if made is None:
        raise Conflict(f"There is a product {command.slug} already. Choose another slug.")
    row = session.get_one(ProductRow, made)
    _price(session, now, row, command)
    _note(session, now, row, command, _changed(now, row))
    return as_product(row)


def change(
    session: Session, clock: Clock, command: ChangeProduct, rules: CatalogSettings
) -> Product:
    """Change what is given. Raises ``NotFound``, ``Conflict`` for units that are not left and for
    a stock that has an end already, ``BadRequest`` where there is no end to it, and for what a
    provider wants see :mod:`services.catalog.providers`."""
    row = _made_before(session, command)
    if row is not None:
        return as_product(row)
    if command.provider_id is not None:
        check_texts(command)
        # Before the product, as whoever puts one up.
        admit_family(session, command.provider_id, command.family)
    row = _locked(session, command.product_id, command.provider_id)
    now, given = clock(), command.model_dump(mode="json")
    asked_before = row.price_micros, row.meters
    for name in (*_AS_GIVEN, *_AS_JSON):
        if given[name] is not None:
            setattr(row, name, given[name])
    _change_stock(row, command)
    events: list[Event] = [_changed(now, row)]
    if command.price_micros is not None and command.price_micros != row.price_micros:
        old_price_micros, row.price_micros = row.price_micros, command.price_micros
        events.append(
            ProductPriceChanged(
                event_id=new_id(),
                occurred_at=now,
                product_id=row.product_id,
                old_price_micros=old_price_micros,
                price_micros=row.price_micros,
            )
        )
    if (row.price_micros, row.meters) != asked_before:
        if command.provider_id is not None:
            admit_new_price(session, now, row.product_id, rules)
        _price(session, now, row, command)
    _note(session, now, row, command, *events)
    return as_product(row)


def retire(session: Session, clock: Clock, command: RetireProduct) -> Product:
    """Sell a product no more. Retiring it again changes nothing. Raises ``NotFound``."""
    row = _made_before(session, command)
    if row is not None:
        return as_product(row)
    row = _locked(session, command.product_id, command.provider_id)
    if row.retired_at is None:
        row.retired_at = now = clock()
        retired = ProductRetired(event_id=new_id(), occurred_at=now, product_id=row.product_id)
        _note(session, now, row, command, retired)
    return as_product(row)


def leave(session: Session, clock: Clock, provider_id: UUID) -> None:
    """A provider has deleted the account: nothing of theirs is for sale any more, and how they are
    reached is forgotten. Who rents from them goes on. Again, it changes nothing."""
    # The profile first, as who puts up one more product.
    forget_profile(session, clock, provider_id)
    # In the order of their ids, as whoever sets stock aside locks them.
    products = session.scalars(
        select(ProductRow.product_id)
        .where(ProductRow.provider_id == provider_id, ProductRow.retired_at.is_(None))
        .order_by(ProductRow.product_id)
    ).all()
    for product_id in products:
        command = RetireProduct(
            idempotency_key=f"left:{product_id}",
            product_id=product_id,
            provider_id=provider_id,
            reason="Its provider has deleted the account",
            actor="catalog",
        )
        retire(session, clock, command)


def price_history(session: Session, command: GetPriceHistory) -> PriceHistory:
    """What a product cost, newest first. Raises ``NotFound``."""
    if command.provider_id is not None:
        _refuse_anothers(session.get(ProductRow, command.product_id), command.provider_id)
    rows = session.scalars(
        select(ProductPriceRow)
        .where(ProductPriceRow.product_id == command.product_id)
        .order_by(ProductPriceRow.since.desc())
        .limit(PRICES_MAX)
    ).all()
    if not rows:
        raise NotFound("There is no such product.")
    return PriceHistory(
        prices=[
            PastPrice(
                price_micros=row.price_micros,
                meters=[Meter.model_validate(meter) for meter in row.meters],
                since=row.since,
                reason=row.reason,
                actor=row.actor,
            )
            for row in rows
        ]
    )


def _made_before(session: Session, command: SellersCommand) -> ProductRow | None:
    """The product of this command, where it was carried out. Raises ``IdempotencyConflict``.

    Who asks with the same key at the same moment waits here.
    """
    lock_until_commit(session, f"selling:{command.idempotency_key}")
    known = session.scalar(
        select(ProductChangeRow).where(ProductChangeRow.idempotency_key == command.idempotency_key)
    )
    if known is None:
        return None
    if known.body_hash != request_hash(command).hex():
        raise IdempotencyConflict(
            "This idempotency key was used for something else. Use a new key for a new command."
        )
    return session.get_one(ProductRow, known.product_id)


def _locked(session: Session, product_id: UUID, provider_id: UUID | None) -> ProductRow:
    """A product, and where a provider asks only one of their own. Raises ``NotFound``."""
    row = locked_or_none(session, ProductRow, product_id)
    return _refuse_anothers(row, provider_id)


def _refuse_anothers(row: ProductRow | None, provider_id: UUID | None) -> ProductRow:
    is_anothers = row is not None and provider_id not in (None, row.provider_id)
    if row is None or is_anothers:
        raise NotFound("There is no such product.")
    return row


def _change_stock(row: ProductRow, command: ChangeProduct) -> None:
    units = command.stock_change
    if command.is_endless:
        row.stock = None
    if command.stock is not None:
        if row.stock is not None:
            raise Conflict(
                f"There are {row.stock} of {row.name} left. Look again, then add or take some."
            )
        row.stock = command.stock
    if not units:
        return
    if row.stock is None:
        raise BadRequest(f"There is no end to the stock of {row.name}.", "stock_change")
    if row.stock + units < 0:
        raise Conflict(f"There are only {row.stock} of {row.name} left. Take fewer.")
    row.stock += units


def _price(
    session: Session, now: datetime, row: ProductRow, command: CreateProduct | ChangeProduct
) -> None:
    session.add(
        ProductPriceRow(
            product_id=row.product_id,
            since=now,
            price_micros=row.price_micros,
            meters=row.meters,
            actor=command.actor,
            reason=command.reason,
        )
    )


def _note(
    session: Session, now: datetime, row: ProductRow, command: SellersCommand, *events: Event
) -> None:
    """Write the line of the history, and what is to be published."""
    session.add(
        ProductChangeRow(
            change_id=new_id(),
            product_id=row.product_id,
            command=command.method,
            actor=command.actor,
            reason=command.reason,
            changed_at=now,
            idempotency_key=command.idempotency_key,
            body_hash=request_hash(command).hex(),
        )
    )
    publish(session, *events)


def _changed(now: datetime, row: ProductRow) -> ProductChanged:
    return ProductChanged(
        event_id=new_id(),
        occurred_at=now,
        product_id=row.product_id,
        slug=row.slug,
        name=row.name,
    )
