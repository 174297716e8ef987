"""Dollars in the pools, with the real wallet: set aside, exchanged, taken or released, or paid.

Between the two stands a wire that loses answers, and the process dies at each step. What follows is
one exchange and one payment, or neither.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from chassis import errands
from chassis.client import RpcClient
from chassis.database import Connected, connect
from contracts.errors import (
    AccountFrozen,
    Conflict,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
)
from contracts.legacy import GetPoolHistory, OrderStatus, PoolQuote, TakeQuote
from contracts.wallet import (
    Capture,
    Credit,
    Freeze,
    GetWallet,
    PlaceHold,
    Statement,
    TransactionKind,
    Unfreeze,
    VoidHold,
)
from services.legacy import pool_book
from services.legacy.models import PoolOrderRow
from services.legacy.pools import carrying_out, orders, queries, verifying
from services.legacy.pools.carrying_out import Orders
from services.legacy.settings import LegacySettings
from tests.billing.test_lost_answers import LOST, Wire, is_a
from tests.conftest import StackFactory
from tests.crashes import Died
from tests.legacy.pools import COIN, Trader, empty, reserves
from tests.locks import done_after
from tests.system import System

POOL = "TFP-USD"
USD = COIN


@pytest.fixture(scope="module")
def stack(service_stack: StackFactory) -> System:
    return service_stack("wallet", settings={"MAX_WORKERS": "20"})


@pytest.fixture(scope="module")
def connected(stack: System) -> Iterator[Connected]:
    database = connect(stack.database_url("legacy"), pool_size=5)
    yield database
    database.engine.dispose()


class Customer(Trader):
    """Who has dollars in the wallet beside coins."""

    rpc: Wire

    def earns(self, dollars: int) -> None:
        credit = Credit(
            idempotency_key=f"{uuid4()}",
            user_id=self.user_id,
            amount_micros=dollars * USD,
            description="Tests",
        )
        self.rpc.call(credit)

    @property
    def dollars(self) -> tuple[int, int]:
        """The balance, and what of it is set aside; micro-dollars."""
        wallet = self.rpc.call(GetWallet(user_id=self.user_id))
        return wallet.balance_micros, wallet.held_micros

    def sees(self, key: str = "key") -> PoolOrderRow:
        with self.database.read() as session:
            found = select(PoolOrderRow).where(
                PoolOrderRow.user_id == self.user_id, PoolOrderRow.idempotency_key == key
            )
            return session.scalars(found).one()

    def runs(self, **later: float) -> None:
        """The sweeper, after so long."""
        self.passes(**later)
        self.orders.run()

    def freezes(self) -> None:
        about = {"idempotency_key": f"{uuid4()}", "reason": "-", "actor": "a test"}
        self.rpc.call(Freeze(user_id=self.user_id, **about))

    def thaws(self) -> None:
        about = {"idempotency_key": f"{uuid4()}", "reason": "-", "actor": "a test"}
        self.rpc.call(Unfreeze(user_id=self.user_id, **about))


@pytest.fixture
def database(stack: System, connected: Connected) -> Iterator[Connected]:
    with connected.begin() as session:
        empty(session)
    yield connected
    assert list(verifying.verify(connected, stack.rpc)) == []


@pytest.fixture
def ann(database: Connected, stack: System) -> Customer:
    """Who has added 1,000 to each side, and has $100 and 100 of the old coin left."""
    customer = Customer(database, Wire(stack.rpc))
    customer.has("TFP", 1_100)
    customer.earns(1_100)
    customer.takes(customer.asks_to_add(POOL, 1_000, 1_000))
    return customer


def test_dollars_are_taken_from_the_wallet_into_the_pool(ann: Customer) -> None:
    order = ann.takes(ann.asks(POOL, "USD", 10), "key")

    # 10 less 0.03 are 9.97; 9.97 ÷ 1009.97 of 1000 are 9.871580.
    assert (order.status, order.base_units, order.other_units) == (
        OrderStatus.DONE, 9_871_580, -10 * USD,
    )  # fmt: skip
    assert ann.dollars == (90 * USD, 0)
    assert ann.holdings == {"TFP": 109_871_580}
    assert reserves(ann, POOL)[:2] == (990_128_420, 1_010 * USD)
    page = ann.rpc.call(Statement(user_id=ann.user_id, kinds=[TransactionKind.EXCHANGE]))
    newest = page.transactions[0]
    assert (newest.amount_micros, newest.description) == (-10 * USD, "Pool exchange")


def test_dollars_are_paid_out_of_the_pool_into_the_wallet(ann: Customer) -> None:
    order = ann.takes(ann.asks(POOL, "TFP", 10), "key")

    assert (order.status, order.other_units) == (OrderStatus.DONE, 9_871_580)
    assert ann.dollars == (109_871_580, 0)
    assert ann.holdings == {"TFP": 90 * COIN}


def test_of_what_is_set_aside_to_be_added_the_rest_is_free_again(ann: Customer) -> None:
    order = ann.takes(ann.asks_to_add(POOL, 10, 50))

    assert (order.base_units, order.other_units) == (-10 * COIN, -10 * USD)
    assert ann.dollars == (90 * USD, 0)


def test_the_last_provider_leaves_with_all_of_it(ann: Customer) -> None:
    ann.takes(ann.asks(POOL, "USD", 10))
    ann.takes(ann.asks_to_withdraw(POOL, reserves(ann, POOL)[2]))

    assert reserves(ann, POOL) == (0, 0, 0)
    assert (ann.dollars, ann.holdings) == ((1_100 * USD, 0), {"TFP": 1_100 * COIN})


def test_what_the_wallet_has_not_got_is_declined_and_the_key_says_so_again(ann: Customer) -> None:
    quote = ann.asks(POOL, "USD", 100.000001)

    for _ in range(2):
        with pytest.raises(InsufficientFunds):
            ann.takes(quote, "key")
    assert (ann.sees().status, ann.dollars) == (OrderStatus.DECLINED, (100 * USD, 0))
    assert ann.takes(ann.asks(POOL, "USD", 100)).status == OrderStatus.DONE


def test_who_has_no_wallet_and_whose_is_frozen_is_declined(ann: Customer) -> None:
    ben = Customer(ann.database, ann.rpc)
    ann.freezes()

    with pytest.raises(NotFound):
        ben.takes(ben.asks(POOL, "USD", 1))
    with pytest.raises(AccountFrozen):
        ann.takes(ann.asks(POOL, "USD", 1))
    # Credits still come in.
    assert ann.takes(ann.asks(POOL, "TFP", 1)).status == OrderStatus.DONE


def test_the_same_key_takes_dollars_once(ann: Customer) -> None:
    quote = ann.asks(POOL, "USD", 10)
    ann.takes(quote, "key")
    ann.takes(quote, "key")

    assert ann.dollars == (90 * USD, 0)
    with pytest.raises(IdempotencyConflict):
        ann.takes(ann.asks(POOL, "USD", 1), "key")


def test_for_what_cannot_be_done_nothing_is_set_aside(ann: Customer) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.earns(10)
    quote = ben.asks_to_add(POOL, 1, 1)

    with pytest.raises(Conflict, match="You have 0 TFP"):
        ben.takes(quote, "key")
    assert (ben.pools.under_way, ben.dollars) == (None, (10 * USD, 0))


def test_a_rate_that_moves_while_dollars_are_set_aside_releases_them(ann: Customer) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.earns(100)
    order_id = ben.begins(ben.asks(POOL, "USD", 10), "key").order_id
    ann.takes(ann.asks(POOL, "USD", 100))

    with pytest.raises(Conflict, match="The rate has moved"):
        ben.orders.carried_out(order_id)
    assert (ben.sees().status, ben.dollars) == (OrderStatus.REFUSED, (100 * USD, 0))
    assert ben.holdings == {}
    assert ben.takes(ben.asks(POOL, "USD", 10)).status == OrderStatus.DONE


@pytest.mark.parametrize(
    ("minutes", "status"), [(15, OrderStatus.DONE), (15.0001, OrderStatus.REFUSED)]
)
def test_dollars_that_are_set_aside_too_late_are_released(
    ann: Customer, minutes: float, status: OrderStatus
) -> None:
    ann.begins(ann.asks(POOL, "USD", 10), "key")
    ann.runs(minutes=minutes)

    assert ann.sees().status == status
    assert ann.dollars == ((90 if status is OrderStatus.DONE else 100) * USD, 0)


def test_while_an_order_is_under_way_its_user_begins_no_other(ann: Customer) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.has("TFP", 1)
    coins, dollars = ann.asks(POOL, "TFP", 1), ann.asks(POOL, "USD", 1)
    ann.begins(dollars, "key")

    with pytest.raises(Conflict, match="still under way"):
        ann.takes(coins)
    with pytest.raises(Conflict, match="still under way"):
        ann.stakes(1)
    assert ann.pools.under_way is not None
    # Nobody else waits for it.
    assert ben.takes(ben.asks(POOL, "TFP", 1)).status == OrderStatus.DONE
    ann.runs(seconds=60)
    assert ann.takes(coins).status == OrderStatus.DONE


GIVE = ("USD", (90 * USD, 0), {"TFP": 109_871_580})
GET = ("TFP", (109_871_580, 0), {"TFP": 90 * COIN})
STEPS = [
    (GIVE, "legacy.order_written", 1),
    (GIVE, "legacy.order_asked", 1),
    (GIVE, "legacy.order_recorded", 1),
    (GIVE, "legacy.order_asked", 2),
    (GIVE, "legacy.order_recorded", 2),
    (GET, "legacy.order_written", 1),
    (GET, "legacy.order_asked", 1),
    (GET, "legacy.order_recorded", 1),
]


@pytest.mark.parametrize(("way", "point", "time"), STEPS)
@pytest.mark.parametrize("by", ["the sweeper", "the same key"])
def test_a_process_that_dies_at_any_step_leaves_one_exchange_to_the_next(
    ann: Customer, monkeypatch: pytest.MonkeyPatch, way: Any, point: str, time: int, by: str
) -> None:
    give, dollars, holdings = way
    quote = ann.asks(POOL, give, 10)
    dies(monkeypatch, point, time)
    with pytest.raises(Died):
        ann.takes(quote, "key")

    if by == "the sweeper":
        ann.runs(seconds=60)
    else:
        ann.takes(quote, "key")

    assert ann.sees().status == OrderStatus.DONE
    assert (ann.dollars, ann.holdings) == (dollars, holdings)
    ann.runs(days=1)
    assert (ann.dollars, ann.holdings) == (dollars, holdings)


def dies(monkeypatch: pytest.MonkeyPatch, point: str, time: int) -> None:
    """Die where the point is passed for the first, or the second, time."""
    passed: list[str] = []

    def crash_point(name: str) -> None:
        passed.append(name)
        if passed.count(point) == time and name == point:
            raise Died

    for module in (carrying_out, errands):
        monkeypatch.setattr(module, "crash_point", crash_point)


def test_a_process_that_dies_while_it_releases_has_it_released_by_the_next(
    ann: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.earns(10)
    order_id = ben.begins(ben.asks(POOL, "USD", 10), "key").order_id
    ann.takes(ann.asks(POOL, "USD", 100))
    dies(monkeypatch, "legacy.order_asked", 2)
    with pytest.raises(Died):
        ben.orders.carried_out(order_id)

    assert ben.sees().status == OrderStatus.RELEASING
    ben.runs(seconds=60)
    assert (ben.sees().status, ben.dollars) == (OrderStatus.REFUSED, (10 * USD, 0))


@pytest.mark.parametrize("when", LOST)
@pytest.mark.parametrize(("way", "command"), [(GIVE, PlaceHold), (GIVE, Capture), (GET, Credit)])
def test_an_answer_that_is_lost_is_asked_for_again(
    ann: Customer, way: Any, command: type, when: str
) -> None:
    give, dollars, holdings = way
    quote = ann.asks(POOL, give, 10)
    ann.rpc.lose(is_a(command), when)

    order = ann.takes(quote, "key")
    assert order.due_at is not None
    ann.runs(seconds=59)
    assert ann.sees().due_at is not None
    ann.runs(seconds=1)

    assert ann.sees().status == OrderStatus.DONE
    assert (ann.dollars, ann.holdings) == (dollars, holdings)


@pytest.mark.parametrize("when", LOST)
def test_a_lost_release_is_asked_for_again(ann: Customer, when: str) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.earns(10)
    order_id = ben.begins(ben.asks(POOL, "USD", 10), "key").order_id
    ann.takes(ann.asks(POOL, "USD", 100))
    ben.rpc.lose(is_a(VoidHold), when)

    with pytest.raises(Conflict):
        ben.orders.carried_out(order_id)
    ben.runs(seconds=60)
    assert (ben.sees().status, ben.dollars) == (OrderStatus.REFUSED, (10 * USD, 0))


def test_from_a_wallet_that_freezes_meanwhile_it_is_taken_once_that_is_over(
    ann: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    quote = ann.asks(POOL, "USD", 10)
    dies(monkeypatch, "legacy.order_recorded", 1)
    with pytest.raises(Died):
        ann.takes(quote, "key")
    ann.freezes()
    ann.runs(seconds=60)

    assert (ann.sees().status, ann.dollars) == (OrderStatus.CAPTURING, (100 * USD, 10 * USD))
    with pytest.raises(Conflict, match="still under way"):
        ann.stakes(1)
    ann.thaws()
    ann.runs(minutes=59)
    assert ann.sees().status == OrderStatus.CAPTURING
    ann.runs(minutes=1)
    assert (ann.sees().status, ann.dollars) == (OrderStatus.DONE, (90 * USD, 0))


def test_two_who_begin_at_the_same_moment_are_one_after_the_other(ann: Customer) -> None:
    first, second = ann.asks(POOL, "USD", 1), ann.asks(POOL, "USD", 2)

    def begins() -> str:
        try:
            return ann.begins(second).status
        except Conflict as refusal:
            return str(refusal)

    said = done_after(ann.database, lambda session: begun(session, ann, first), begins)

    assert "still under way" in said
    ann.runs(seconds=60)


def begun(session: Session, customer: Customer, quote: PoolQuote) -> None:
    command = TakeQuote(
        idempotency_key="first",
        user_id=customer.user_id,
        quote_id=quote.quote_id,
        slippage_bps=50,
    )
    orders.take_quote(session, customer.now, command)


FORGED = {
    "nothing was paid": (
        (
            "TFP",
            "UPDATE pool_orders SET order_id = gen_random_uuid() WHERE idempotency_key = 'key'",
        ),
        "nothing moved in the wallet",
    ),
    "nothing was taken": (
        (
            "USD",
            "UPDATE pool_orders SET order_id = gen_random_uuid() WHERE idempotency_key = 'key'",
        ),
        "the wallet has something else",
    ),
    "another amount": (
        (
            "USD",
            "UPDATE pool_orders SET other_units = other_units - 1 WHERE idempotency_key = 'key'",
        ),
        "and its entries to -10000000",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_the_wallet_does_not_know_is_found(ann: Customer, stack: System, forged: str) -> None:
    (give, statement), sentence = FORGED[forged]
    ann.takes(ann.asks(POOL, give, 10), "key")
    with ann.database.begin() as session:
        session.execute(text(statement))
    found = list(verifying.verify(ann.database, stack.rpc))
    with ann.database.begin() as session:
        empty(session)

    assert any(sentence in each for each in found), found


def test_who_waits_for_a_frozen_wallet_keeps_nobody_else_waiting(
    ann: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.earns(10)
    quote = ann.asks(POOL, "USD", 10)
    with monkeypatch.context() as dying:
        dies(dying, "legacy.order_recorded", 1)
        with pytest.raises(Died):
            ann.takes(quote, "key")
    ben.begins(ben.asks(POOL, "USD", 10), "key")
    ann.freezes()
    ann.runs(seconds=60)

    assert ben.sees().status == OrderStatus.DONE
    ann.thaws()
    ann.runs(hours=1)
    assert ann.sees().status == OrderStatus.DONE


def test_who_is_overtaken_on_the_way_to_the_wallet_changes_nothing(ann: Customer) -> None:
    order_id = ann.begins(ann.asks(POOL, "USD", 10), "key").order_id
    first = ann.orders

    class Overtaken:
        def call(self, request: Any) -> Any:
            reply = ann.rpc.call(request)
            first.go_on(order_id)
            return reply

    Orders(ann.database, cast(RpcClient, Overtaken()), lambda: ann.now).go_on(order_id)

    assert ann.sees().status == OrderStatus.DONE
    assert (ann.dollars, ann.holdings) == ((90 * USD, 0), {"TFP": 109_871_580})


def test_dollars_that_were_not_there_for_who_asked_first_are_not_left_set_aside(
    ann: Customer,
) -> None:
    ben = Customer(ann.database, ann.rpc)
    ben.earns(1)
    order_id = ben.begins(ben.asks(POOL, "USD", 10), "key").order_id
    first = ben.orders

    class Overtaken:
        def call(self, request: Any) -> Any:
            if isinstance(request, PlaceHold):
                first.go_on(order_id)
                ben.earns(99)
            return ben.rpc.call(request)

    Orders(ann.database, cast(RpcClient, Overtaken()), lambda: ben.now).go_on(order_id)

    assert (ben.sees().status, ben.dollars) == (OrderStatus.DECLINED, (100 * USD, 0))


# The operator's command, with the login of the service.


@pytest.fixture
def command(
    stack: System, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    settings = LegacySettings(
        amqp_uri=stack.vhost.uri("legacy"), database_url=stack.database_url("legacy")
    )
    monkeypatch.setattr(pool_book, "get_settings", lambda: settings)

    def do(*arguments: str) -> tuple[int, str]:
        status = pool_book.main(list(arguments))
        said = capsys.readouterr()
        return status, said.out + said.err

    return do


WHY = ("--by", "ops", "--reason", "the bank, ticket 7")


def test_an_operator_gives_and_takes_coins_with_a_reason_that_stays(
    ann: Customer, command: Callable[..., tuple[int, str]]
) -> None:
    given = command("adjust", str(ann.user_id), "EUR", "12.5", *WHY)
    taken = command("adjust", *WHY, "--", str(ann.user_id), "EUR", "-2.500001")

    assert (given[0], taken[0]) == (0, 0)
    assert ann.holdings["EUR"] == 9_999_999
    with ann.database.read() as session:
        history = queries.history(session, GetPoolHistory(user_id=ann.user_id))
    assert history.entries[0].note == "ops: the bank, ticket 7"


@pytest.mark.parametrize(
    ("coin", "amount", "sentence"),
    [
        ("USD", "1", "dollars are in the wallet"),
        ("GBP", "1", "Coins are TFP"),
        ("EUR", "0", "it is nothing"),
        ("EUR", "1000000000000.000001", "more than can be held"),
        ("EUR", "ten", "is no amount"),
        ("TFP", "-100.000001", "You have 100 TFP"),
    ],
)
def test_what_an_operator_cannot_mean_changes_nothing(
    ann: Customer,
    command: Callable[..., tuple[int, str]],
    coin: str,
    amount: str,
    sentence: str,
) -> None:
    status, said = command("adjust", *WHY, "--", str(ann.user_id), coin, amount)

    assert status == 1
    assert sentence in said
    assert ann.holdings == {"TFP": 100 * COIN}


def test_the_command_verifies_with_the_rights_of_the_service_and_names_a_difference(
    ann: Customer, command: Callable[..., tuple[int, str]]
) -> None:
    ann.takes(ann.asks(POOL, "TFP", 10), "key")
    assert command("verify") == (0, "0 differences.\n")

    with ann.database.begin() as session:
        session.execute(text("UPDATE pool_orders SET order_id = gen_random_uuid()"))
    status, said = command("verify")
    with ann.database.begin() as session:
        empty(session)

    assert status == 1
    assert "nothing moved in the wallet" in said
