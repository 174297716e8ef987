"""Prices as they stand now."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts.catalog import Quote, QuotedLine, QuoteLine
from contracts.errors import BadRequest, NotFound, OutOfStock
from contracts.messages import MAX_AMOUNT_MICROS
from services.catalog.models import ProductRow
from services.catalog.products import as_product


def quote(session: Session, lines: list[QuoteLine]) -> Quote:
    """Price ``lines``, in the order they came.

    Raises ``NotFound`` for an unknown product, ``OutOfStock`` when there are fewer than
    wanted over all lines, ``BadRequest`` when the total exceeds what can be moved at once.
    """
    wanted = quantities(lines)
    rows = session.scalars(select(ProductRow).where(ProductRow.product_id.in_(wanted)))
    found = {row.product_id: row for row in rows}
    for product_id, quantity in wanted.items():
        refuse_what_is_gone(found.get(product_id), product_id, quantity)
    quoted = [_quoted(found[line.product_id], line.quantity) for line in lines]
    total_micros = sum(amount for _, amount in quoted)
    if total_micros > MAX_AMOUNT_MICROS:
        raise BadRequest("A purchase is at most $1,000,000,000. Order less at once.", "lines")
    return Quote(
        lines=[
            QuotedLine(
                product=as_product(found[line.product_id]),
                quantity=line.quantity,
                unit_price_micros=unit_price,
                amount_micros=amount,
            )
            for line, (unit_price, amount) in zip(lines, quoted, strict=True)
        ],
        total_micros=total_micros,
    )


def quantities(lines: list[QuoteLine]) -> dict[UUID, int]:
    """How many of each product the lines want together."""
    wanted: dict[UUID, int] = {}
    for line in lines:
        wanted[line.product_id] = wanted.get(line.product_id, 0) + line.quantity
    return wanted


def refuse_what_is_gone(row: ProductRow | None, product_id: UUID, quantity: int) -> None:
    """Raise ``NotFound`` or ``OutOfStock`` unless ``quantity`` of this product can be had."""
    if row is None:
        raise NotFound("There is no such product. It may have been taken off the marketplace.")
    if row.retired_at is not None:
        raise NotFound(f"{row.name} is no longer sold.")
    if row.stock is None or row.stock >= quantity:
        return
    if row.stock == 0:
        raise OutOfStock(f"{row.name} is sold out.", str(product_id))
    raise OutOfStock(
        f"There are only {row.stock} of {row.name} left. Order fewer.", str(product_id)
    )


def _quoted(row: ProductRow, quantity: int) -> tuple[int, int]:
    return row.price_micros, row.price_micros * quantity
