"""Any history of purchases, new prices, resizes, months, usage, refunds and crashes: what was
charged is what prices and records say.

Billing runs in this process, by a clock that is set, with the real wallet and catalog.
"""

import os
import random
from datetime import timedelta
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
from contracts.wallet import DebitAll, GetWallet, Refund
from services.billing import service as billing
from services.billing.deployments import prices
from services.billing.service import BillingService
from tests.billing.conftest import RULES
from tests.billing.reckoning import UNFINISHED, User, create_sizes, wrongly_charged
from tests.billing.test_discounts import hears
from tests.billing.test_lost_answers import LOST, Wire, is_a
from tests.billing.test_renewals import BOUGHT
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
    "billing.usage_charged",
    "billing.usage_settled",
    "billing.unit_refunded",
    "billing.unit_refund_noted",
    "billing.refund_done",
]
LEASE = timedelta(seconds=61)
TICK = timedelta(milliseconds=1)


class Died(BaseException):
    """Billing ended here."""


class InProcess:
    """Billing with everything that it does by itself, which dies when it is told to."""

    def __init__(self, stack: System, database: Connected, patch: pytest.MonkeyPatch) -> None:
        self.now = BOUGHT
        self.wire = Wire(stack.rpc)
        self.service = BillingService()
        self.service.database = cast(Any, database)
        self.service.caller = cast(Any, self.wire)
        self.database = database
        self.stack = stack
        patch.setattr(billing, "utc_now", lambda: self.now)
        patch.setattr(billing, "get_settings", lambda: RULES)
        patch.setattr(crash_points, "os", SimpleNamespace(kill=self.dies, getpid=os.getpid))
        self._patch = patch

    def will_die_at(self, point: str) -> None:
        self._patch.setattr(crash_points, "_CRASH_AT", point)

    def dies(self, *_: object) -> None:
        self.will_die_at("")
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
            try:
                self._works()
            except Died:
                self.now += LEASE
                continue
            with self.database.read() as session:
                if not session.scalar(text(UNFINISHED)):
                    return
            self.now += LEASE
        raise AssertionError("something is not done")

    def earned(self, seller_id: UUID) -> int:
        """What who sells and the marketplace have together of what was paid."""
        entries = create_engine(self.stack.database_url("wallet"))
        with entries.connect() as connection:
            found = connection.execute(
                text(
                    "SELECT sum(house.amount_micros) FROM entries AS house JOIN accounts"
                    " USING (account_id) WHERE house_name IN ('fees', 'marketplace_revenue')"
                    " AND transaction_id IN (SELECT transaction_id FROM entries JOIN accounts"
                    " USING (account_id) WHERE user_id = :seller_id)"
                ),
                {"seller_id": seller_id},
            ).scalar_one()
        entries.dispose()
        wallet = self.wire.call(GetWallet(user_id=seller_id))
        return int(found) + int(wallet.balance_micros)

    def _works(self) -> None:
        does = self.service
        does.sweep()
        does.tell_prices()
        does.renew()
        does.charge_usage()
        does.give_back_and_pay_out()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["live", "act", "act", "act", "act", "die", "lose", "price"]),
        st.integers(0, 10**6),
    ),
    min_size=20,
    max_size=40,
)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS, seed=st.integers(0, 10**6))
def test_whatever_happens_what_was_charged_is_what_prices_and_records_say(
    stack: System, database: Connected, acts: list[tuple[str, int]], seed: int
) -> None:
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
            if act == "live":
                world.now += timedelta(seconds=number * 4)
            elif act == "die":
                world.will_die_at(POINTS[number % len(POINTS)])
            elif act == "lose":
                world.wire.lose(is_a((DebitAll, Refund)[number % 2]), LOST[number // 2 % 2])
            elif act == "price":
                changes_price(world, users, sizes, number)
            else:
                users[number % 2].acts()
            world.waits()
            for user in users:
                user.lives(world.now)
        world.now += timedelta(hours=2)
        world.waits()
        for user in users:
            user.lives(world.now)

        assert wrongly_charged(users) == []
        assert world.earned(seller_id) == sum(user.owes for user in users)


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
