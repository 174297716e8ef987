from collections.abc import Callable
from contextlib import nullcontext
from uuid import UUID, uuid4

import pytest

from chassis.database import Connected
from contracts.catalog import QuoteLine
from contracts.errors import BadRequest, NotFound, OutOfStock
from contracts.messages import MAX_AMOUNT_MICROS
from services.catalog import quotes

AddProduct = Callable[..., UUID]


def test_a_quote_adds_up_its_lines_in_their_order(
    database: Connected, add_product: AddProduct
) -> None:
    machine = add_product(price_micros=15_000_000)
    backup = add_product(price_micros=3_000_000)

    with database.read() as session:
        quote = quotes.quote(
            session,
            [QuoteLine(product_id=backup), QuoteLine(product_id=machine, quantity=2)],
        )

    amounts = [line.amount_micros for line in quote.lines]
    assert (amounts, quote.total_micros) == ([3_000_000, 30_000_000], 33_000_000)


def test_an_unknown_product_has_no_quote(database: Connected) -> None:
    with database.read() as session, pytest.raises(NotFound):
        quotes.quote(session, [QuoteLine(product_id=uuid4())])


def test_stock_is_counted_over_all_lines(database: Connected, add_product: AddProduct) -> None:
    scarce = add_product(stock=3)
    lines = [QuoteLine(product_id=scarce, quantity=2), QuoteLine(product_id=scarce, quantity=2)]

    with database.read() as session, pytest.raises(OutOfStock) as refusal:
        quotes.quote(session, lines)

    assert refusal.value.details == (str(scarce),)


@pytest.mark.parametrize(("stock", "message"), [(0, "is sold out"), (1, "are only 1 of")])
def test_a_refusal_says_what_is_left(
    database: Connected, add_product: AddProduct, stock: int, message: str
) -> None:
    scarce = add_product(stock=stock)

    with database.read() as session, pytest.raises(OutOfStock, match=message):
        quotes.quote(session, [QuoteLine(product_id=scarce, quantity=2)])


@pytest.mark.parametrize(("quantity", "is_refused"), [(2, False), (3, False), (4, True)])
def test_all_there_is_has_a_quote_and_no_more(
    database: Connected, add_product: AddProduct, quantity: int, is_refused: bool
) -> None:
    scarce = add_product(stock=3)

    with database.read() as session, pytest.raises(OutOfStock) if is_refused else nullcontext():
        quotes.quote(session, [QuoteLine(product_id=scarce, quantity=quantity)])


@pytest.mark.parametrize(("beyond", "is_refused"), [(-1, False), (0, False), (1, True)])
def test_a_total_is_at_most_what_can_be_moved_at_once(
    database: Connected, add_product: AddProduct, beyond: int, is_refused: bool
) -> None:
    dear, rest = (
        add_product(price_micros=MAX_AMOUNT_MICROS - 5),
        add_product(price_micros=5 + beyond),
    )
    lines = [QuoteLine(product_id=dear), QuoteLine(product_id=rest)]

    with database.read() as session, pytest.raises(BadRequest) if is_refused else nullcontext():
        assert quotes.quote(session, lines).total_micros == MAX_AMOUNT_MICROS + beyond
