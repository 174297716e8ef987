"""Purchases of one moment go the whole way together, and each has its own outcome."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.context import CallContext, current_call
from chassis.database import Connected
from chassis.together import ALONE
from contracts.billing import PurchaseLine, PurchaseStatus, StartPurchase
from contracts.catalog import GetQuote
from contracts.errors import DeadlineExceeded, IdempotencyConflict, InsufficientFunds, PriceChanged
from contracts.wallet import Debit, DebitAll
from services.billing.models import PurchaseRow
from services.billing.purchases.checkout import Checkout
from services.billing.purchases.claims import Claim
from services.billing.purchases.first_tries import Wish
from services.catalog.seed import product_id_of
from tests.billing.conftest import RULES, row_of
from tests.billing.test_calls import Heard
from tests.billing.test_checkout import balance, buyer_with, in_catalog, order, payments
from tests.billing.test_purchases import events
from tests.system import System

STOCKED = "gateway-eu"


def checkout_over(database: Connected, rpc: Any) -> Checkout:
    return Checkout(database, cast(RpcClient, rpc), RULES, utc_now)


def begin_all(checkout: Checkout, *commands: StartPurchase) -> list[Any]:
    return checkout._first_tries.begin_all([Wish(command) for command in commands])


def states(database: Connected, outcomes: Sequence[Any]) -> list[str]:
    return [row_of(database, each.purchase_id).status for each in outcomes]


@pytest.fixture
def stocked(stack: System) -> Iterator[str]:
    """A product of which there is an end."""
    in_catalog(stack, "UPDATE products SET stock = 9 WHERE slug = :slug", slug=STOCKED)
    yield STOCKED
    in_catalog(stack, "UPDATE products SET stock = NULL WHERE slug = :slug", slug=STOCKED)


def test_those_of_one_moment_take_one_question_and_one_call(
    stack: System, database: Connected
) -> None:
    heard = Heard(stack.rpc)
    buyers = [buyer_with(stack, "25") for _ in range(3)]

    outcomes = begin_all(checkout_over(database, heard), *map(order, buyers))

    assert [type(request) for request in heard.asked] == [GetQuote, DebitAll]
    assert all(isinstance(each, PurchaseRow) for each in outcomes)
    assert [each.user_id for each in outcomes] == buyers
    assert states(database, outcomes) == [PurchaseStatus.COMPLETED] * 3
    assert [balance(stack, buyer) for buyer in buyers] == [20_000_000] * 3


def test_who_has_too_little_keeps_nobody_else_from_buying(
    stack: System, database: Connected
) -> None:
    rich, poor = buyer_with(stack, "25"), buyer_with(stack, "2")
    heard = Heard(stack.rpc)
    checkout = checkout_over(database, heard)

    short, paid = begin_all(checkout, order(poor), order(rich))

    assert isinstance(short, Claim)
    assert isinstance(short.refusal, InsufficientFunds)
    assert isinstance(paid, PurchaseRow)
    asked = len(heard.asked)
    checkout.settle(short)
    assert states(database, [short, paid]) == ["awaiting_funds", "completed"]
    assert len(heard.asked) == asked


def test_what_is_refused_or_known_is_so_for_its_own_buyer(
    stack: System, database: Connected
) -> None:
    checkout = checkout_over(database, stack.rpc)
    user_id = buyer_with(stack, "25")
    first = order(user_id)
    begin_all(checkout, first)
    other = first.model_copy(update={"lines": [first.lines[0].model_copy(update={"quantity": 2})]})
    seen = first.lines[0].model_copy(update={"expected_unit_price_micros": 1})
    dear = order(user_id).model_copy(update={"lines": [seen]})

    again, conflict, refused, made = begin_all(checkout, first, other, dear, order(user_id))

    assert again is None
    assert isinstance(conflict, IdempotencyConflict)
    assert isinstance(refused, PriceChanged)
    assert isinstance(made, PurchaseRow)
    assert payments(stack, user_id) == [-5_000_000] * 2


def test_what_there_is_an_end_to_is_left_to_its_own_worker(
    stack: System, database: Connected, stocked: str
) -> None:
    user_id = buyer_with(stack, "100")
    one = order(user_id)
    line = PurchaseLine(product_id=product_id_of(stocked))
    several = one.model_copy(update={"lines": [*one.lines, line]})
    checkout = checkout_over(database, stack.rpc)

    claimed, alone, paid = begin_all(checkout, order(user_id, stocked), several, order(user_id))

    assert isinstance(claimed, Claim)
    assert (claimed.is_new, claimed.refusal) == (True, None)
    assert alone is ALONE
    assert isinstance(paid, PurchaseRow)
    assert len(payments(stack, user_id)) == 1
    checkout.settle(claimed)
    assert states(database, [claimed]) == [PurchaseStatus.COMPLETED]


def test_one_debit_of_a_group_is_not_cut_to_the_time_of_who_leads(
    stack: System, database: Connected, stocked: str
) -> None:
    heard = Heard(stack.rpc)
    checkout = checkout_over(database, heard)
    leader, other = (buyer_with(stack, "100") for _ in range(2))
    token = current_call.set(CallContext(chain=("gateway.leader",), deadline_ms=1))
    try:
        claimed, paid = begin_all(checkout, order(leader, stocked), order(other))
    finally:
        current_call.reset(token)

    assert isinstance(claimed, Claim)
    assert isinstance(paid, PurchaseRow)
    assert [type(request) for request in heard.asked] == [GetQuote, Debit]
    assert heard.deadlines_ms == [None, None]


def test_a_claim_outlasts_the_groups_debit_and_every_call_of_its_own() -> None:
    a_group_s = RULES.call_timeout_s
    own_s = [RULES.call_timeout_s for _ in ("rehearsal", "reservation", "debit", "one more")]

    assert RULES.claim_lease > timedelta(seconds=a_group_s + sum(own_s))


class Lossy(Heard):
    """Loses the answer to what is asked of the wallet, once it is done."""

    def call(self, request: Any, timeout_s: float) -> Any:
        answer = super().call(request, timeout_s)
        if isinstance(request, DebitAll | Debit) and len(self.asked) == 2:
            raise DeadlineExceeded("No answer came.")
        return answer


@pytest.mark.parametrize("count", [1, 2])
def test_debits_whose_answer_is_lost_are_asked_for_again_and_made_once(
    stack: System, database: Connected, count: int
) -> None:
    checkout = checkout_over(database, Lossy(stack.rpc))
    buyers: list[UUID] = [buyer_with(stack, "25") for _ in range(count)]

    outcomes = begin_all(checkout, *map(order, buyers))
    assert all(isinstance(each.refusal, DeadlineExceeded) for each in outcomes)
    assert states(database, outcomes) == [PurchaseStatus.PENDING] * count

    for each in outcomes:
        checkout.settle(Claim(each.row, each.claim_id, each.is_try_owed))
    assert states(database, outcomes) == [PurchaseStatus.COMPLETED] * count
    assert [payments(stack, buyer) for buyer in buyers] == [[-5_000_000]] * count


def test_what_cannot_be_completed_with_the_others_is_completed_by_itself(
    stack: System, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = checkout_over(database, stack.rpc)
    buyers = [buyer_with(stack, "25") for _ in range(2)]

    def away(_paid: object) -> Any:
        raise OperationalError("COMMIT", {}, Exception("the server went away"))

    monkeypatch.setattr(checkout._first_tries, "_complete", away)
    outcomes = begin_all(checkout, *map(order, buyers))

    assert all(isinstance(each, Claim) for each in outcomes)
    for each in outcomes:
        assert checkout.settle(each)
    assert states(database, outcomes) == [PurchaseStatus.COMPLETED] * 2
    assert [payments(stack, buyer) for buyer in buyers] == [[-5_000_000]] * 2
    assert len(events(database, "purchase_completed")) == 2


def test_each_event_names_the_calls_that_led_to_it(stack: System, database: Connected) -> None:
    chains = [("gateway.one",), ("gateway.two",)]
    wishes = [Wish(order(buyer_with(stack, "25")), CallContext(chain=chain)) for chain in chains]

    rows = checkout_over(database, stack.rpc)._first_tries.begin_all(wishes)

    with database.read() as session:
        sent = session.connection().exec_driver_sql(
            "SELECT payload ->> 'purchase_id', headers::text FROM outbox"
            " WHERE type = 'purchase_completed'"
        )
        headers = dict(row for row in sent)
    for row, (chain,) in zip(rows, chains, strict=True):
        assert isinstance(row, PurchaseRow)
        assert chain in headers[str(row.purchase_id)]
