"""Each bound in time and number, tried on the instant: just before it, at it, and after."""

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import PurchaseLine, PurchaseStatus
from contracts.catalog import ReserveStock
from contracts.errors import BadRequest, LimitExceeded, NotFound, PriceChanged, Unavailable
from contracts.wallet import ClosedKey, CloseKey, Debit
from services.billing.models import PurchaseLineRow, StockReleaseRow
from services.billing.purchases import allowances, claims, lifecycle, refusals
from services.billing.purchases.checkout import EXPIRY_GRACE, Checkout
from services.billing.purchases.claims import Claim
from services.billing.service import BillingService
from services.billing.settings import BillingSettings
from tests.billing.conftest import NOW, RULES, quote_of, quoted, recorded, row_of
from tests.billing.test_allowances import stocked

INSTANT = timedelta(microseconds=1)
LEASE = RULES.claim_lease
EXPIRY = NOW + RULES.purchase_lifetime
END_OF_HOLD = NOW + RULES.stock_hold


class Away:
    """Other services that cannot be reached: what they were to be asked."""

    def __init__(self) -> None:
        self.asked: list[type] = []

    def call(self, request: Any, timeout_s: float) -> Any:
        self.asked.append(type(request))
        raise Unavailable(f"{request.service} did nothing within {timeout_s} s.")


def asked(
    database: Connected, claimed: Claim, now: datetime, others: Away | None = None
) -> list[type]:
    """What is asked of the other services when this claim is settled at this moment."""
    rpc = others or Away()
    Checkout(database, cast(RpcClient, rpc), RULES, lambda: now).settle(claimed)
    return rpc.asked


def raises_if(is_refused: bool, error: type[Exception]) -> AbstractContextManager[object]:
    return pytest.raises(error) if is_refused else nullcontext()


def waiting(database: Connected, *, is_owed: bool = False) -> Claim:
    """A purchase that fell short and holds stock, claimed anew."""
    claimed = recorded(database)
    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, RULES)
        if is_owed:
            claims.mark_owed(session, NOW, claimed.row.user_id)
    with database.begin() as session:
        again = claims.claim(session, NOW, LEASE, claimed.purchase_id)
    assert again is not None
    return again


@pytest.mark.parametrize(("delay", "is_free"), [(LEASE - INSTANT, False), (LEASE, True)])
def test_a_lease_ends_on_the_instant(database: Connected, delay: timedelta, is_free: bool) -> None:
    purchase_id = recorded(database).purchase_id

    with database.begin() as session:
        taken = claims.claim(session, NOW + delay, LEASE, purchase_id)

    assert (taken is not None) is is_free


@pytest.mark.parametrize(("delay", "is_due"), [(LEASE - INSTANT, False), (LEASE, True)])
def test_the_sweeper_takes_a_lease_over_on_the_instant(
    database: Connected, delay: timedelta, is_due: bool
) -> None:
    recorded(database)

    with database.begin() as session:
        taken = claims.claim_next(session, NOW + delay, LEASE)

    assert (taken is not None) is is_due


@pytest.mark.parametrize(
    ("now", "closing"), [(EXPIRY - INSTANT, None), (EXPIRY, PurchaseStatus.EXPIRED)]
)
def test_a_purchase_expires_on_the_instant(
    database: Connected, now: datetime, closing: PurchaseStatus | None
) -> None:
    claimed = waiting(database)

    asked(database, claimed, now)

    assert row_of(database, claimed.purchase_id).closing_status == closing


@pytest.mark.parametrize(
    ("now", "first_asked"),
    [
        (EXPIRY + EXPIRY_GRACE - INSTANT, ReserveStock),
        (EXPIRY + EXPIRY_GRACE, CloseKey),
    ],
)
def test_a_try_that_is_owed_is_made_until_the_grace_ends(
    database: Connected, now: datetime, first_asked: type
) -> None:
    claimed = waiting(database, is_owed=True)

    assert asked(database, claimed, now)[0] is first_asked


@pytest.mark.parametrize(("now", "is_asked"), [(END_OF_HOLD - INSTANT, False), (END_OF_HOLD, True)])
def test_stock_is_reserved_anew_on_the_instant_at_which_its_hold_ends(
    database: Connected, now: datetime, is_asked: bool
) -> None:
    claimed = waiting(database, is_owed=True)

    assert (ReserveStock in asked(database, claimed, now)) is is_asked


@pytest.mark.parametrize(("stock", "first_asked"), [(None, Debit), (9, ReserveStock)])
def test_a_new_purchase_of_what_has_no_end_reserves_nothing(
    database: Connected, stock: int | None, first_asked: type
) -> None:
    line = quoted(5_000_000) if stock is None else stocked(stock)

    assert asked(database, recorded(database, line), NOW) == [first_asked]


def test_a_product_that_the_catalog_has_no_more_ends_the_purchase(database: Connected) -> None:
    class Catalog(Away):
        def call(self, request: Any, timeout_s: float) -> Any:
            if isinstance(request, ReserveStock):
                raise NotFound("There is no such product.")
            if isinstance(request, CloseKey):
                return ClosedKey(idempotency_key=request.idempotency_key, closed=True)
            return super().call(request, timeout_s)

    claimed = recorded(database, stocked(9))

    asked(database, claimed, NOW, Catalog())

    ended = row_of(database, claimed.purchase_id)
    assert (ended.status, ended.status_code) == ("failed", "out_of_stock")


@pytest.mark.parametrize(
    ("now", "is_let_go"), [(END_OF_HOLD - INSTANT, False), (END_OF_HOLD, True)]
)
def test_stock_is_let_go_on_the_instant_at_which_its_hold_ends(
    database: Connected, now: datetime, is_let_go: bool
) -> None:
    claimed = waiting(database)

    asked(database, claimed, now)

    with database.read() as session:
        released = session.get(StockReleaseRow, claimed.row.reservation_id)
    assert (released is not None) is is_let_go


@pytest.mark.parametrize(
    ("next_at", "answer", "is_swept"),
    [(None, None, False), (NOW + INSTANT, NOW + INSTANT, False), (NOW, None, True)],
)
def test_the_sweep_sleeps_until_the_instant_in_which_something_is_due(
    database: Connected,
    monkeypatch: pytest.MonkeyPatch,
    next_at: datetime | None,
    answer: datetime | None,
    is_swept: bool,
) -> None:
    swept: list[bool] = []
    billing = BillingService()
    checkout = SimpleNamespace(sweep=lambda: swept.append(True))
    monkeypatch.setattr(billing, "database", database)
    monkeypatch.setattr(billing, "_checkout", lambda: checkout)
    monkeypatch.setattr("services.billing.service.utc_now", lambda: NOW)
    monkeypatch.setattr(claims, "next_at", lambda _session: next_at)

    assert (billing.sweep(), swept) == (answer, [True] * is_swept)


def test_what_no_longer_holds_stock_is_due_when_it_expires(database: Connected) -> None:
    claimed = waiting(database)

    asked(database, claimed, END_OF_HOLD)

    assert row_of(database, claimed.purchase_id).due_at == EXPIRY


def test_stock_that_the_catalog_did_not_hear_of_stays_to_be_put_back(database: Connected) -> None:
    claimed = waiting(database)

    is_asked = asked(database, claimed, END_OF_HOLD)

    with database.read() as session:
        kept = session.get(StockReleaseRow, claimed.row.reservation_id)
    assert (len(is_asked), kept is not None) == (1, True)


@pytest.mark.parametrize(("change", "is_refused"), [(-1, True), (0, False), (1, True)])
def test_only_the_price_that_the_person_saw_is_taken(change: int, is_refused: bool) -> None:
    line = quoted(5_000_000)
    seen = PurchaseLine(
        product_id=line.product.product_id, expected_unit_price_micros=5_000_000 + change
    )

    with raises_if(is_refused, PriceChanged):
        lifecycle.check_prices([seen], quote_of(line))


def test_who_names_no_price_takes_any() -> None:
    line = quoted(5_000_000)

    lifecycle.check_prices([PurchaseLine(product_id=line.product.product_id)], quote_of(line))


@pytest.mark.parametrize(("quantities", "is_refused"), [((50, 50), False), ((50, 51), True)])
def test_a_purchase_deploys_a_hundred_things_and_no_more(
    quantities: tuple[int, ...], is_refused: bool
) -> None:
    lines = [PurchaseLine(product_id=uuid4(), quantity=quantity) for quantity in quantities]

    with raises_if(is_refused, BadRequest):
        lifecycle.check_units(lines)


@pytest.mark.parametrize(("quantity", "is_refused"), [(5, False), (6, True)])
def test_ten_free_things_and_no_more(database: Connected, quantity: int, is_refused: bool) -> None:
    user_id = uuid4()
    recorded(database, quoted(0, quantity=5), user_id=user_id)

    with raises_if(is_refused, LimitExceeded):
        recorded(database, quoted(0, quantity=quantity), user_id=user_id)


@pytest.mark.parametrize(
    ("age", "may_hold"), [(timedelta(hours=24) - INSTANT, False), (timedelta(hours=24), True)]
)
def test_unpaid_stock_is_remembered_for_a_day_to_the_instant(
    database: Connected, age: timedelta, may_hold: bool
) -> None:
    user_id, line = uuid4(), stocked(100, 3)
    recorded(database, line, user_id=user_id, now=NOW - age)

    with database.read() as session:
        found = allowances.may_hold_stock(session, NOW, user_id, quote_of(line), RULES)

    assert found is may_hold


@pytest.mark.parametrize(
    ("said_at", "is_told"), [(NOW - INSTANT, False), (NOW, True), (NOW + INSTANT, True)]
)
def test_what_is_said_from_the_instant_of_a_purchase_on_is_about_it(
    database: Connected, said_at: datetime, is_told: bool
) -> None:
    claimed = waiting(database)

    with database.begin() as session:
        refusals.explain(session, said_at, claimed.row.user_id, "said", "…")

    assert (row_of(database, claimed.purchase_id).status_code == "said") is is_told


@pytest.mark.parametrize(
    ("later", "is_told"), [(-INSTANT, False), (timedelta(), True), (INSTANT, True)]
)
def test_what_was_said_last_stands(database: Connected, later: timedelta, is_told: bool) -> None:
    claimed = waiting(database)
    first_at = NOW + timedelta(minutes=1)

    for said_at, code in ((first_at, "first"), (first_at + later, "second")):
        with database.begin() as session:
            refusals.explain(session, said_at, claimed.row.user_id, code, "…")

    assert (row_of(database, claimed.purchase_id).status_code == "second") is is_told


@pytest.mark.parametrize(("length", "kept"), [(199, 199), (200, 200), (201, 200)])
def test_a_description_of_up_to_two_hundred_characters_stays_whole(length: int, kept: int) -> None:
    row = PurchaseLineRow(product_name="x" * length, quantity=1)

    description = lifecycle.describe([row])

    assert (len(description), description.endswith("…")) == (kept, length > 200)


def test_no_stock_is_held_where_no_time_is_given_for_it(database: Connected) -> None:
    rules = BillingSettings(amqp_uri="", database_url="", stock_hold_s=0)
    claimed = recorded(database, rules=rules)
    reservation_id = claimed.row.reservation_id

    with database.begin() as session:
        lifecycle.wait_for_funds(session, NOW, claimed, 0, NOW, rules)

    with database.read() as session:
        released = session.get(StockReleaseRow, reservation_id)
    assert released is not None
