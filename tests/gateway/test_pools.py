"""The page of the pools: there where a setting says so, with no way to it, and what it asks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import Conflict, DeadlineExceeded, ServiceError
from contracts.legacy import (
    CoinChange,
    GetPoolHistory,
    GetPools,
    Holding,
    OrderKind,
    OrderStatus,
    Pool,
    PoolChange,
    PoolEntry,
    PoolHistory,
    PoolOrder,
    PoolQuote,
    Pools,
    QuoteAddition,
    QuoteExchange,
    QuoteWithdrawal,
    Stake,
    Staked,
    TakeQuote,
    Unstake,
)
from services.gateway.app import create_app
from services.gateway.pages.formats import percent, units
from services.gateway.people import closing
from tests.gateway.conftest import add_user, gateway_settings
from tests.gateway.test_site import csrf_token, logged_in

PAGE = "/dashboard/pools-advanced"
GATEWAY = Path(__file__).resolve().parents[2] / "services" / "gateway"
COIN = 1_000_000


@dataclass
class Legacy:
    """In place of the service of the old system: one pool, and a memory of what was asked."""

    asked: list[Any] = field(default_factory=list)
    fails_with: ServiceError | None = None
    status: OrderStatus = OrderStatus.DONE
    staked: Staked = field(default_factory=lambda: Staked(units=0, days=30, free_at=None))

    def call(self, request: Any) -> Any:
        if isinstance(request, GetPools):
            return self.pools(request.user_id)
        self.asked.append(request)
        if self.fails_with is not None:
            raise self.fails_with
        if isinstance(request, TakeQuote | Stake | Unstake):
            return self.order(request.user_id)
        kinds = {
            QuoteExchange: OrderKind.EXCHANGE,
            QuoteAddition: OrderKind.ADD,
            QuoteWithdrawal: OrderKind.WITHDRAW,
        }
        return PoolQuote(
            quote_id=UUID(int=7),
            user_id=request.user_id,
            kind=kinds[type(request)],
            pool=request.pool,
            change=PoolChange(base_units=-10 * COIN, other_units=9_871_580),
            fee_units=30_000,
            rate="0.987158",
            impact_ppm=9_872,
            expires_at=utc_now() + timedelta(seconds=60),
        )

    def pools(self, user_id: UUID) -> Pools:
        pool = Pool(
            pool="TFP-USD",
            base="TFP",
            other="USD",
            base_units=1_000 * COIN,
            other_units=100 * COIN,
            share_units=300 * COIN,
            own_share_units=100 * COIN + 1,
            own=PoolChange(base_units=333 * COIN, other_units=33 * COIN),
            fee_bps=30,
        )
        return Pools(
            user_id=user_id,
            holdings=[Holding(coin="TFP", units=1_250_500_000)],
            staked=self.staked,
            pools=[pool],
            under_way=None,
        )

    def order(self, user_id: UUID) -> PoolOrder:
        return PoolOrder(
            order_id=uuid4(),
            user_id=user_id,
            kind=OrderKind.EXCHANGE,
            pool="TFP-USD",
            status=self.status,
            change=PoolChange(),
            fee_units=0,
            reason="",
            created_at=utc_now(),
        )

    def ask(self, request: GetPoolHistory) -> PoolHistory:
        entry = PoolEntry(
            transaction_id=uuid4(),
            kind="exchange",
            pool="TFP-USD",
            note="",
            changes=[
                CoinChange(coin="TFP", units=-10 * COIN, is_staked=False),
                CoinChange(coin="USD", units=1_500_000, is_staked=False),
            ],
            at=utc_now(),
        )
        return PoolHistory(entries=[entry], next_cursor=None if request.cursor else "older")


@pytest.fixture
def legacy(monkeypatch: pytest.MonkeyPatch) -> Legacy:
    stand_in = Legacy()
    monkeypatch.setattr("services.gateway.pages.pools.call", stand_in.call)
    monkeypatch.setattr("services.gateway.pages.pools.ask", stand_in.ask)
    monkeypatch.setattr("services.gateway.pages.pools.ask_all", lambda *_: (None, None))
    monkeypatch.setattr("services.gateway.pages.navbar.ask_all", lambda *_: (None, None))
    return stand_in


@pytest.fixture
def make_app(nobody_answers: None, databases: dict[str, str]) -> Iterator[Callable[..., Flask]]:
    made: list[Flask] = []

    def make(**changes: Any) -> Flask:
        made.append(create_app(gateway_settings(databases["gateway"], **changes)))
        return made[-1]

    yield make
    for app in made:
        app.extensions["mycelium"].close()


@dataclass
class Member:
    client: FlaskClient
    user_id: UUID

    def page(self, path: str = PAGE) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text[:500]
        return answer.text

    def send(self, path: str, **form: str) -> Any:
        token = csrf_token(self.page(f"{PAGE}/TFP-USD"))
        return self.client.post(f"{PAGE}/{path}", data={"csrf_token": token, **form})


@pytest.fixture
def member(make_app: Callable[..., Flask], database: Connected, legacy: Legacy) -> Member:
    user = add_user(database, has_wallet=True)
    return Member(logged_in(make_app(pools_page=True), user), user.user_id)


PATHS = [PAGE, f"{PAGE}/TFP-USD", f"{PAGE}/TFP-USD/quote", f"{PAGE}/stake"]


@pytest.mark.parametrize("path", PATHS)
def test_there_is_no_such_page_unless_it_is_switched_on(
    make_app: Callable[..., Flask], database: Connected, legacy: Legacy, path: str
) -> None:
    app = make_app()
    user = logged_in(app, add_user(database, has_wallet=True))

    assert app.test_client().get(path).status_code == 404
    assert user.get(path).status_code == 404


def test_nothing_on_the_site_leads_there() -> None:
    others = [
        path
        for folder in ("templates", "handbook", "static/js", "notifications")
        for path in (GATEWAY / folder).rglob("*")
        if path.suffix in (".html", ".md", ".js", ".py", ".txt")
        and path.name not in ("pools.html", "pool.html", "pool_review.html")
    ]

    assert len(others) > 50
    leading = re.compile(r"pools\.(overview|one|quote|take|stake)|pools-advanced")
    assert [path.name for path in others if leading.search(path.read_text())] == []


def test_the_page_tells_what_one_has_and_what_became_of_it(member: Member) -> None:
    page = member.page()

    assert "1,250.5" in page
    assert "333 TFP" in page
    assert "$33.00" in page
    assert "−10 TFP" in page
    assert "+$1.50" in page
    assert f'{PAGE}?cursor=older"' in page


def test_a_quote_is_shown_before_anything_is_exchanged(member: Member, legacy: Legacy) -> None:
    answer = member.send("TFP-USD/quote", what="exchange", give="TFP", give_units="10")

    assert legacy.asked == [
        QuoteExchange(user_id=member.user_id, pool="TFP-USD", give="TFP", give_units=10 * COIN)
    ]
    for said in ("10 TFP", "$9.87158", "1 TFP = 0.987158 USD", "0.03 TFP", "0.99%"):
        assert said in answer.text
    assert f'name="quote_id" value="{UUID(int=7)}"' in answer.text


def test_confirming_takes_the_quote_once_for_each_form(member: Member, legacy: Legacy) -> None:
    form = {"quote_id": str(UUID(int=7)), "slippage_bps": "100", "key": str(uuid4())}
    answers = [member.send("TFP-USD/take", **form) for _ in range(2)]

    first, second = legacy.asked
    assert (first.user_id, first.quote_id, first.slippage_bps) == (
        member.user_id, UUID(int=7), 100,
    )  # fmt: skip
    assert first.idempotency_key == second.idempotency_key
    assert {(answer.status_code, answer.location) for answer in answers} == {(303, PAGE)}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"slippage_bps": "7"}, 422),
        ({"slippage_bps": ""}, 422),
        ({"quote_id": "x"}, 422),
        ({}, 303),
    ],
)
def test_a_form_that_no_page_of_ours_has_takes_nothing(
    member: Member, legacy: Legacy, changes: dict[str, str], status: int
) -> None:
    form = {"quote_id": str(UUID(int=7)), "slippage_bps": "50", **changes}

    assert member.send("TFP-USD/take", **form).status_code == status
    assert len(legacy.asked) == (status == 303)


def test_why_it_was_not_done_stands_on_the_page_of_the_pool(member: Member, legacy: Legacy) -> None:
    legacy.fails_with = Conflict("The rate has moved.")
    answer = member.send("TFP-USD/take", quote_id=str(UUID(int=7)), slippage_bps="50")

    assert answer.location == f"{PAGE}/TFP-USD"
    assert "The rate has moved." in member.page(answer.location)


def test_an_answer_that_is_lost_sends_to_the_history(member: Member, legacy: Legacy) -> None:
    legacy.fails_with = DeadlineExceeded("No answer in time.")
    answer = member.send("TFP-USD/take", quote_id=str(UUID(int=7)), slippage_bps="50")

    assert answer.location == PAGE
    assert "Look at your history below" in member.page()


def test_dollars_that_are_on_their_way_are_told_of(member: Member, legacy: Legacy) -> None:
    legacy.status = OrderStatus.PAYING
    member.send("TFP-USD/take", quote_id=str(UUID(int=7)), slippage_bps="50")

    assert "still on their way" in member.page()


def test_liquidity_is_added_by_both_amounts_and_withdrawn_by_parts(
    member: Member, legacy: Legacy
) -> None:
    member.send("TFP-USD/quote", what="add", base_units="1.5", other_units="0.000001")
    member.send("TFP-USD/quote", what="withdraw", percent="50")
    member.send("TFP-USD/quote", what="withdraw", percent="100")

    assert [type(each) for each in legacy.asked] == [
        QuoteAddition, QuoteWithdrawal, QuoteWithdrawal,
    ]  # fmt: skip
    added, half, whole = legacy.asked
    assert (added.base_units, added.other_units) == (1_500_000, 1)
    assert (half.share_units, whole.share_units) == (50 * COIN, 100 * COIN + 1)


def test_staking_and_unstaking_ask_for_just_that(member: Member, legacy: Legacy) -> None:
    member.send("stake", units="10")
    member.send("unstake", units="0.5")

    staked, unstaked = legacy.asked
    assert (type(staked), staked.units) == (Stake, 10 * COIN)
    assert (type(unstaked), unstaked.units) == (Unstake, 500_000)


def test_what_is_staked_too_lately_has_no_form_to_unstake_it(
    member: Member, legacy: Legacy
) -> None:
    legacy.staked = Staked(units=COIN, days=30, free_at=utc_now() + timedelta(days=3))
    assert "You can unstake from" in member.page()
    assert "unstake-units" not in member.page()

    legacy.staked = Staked(units=COIN, days=30, free_at=None)
    assert "unstake-units" in member.page()


@pytest.mark.parametrize(
    "amount", ["", "0", "-1", "1,5", "1.0000001", "1e3", "ten", "1000000001", "٣"]
)
def test_what_is_no_amount_asks_for_nothing_and_says_what_one_is(
    member: Member, legacy: Legacy, amount: str
) -> None:
    quoted = member.send("TFP-USD/quote", what="exchange", give="TFP", give_units=amount)
    staked = member.send("stake", units=amount)

    assert (quoted.status_code, staked.status_code, legacy.asked) == (422, 422, [])
    assert 'role="alert">Amount: enter' in quoted.text
    assert 'role="alert">Amount: enter' in staked.text


def test_the_largest_amount_is_a_billion(member: Member, legacy: Legacy) -> None:
    member.send("stake", units="1000000000")

    assert legacy.asked[0].units == 10**15


@pytest.mark.parametrize("form", [{}, {"what": "x"}, {"what": "exchange", "give": "x"}])
def test_what_nobody_can_mean_is_refused(
    member: Member, legacy: Legacy, form: dict[str, str]
) -> None:
    assert member.send("TFP-USD/quote", **form).status_code == 422
    assert legacy.asked == []


@pytest.mark.parametrize("pool", ["TFP-GBP", "x", "TFP-USD-and-more"])
def test_a_pool_that_there_is_not_is_not_found(member: Member, pool: str) -> None:
    assert member.client.get(f"{PAGE}/{pool}").status_code == 404


@pytest.mark.parametrize(
    ("has_shares", "is_under_way", "count"), [(True, False, 1), (False, True, 1), (False, False, 0)]
)
def test_no_account_is_deleted_while_something_of_it_is_in_a_pool(
    make_app: Callable[..., Flask],
    legacy: Legacy,
    monkeypatch: pytest.MonkeyPatch,
    has_shares: bool,
    is_under_way: bool,
    count: int,
) -> None:
    user_id = uuid4()
    told = legacy.pools(user_id)
    if not has_shares:
        pools = [pool.model_copy(update={"own_share_units": 0}) for pool in told.pools]
        told = told.model_copy(update={"pools": pools})
    if is_under_way:
        told = told.model_copy(update={"under_way": legacy.order(user_id)})
    monkeypatch.setattr(closing, "call", lambda _: told)

    found = [against_in_pools(make_app(pools_page=is_on), user_id) for is_on in (True, False)]

    assert [len(each) for each in found] == [count, 0]


def against_in_pools(app: Flask, user_id: UUID) -> list[closing.Reason]:
    with app.test_request_context():
        return list(closing.in_pools(user_id))


@pytest.mark.parametrize(
    ("amount", "written"),
    [(0, "0"), (1, "0.000001"), (-1_500_000, "−1.5"), (1_250 * COIN, "1,250")],
)
def test_amounts_of_coins_are_written_with_all_their_digits(amount: int, written: str) -> None:
    assert units(amount) == written


@pytest.mark.parametrize(("ppm", "written"), [(5_000, "0.5%"), (1, "0.01%"), (1_000_000, "100%")])
def test_parts_are_written_as_percentages_and_never_too_small(ppm: int, written: str) -> None:
    assert percent(ppm) == written
