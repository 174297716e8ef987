"""Finding products: one by id or slug, or a page of those that match."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from chassis.cursors import decode_cursor, encode_cursor
from contracts.catalog import (
    BillingPeriod,
    Category,
    ListProducts,
    Product,
    ProductPage,
    SortOrder,
    SpecificationItem,
)
from contracts.errors import BadRequest, NotFound
from services.catalog.models import ProductRow


class _Order(NamedTuple):
    """A sort order: its column, its direction, and how the column stands in a cursor."""

    column: ColumnElement[Any] | InstrumentedAttribute[Any]
    kind: type[str] | type[int] | type[datetime]
    descends: bool = False


_ORDERS = {
    SortOrder.FEATURED: _Order(ProductRow.featured_rank, int),
    SortOrder.NAME: _Order(func.left(func.search_form(ProductRow.name), 200), str),
    SortOrder.PRICE: _Order(ProductRow.price_micros, int),
    SortOrder.PRICE_DESCENDING: _Order(ProductRow.price_micros, int, descends=True),
    SortOrder.NEWEST: _Order(ProductRow.created_at, datetime, descends=True),
}


def list_products(session: Session, command: ListProducts) -> ProductPage:
    """A page of the products that match every filter and every word of ``q``.

    A word matches anywhere in the name, the summary or the provider's name, whatever its case and
    accents: ``search_form`` of the database makes both alike. Raises ``BadRequest`` for a cursor
    that is not of this sort order.
    """
    matches = _matching(command)
    total = session.scalar(select(func.count()).select_from(matches.subquery()))
    order = _ORDERS[command.sort]
    if command.cursor is not None:
        matches = matches.where(_after(command.cursor, command.sort))
    column, tie = order.column, ProductRow.product_id
    matches = matches.order_by(
        *((column.desc(), tie.desc()) if order.descends else (column.asc(), tie.asc()))
    )
    # One more than asked for says whether there is a next page.
    rows = session.execute(matches.add_columns(column).limit(command.limit + 1)).all()
    page = rows[: command.limit]
    next_cursor = None
    if len(rows) > command.limit:
        last, value = page[-1]
        next_cursor = encode_cursor(command.sort, value, last.product_id)
    products = [as_product(row) for row, _ in page]
    return ProductPage(products=products, next_cursor=next_cursor, total=total or 0)


def get_product(session: Session, product_id: str) -> Product:
    """The product with this id or slug. Raises ``NotFound``."""
    try:
        wanted = ProductRow.product_id == UUID(product_id)
    except ValueError:
        wanted = ProductRow.slug == product_id
    row = session.scalar(select(ProductRow).where(wanted))
    if row is None:
        raise NotFound("There is no such product. It may have been taken off the marketplace.")
    return as_product(row)


def as_product(row: ProductRow) -> Product:
    """The contract's view of a row."""
    return Product(
        product_id=row.product_id,
        slug=row.slug,
        name=row.name,
        category=Category(row.category),
        summary=row.summary,
        description=row.description,
        provider_name=row.provider_name,
        provider_id=row.provider_id,
        location=row.location,
        price_micros=row.price_micros,
        billing_period=BillingPeriod(row.billing_period),
        specification=[SpecificationItem.model_validate(item) for item in row.specification],
        stock=row.stock,
    )


def _matching(command: ListProducts) -> Select[ProductRow]:
    matches = select(ProductRow)
    if command.category is not None:
        matches = matches.where(ProductRow.category == command.category)
    if command.max_price_micros is not None:
        matches = matches.where(ProductRow.price_micros <= command.max_price_micros)
    for word in command.q.split():
        matches = matches.where(func.strpos(ProductRow.searchable, func.search_form(word)) > 0)
    return matches


def _after(cursor: str, sort: SortOrder) -> ColumnElement[bool]:
    """The rows that follow the one a cursor stands on."""
    order = _ORDERS[sort]
    name, last, last_id = decode_cursor(cursor, str, order.kind, UUID)
    if name != sort:
        raise BadRequest("This page address belongs to another sort order.", "cursor")
    column, tie_column = order.column, ProductRow.product_id
    if order.descends:
        return or_(column < last, and_(column == last, tie_column < last_id))
    return or_(column > last, and_(column == last, tie_column > last_id))
