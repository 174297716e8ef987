import hashlib
import itertools
import json
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text, update

from chassis.database import Connected
from contracts.billing import ListPurchases, PurchaseLine, PurchaseStatus
from contracts.errors import (
    BadRequest,
    Conflict,
    IdempotencyConflict,
    LimitExceeded,
    PriceChanged,
)
from services.billing.models import DeploymentRow, PurchaseLineRow, PurchaseRow, StockReleaseRow
from services.billing.purchases import lifecycle, recording, refusals, replays
from services.billing.purchases.lifecycle import TRANSITIONS
from services.billing.purchases.queries import list_purchases
from services.billing.purchases.recording import Order
from services.billing.settings import BillingSettings
from tests.billing.conftest import NOW, RULES, command_for, quote_of, quoted, recorded, row_of

ENDS = [status for status, moves in TRANSITIONS.items() if not moves]


def events(database: Connected, event_type: str) -> list[dict[str, object]]:
    with database.read() as session:
        rows = session.execute(
            text("SELECT payload FROM outbox WHERE type = :type ORDER BY id"), {"type": event_type}
        )
        return [row.payload for row in rows]


def complete(database: Connected, purchase_id: UUID) -> PurchaseRow:
    with database.begin() as session:
        return lifecycle.complete(session, NOW, purchase_id, uuid4(), RULES)


def fall_short(
    database: Connected, *lines: object, user_id: UUID, available_micros: int = 0
) -> UUID:
    claimed = recorded(database, *lines, user_id=user_id)  # type: ignore[arg-type]
    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, available_micros, NOW, RULES)
    return claimed.purchase_id


def close(database: Connected, purchase_id: UUID, to: PurchaseStatus, code: str = "why") -> None:
    with database.begin() as session:
        row = session.get_one(PurchaseRow, purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, to, code, "A reason.")
    with database.begin() as session:
        lifecycle.end_unpaid(session, NOW, purchase_id)


def bring(database: Connected, purchase_id: UUID, to: PurchaseStatus) -> None:
    """Bring a purchase to one of its ends."""
    if to is PurchaseStatus.COMPLETED:
        complete(database, purchase_id)
    else:
        close(database, purchase_id, to)


def brought_to(database: Connected, status: PurchaseStatus) -> UUID:
    if status is PurchaseStatus.AWAITING_FUNDS:
        return fall_short(database, user_id=uuid4())
    purchase_id = recorded(database).purchase_id
    if status in ENDS:
        bring(database, purchase_id, status)
    return purchase_id


def test_every_status_has_its_moves() -> None:
    assert set(TRANSITIONS) == set(PurchaseStatus)


@pytest.mark.parametrize(
    ("start", "to"),
    [
        (start, to)
        for start, to in itertools.product(PurchaseStatus, ENDS)
        if to not in TRANSITIONS[start] and to is not start
    ],
)
def test_an_illegal_move_raises_and_changes_nothing(
    database: Connected, start: PurchaseStatus, to: PurchaseStatus
) -> None:
    purchase_id = brought_to(database, start)

    with pytest.raises(Conflict):
        bring(database, purchase_id, to)

    assert row_of(database, purchase_id).status == start


@pytest.mark.parametrize(
    ("start", "to"),
    [(start, to) for start, moves in TRANSITIONS.items() for to in sorted(set(moves) & set(ENDS))],
)
def test_every_unfinished_purchase_can_come_to_every_end(
    database: Connected, start: PurchaseStatus, to: PurchaseStatus
) -> None:
    purchase_id = brought_to(database, start)

    bring(database, purchase_id, to)

    assert row_of(database, purchase_id).status == to


def test_completing_twice_delivers_once(database: Connected) -> None:
    purchase_id = recorded(database, quoted(5_000_000, quantity=3)).purchase_id

    complete(database, purchase_id)
    complete(database, purchase_id)

    with database.read() as session:
        delivered = session.query(DeploymentRow).count()
    assert (delivered, len(events(database, "purchase_completed"))) == (3, 1)


def test_ending_twice_says_so_once(database: Connected) -> None:
    purchase_id = brought_to(database, PurchaseStatus.CANCELLED)

    with database.begin() as session:
        lifecycle.end_unpaid(session, NOW, purchase_id)

    assert len(events(database, "purchase_ended")) == 1


def test_the_first_reason_to_close_stands(database: Connected) -> None:
    purchase_id = recorded(database).purchase_id
    with database.begin() as session:
        row = session.get_one(PurchaseRow, purchase_id, with_for_update=True)
        lifecycle.begin_closing(NOW, row, PurchaseStatus.CANCELLED, "first", "First.")

    close(database, purchase_id, PurchaseStatus.EXPIRED, "second")

    assert row_of(database, purchase_id).status_code == "first"


def test_an_end_without_payment_puts_stock_back(database: Connected) -> None:
    claimed = recorded(database)

    close(database, claimed.purchase_id, PurchaseStatus.FAILED)

    with database.read() as session:
        released = session.get(StockReleaseRow, claimed.row.reservation_id)
    assert released is not None


def test_the_same_key_with_another_body_is_a_conflict(database: Connected) -> None:
    user_id = uuid4()
    first, second = quote_of(quoted(5_000_000)), quote_of(quoted(5_000_000))
    with database.begin() as session:
        recording.record(session, NOW, Order(command_for(first, user_id, "key"), first), RULES)

    with database.begin() as session, pytest.raises(IdempotencyConflict):
        recording.record(session, NOW, Order(command_for(second, user_id, "key"), second), RULES)


def test_two_users_may_choose_the_same_key(database: Connected) -> None:
    quote = quote_of(quoted(5_000_000))
    with database.begin() as session:
        made = [
            recording.record(session, NOW, Order(command_for(quote, uuid4(), "key"), quote), RULES)
            for _ in range(2)
        ]

    assert None not in made


def test_a_replay_is_found_even_when_too_many_wait(database: Connected) -> None:
    rules = BillingSettings(amqp_uri="", database_url="", waiting_purchases_max=1)
    quote, user_id = quote_of(quoted(5_000_000)), uuid4()
    command = command_for(quote, user_id, "key")
    with database.begin() as session:
        recording.record(session, NOW, Order(command, quote), rules)

    with database.begin() as session:
        again = recording.record(session, NOW, Order(command, quote), rules)

    assert again is None


def test_the_twenty_first_waiting_purchase_is_refused(database: Connected) -> None:
    user_id = uuid4()
    for _ in range(20):
        recorded(database, user_id=user_id)

    with pytest.raises(LimitExceeded):
        recorded(database, user_id=user_id)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_purchases_come_in_pages_newest_first_and_the_last_one_says_so(
    database: Connected, limit: int
) -> None:
    user_id = uuid4()
    made = [recorded(database, quoted(1), user_id=user_id).purchase_id for _ in range(3)]
    listed, sizes, cursor = [], [], None
    while cursor is not None or not sizes:
        with database.read() as session:
            command = ListPurchases(user_id=user_id, limit=limit, cursor=cursor)
            page = list_purchases(session, command, RULES)
        listed += [purchase.purchase_id for purchase in page.purchases]
        sizes.append(len(page.purchases))
        cursor = page.next_cursor

    assert listed == made[::-1]
    assert sizes == {1: [1, 1, 1], 2: [2, 1], 3: [3]}[limit]


def test_purchases_of_some_statuses_are_listed_without_the_others(database: Connected) -> None:
    user_id = uuid4()
    pending = recorded(database, quoted(1), user_id=user_id)
    paid = recorded(database, quoted(1), user_id=user_id)
    complete(database, paid.purchase_id)

    def listed(*statuses: PurchaseStatus) -> list[UUID]:
        with database.read() as session:
            command = ListPurchases(user_id=user_id, statuses=list(statuses))
            return [each.purchase_id for each in list_purchases(session, command, RULES).purchases]

    assert listed(PurchaseStatus.COMPLETED) == [paid.purchase_id]
    assert listed(PurchaseStatus.PENDING) == [pending.purchase_id]
    assert listed(PurchaseStatus.PENDING, PurchaseStatus.COMPLETED) == listed()


def test_finished_purchases_do_not_count_towards_the_limit(database: Connected) -> None:
    user_id = uuid4()
    rules = BillingSettings(amqp_uri="", database_url="", waiting_purchases_max=1)
    complete(database, recorded(database, user_id=user_id, rules=rules).purchase_id)

    assert recorded(database, user_id=user_id, rules=rules) is not None


def test_another_price_than_the_person_saw_is_refused_with_the_new_one() -> None:
    line = quoted(6_000_000)
    seen = PurchaseLine(product_id=line.product.product_id, expected_unit_price_micros=5_000_000)

    with pytest.raises(PriceChanged) as refusal:
        lifecycle.check_prices([seen], quote_of(line))

    assert refusal.value.details == ("6000000",)


def test_no_purchase_deploys_more_than_a_hundred_things() -> None:
    with pytest.raises(BadRequest):
        lifecycle.check_units([PurchaseLine(product_id=uuid4(), quantity=51)] * 2)


def test_the_shortfall_is_what_is_lacking(database: Connected) -> None:
    purchase_id = fall_short(
        database, quoted(15_000_000), user_id=uuid4(), available_micros=4_000_000
    )

    assert row_of(database, purchase_id).shortfall_micros == 11_000_000


def test_a_debt_is_part_of_the_shortfall(database: Connected) -> None:
    purchase_id = fall_short(
        database, quoted(15_000_000), user_id=uuid4(), available_micros=-5_000_000
    )

    assert row_of(database, purchase_id).shortfall_micros == 20_000_000


def test_the_total_shortfall_counts_all_that_the_user_waits_for(database: Connected) -> None:
    user_id = uuid4()
    fall_short(database, quoted(15_000_000), user_id=user_id, available_micros=4_000_000)
    fall_short(database, quoted(5_000_000), user_id=user_id, available_micros=4_000_000)
    fall_short(database, quoted(5_000_000), user_id=uuid4(), available_micros=0)

    totals = [
        event["total_shortfall_micros"] for event in events(database, "purchase_short_of_funds")
    ]
    assert totals == [11_000_000, 16_000_000, 5_000_000]


def test_what_is_being_cancelled_is_not_part_of_the_total_shortfall(database: Connected) -> None:
    user_id = uuid4()
    cancelled = fall_short(database, quoted(15_000_000), user_id=user_id)
    with database.begin() as session:
        row = session.get_one(PurchaseRow, cancelled, with_for_update=True)
        lifecycle.begin_closing(NOW, row, PurchaseStatus.CANCELLED, "why", "A reason.")

    fall_short(database, quoted(5_000_000), user_id=user_id)

    assert events(database, "purchase_short_of_funds")[-1]["total_shortfall_micros"] == 5_000_000


def test_a_refusal_is_told_on_what_waits(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = fall_short(database, user_id=user_id)

    with database.begin() as session:
        refusals.explain(session, NOW, user_id, "card_declined", "Your card was declined.")

    row = row_of(database, purchase_id)
    assert (row.status, row.status_code) == (PurchaseStatus.AWAITING_FUNDS, "card_declined")


def test_what_was_said_earlier_does_not_replace_what_was_said_later(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = fall_short(database, user_id=user_id)

    for minutes, code in ((5, "later"), (3, "earlier")):
        with database.begin() as session:
            refusals.explain(session, NOW + timedelta(minutes=minutes), user_id, code, "…")

    assert row_of(database, purchase_id).status_code == "later"


def test_what_was_said_before_a_purchase_is_not_about_it(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = fall_short(database, user_id=user_id)

    with database.begin() as session:
        refusals.explain(session, NOW - timedelta(minutes=1), user_id, "old", "…")

    assert row_of(database, purchase_id).status_code == ""


def test_a_purchase_that_is_named_is_told_whatever_the_clocks_say(database: Connected) -> None:
    user_id = uuid4()
    purchase_id = fall_short(database, user_id=user_id)

    with database.begin() as session:
        refusals.explain(
            session, NOW - timedelta(minutes=1), user_id, "named", "…", str(purchase_id)
        )

    assert row_of(database, purchase_id).status_code == "named"


def test_a_try_that_falls_short_again_keeps_the_last_reason(database: Connected) -> None:
    user_id = uuid4()
    claimed = recorded(database, user_id=user_id)
    with database.begin() as session:
        row = session.get_one(PurchaseRow, claimed.purchase_id)
        row.status_code = "card_declined"

    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, RULES)

    assert row_of(database, claimed.purchase_id).status_code == "card_declined"


def test_the_description_names_what_was_bought() -> None:
    claimed_lines = [("VM-Production", 1), ("Gateway-EU", 2)]
    rows = [
        PurchaseLineRow(product_name=name, quantity=quantity) for name, quantity in claimed_lines
    ]

    assert lifecycle.describe(rows) == "VM-Production, Gateway-EU ×2"


def test_a_long_description_is_cut_to_what_a_statement_holds() -> None:
    rows = [PurchaseLineRow(product_name="x" * 50, quantity=1) for _ in range(10)]

    assert len(lifecycle.describe(rows)) <= 200


def test_the_database_refuses_a_completed_purchase_without_a_payment(database: Connected) -> None:
    purchase_id = recorded(database).purchase_id

    with pytest.raises(Exception, match="completed_means_paid"), database.begin() as session:
        lifecycle.complete(session, NOW, purchase_id, None, RULES)


def test_a_retry_finds_a_purchase_whose_hash_was_stored_before_all_services_shared_one(
    database: Connected,
) -> None:
    quote = quote_of(quoted(5_000_000))
    command = command_for(quote, uuid4(), "key")
    product_id = str(command.lines[0].product_id)
    line = {"expected_unit_price_micros": None, "product_id": product_id, "quantity": 1}
    body = json.dumps({"lines": [line], "user_id": str(command.user_id)})
    with database.begin() as session:
        made = recording.record(session, NOW, Order(command, quote), RULES)
        assert made is not None
        session.execute(
            update(PurchaseRow).values(body_hash=hashlib.sha256(body.encode()).hexdigest())
        )

    with database.read() as session:
        found = replays.find_replay(session, command)

    assert found is not None
    assert found.purchase_id == made.purchase_id
