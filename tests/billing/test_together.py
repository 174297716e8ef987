"""Several purchases in one transaction: each as if it were alone, and none waits for another."""

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import text

from chassis.database import Connected
from chassis.together import ALONE
from contracts.billing import PurchaseStatus
from contracts.catalog import QuotedLine
from contracts.errors import IdempotencyConflict, LimitExceeded
from services.billing.forecast.runways import AFTER_A_PURCHASE
from services.billing.models import DeploymentRow, RunwayRow
from services.billing.purchases import lifecycle, recording
from services.billing.purchases.claims import Claim
from services.billing.purchases.lifecycle import Paid
from services.billing.purchases.recording import Order
from services.billing.settings import BillingSettings
from tests.billing.conftest import NOW, RULES, command_for, quote_of, quoted, recorded, row_of
from tests.billing.test_locks import BUYER, PURCHASE
from tests.billing.test_purchases import events
from tests.locks import held

LATER = NOW + timedelta(minutes=5)


def order(user_id: UUID, key: str, line: QuotedLine | None = None) -> Order:
    quote = quote_of(line or quoted(5_000_000))
    return Order(command_for(quote, user_id, key), quote)


def record_all(database: Connected, *orders: Order, rules: BillingSettings = RULES) -> list[object]:
    with database.begin() as session:
        return list(recording.record_together(session, NOW, orders, rules))


def complete_all(database: Connected, *claimed: Claim) -> list[object]:
    paid = [Paid(each.row, uuid4()) for each in claimed]
    with database.begin() as session:
        return list(lifecycle.complete_together(session, LATER, paid, RULES))


def test_each_of_several_is_written_with_its_own_lines(database: Connected) -> None:
    orders = [order(uuid4(), "key", quoted(price)) for price in (1_000_000, 2_000_000)]

    claimed = record_all(database, *orders)

    for each, made in zip(orders, claimed, strict=True):
        assert isinstance(made, Claim)
        row = row_of(database, made.purchase_id)
        assert (row.user_id, row.total_micros) == (each.command.user_id, each.quote.total_micros)
        assert [line.product_id for line in row.lines] == [each.quote.lines[0].product.product_id]
        assert (row.claim_id, row.due_at) == (made.claim_id, NOW + RULES.claim_lease)


def test_who_bought_is_looked_at_for_a_warning(database: Connected) -> None:
    orders = [order(uuid4(), "key") for _ in range(2)]
    claimed = [each for each in record_all(database, *orders) if isinstance(each, Claim)]

    complete_all(database, *claimed)

    with database.read() as session:
        rows = [session.get(RunwayRow, each.command.user_id) for each in orders]
    assert [row and row.due_at for row in rows] == [LATER + AFTER_A_PURCHASE] * 2


def test_a_key_that_comes_twice_at_once_is_recorded_once(database: Connected) -> None:
    first = order(uuid4(), "key")
    other = order(first.command.user_id, "key")

    made, again, conflict = record_all(database, first, first, other)

    assert isinstance(made, Claim)
    assert again is None
    assert isinstance(conflict, IdempotencyConflict)


def test_two_at_once_do_not_pass_a_limit_together(database: Connected) -> None:
    user_id, one_waits = uuid4(), RULES.model_copy(update={"waiting_purchases_max": 1})

    made, refused = record_all(
        database, order(user_id, "first"), order(user_id, "second"), rules=one_waits
    )

    assert isinstance(made, Claim)
    assert isinstance(refused, LimitExceeded)


def test_free_things_that_are_ordered_at_once_are_counted_together(database: Connected) -> None:
    user_id, free = uuid4(), quoted(0, RULES.free_deployments_max)

    made, refused = record_all(
        database, order(user_id, "first", free), order(user_id, "second", free)
    )

    assert isinstance(made, Claim)
    assert isinstance(refused, LimitExceeded)


def test_a_buyer_over_whom_somebody_decides_holds_nobody_up(database: Connected) -> None:
    busy, free = uuid4(), uuid4()

    with held(database, BUYER, id=str(busy)):
        outcomes = record_all(database, order(busy, "key"), order(free, "key"))

    assert outcomes[0] is ALONE
    assert isinstance(outcomes[1], Claim)


def test_each_of_several_is_delivered_and_told_of(database: Connected) -> None:
    claimed = [recorded(database, quoted(5_000_000, 2)) for _ in range(2)]

    complete_all(database, *claimed)

    for each in claimed:
        row = row_of(database, each.purchase_id)
        assert (row.status, row.due_at, row.claim_id) == (PurchaseStatus.COMPLETED, None, None)
        assert (row.ended_at, row.updated_at) == (LATER, LATER)
        assert [unit.status for unit in row.deployments] == ["active", "active"]
    told = {event["purchase_id"]: event for event in events(database, "purchase_completed")}
    assert set(told) == {str(each.purchase_id) for each in claimed}
    assert len(events(database, "deployment_activated")) == 4


def test_a_purchase_that_somebody_holds_holds_no_other_up(database: Connected) -> None:
    busy, free = recorded(database), recorded(database)

    with held(database, PURCHASE, id=busy.purchase_id):
        outcomes = complete_all(database, busy, free)

    assert outcomes == [ALONE, free.row]
    assert row_of(database, busy.purchase_id).status == PurchaseStatus.PENDING
    assert row_of(database, free.purchase_id).status == PurchaseStatus.COMPLETED


def test_what_is_complete_is_not_delivered_again(database: Connected) -> None:
    claimed = recorded(database)
    complete_all(database, claimed)

    again = complete_all(database, claimed, claimed)

    with database.read() as session:
        delivered = session.query(DeploymentRow).count()
        sent = session.scalar(text("SELECT count(*) FROM outbox WHERE type = 'purchase_completed'"))
    assert (again, delivered, sent) == ([ALONE, ALONE], 1, 1)
