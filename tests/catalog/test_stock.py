from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from chassis.database import Connected
from contracts.catalog import HoldStock, QuoteLine, ReleaseStock, ReserveStock, ReturnStock
from contracts.errors import Conflict, IdempotencyConflict, NotFound, OutOfStock
from services.catalog import stock
from services.catalog.models import ProductRow, ReservationRow
from services.catalog.products import get_product
from tests.catalog.conftest import NOW
from tests.locks import done_after, held, until_waiting, waits_at
from tests.patience import insist

AddProduct = Callable[..., UUID]
INSTANT = timedelta(microseconds=1)
PRODUCT = "SELECT FROM products WHERE product_id = :id FOR UPDATE"


def reserve(
    database: Connected, product_id: UUID, quantity: int = 1, reservation_id: UUID | None = None
) -> UUID:
    reservation_id = reservation_id or uuid4()
    command = ReserveStock(
        reservation_id=reservation_id,
        lines=[QuoteLine(product_id=product_id, quantity=quantity)],
    )
    with database.begin() as session:
        stock.reserve(session, NOW, command)
    return reservation_id


def release(database: Connected, reservation_id: UUID) -> None:
    with database.begin() as session:
        stock.release(session, NOW, ReleaseStock(reservation_id=reservation_id))


def left(database: Connected, product_id: UUID) -> int | None:
    with database.read() as session:
        return session.scalar(select(ProductRow.stock).where(ProductRow.product_id == product_id))


def test_the_same_reservation_twice_takes_stock_once(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=5)
    reservation_id = reserve(database, product_id, 2)

    reserve(database, product_id, 2, reservation_id)

    assert left(database, product_id) == 3


def test_the_same_reservation_twice_is_the_same_among_those_of_others(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=9)
    reserve(database, product_id, 3)
    reservation_id = reserve(database, product_id, 2)
    reserve(database, add_product(stock=5), 1)

    reserve(database, product_id, 2, reservation_id)

    assert left(database, product_id) == 4


def test_the_same_reservation_for_other_lines_is_a_conflict(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=5)
    reservation_id = reserve(database, product_id, 2)

    with pytest.raises(IdempotencyConflict):
        reserve(database, product_id, 3, reservation_id)


def test_one_line_out_of_stock_takes_nothing(database: Connected, add_product: AddProduct) -> None:
    plenty, gone = add_product(stock=5), add_product(stock=0)
    command = ReserveStock(
        reservation_id=uuid4(), lines=[QuoteLine(product_id=plenty), QuoteLine(product_id=gone)]
    )

    with pytest.raises(OutOfStock), database.begin() as session:
        stock.reserve(session, NOW, command)

    assert left(database, plenty) == 5


def test_a_refused_reservation_may_be_tried_again(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=0)
    reservation_id = uuid4()
    with pytest.raises(OutOfStock):
        reserve(database, product_id, 1, reservation_id)
    with database.begin() as session:
        session.execute(update(ProductRow).values(stock=1))

    reserve(database, product_id, 1, reservation_id)

    assert left(database, product_id) == 0


def test_releasing_twice_puts_back_once(database: Connected, add_product: AddProduct) -> None:
    product_id = add_product(stock=5)
    reservation_id = reserve(database, product_id, 2)

    release(database, reservation_id)
    release(database, reservation_id)

    assert left(database, product_id) == 5


def test_a_reservation_that_comes_after_its_release_takes_nothing(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=5)
    reservation_id = uuid4()
    release(database, reservation_id)

    with pytest.raises(Conflict):
        reserve(database, product_id, 1, reservation_id)

    assert left(database, product_id) == 5


def test_what_had_no_limit_when_it_was_taken_is_not_put_back(
    database: Connected, add_product: AddProduct
) -> None:
    limited, unlimited = add_product(stock=5), add_product(stock=None)
    command = ReserveStock(
        reservation_id=uuid4(),
        lines=[QuoteLine(product_id=limited), QuoteLine(product_id=unlimited)],
    )
    with database.begin() as session:
        stock.reserve(session, NOW, command)
        session.execute(update(ProductRow).values(stock=1))

    release(database, command.reservation_id)

    assert (left(database, limited), left(database, unlimited)) == (2, 1)


def test_what_is_there_without_end_leaves_nothing_to_remember(
    database: Connected, add_product: AddProduct
) -> None:
    reserve(database, add_product(stock=None))
    reserve(database, add_product(stock=5))

    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(ReservationRow)) == 1


def test_what_is_there_without_end_is_not_reserved_after_its_release(
    database: Connected, add_product: AddProduct
) -> None:
    product_id, reservation_id = add_product(stock=None), uuid4()
    release(database, reservation_id)

    with pytest.raises(Conflict):
        reserve(database, product_id, 1, reservation_id)


def test_an_unknown_product_cannot_be_reserved(database: Connected) -> None:
    with pytest.raises(NotFound):
        reserve(database, uuid4())


def test_a_crowd_takes_no_more_than_there_is(database: Connected, add_product: AddProduct) -> None:
    product_id = add_product(stock=3)

    def attempt(_: int) -> bool:
        try:
            reserve(database, product_id)
        except OutOfStock:
            return False
        return True

    with ThreadPoolExecutor(8) as crowd:
        served = sum(crowd.map(attempt, range(12)))

    assert (served, left(database, product_id)) == (3, 0)


def test_one_reservation_made_by_many_at_once_takes_stock_once(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=10)
    reservation_id = uuid4()

    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(lambda _: reserve(database, product_id, 1, reservation_id), range(12)))

    assert left(database, product_id) == 9


def test_a_release_puts_back_what_it_took_and_nothing_else(
    database: Connected, add_product: AddProduct
) -> None:
    before, product_id, after = (add_product(stock=5) for _ in range(3))
    reserve(database, before, 1)
    reservation_id = reserve(database, product_id, 2)
    reserve(database, after, 3)

    release(database, reservation_id)

    assert [left(database, each) for each in (before, product_id, after)] == [4, 5, 2]


@pytest.mark.parametrize(("quantity", "is_refused"), [(4, False), (5, False), (6, True)])
def test_all_there_is_can_be_reserved_and_no_more(
    database: Connected, add_product: AddProduct, quantity: int, is_refused: bool
) -> None:
    product_id = add_product(stock=5)

    with pytest.raises(OutOfStock) if is_refused else nullcontext():
        reserve(database, product_id, quantity)

    assert left(database, product_id) == (5 if is_refused else 5 - quantity)


def test_whoever_reserves_waits_for_who_holds_the_product(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=5)

    statement = waits_at(database, lambda: reserve(database, product_id), PRODUCT, id=product_id)

    assert statement is not None
    assert statement.startswith("SELECT")


def test_whoever_reserves_does_not_wait_for_who_holds_another_product(
    database: Connected, add_product: AddProduct
) -> None:
    before, product_id, after = (add_product(stock=5) for _ in range(3))

    for other in (before, after):
        assert waits_at(database, lambda: reserve(database, product_id), PRODUCT, id=other) is None


def test_whoever_releases_waits_for_who_holds_the_reservation(
    database: Connected, add_product: AddProduct
) -> None:
    reservation_id = reserve(database, add_product(stock=5))

    statement = waits_at(
        database,
        lambda: release(database, reservation_id),
        "SELECT FROM reservations WHERE reservation_id = :id FOR UPDATE",
        id=reservation_id,
    )

    assert statement is not None
    assert statement.startswith("SELECT")


@pytest.mark.parametrize("act", ["reserve", "release"])
def test_products_are_locked_in_the_order_of_their_ids(
    database: Connected, add_product: AddProduct, act: str
) -> None:
    """So that two who want the same products never wait for each other."""
    high, low = UUID(int=2), UUID(int=1)
    for product_id in (high, low):
        add_product(product_id=product_id, stock=5)
    command = ReserveStock(
        reservation_id=uuid4(), lines=[QuoteLine(product_id=high), QuoteLine(product_id=low)]
    )

    def reserve_both() -> None:
        with database.begin() as session:
            stock.reserve(session, NOW, command)

    if act == "release":
        reserve_both()

    def work() -> None:
        reserve_both() if act == "reserve" else release(database, command.reservation_id)

    with ThreadPoolExecutor(1) as worker:
        with held(database, PRODUCT, id=low) as holder:
            working = worker.submit(insist, work)
            waits = until_waiting(database, holder, working)
            with database.begin() as session:
                is_free = session.execute(text(f"{PRODUCT} SKIP LOCKED"), {"id": high}).first()
        working.result()

    assert (waits is not None, is_free is not None) == (True, True)


def test_the_database_itself_refuses_negative_stock(
    database: Connected, add_product: AddProduct
) -> None:
    add_product(stock=1)

    with pytest.raises(IntegrityError), database.begin() as session:
        session.execute(update(ProductRow).values(stock=-1))


# What was sold and is given back.


def put_back(database: Connected, *lines: tuple[UUID, int], return_id: UUID | None = None) -> UUID:
    return_id = return_id or uuid4()
    wanted = [QuoteLine(product_id=product_id, quantity=count) for product_id, count in lines]
    with database.begin() as session:
        stock.put_back(session, NOW, ReturnStock(return_id=return_id, lines=wanted))
    return return_id


def test_what_is_given_back_is_there_again_once(
    database: Connected, add_product: AddProduct
) -> None:
    product_id, other_id = add_product(stock=5), add_product(stock=7)

    return_id = put_back(database, (product_id, 2), (product_id, 1))
    put_back(database, (product_id, 2), (product_id, 1), return_id=return_id)

    assert (left(database, product_id), left(database, other_id)) == (8, 7)


def test_of_what_has_no_end_and_of_what_is_gone_nothing_is_put_back(
    database: Connected, add_product: AddProduct
) -> None:
    endless, product_id = add_product(stock=None), add_product(stock=5)

    put_back(database, (endless, 2), (uuid4(), 2), (product_id, 1))

    assert (left(database, endless), left(database, product_id)) == (None, 6)


def test_the_same_return_twice_at_once_puts_back_once(
    database: Connected, add_product: AddProduct
) -> None:
    product_id, return_id = add_product(stock=5), uuid4()
    command = ReturnStock(return_id=return_id, lines=[QuoteLine(product_id=product_id, quantity=2)])

    done_after(
        database,
        lambda session: stock.put_back(session, NOW, command),
        lambda: put_back(database, (product_id, 2), return_id=return_id),
    )

    assert left(database, product_id) == 7


def hold(database: Connected, reservation_id: UUID, until: datetime | None) -> None:
    with database.begin() as session:
        stock.hold(session, HoldStock(reservation_id=reservation_id, until=until))


def seen(
    database: Connected, product_id: UUID, now: datetime = NOW
) -> tuple[int | None, int, datetime | None]:
    """What there is, what of the rest is held, and until when."""
    with database.read() as session:
        product = get_product(session, str(product_id))
        (found,) = stock.with_held(session, now, [product])
    return found.stock, found.held, found.held_until


def test_what_is_not_paid_is_told_apart_from_what_is_sold_until_its_time_is_over(
    database: Connected, add_product: AddProduct
) -> None:
    product_id, other_id = add_product(stock=9), add_product(stock=9)
    first, second, _, other = (
        reserve(database, product_id, 1),
        reserve(database, product_id, 2),
        reserve(database, product_id, 3),
        reserve(database, other_id, 4),
    )
    soon, later = NOW + timedelta(minutes=5), NOW + timedelta(minutes=15)
    for reservation_id, until in ((first, later), (second, soon), (other, soon)):
        hold(database, reservation_id, until)

    assert seen(database, product_id) == (3, 3, soon)
    assert seen(database, product_id, soon - INSTANT) == (3, 3, soon)
    assert seen(database, product_id, soon) == (3, 1, later)
    assert seen(database, product_id, later) == (3, 0, None)
    # The first is paid; of the second the stock goes back.
    hold(database, first, None)
    release(database, second)
    assert seen(database, product_id) == (5, 0, None)
    hold(database, second, later)
    hold(database, uuid4(), later)
    assert seen(database, product_id) == (5, 0, None)
    assert seen(database, other_id) == (5, 4, soon)


def test_where_there_is_no_end_nothing_is_held(
    database: Connected, add_product: AddProduct
) -> None:
    product_id = add_product(stock=None)
    hold(database, reserve(database, product_id, 2), NOW + timedelta(minutes=5))

    assert seen(database, product_id) == (None, 0, None)
