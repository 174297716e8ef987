"""Any history of purchases, new prices, resizes, months, usage, refunds and crashes: what was
charged is what prices and records say.

Two billings run in this process, beside each other, by a clock that is set, with the real wallet
and catalog. One of them dies, or hears no answer, while months and usage are charged: at whichever
point comes next, and wherever time passes.
"""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from chassis import crash_points
from chassis.database import Connected
from chassis.identifiers import new_id
from contracts.catalog import ChangeProduct, ProductPriceChanged
from contracts.errors import DeadlineExceeded
from contracts.wallet import DebitAll, GetWallet, HouseAccount, Refund, TransactionKind
from services.billing import service as billing
from services.billing.deployments import prices
from services.billing.renewals.renewals import DUE, money_came
from services.billing.service import BillingService
from services.billing.usage import charging
from tests.billing.conftest import RULES, emptied
from tests.billing.reckoning import (
    DAY,
    HOUR,
    RETRY,
    TIER,
    UNFINISHED,
    Unit,
    User,
    create_sizes,
    has_its_fees,
    wrongly_charged,
)
from tests.billing.test_discounts import hears
from tests.billing.test_lost_answers import LOST, Choice, Wire, is_a
from tests.billing.test_renewals import BOUGHT
from tests.drawn import drawn
from tests.system import System

POINTS = [
    "billing.purchase_recorded",
    "billing.wallet_debited",
    "billing.completed",
    "billing.refund_recorded",
    "billing.start_recorded",
    "billing.periods_recorded",
    "billing.periods_charged",
    "billing.periods_settled",
    "billing.resize_recorded",
    "billing.usage_written",
    "billing.usage_closed",
    "billing.usage_charged",
    "billing.usage_settled",
    "billing.usage_refunded",
    "billing.unit_refunded",
    "billing.unit_refund_noted",
    "billing.refund_done",
]
LEASE = timedelta(seconds=61)
TICK = timedelta(milliseconds=1)


class Died(BaseException):
    """Billing ended here."""


class InProcess:
    """Two billings with everything that they do by themselves, which die when they are told to."""

    def __init__(self, stack: System, database: Connected, patch: pytest.MonkeyPatch) -> None:
        self.now = BOUGHT
        self.short: dict[UUID, datetime] = {}
        self.wire = Wire(stack.rpc)
        self.service, self.other = BillingService(), BillingService()
        for each in (self.service, self.other):
            each.database = cast(Any, database)
            each.caller = cast(Any, self.wire)
        self.database = database
        self.stack = stack
        self._points_to_live: int | None = None
        patch.setattr(billing, "utc_now", lambda: self.now)
        patch.setattr(billing, "get_settings", lambda: RULES)
        patch.setattr(crash_points, "os", SimpleNamespace(kill=self.dies, getpid=os.getpid))
        patch.setattr(crash_points, "_CRASH_FILE", "told by this test")
        patch.setattr(crash_points, "_is_ordered", self._is_last)

    def is_in_trouble(self, number: int) -> None:
        """Somebody dies when they come by a point and so many were passed before, or an answer of
        the wallet is lost."""
        kind, how = number % 4, number // 4
        if kind < 2:
            self._points_to_live = how % 8
        else:
            self.wire.lose(is_a((DebitAll, Refund)[kind == 3]), LOST[how % 2])

    def _is_last(self, point: str) -> bool:
        if point not in POINTS or self._points_to_live is None:
            return False
        self._points_to_live -= 1
        return self._points_to_live < 0

    def dies(self, *_: object) -> None:
        self._points_to_live = None
        raise Died

    def insists(self, request: Any) -> Any:
        while True:
            self.now += TICK
            try:
                if request.service == billing.SERVICE:
                    return getattr(self.service, request.method)(request)
                return self.wire.call(request)
            except (Died, DeadlineExceeded):
                continue

    def waits(self) -> None:
        """Leases run out, and everything that is due is done."""
        self.now += LEASE
        for _ in range(20):
            if self.works():
                self.now += LEASE
                continue
            if not self.unfinished():
                return
            self.now += LEASE
        raise AssertionError("something is not done")

    def hears_of_money(self, user_id: UUID) -> None:
        with self.database.begin() as session:
            charging.money_came(session, self.now, user_id)
            money_came(session, self.now, user_id)

    def unfinished(self) -> int:
        short = [each for each, until in self.short.items() if until > self.now]
        with self.database.read() as session:
            found = session.execute(text(UNFINISHED), {"now": self.now, "short": short})
            return int(found.scalar_one())

    def earned(self, seller_id: UUID) -> int:
        """What who sells and the marketplace have together of what was paid."""
        wallet = self.wire.call(GetWallet(user_id=seller_id))
        house = self.kept(seller_id, HouseAccount.FEES, HouseAccount.MARKETPLACE_REVENUE)
        return house + int(wallet.balance_micros)

    def kept(self, seller_id: UUID, *names: HouseAccount) -> int:
        """What the marketplace has in these accounts of what this seller's customers paid."""
        entries = create_engine(self.stack.database_url("wallet"))
        with entries.connect() as connection:
            found = connection.execute(
                text(
                    "SELECT sum(house.amount_micros) FROM entries AS house JOIN accounts"
                    " USING (account_id) WHERE house_name = ANY(:names)"
                    " AND transaction_id IN (SELECT transaction_id FROM entries JOIN accounts"
                    " USING (account_id) WHERE user_id = :seller_id)"
                ),
                {"seller_id": seller_id, "names": list(names)},
            ).scalar_one()
        entries.dispose()
        return int(found or 0)

    def works(self) -> bool:
        """Once. Whether one of the two died, while the other worked on."""
        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(_works, each) for each in (self.service, self.other)]
        died = [each for each in ends if isinstance(each.exception(), Died)]
        for each in ends:
            if each not in died:
                each.result()
        return bool(died)


def _works(does: BillingService) -> None:
    does.sweep()
    does.tell_prices()
    does.renew()
    does.charge_usage()
    does.give_back_and_pay_out()


@pytest.fixture
def world(stack: System, database: Connected, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    return InProcess(stack, database, monkeypatch)


@pytest.fixture
def buyer(world: InProcess) -> User:
    """Who has just bought something."""
    user = User(world, create_sizes(world, uuid4()), random.Random(1))
    user.joins()
    return user


def test_a_month_that_was_leased_and_not_written_down_is_unfinished(
    world: InProcess, buyer: User, database: Connected
) -> None:
    assert world.unfinished() == 0
    world.now += 32 * DAY
    with database.begin() as session:
        DUE.take(session, world.now)

    assert world.unfinished() == 1
    world.waits()
    buyer.lives(world.now)
    assert (world.unfinished(), wrongly_charged([buyer])) == (0, [])


def test_usage_that_was_leased_and_not_written_down_is_unfinished(
    world: InProcess, buyer: User, database: Connected
) -> None:
    world.now += timedelta(minutes=1)
    buyer.uses(buyer.units[0], TIER)
    assert world.unfinished() == 0
    world.now += HOUR
    with database.begin() as session:
        charging.DUE.take(session, world.now)

    assert world.unfinished() == 1
    world.waits()
    assert (world.unfinished(), wrongly_charged([buyer])) == (0, [])


TIMES = {"days": (46, DAY), "hours": (28, HOUR)}
"""How much may pass, and a second or so. Numbers that are drawn are small for the most part."""

ACTS = st.lists(
    st.tuples(
        st.sampled_from([*TIMES, "act", "act", "act", "act", "trouble", "price"]),
        st.integers(0, 10**6),
    ),
    min_size=20,
    max_size=40,
)


@settings(max_examples=drawn(6), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS, seed=st.integers(0, 10**6))
def test_whatever_happens_what_was_charged_is_what_prices_and_records_say(
    stack: System, database: Connected, acts: list[tuple[str, int]], seed: int
) -> None:
    emptied(database)
    with pytest.MonkeyPatch.context() as patch:
        world, seller_id = InProcess(stack, database, patch), uuid4()
        sizes = create_sizes(world, seller_id)
        users = [User(world, sizes, random.Random(f"{seed}:{number}")) for number in range(2)]
        # One of them has staked: the marketplace's fee, of 10 %, bears it.
        users[0].discount_bps = (200, 500, 1_000)[seed % 3]
        hears(database, users[0].user_id, users[0].discount_bps)
        for user in users:
            user.joins()
        for act, number in acts:
            if act in TIMES:
                most, whole = TIMES[act]
                world.now += number % most * whole + timedelta(seconds=number % 3_600)
                world.is_in_trouble(number)
            elif act == "trouble":
                world.is_in_trouble(number)
            elif act == "price":
                changes_price(world, users, sizes, number)
            else:
                users[number % 2].acts()
            world.waits()
            for user in users:
                user.lives(world.now)
        all_is_paid(world, users)
        assert wrongly_charged(users) == []
        get_money(world, users)
        uses_to_the_end(world, users)
        all_is_paid(world, users)

        assert wrongly_charged(users) == []
        assert world.earned(seller_id) == sum(user.owes for user in users)
        assert has_its_fees(users, world.kept(seller_id, HouseAccount.FEES))


def get_money(world: InProcess, users: list[User]) -> None:
    """Also who had none for good."""
    for user in users:
        if user.lack is not None:
            user.gets_money(user.lack)
    all_is_paid(world, users)


def all_is_paid(world: InProcess, users: list[User]) -> None:
    """Also of who was frozen."""
    for while_passes in (RETRY, 2 * HOUR):
        world.now += while_passes
        world.waits()
        for user in users:
            user.lives(world.now)


def uses_to_the_end(world: InProcess, users: list[User]) -> None:
    """At the end of every history, as chance seldom has it so: an answer is lost when usage was
    charged, when a small part was given back, and before it was charged, and then it is corrected.
    It goes beyond the first tier."""
    units = [user.buys() for user in users]

    def each(act: Callable[[User, Unit, int], None], quantity: int) -> None:
        world.now += timedelta(minutes=1)
        for user, unit in zip(users, units, strict=True):
            act(user, unit, quantity)

    def hour_passes(is_lost: Choice, when: str) -> None:
        world.now += HOUR
        world.wire.lose(is_lost, when)

    before, after = LOST
    each(User.uses, TIER + 100)
    hour_passes(is_charge_of_usage, after)
    world.waits()
    each(User.corrects, 100)
    hour_passes(is_refund_of_usage, after)
    world.waits()
    each(User.uses, TIER + 100)
    hour_passes(is_charge_of_usage, before)
    world.works()
    each(User.corrects, 100)
    world.waits()


def is_charge_of_usage(request: Any) -> bool:
    is_all = isinstance(request, DebitAll)
    return is_all and any(each.kind is TransactionKind.USAGE for each in request.debits)


def is_refund_of_usage(request: Any) -> bool:
    return isinstance(request, Refund) and "usage" in request.description


def changes_price(world: InProcess, users: list[User], sizes: dict[UUID, int], number: int) -> None:
    """The catalog's, of which billing hears, and tells owners when it next works."""
    product_id = list(sizes)[number % 3]
    price_micros = 1 + number * 7
    command = ChangeProduct(
        idempotency_key=f"{uuid4()}",
        product_id=product_id,
        price_micros=price_micros,
        reason="A test",
        actor="a test",
    )
    world.insists(command)
    event = ProductPriceChanged(
        event_id=new_id(),
        occurred_at=world.now,
        product_id=product_id,
        old_price_micros=sizes[product_id],
        price_micros=price_micros,
    )
    with world.database.begin() as session:
        prices.note(session, world.now, event)
    sizes[product_id] = price_micros
    world.service.tell_prices()
    for user in users:
        for unit in user.units:
            if unit.product_id == product_id and not unit.is_over:
                unit.hears_of_price(price_micros, world.now, RULES.price_notice)
