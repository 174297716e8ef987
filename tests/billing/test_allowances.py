"""What a user may have without having paid for it."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from chassis.database import Connected
from contracts.billing import PurchaseStatus
from contracts.catalog import QuotedLine
from contracts.errors import LimitExceeded
from services.billing.models import DeploymentRow, PurchaseRow
from services.billing.purchases import allowances, lifecycle
from tests.billing.conftest import NOW, RULES, quote_of, quoted, recorded


def stocked(stock: int, quantity: int = 1, like: QuotedLine | None = None) -> QuotedLine:
    """A line of a product of which there are ``stock`` left, the same one as ``like``."""
    line = quoted(5_000_000, quantity)
    update: dict[str, object] = {"stock": stock}
    if like is not None:
        update["product_id"] = like.product.product_id
    return line.model_copy(update={"product": line.product.model_copy(update=update)})


def may_hold(database: Connected, *lines: QuotedLine, user_id: UUID | None = None) -> bool:
    with database.read() as session:
        return allowances.may_hold_stock(session, NOW, user_id or uuid4(), quote_of(*lines), RULES)


def end(database: Connected, purchase_id: UUID, to: PurchaseStatus) -> None:
    with database.begin() as session:
        if to is PurchaseStatus.COMPLETED:
            lifecycle.complete(session, NOW, purchase_id, uuid4(), RULES)
            return
        row = session.get_one(PurchaseRow, purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, to, "why", "A reason.")
        session.flush()
        lifecycle.end_unpaid(session, NOW, purchase_id)


@pytest.mark.parametrize(
    ("stock", "quantity", "expected"),
    [
        (100, 3, True),
        (100, 4, False),
        (5, 2, True),
        (5, 3, False),
        (1, 1, True),
        (2, 1, True),
        (2, 2, False),
    ],
)
def test_at_most_three_of_a_product_and_half_of_its_stock_are_set_aside(
    database: Connected, stock: int, quantity: int, expected: bool
) -> None:
    assert may_hold(database, stocked(stock, quantity)) is expected


def test_the_lines_of_one_product_count_together(database: Connected) -> None:
    line = stocked(100, 2)

    assert not may_hold(database, line, stocked(100, 2, like=line))


@pytest.mark.parametrize(("quantity", "expected"), [(1, True), (2, False)])
def test_ten_units_of_all_products_are_set_aside_for_a_user(
    database: Connected, quantity: int, expected: bool
) -> None:
    user_id = uuid4()
    for _ in range(3):
        recorded(database, stocked(100, 3), user_id=user_id)
    recorded(database, stocked(100, 3), user_id=uuid4())

    assert may_hold(database, stocked(100, quantity), user_id=user_id) is expected


def test_what_has_no_end_is_not_bounded(database: Connected) -> None:
    assert may_hold(database, quoted(5_000_000, quantity=100))


@pytest.mark.parametrize(
    ("end_as", "expected"),
    [
        (PurchaseStatus.CANCELLED, False),
        (PurchaseStatus.EXPIRED, False),
        (PurchaseStatus.COMPLETED, True),
    ],
)
def test_what_was_let_go_unpaid_counts_and_what_was_paid_does_not(
    database: Connected, end_as: PurchaseStatus, expected: bool
) -> None:
    user_id, line = uuid4(), stocked(100, 3)
    end(database, recorded(database, line, user_id=user_id).purchase_id, end_as)

    assert may_hold(database, stocked(100, 1, like=line), user_id=user_id) is expected


def test_after_a_day_unpaid_stock_is_forgotten(database: Connected) -> None:
    user_id, line = uuid4(), stocked(100, 3)
    recorded(database, line, user_id=user_id, now=NOW - timedelta(hours=24))

    assert may_hold(database, stocked(100, 3, like=line), user_id=user_id)


def test_a_purchase_that_got_no_stock_takes_nothing_from_the_next(database: Connected) -> None:
    user_id, line = uuid4(), stocked(100, 50)
    recorded(database, line, user_id=user_id)

    assert may_hold(database, stocked(100, 3, like=line), user_id=user_id)


def test_an_eleventh_free_deployment_is_refused_and_says_how_many_there_are(
    database: Connected,
) -> None:
    user_id = uuid4()
    recorded(database, quoted(0, quantity=4), user_id=user_id)
    end(
        database,
        recorded(database, quoted(0, quantity=5), user_id=user_id).purchase_id,
        PurchaseStatus.COMPLETED,
    )

    with pytest.raises(LimitExceeded, match="10 free items at a time, and you have 9"):
        recorded(database, quoted(0, quantity=2), user_id=user_id)


def test_what_is_paid_and_what_has_ended_does_not_count_as_free(database: Connected) -> None:
    user_id = uuid4()
    paid_once = quoted(5_000_000, quantity=20, period="once")
    for line in (paid_once, quoted(0, quantity=10)):
        purchase = recorded(database, line, user_id=user_id)
        end(database, purchase.purchase_id, PurchaseStatus.COMPLETED)
    with database.begin() as session:
        for row in session.query(DeploymentRow).filter_by(purchase_id=purchase.purchase_id):
            row.status = "cancelled"

    assert recorded(database, quoted(0, quantity=10), user_id=user_id) is not None


def test_a_priced_purchase_is_made_whatever_is_free(database: Connected) -> None:
    user_id = uuid4()
    recorded(database, quoted(0, quantity=10), user_id=user_id)

    assert recorded(database, quoted(5_000_000), user_id=user_id) is not None
