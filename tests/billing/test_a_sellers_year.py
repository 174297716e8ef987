"""What a seller's buyers paid is what the seller earned, the fees, and what went back.

Purchases, months, refunds and payouts at random, on a clock that is set, with the real wallet. It
is counted in four places: by hand, as it is done; in the seller's statement (``GET /api/sales``
gives it); in the wallets; and in the house accounts of the ledger, which finance looks at.
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import create_engine, func, select, text

from chassis.client import RpcClient
from chassis.database import Connected
from contracts.billing import (
    ListPayouts,
    ListSales,
    MarkPayoutPaid,
    PayoutPage,
    ProductSales,
    RefusePayout,
    RequestPayout,
)
from contracts.wallet import HouseAccount, Statement, TransactionKind, Verify
from services.billing.models import DeploymentRow
from services.billing.payouts import requests
from services.billing.payouts.carrying_out import Payouts
from services.billing.payouts.queries import list_payouts
from services.billing.renewals.renewals import Renewals, money_came
from services.billing.sales.statements import list_sales
from tests.billing.conftest import RULES, quoted, row_of
from tests.billing.test_refunds import Desk
from tests.system import System

USD = 1_000_000
DAY = timedelta(days=1)
CENT = USD // 100
SEED = int(os.environ.get("SOAK_SEED", "1"))


@dataclass
class Counted:
    """By hand, of what the seller sold: micro-dollars, and how many units."""

    bought_micros: int = 0
    units: int = 0
    refunded_micros: int = 0
    units_refunded: int = 0
    ours_micros: int = 0
    """What the marketplace itself sold, less what went back of that."""
    paid_out_micros: int = 0
    bought: list[UUID] = field(default_factory=list)


class Stall(Desk):
    """A seller, and buyers of whom some run out of money."""

    def __init__(self, stack: System, database: Connected, chance: random.Random) -> None:
        super().__init__(stack, database)
        self.rules = RULES
        self.chance = chance
        self.seller_id = uuid4()
        self.buyers = [uuid4() for _ in range(4)]
        self.counted = Counted()
        self.prices = [3_333_335, 12_000_001, 29 * USD]
        self.given_micros: Counter[UUID] = Counter()
        for buyer_id in self.buyers:
            self.pays_in(buyer_id)

    def pays_in(self, buyer_id: UUID) -> None:
        micros = self.chance.randint(60, 200) * USD
        self.gets(buyer_id, micros)
        self.given_micros[buyer_id] += micros
        with self.database.begin() as session:
            money_came(session, self.now, buyer_id)

    def lives(self, until: datetime) -> None:
        """Every month at its moment, and what is owed when there is money."""
        renewals = Renewals(self.database, cast(RpcClient, self.wire), RULES, lambda: self.now)
        while (due_at := self._due_at()) is not None and due_at <= until:
            self.now = max(due_at, self.now)
            renewals.run()
        self.now = until
        self.runs()
        self.claims_debts()

    def _due_at(self) -> datetime | None:
        with self.database.read() as session:
            return session.scalar(select(func.min(DeploymentRow.due_at)))

    def sells(self) -> None:
        """One line or two of the seller's, and now and then one of the marketplace's own."""
        buyer_id = self.chance.choice(self.buyers)
        lines = [
            (self.chance.choice(self.prices), self.chance.randint(1, 2))
            for _ in range(self.chance.randint(1, 2))
        ]
        ours = self.chance.choice([0, 0, 7 * USD])
        total = sum(price * count for price, count in lines) + ours
        if self.balance(buyer_id) < total:
            self.pays_in(buyer_id)
            return
        quotes = [quoted(price, count, provider_id=self.seller_id) for price, count in lines]
        if ours:
            quotes.append(quoted(ours, period="once"))
        self.counted.bought.append(self.buys(*quotes, buyer_id=buyer_id))
        self.counted.bought_micros += total - ours
        self.counted.units += sum(count for _, count in lines)
        self.counted.ours_micros += ours

    def gives_back(self) -> None:
        """A purchase, or its first line: what its months cost stays paid."""
        if not self.counted.bought:
            return
        purchase_id = self.chance.choice(self.counted.bought)
        self.counted.bought.remove(purchase_id)
        line = self.chance.choice([None, 0])
        for row in row_of(self.database, purchase_id).lines:
            if line is not None and row.position != line:
                continue
            if row.provider_id is None:
                self.counted.ours_micros -= row.amount_micros
            else:
                self.counted.refunded_micros += row.amount_micros
                self.counted.units_refunded += row.quantity
        self.support(purchase_id, line)

    def is_paid_out(self) -> None:
        """Some of what was earned, or a refusal of the operator's."""
        page = self.payouts()
        micros = self.chance.randint(10 * USD, 80 * USD) // CENT * CENT
        if micros > page.payable_micros or page.owed_micros:
            return
        if micros > self.balance(self.seller_id):
            return
        asked = {"idempotency_key": f"{uuid4()}", "user_id": self.seller_id}
        command = RequestPayout(**asked, amount_micros=micros)
        with self.database.begin() as session:
            payout_id = requests.request(session, self.now, command, self.rules).payout_id
        self._carries_out(payout_id)
        done = {"idempotency_key": f"{uuid4()}", "payout_id": payout_id, "actor": "operator-7"}
        is_paid = self.chance.random() < 0.7
        with self.database.begin() as session:
            if is_paid:
                requests.mark_paid(session, self.now, MarkPayoutPaid(**done, reference="SEPA 7"))
            else:
                requests.refuse(session, self.now, RefusePayout(**done, reason="No account."))
        self._carries_out(payout_id)
        self.counted.paid_out_micros += micros if is_paid else 0

    def _carries_out(self, payout_id: UUID) -> None:
        rpc = cast(RpcClient, self.wire)
        Payouts(self.database, rpc, self.rules, lambda: self.now).carry_out(payout_id)

    def payouts(self) -> PayoutPage:
        with self.database.read() as session:
            return list_payouts(session, ListPayouts(user_id=self.seller_id))

    def statement(self) -> list[ProductSales]:
        """Every page of what the seller sees."""
        found: list[ProductSales] = []
        cursor = None
        while True:
            question = ListSales(user_id=self.seller_id, cursor=cursor, limit=50)
            with self.database.read() as session:
                page = list_sales(session, question)
            found += page.sales
            if (cursor := page.next_cursor) is None:
                return found

    def months_micros(self) -> int:
        """What the buyers' statements say that months took."""
        return -sum(sum(self.months_of(buyer_id)) for buyer_id in self.buyers)

    def months_of(self, buyer_id: UUID) -> list[int]:
        found: list[int] = []
        cursor = None
        while True:
            kinds = [TransactionKind.RENEWAL]
            question = Statement(user_id=buyer_id, kinds=kinds, cursor=cursor, limit=200)
            page = self.rpc.call(question)
            found += [each.amount_micros for each in page.transactions]
            if (cursor := page.next_cursor) is None:
                return found

    def spent_micros(self) -> int:
        """What has left the buyers' wallets, less what came back."""
        return sum(self.given_micros.values()) - sum(map(self.balance, self.buyers))

    def house(self) -> Counter[str]:
        """What each of the ledger's house accounts has."""
        engine = create_engine(self._wallet_url)
        query = text(
            "SELECT house_name, sum(amount_micros)::bigint AS micros FROM entries"
            " JOIN accounts USING (account_id) WHERE house_name IS NOT NULL GROUP BY 1"
        )
        with engine.connect() as connection:
            found = Counter({row.house_name: row.micros for row in connection.execute(query)})
        engine.dispose()
        return found


def check(stall: Stall, before: Counter[str]) -> None:
    by_hand, sold = stall.counted, stall.statement()
    gross, refunded, fees, net = (
        sum(getattr(each, f"{name}_micros") for each in sold)
        for name in ("gross", "refunded", "fee", "net")
    )
    months = sum(each.renewals for each in sold)
    after = stall.house()
    house = {name: after[name] - before[name] for name in HouseAccount}
    page = stall.payouts()
    # The statement: what was earned, with the fees and what went back, is what was paid.
    assert net + fees + refunded == gross
    assert months > 0
    # By hand, and in the buyers' wallets, where months are what is left.
    assert (sum(each.units for each in sold), refunded) == (by_hand.units, by_hand.refunded_micros)
    assert sum(each.units_refunded for each in sold) == by_hand.units_refunded
    assert stall.spent_micros() == gross - refunded + by_hand.ours_micros
    assert gross - by_hand.bought_micros == stall.months_micros()
    # In the ledger's house accounts.
    assert house[HouseAccount.FEES] == fees
    assert house[HouseAccount.MARKETPLACE_REVENUE] == by_hand.ours_micros
    assert house[HouseAccount.PAYOUTS] == by_hand.paid_out_micros
    assert house[HouseAccount.ADVANCES] == -page.owed_micros
    # In the seller's wallet: what was earned and is not paid out, with what the house advanced.
    assert stall.balance(stall.seller_id) == net - by_hand.paid_out_micros + page.owed_micros
    assert stall.rpc.call(Verify()).clean


def live(stall: Stall, days: int) -> None:
    before = stall.house()
    until = stall.now + days * DAY
    while stall.now < until:
        stall.lives(stall.now + stall.chance.randint(1, 9) * DAY)
        acts = [stall.sells, stall.gives_back, stall.is_paid_out]
        for act in stall.chance.choices(acts, [7, 1, 3], k=2):
            act()
    stall.lives(until)
    check(stall, before)


def test_some_months_of_a_seller_add_up_everywhere(stack: System, database: Connected) -> None:
    live(Stall(stack, database, random.Random(SEED)), 75)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_a_year_of_a_seller_adds_up_everywhere(
    stack: System, database: Connected, seed: int
) -> None:
    live(Stall(stack, database, random.Random(seed)), 365)
