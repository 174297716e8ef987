"""What a seller's buyers paid is what the seller earned, the fees, and what went back.

Purchases, months, refunds and payouts at random, on a clock that is set, with the real wallet. It
is counted in six places: by hand, as it is done; in the seller's statement (``GET /api/sales``
gives it); on the seller's page and in its file; on the pages of finance; in the wallets; and in the
house accounts of the ledger.
"""

import csv
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import create_engine, func, select, text

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import (
    GetSalesSums,
    ListPayouts,
    ListSales,
    MarkPayoutPaid,
    PayoutPage,
    ProductSales,
    RefusePayout,
    RequestPayout,
)
from contracts.errors import Unavailable
from contracts.wallet import GetBooks, HouseAccount, Statement, TransactionKind, Verify
from services.billing.models import DeploymentRow
from services.billing.payouts import requests
from services.billing.payouts.carrying_out import Payouts
from services.billing.payouts.queries import list_payouts
from services.billing.renewals.renewals import Renewals, money_came
from services.billing.sales.statements import get_sums, list_sales
from services.gateway.access import Role
from services.gateway.backend import Backend
from services.gateway.pages import selling as selling_pages
from services.gateway.staff import grants
from tests.billing.conftest import NOW, RULES, at, billing_database, emptied, quoted, row_of, stack
from tests.billing.test_refunds import Desk
from tests.gateway.conftest import add_user, answers_with
from tests.gateway.test_roles import COMMAND, WHY
from tests.gateway.test_roles import Desk as Browser
from tests.gateway.test_support import clerk
from tests.system import System

__all__ = ["billing_database", "stack"]

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

    def __init__(
        self, stack: System, database: Connected, chance: random.Random, seller_id: UUID
    ) -> None:
        super().__init__(stack, database)
        self.rules = RULES
        self.chance = chance
        self.seller_id = seller_id
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
            payout_id = requests.request(session, at(self.now), command, self.rules).payout_id
        self._carries_out(payout_id)
        done = {"idempotency_key": f"{uuid4()}", "payout_id": payout_id, "actor": "operator-7"}
        is_paid = self.chance.random() < 0.7
        with self.database.begin() as session:
            if is_paid:
                requests.mark_paid(
                    session, at(self.now), MarkPayoutPaid(**done, reference="SEPA 7")
                )
            else:
                requests.refuse(session, at(self.now), RefusePayout(**done, reason="No account."))
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


@dataclass
class Pages:
    """The website as the seller and somebody of finance see it; billing answers from its tables,
    and the wallet itself."""

    database: Connected
    rpc: Any
    seller_id: UUID
    seller: Browser
    finance: Browser

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        of_billing: dict[type, Callable[..., Any]] = {
            ListSales: list_sales,
            GetSalesSums: get_sums,
            ListPayouts: list_payouts,
        }
        if isinstance(request, GetBooks):
            return lambda: self.rpc.call(request)
        tell = of_billing.get(type(request))
        if tell is None:
            raise Unavailable("It is away.")
        with self.database.read() as session:
            answer = tell(session, request)
        return lambda: answer

    def of_seller(self, days: str) -> list[int]:
        """Paid, refunded, the fee, earned: of all of these days."""
        page = self.seller.get(f"/dashboard/selling?{days}").text
        names = ("Paid by buyers", "Refunded to them", "Fee of the marketplace", "You earned")
        return [
            _dollars(page, rf"<dt[^>]*>{name}[^<]*</dt><dd[^>]*>([^<]*)</dd>") for name in names
        ]

    def payable(self) -> int:
        return _dollars(
            self.seller.get("/dashboard/selling").text, r"<span>([^<]*) can be paid out"
        )

    def in_file(self, days: str) -> list[int]:
        """The same, added up over the lines of the seller's file."""
        lines = csv.DictReader(
            self.seller.get(f"/dashboard/selling/sales.csv?{days}").text.splitlines()
        )
        sums: Counter[str] = Counter()
        for line in lines:
            sums.update({name: int(Decimal(line[f"{name}_usd"]) * USD) for name in NAMES})
        return [sums[name] for name in NAMES]

    def of_finance(self, days: str) -> list[int]:
        """What all sellers sold in these days."""
        page = self.finance.get(f"/admin/finance/sellers?{days}").text
        [row] = re.findall(r">All sellers</th>(.*?)</tr>", page, re.DOTALL)
        return [_micros(text) for text in re.findall(r"<td[^>]*>([^<]*)</td>", row)]

    def trial_balance(self, account: str) -> int:
        page = self.finance.get("/admin/finance").text
        return _dollars(page, rf">{account}</th><td[^>]*>([^<]*)</td>")


NAMES = ("gross", "refunded", "fee", "net")
BOOKS = {
    HouseAccount.FEES: "Fees",
    HouseAccount.MARKETPLACE_REVENUE: "Marketplace revenue",
    HouseAccount.PAYOUTS: "Payouts",
    HouseAccount.ADVANCES: "Advances",
}
"""House accounts, and what the page of finance calls them."""


def _dollars(page: str, pattern: str) -> int:
    [text] = re.findall(pattern, page)
    return _micros(text)


def _micros(text: str) -> int:
    return int(Decimal(re.sub(r"[$,+]", "", text).replace("\u2212", "-")) * USD)


def days_of(stall: Stall) -> str:
    """All days in which something was sold."""
    return f"since={NOW.date()}&until={stall.now.date()}"


def check(stall: Stall, pages: Pages, before: Counter[str], of_others: list[int]) -> None:
    by_hand, sold = stall.counted, stall.statement()
    sums = [sum(getattr(each, f"{name}_micros") for each in sold) for name in NAMES]
    gross, refunded, fees, net = sums
    months = sum(each.renewals for each in sold)
    after = stall.house()
    house = {name: after[name] - before[name] for name in HouseAccount}
    page = stall.payouts()
    # The statement: what was earned, with the fees and what went back, is what was paid.
    assert net + fees + refunded == gross
    assert months > 0
    # On the seller's page, which has more lines than it shows at once, and in its file.
    days = days_of(stall)
    assert len(sold) > selling_pages.SALES_MAX
    assert pages.of_seller(days) == sums
    assert pages.in_file(days) == sums
    assert pages.payable() == page.payable_micros
    # On the page of finance, beside what others sold in these days.
    assert [a - b for a, b in zip(pages.of_finance(days), of_others, strict=True)] == sums
    for account, name in BOOKS.items():
        assert pages.trial_balance(name) == after[account]
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


def live(stall: Stall, pages: Pages, days: int) -> None:
    before = stall.house()
    until = stall.now + days * DAY
    of_others = pages.of_finance(f"since={NOW.date()}&until={until.date()}")
    while stall.now < until:
        # No further than that: what is sold later would be in no day up to the end.
        stall.lives(min(stall.now + stall.chance.randint(1, 9) * DAY, until))
        acts = [stall.sells, stall.gives_back, stall.is_paid_out]
        for act in stall.chance.choices(acts, [7, 1, 3], k=2):
            act()
    stall.lives(until)
    check(stall, pages, before, of_others)


@pytest.fixture
def books(billing_database: Connected) -> Connected:
    """Billing's own, empty."""
    return emptied(billing_database)


@pytest.fixture
def pages(
    stack: System,
    books: Connected,
    alone: Flask,
    database: Connected,
    monkeypatch: pytest.MonkeyPatch,
) -> Pages:
    # A page of the seller's is shorter than what was sold in some months.
    monkeypatch.setattr(selling_pages, "SALES_MAX", 20)
    seller = add_user(database, has_wallet=True)
    with database.begin() as session:
        grants.grant(session, utc_now(), COMMAND, seller.user_id, Role.SELLER, WHY)
    found = Pages(
        books,
        stack.rpc,
        seller.user_id,
        Browser(alone, database, seller),
        clerk(alone, database, Role.FINANCE),
    )
    answers_with(monkeypatch, found)
    return found


def test_some_months_of_a_seller_add_up_everywhere(
    stack: System, books: Connected, pages: Pages
) -> None:
    live(Stall(stack, books, random.Random(SEED), pages.seller_id), pages, 75)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_a_year_of_a_seller_adds_up_everywhere(
    stack: System, books: Connected, pages: Pages, seed: int
) -> None:
    live(Stall(stack, books, random.Random(seed), pages.seller_id), pages, 365)
