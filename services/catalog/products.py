"""Finding products: one by id or slug, or a page of those that match."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    and_,
    asc,
    desc,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import InstrumentedAttribute, Session

from chassis.cursors import decode_cursor, encode_cursor
from contracts.catalog import (
    BillingPeriod,
    Category,
    CountProducts,
    Facet,
    Facets,
    ListProducts,
    Meter,
    Product,
    ProductField,
    ProductFilters,
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

_MEASURES = {
    "min_vcpu": ["vCPU", "CPU"],
    "min_memory_gb": ["Memory"],
    "min_disk_gb": ["Disk", "Capacity"],
}
"""Under which labels of a data sheet a number stands."""

_FACETS = {
    "category": ProductRow.category,
    "provider_name": ProductRow.provider_name,
    "location": ProductRow.location,
    "billing_period": ProductRow.billing_period,
}
FACETS_MAX = 100


def list_products(session: Session, command: ListProducts) -> ProductPage:
    """A page of the products that match every filter and every word of ``q``.

    A word matches anywhere in the name, the summary or the provider's name, whatever its case and
    accents: ``search_form`` of the database makes both alike. Raises ``BadRequest`` for a cursor
    that is not of this sort order.
    """
    order = _ORDERS[command.sort]
    matches = _matching(command, order)
    place, product_id = matches.c.place, matches.c.product_id
    shown = select(place, product_id)
    if command.cursor is not None:
        shown = shown.where(_after(command.cursor, command.sort, place, product_id))
    direction = desc if order.descends else asc
    # One more than asked for says whether there is a next page.
    page = shown.order_by(direction(place), direction(product_id)).limit(command.limit + 1).cte()
    count = select(func.count().label("total")).select_from(matches).cte()
    # The count comes with each row, and with none of them on an empty page.
    rows = session.execute(
        select(count.c.total, page.c.place, ProductRow)
        .select_from(count)
        .outerjoin(page, true())
        .outerjoin(ProductRow, ProductRow.product_id == page.c.product_id)
        .order_by(direction(page.c.place), direction(page.c.product_id))
    ).all()
    found = [(place, product) for _, place, product in rows if product is not None]
    next_cursor = None
    if len(found) > command.limit:
        place, last = found[command.limit - 1]
        next_cursor = encode_cursor(command.sort, place, last.product_id)
    return ProductPage(
        products=[as_product(product) for _, product in found[: command.limit]],
        next_cursor=next_cursor,
        total=rows[0].total,
    )


def count_products(session: Session, command: CountProducts) -> Facets:
    """How many products have which value, each facet under all filters but its own."""
    conditions = _conditions(command)
    counts = [
        select(literal(name).label("facet"), column.label("value"), func.count().label("count"))
        .where(
            *(condition for of, condition in conditions.items() if of != name),
            column.is_not(None),
        )
        .group_by(column)
        .order_by(desc("count"), column)
        .limit(FACETS_MAX)
        .subquery()
        for name, column in _FACETS.items()
    ]
    found = session.execute(union_all(*(select(one) for one in counts))).all()
    facets: dict[str, list[Facet]] = {name: [] for name in _FACETS}
    for name, value, count in found:
        facets[name].append(Facet(value=value, count=count))
    return Facets(
        categories=facets["category"],
        provider_names=facets["provider_name"],
        locations=facets["location"],
        billing_periods=facets["billing_period"],
    )


def get_product(session: Session, product_id: str) -> Product:
    """The product with this id or slug, also a retired one. Raises ``NotFound``."""
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
        fields=[ProductField.model_validate(field) for field in row.fields],
        meters=[Meter.model_validate(meter) for meter in row.meters],
        family=row.family,
        is_retired=row.retired_at is not None,
    )


def _matching(command: ListProducts, order: _Order) -> CTE:
    """The ids of what matches, each with its place in the order.

    What is searched for words is gone through once, for the count and for the page. Without
    words, and by name, whose place is worked out for each row, an index has the page sooner.
    """
    matches = select(ProductRow.product_id, order.column.label("place"))
    matches = matches.where(*_conditions(command).values())
    is_kept = command.q.split() and command.sort is not SortOrder.NAME
    return matches.cte().prefix_with("MATERIALIZED" if is_kept else "NOT MATERIALIZED")


def _conditions(filters: ProductFilters) -> dict[str, ColumnElement[bool]]:
    """What has to hold, by the name of the filter that wants it."""
    equal: dict[str, InstrumentedAttribute[Any]] = {
        "category": ProductRow.category,
        "family": ProductRow.family,
        "provider_name": ProductRow.provider_name,
        "location": ProductRow.location,
        "billing_period": ProductRow.billing_period,
    }
    conditions: dict[str, ColumnElement[bool]] = {"retired": ProductRow.retired_at.is_(None)}
    for name, column in equal.items():
        if (wanted := getattr(filters, name)) is not None:
            conditions[name] = column == wanted
    if filters.max_price_micros is not None:
        conditions["max_price_micros"] = ProductRow.price_micros <= filters.max_price_micros
    for name, labels in _MEASURES.items():
        if (least := getattr(filters, name)) is not None:
            measure = func.measure_of(ProductRow.specification, array(labels))
            conditions[name] = measure >= least
    if words := filters.q.split():
        conditions["q"] = and_(
            *(func.strpos(ProductRow.searchable, func.search_form(word)) > 0 for word in words)
        )
    return conditions


def _after(
    cursor: str, sort: SortOrder, place: ColumnElement[Any], product_id: ColumnElement[UUID]
) -> ColumnElement[bool]:
    """The rows that follow the one a cursor stands on."""
    order = _ORDERS[sort]
    name, last, last_id = decode_cursor(cursor, str, order.kind, UUID)
    if name != sort:
        raise BadRequest("This page address belongs to another sort order.", "cursor")
    if order.descends:
        return or_(place < last, and_(place == last, product_id < last_id))
    return or_(place > last, and_(place == last, product_id > last_id))
