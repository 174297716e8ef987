"""Finding products: one by id or slug, or a page of those that match."""

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    UnaryExpression,
    and_,
    asc,
    cast,
    desc,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

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
from services.catalog.counts import count_once
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
WALKED_MAX = 1_000
"""How many products are looked at for words, in the order of the list, before the index is."""


def list_products(session: Session, command: ListProducts) -> ProductPage:
    """A page of the products that match every filter and every word of ``q``.

    A word matches anywhere in the name, the summary or the provider's name, whatever its case and
    accents: ``search_form`` of the database makes both alike. Raises ``BadRequest`` for a cursor
    that is not of this sort order.
    """
    matching: Sequence[ColumnElement[bool]] = list(_filtering(command).values())
    if words := command.q.split():
        found, matching = _search(session, command, matching, words)
    else:
        found = _page(session, command, matching)
    count = select(func.count()).select_from(ProductRow).where(*matching)
    total = count_once(session, _question(command), lambda: session.scalars(count).one())
    next_cursor = None
    if len(found) > command.limit:
        place, last = found[command.limit - 1]
        next_cursor = encode_cursor(command.sort, place, last.product_id)
    return ProductPage(
        products=[as_product(product) for _, product in found[: command.limit]],
        next_cursor=next_cursor,
        total=total,
    )


def count_products(session: Session, command: CountProducts) -> Facets:
    """How many products have which value, each facet under all filters but its own."""
    question = "facets", _question(command)
    return count_once(session, question, lambda: _facets(session, command))


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


def _page(
    session: Session, command: ListProducts, conditions: Sequence[ColumnElement[bool]]
) -> Sequence[Row[Any, ProductRow]]:
    """The products of a page, each with its place in the order, and one more if there are more."""
    return session.execute(
        _in_order(command, conditions).add_columns(ProductRow).limit(command.limit + 1)
    ).all()


def _direction(command: ListProducts) -> Callable[[Any], UnaryExpression[Any]]:
    return desc if _ORDERS[command.sort].descends else asc


def _in_order(command: ListProducts, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """The places of what meets the conditions and follows the page before."""
    order, direction = _ORDERS[command.sort], _direction(command)
    after = [] if command.cursor is None else [_after(command.cursor, command.sort)]
    return (
        select(order.column.label("place"))
        .where(*conditions, *after)
        .order_by(direction("place"), direction(ProductRow.product_id))
    )


def _search(
    session: Session,
    command: ListProducts,
    conditions: Sequence[ColumnElement[bool]],
    words: Sequence[str],
) -> tuple[Sequence[Row[Any, ProductRow]], Sequence[ColumnElement[bool]]]:
    """The same of those with all the words, and the conditions by which they are counted best.

    Common words fill a page within the first products of the order. Rare ones have an index, which
    has nearly all products of common ones.
    """
    walked = _in_order(command, conditions).add_columns(ProductRow).limit(WALKED_MAX).subquery()
    row, direction = aliased(ProductRow, walked), _direction(command)
    found = session.execute(
        select(walked.c.place, row)
        .where(*_have(row.searchable, words))
        .order_by(direction(walked.c.place), direction(row.product_id))
        .limit(command.limit + 1)
    ).all()
    is_full = len(found) > command.limit
    if is_full or session.scalars(select(func.count()).select_from(walked)).one() < WALKED_MAX:
        return found, [*conditions, *_have(ProductRow.searchable, words)]
    indexed = select(func.products_with(cast(words, ARRAY(Text))).column_valued("product_id"))
    conditions = [*conditions, ProductRow.product_id.in_(indexed)]
    return _page(session, command, conditions), conditions


def _have(
    searchable: ColumnElement[str] | InstrumentedAttribute[str], words: Sequence[str]
) -> list[ColumnElement[bool]]:
    """That each word stands somewhere in the text."""
    return [func.strpos(searchable, func.search_form(word)) > 0 for word in words]


def _facets(session: Session, filters: ProductFilters) -> Facets:
    conditions = _filtering(filters)
    conditions["q"] = and_(true(), *_have(ProductRow.searchable, filters.q.split()))
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


def _question(filters: ProductFilters) -> Hashable:
    """What is asked for, whatever the page of it."""
    return tuple(getattr(filters, name) for name in ProductFilters.model_fields)


def _filtering(filters: ProductFilters) -> dict[str, ColumnElement[bool]]:
    """What has to hold beside the words, by the name of the filter that wants it."""
    equal: dict[str, InstrumentedAttribute[Any]] = {
        "category": ProductRow.category,
        "family": ProductRow.family,
        "provider_name": ProductRow.provider_name,
        "location": ProductRow.location,
        "billing_period": ProductRow.billing_period,
        "provider_id": ProductRow.provider_id,
    }
    conditions: dict[str, ColumnElement[bool]] = {}
    if not filters.with_retired:
        conditions["retired"] = ProductRow.retired_at.is_(None)
    for name, column in equal.items():
        if (wanted := getattr(filters, name)) is not None:
            conditions[name] = column == wanted
    if filters.max_price_micros is not None:
        conditions["max_price_micros"] = ProductRow.price_micros <= filters.max_price_micros
    for name, labels in _MEASURES.items():
        if (least := getattr(filters, name)) is not None:
            measure = func.measure_of(ProductRow.specification, array(labels))
            conditions[name] = measure >= least
    return conditions


def _after(cursor: str, sort: SortOrder) -> ColumnElement[bool]:
    """The rows that follow the one a cursor stands on."""
    order = _ORDERS[sort]
    name, last, last_id = decode_cursor(cursor, str, order.kind, UUID)
    if name != sort:
        raise BadRequest("This page address belongs to another sort order.", "cursor")
    place, reached = tuple_(order.column, ProductRow.product_id), tuple_(last, last_id)
    return place < reached if order.descends else place > reached
