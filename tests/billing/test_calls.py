"""What several purchases ask of the catalog and the wallet at the same moment, in one call."""

from collections.abc import Callable
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from chassis.client import RpcClient
from chassis.context import CallContext, current_call
from chassis.together import ALONE
from contracts.catalog import GetQuote, Quote, QuoteLine
from contracts.errors import (
    DeadlineExceeded,
    InsufficientFunds,
    NotFound,
    ServiceError,
    Unavailable,
)
from contracts.wallet import Debit, Transaction
from services.billing.purchases.calls import Calls
from services.catalog.seed import product_id_of
from tests.billing.test_checkout import buyer_with
from tests.system import System

VM = QuoteLine(product_id=product_id_of("vm-starter"))
TWO_VMS = QuoteLine(product_id=product_id_of("vm-starter"), quantity=2)
GATEWAY = QuoteLine(product_id=product_id_of("gateway-eu"))
GONE = QuoteLine(product_id=uuid4())


class Heard:
    """An RpcClient that notes what it was asked for, and until when."""

    def __init__(self, rpc: RpcClient | None, fails: Exception | None = None) -> None:
        self._rpc = rpc
        self._fails = fails
        self.asked: list[Any] = []
        self.deadlines_ms: list[int | None] = []

    def call(self, request: Any, timeout_s: float) -> Any:
        self.asked.append(request)
        self.deadlines_ms.append(current_call.get().deadline_ms)
        if self._rpc is None:
            raise self._fails or Unavailable("Nobody is there.")
        return self._rpc.call(request, timeout_s)


def calls_over(heard: Heard) -> Calls:
    return Calls(cast(RpcClient, heard), 30)


def debit(user_id: UUID, amount_micros: int = 5_000_000) -> Debit:
    return Debit(
        idempotency_key=f"purchase:{uuid4()}",
        user_id=user_id,
        amount_micros=amount_micros,
        description="A purchase",
    )


def test_each_order_gets_its_own_prices_from_one_question(stack: System) -> None:
    heard = Heard(stack.rpc)

    quotes = calls_over(heard).quote_all([(VM,), (GATEWAY,), (VM,), (TWO_VMS,)])

    (question,) = heard.asked
    assert question == GetQuote(lines=[VM, GATEWAY, TWO_VMS])
    assert quotes == [stack.rpc.call(GetQuote(lines=[line])) for line in (VM, GATEWAY, VM, TWO_VMS)]


def test_an_order_of_several_lines_is_asked_for_alone(stack: System) -> None:
    quotes = calls_over(Heard(stack.rpc)).quote_all([(VM, GATEWAY), (VM,), (GATEWAY,)])

    assert quotes[0] is ALONE
    assert all(isinstance(quote, Quote) for quote in quotes[1:])


def test_what_cannot_be_had_is_refused_to_who_wants_it_only(stack: System) -> None:
    calls = calls_over(Heard(stack.rpc))

    assert calls.quote_all([(GONE,), (VM,)]) == [ALONE, ALONE]
    with pytest.raises(NotFound):
        calls.quote([GONE])
    assert calls.quote([VM]).lines[0].product.product_id == VM.product_id


def test_each_debit_of_several_has_its_own_outcome(stack: System) -> None:
    heard = Heard(stack.rpc)
    rich, poor, nobody = buyer_with(stack, "25"), buyer_with(stack, "2"), uuid4()

    paid, short, unknown = calls_over(heard).debit_all([debit(rich), debit(poor), debit(nobody)])

    assert len(heard.asked) == 1
    assert isinstance(paid, Transaction)
    assert isinstance(short, InsufficientFunds)
    assert short.available_micros == 2_000_000
    assert isinstance(unknown, NotFound)


def quote_all(calls: Calls) -> Any:
    return calls.quote_all([(VM,), (GATEWAY,)])


def debit_all(calls: Calls) -> Any:
    return calls.debit_all([debit(uuid4()), debit(uuid4())])


@pytest.mark.parametrize("ask", [quote_all, debit_all])
def test_no_answer_is_none_for_everybody(ask: Callable[[Calls], Any]) -> None:
    unknown = DeadlineExceeded("No answer came.")

    assert ask(calls_over(Heard(None, unknown))) == [unknown, unknown]


def test_where_the_call_for_several_is_not_known_each_debit_is_made_alone() -> None:
    heard = Heard(None, ServiceError("billing may not call wallet.debit_all; nothing was done."))

    assert debit_all(calls_over(heard)) == [ALONE, ALONE]


@pytest.mark.parametrize("ask", [quote_all, debit_all])
def test_no_single_callers_deadline_ends_what_is_asked_for_several(
    ask: Callable[[Calls], Any],
) -> None:
    heard = Heard(None)
    token = current_call.set(CallContext(deadline_ms=1))
    try:
        ask(calls_over(heard))
    finally:
        current_call.reset(token)

    assert heard.deadlines_ms == [None]


def test_who_is_by_himself_asks_as_always(stack: System) -> None:
    heard = Heard(stack.rpc)
    calls, user_id = calls_over(heard), buyer_with(stack, "25")

    calls.quote([VM])
    calls.debit(debit(user_id))

    assert [type(request) for request in heard.asked] == [GetQuote, Debit]
