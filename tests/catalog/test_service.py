"""The catalog as a process: what its callers get over the broker."""

import uuid

import pytest

from contracts import errors
from contracts.catalog import (
    Category,
    GetProduct,
    GetQuote,
    ListProducts,
    QuoteLine,
    ReleaseStock,
    ReserveStock,
    SortOrder,
)
from tests.conftest import StackFactory
from tests.system import System


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack("catalog")


def test_pages_of_the_catalog_follow_each_other_without_a_gap_or_a_repeat(stack: System) -> None:
    first = stack.rpc.call(ListProducts(sort=SortOrder.PRICE, limit=30))
    rest = stack.rpc.call(ListProducts(sort=SortOrder.PRICE, limit=30, cursor=first.next_cursor))

    prices = [product.price_micros for product in (*first.products, *rest.products)]
    ids = {product.product_id for product in (*first.products, *rest.products)}

    assert prices == sorted(prices)
    assert len(ids) == first.total == len(prices)
    assert rest.next_cursor is None


def test_a_search_within_a_category_finds_words_anywhere(stack: System) -> None:
    found = stack.rpc.call(ListProducts(category=Category.GATEWAYS, q="europe"))

    assert "Gateway-EU" in {product.name for product in found.products}
    assert {product.category for product in found.products} == {Category.GATEWAYS}


def test_a_quote_is_the_price_of_now_times_the_quantity(stack: System) -> None:
    product = stack.rpc.call(GetProduct(product_id="vm-production"))

    quote = stack.rpc.call(GetQuote(lines=[QuoteLine(product_id=product.product_id, quantity=3)]))

    assert (product.price_micros, quote.total_micros) == (15_000_000, 45_000_000)


def test_a_product_that_does_not_exist_is_said_to_be_missing(stack: System) -> None:
    with pytest.raises(errors.NotFound):
        stack.rpc.call(GetProduct(product_id=str(uuid.uuid4())))


def test_more_than_there_is_cannot_be_reserved_and_nothing_is_taken(stack: System) -> None:
    everything = stack.rpc.call(ListProducts(limit=200)).products
    scarce = next(product for product in everything if product.stock and product.stock < 100)
    reservation = ReserveStock(
        reservation_id=uuid.uuid4(),
        lines=[QuoteLine(product_id=scarce.product_id, quantity=scarce.stock + 1)],
    )

    with pytest.raises(errors.OutOfStock):
        stack.rpc.call(reservation)

    assert stack.rpc.call(GetProduct(product_id=scarce.slug)).stock == scarce.stock


def test_what_is_released_can_be_bought_again(stack: System) -> None:
    everything = stack.rpc.call(ListProducts(limit=200)).products
    scarce = next(product for product in everything if product.stock)
    line = QuoteLine(product_id=scarce.product_id, quantity=1)
    reservation = stack.rpc.call(ReserveStock(reservation_id=uuid.uuid4(), lines=[line]))
    reserved = stack.rpc.call(GetProduct(product_id=scarce.slug)).stock

    stack.rpc.call(ReleaseStock(reservation_id=reservation.reservation_id))

    released = stack.rpc.call(GetProduct(product_id=scarce.slug)).stock
    assert (reserved, released) == (scarce.stock - 1, scarce.stock)
