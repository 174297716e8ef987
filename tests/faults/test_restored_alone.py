"""One service alone goes back to a moment, the others do not: what follows, and what mends it.

What docs/backups.md says of each is done here.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
import requests
from sqlalchemy import create_engine, make_url, text

from contracts.analytics import GetPopularProducts
from contracts.billing import (
    GetDiscounts,
    ListDeployments,
    ListPurchases,
    Purchase,
    PurchaseLine,
    PurchaseStatus,
    RefundPurchase,
    StartPurchase,
)
from contracts.catalog import ChangeProduct, GetProduct
from contracts.errors import NotFound
from contracts.keys import purchase_key
from contracts.legacy import (
    GetPools,
    OrderStatus,
    PoolQuote,
    QuoteAddition,
    QuoteExchange,
    Stake,
    TakeQuote,
)
from contracts.messages import Request
from contracts.topup import ListTopups, StartTopup, TopupStatus
from contracts.wallet import (
    Debit,
    DecideAdjustment,
    GetBooks,
    GetWallet,
    HouseAccount,
    OpenAccount,
    ProposeAdjustment,
    Refund,
    Reverse,
    Statement,
    TransactionKind,
    Verify,
)
from deploy.local.broker import Node
from deploy.local.postgres import Postgres
from deploy.local.startup import free_port
from deploy.parts import DATABASES, PROCESSES
from services.catalog.seed import product_id_of
from tests.faults.test_backups import AGE_S, Backed, _give, operate, takes_rows
from tests.gateway.conftest import PASSWORD
from tests.legacy.conftest import user
from tests.patience import PATIENCE_S, eventually
from tests.system import System
from tests.topup.conftest import USD, Sandbox
from tests.topup.test_service import session_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1_200)]

KIT, KIT_USD = "3node-memory-kit", 94
SETTINGS = {"SECRET_KEY": "a secret for tests only, of enough length"}
POOL = "TFP-USD"
OLD_EMAIL, OLD_USD = "cleo@example.org", 15
BROUGHT = (
    '"services":[{"name":"VM one","category":"compute","price_per_month":"50",'
    '"status":"Running","next_renewal":"2025-03-15"}]'
)
UNSENT = text("SELECT count(*) FROM outbox WHERE published_at IS NULL")


class Person:
    """Who lives through it, in whatever system is there."""

    def __init__(self, user_id: UUID, email: str) -> None:
        self.user_id, self.email = user_id, email

    @classmethod
    def registers(cls, stack: System, email: str | None = None) -> Self:
        email = email or f"{uuid4().hex[:12]}@example.com"
        account = _post(stack, "register", email)
        assert account.ok, account.text
        made = cls(UUID(account.json()["user_id"]), email)
        stack.rpc.call(OpenAccount(idempotency_key=f"open:{made.user_id}", user_id=made.user_id))
        return made

    def can_log_in(self, stack: System) -> bool:
        return _post(stack, "login", self.email).ok

    def tops_up(self, stack: System, dollars: int) -> UUID:
        topup = stack.rpc.call(
            StartTopup(
                user_id=self.user_id,
                email=self.email,
                amount_micros=dollars * USD,
                idempotency_key=str(uuid4()),
            )
        )
        Sandbox(stack.sandbox_url).pay(session_of(topup.checkout_url), "4242424242424242")
        eventually(lambda: self.topups(stack).get(topup.topup_id) == TopupStatus.CREDITED)
        return topup.topup_id

    def topups(self, stack: System) -> dict[UUID, TopupStatus]:
        page = stack.rpc.call(ListTopups(user_id=self.user_id))
        return {each.topup_id: each.status for each in page.topups}

    def orders(self, stack: System, key: str) -> Purchase:
        """The memory kit, of which there is a stock."""
        command = StartPurchase(
            user_id=self.user_id,
            lines=[PurchaseLine(product_id=product_id_of(KIT), quantity=1)],
            idempotency_key=key,
        )
        return eventually(
            lambda: stack.rpc.call(command, timeout_s=20),
            lambda made: made.status == PurchaseStatus.COMPLETED,
        )

    def purchases(self, stack: System) -> dict[UUID, PurchaseStatus]:
        page = stack.rpc.call(ListPurchases(user_id=self.user_id, limit=50))
        return {each.purchase_id: each.status for each in page.purchases}

    def balance_usd(self, stack: System) -> float:
        wallet = stack.rpc.call(GetWallet(user_id=self.user_id))
        return wallet.balance_micros / USD


class Trader(Person):
    """Who has old coins too."""

    def opens_pool(self, stack: System) -> None:
        """With 50 old coins and $50; 150 more stay free."""
        given = ("adjust", str(self.user_id), "TFP", "200", "--by", "a test", "--reason", "-")
        done = operate(stack, "legacy", "services.legacy.pool_book", *given, settings={})
        assert done[0] == 0, done[1]
        half = {"base_units": 50 * USD, "other_units": 50 * USD}
        self.takes(stack, QuoteAddition(user_id=self.user_id, pool=POOL, **half))

    def gives(self, stack: System, coin: str, units: int) -> TakeQuote:
        wish = QuoteExchange(user_id=self.user_id, pool=POOL, give=coin, give_units=units * USD)
        return self.takes(stack, wish)

    def takes(self, stack: System, wish: Request[PoolQuote]) -> TakeQuote:
        """The order that was carried out."""
        order = TakeQuote(
            user_id=self.user_id,
            quote_id=stack.rpc.call(wish).quote_id,
            slippage_bps=50,
            idempotency_key=str(uuid4()),
        )
        eventually(
            lambda: stack.rpc.call(order, timeout_s=20),
            lambda made: made.status == OrderStatus.DONE,
        )
        return order

    def stakes(self, stack: System, units: int) -> None:
        wish = Stake(user_id=self.user_id, units=units * USD, idempotency_key=str(uuid4()))
        stack.rpc.call(wish)

    def discounts_bps(self, stack: System) -> list[int]:
        """What billing takes off for the stake."""
        asked = GetDiscounts(user_id=self.user_id, provider_ids=[None])
        return stack.rpc.call(asked).discounts_bps


def _post(stack: System, what: str, email: str) -> requests.Response:
    body = {"email": email, "password": PASSWORD}
    return requests.post(f"{stack.base_url}/api/auth/{what}", json=body, timeout=PATIENCE_S)


def stock(stack: System) -> int:
    left = stack.rpc.call(GetProduct(product_id=str(product_id_of(KIT)))).stock
    assert left is not None
    return left


@dataclass(frozen=True)
class Lived:
    """What happened: ``ann`` had $300 and one kit by the moment; since then $150 more and two kits,
    as ``keys`` asked for. ``ben`` came since, with $25. So did ``cleo``, out of the old system, by
    ``plan``, which is older. ``dan`` had $50, and opened a pool; since then he exchanged twice
    there, the first time by ``exchange``, and staked."""

    directory: Path
    urls: dict[str, str]
    port: int
    moment: datetime
    ann: Person
    ben: Person
    keys: list[str]
    since: list[UUID]
    """The purchases of these keys."""
    stock_then: int
    plan: str
    cleo: Person
    dan: Trader
    exchange: TakeQuote


def planned(stack: System, directory: Path) -> str:
    """The plan of one who is to come from the old system."""
    directory.mkdir()
    (directory / "0.json").write_text(user(OLD_EMAIL, str(OLD_USD * 10), BROUGHT))
    code, said = moves(stack, "plan", str(directory), "--rate", "0.1")
    assert code == 0, said
    return said.partition("plan ")[2].split()[0]


def moves(stack: System, *arguments: str) -> tuple[int, str]:
    return operate(stack, "legacy", "services.legacy.move", *arguments, settings={})


def moved(stack: System) -> UUID:
    """Who came."""
    engine = create_engine(stack.database_url("legacy"))
    with engine.connect() as connection:
        user_id: UUID = connection.scalar(text("SELECT user_id FROM moves"))
    engine.dispose()
    return user_id


@pytest.fixture(scope="module")
def lived(scratch: Path, broker: Node) -> Iterator[Lived]:
    """Two servers' data: ``now``, and ``earlier`` as the backup has them of the moment."""
    directory = scratch / f"alone-{uuid4().hex[:6]}"
    directory.mkdir()
    backed = Backed(directory)
    backed.follow()
    (directory / "system").mkdir()
    stack = System(backed.server, broker, directory / "system", PROCESSES, SETTINGS)
    try:
        stack.start_all()
        ann = Person.registers(stack)
        ann.tops_up(stack, 300)
        ann.orders(stack, str(uuid4()))
        dan = Trader.registers(stack)
        dan.tops_up(stack, 100)
        dan.opens_pool(stack)
        plan = planned(stack, directory / "old")
        all_is_told(stack)
        eventually(lambda: sold(stack, datetime.now(UTC).date()), lambda units: units == 1)
        made = backed.run("base", str(backed.backups))
        assert made.returncode == 0, made.stderr
        time.sleep(1.1)
        moment, stock_then = datetime.now(UTC), stock(stack)
        time.sleep(AGE_S)
        ann.tops_up(stack, 150)
        ben = Person.registers(stack)
        ben.tops_up(stack, 25)
        keys = [str(uuid4()), str(uuid4())]
        since = [ann.orders(stack, key).purchase_id for key in keys]
        assert moves(stack, "run", plan)[0] == 0
        cleo = Person(moved(stack), OLD_EMAIL)
        exchange = dan.gives(stack, "USD", 10)
        dan.gives(stack, "TFP", 5)
        dan.stakes(stack, 100)
        eventually(lambda: dan.discounts_bps(stack), lambda found: found == [200])
        eventually(lambda: moves(stack, "verify", plan)[0] == 0)
        all_is_told(stack)
        for name in reversed(PROCESSES):
            stack.stop(name)
        urls = {name: stack.database_url(name) for name in DATABASES}
        place = backed.restored()
        databases = " ".join(f"{stack._prefix}_{name}" for name in DATABASES)
        restored = backed.run("restore", str(backed.backups), str(place / "cluster"),
                              moment.isoformat(), databases=databases)  # fmt: skip
        assert restored.returncode == 0, restored.stderr
        place.rename(directory / "earlier")
        assert backed.follower is not None
        backed.follower.kill()
        backed.server.stop()
        # Nothing follows its copies, which would wait for that.
        settings = directory / "first/cluster/postgresql.auto.conf"
        settings.write_text(f"{settings.read_text()}synchronous_standby_names = ''\n")
        yield Lived(directory, urls, backed.server.port, moment, ann, ben, keys, since, stock_then,
                    plan, cleo, dan, exchange)  # fmt: skip
    finally:
        stack.end_processes()
        backed.close()


def all_is_told(stack: System) -> None:
    for name in DATABASES:
        engine = create_engine(stack.database_url(name))

        def is_sent(engine: Any = engine) -> bool:
            with engine.connect() as connection:
                return not connection.scalar(UNSENT)

        eventually(is_sent)
        engine.dispose()


@pytest.fixture
def goes_back(lived: Lived, broker: Node, request: pytest.FixtureRequest) -> Callable[..., System]:
    """All as they were, but one service on a server of its own, as of the moment; no messages."""

    def make(service: str) -> System:
        place = lived.directory / f"{service}-{uuid4().hex[:6]}"
        place.mkdir()
        _give(place, lived.directory / "first/cluster")
        servers = []
        for data, port in (("first", lived.port), ("earlier", free_port())):
            shutil.copytree(lived.directory / data, place / data, symlinks=True)
            _own(place / data, lived.directory / data)
            servers.append(Postgres(place / data, port))
            request.addfinalizer(servers[-1].stop)
            servers[-1].start()
        earlier = make_url(lived.urls[service]).set(port=servers[1].port)
        urls = {**lived.urls, service: earlier.render_as_string(hide_password=False)}
        for file in (lived.directory / "system").glob("sandbox.sqlite*"):
            shutil.copy(file, place)
        stack = System(servers[0], broker, place, PROCESSES, SETTINGS, databases=urls)
        request.addfinalizer(stack.end_processes)
        for name in PROCESSES:
            stack._launch(name)
        stack.wait_ready()
        takes_rows(stack, service)
        return stack

    return make


def _own(copy: Path, original: Path) -> None:
    """Copies belong to whom the originals belong to."""
    for path in (copy, *copy.rglob("*")):
        _give(path, original / path.relative_to(copy))


def agrees(stack: System, lived: Lived) -> bool:
    """Whether Stripe, top-ups and ledger say the same of the day."""
    since = lived.moment.date().isoformat()
    code, _ = operate(stack, "topup", "services.topup.reconcile", "--since", since)
    return code == 0


def republish(stack: System, service: str, lived: Lived) -> None:
    since = lived.moment.isoformat().replace("+00:00", "Z")
    done = operate(stack, service, "chassis.republish", service, "--since", since)
    assert done[0] == 0, done[1]


def test_an_earlier_wallet_is_credited_again_and_debited_by_hand(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack, ann = goes_back("wallet"), lived.ann
    assert ann.balance_usd(stack) == 300 - KIT_USD
    assert set(ann.topups(stack).values()) == {TopupStatus.CREDITED}
    assert set(ann.purchases(stack).values()) == {PurchaseStatus.COMPLETED}

    republish(stack, "topup", lived)
    eventually(lambda: ann.balance_usd(stack), lambda usd: usd == 450 - KIT_USD)
    eventually(lambda: lived.ben.balance_usd(stack), lambda usd: usd == 25)
    eventually(lambda: agrees(stack, lived), interval_s=1)
    # Delivered, and unpaid: whoever asks again under the key is told that it is completed.
    ann.orders(stack, lived.keys[0])
    assert ann.balance_usd(stack) == 450 - KIT_USD
    for purchase_id in lived.since:
        for _ in range(2):
            stack.rpc.call(
                Debit(
                    user_id=ann.user_id,
                    amount_micros=KIT_USD * USD,
                    description="Bought before the restore",
                    idempotency_key=purchase_key(purchase_id),
                )
            )
    assert ann.balance_usd(stack) == 450 - 3 * KIT_USD
    code, said = moves(stack, "verify", lived.plan)
    assert (code, "the wallet was not paid into" in said) == (1, True)
    _, said = operate(stack, "legacy", "services.legacy.pool_book", "verify")
    assert "2 differences" in said
    assert stack.rpc.call(Verify(), timeout_s=60).clean


def test_an_earlier_billing_sells_again_unless_what_it_forgot_is_refunded_first(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack, ann = goes_back("billing"), lived.ann
    assert not set(ann.purchases(stack)) & set(lived.since)
    assert ann.balance_usd(stack) == 450 - 3 * KIT_USD

    # Who repeats an order is charged again, under another purchase's id.
    ann.orders(stack, lived.keys[0])
    assert ann.balance_usd(stack) == 450 - 4 * KIT_USD
    known = set(ann.purchases(stack))
    page = stack.rpc.call(
        Statement(user_id=ann.user_id, since=lived.moment, kinds=[TransactionKind.PURCHASE])
    )
    orphans = [each for each in page.transactions
               if UUID(each.metadata["purchase_id"]) not in known]  # fmt: skip
    assert {UUID(each.metadata["purchase_id"]) for each in orphans} == set(lived.since)
    for each in orphans:
        stack.rpc.call(
            Refund(
                user_id=ann.user_id,
                transaction_id=each.transaction_id,
                description="Forgotten by a restore",
                idempotency_key=f"forgotten:{each.transaction_id}",
            )
        )
    ann.orders(stack, lived.keys[1])
    assert ann.balance_usd(stack) == 450 - 3 * KIT_USD
    assert stack.rpc.call(Verify(), timeout_s=60).clean
    # The shelf gave four, for two that were sold.
    assert stock(stack) == lived.stock_then - 4
    assert not deployments(stack, lived.cleo)
    republish(stack, "legacy", lived)
    eventually(lambda: len(deployments(stack, lived.cleo)), lambda count: count == 1)


def test_an_earlier_topup_has_what_was_paid_since_made_anew_and_credits_nothing_twice(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack, ann = goes_back("topup"), lived.ann
    day = lived.moment.date().isoformat()
    assert len(ann.topups(stack)) == 1
    assert ann.balance_usd(stack) == 450 - 3 * KIT_USD
    code, listed = operate(stack, "topup", "services.topup.reconcile", "--since", day)
    assert (code, listed.count("charge_without_topup")) == (1, 2), listed

    _, said = operate(stack, "topup", "services.topup.reconcile", "--since", day, "--adopt")
    assert "2 payments have their top-up back" in said
    eventually(lambda: agrees(stack, lived), interval_s=1)

    assert list(ann.topups(stack).values()) == [TopupStatus.CREDITED] * 2
    assert ann.balance_usd(stack) == 450 - 3 * KIT_USD
    assert lived.ben.balance_usd(stack) == 25


def test_an_earlier_catalog_has_what_was_sold_on_its_shelf_and_takes_back_what_it_never_gave(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack, ann = goes_back("catalog"), lived.ann
    assert stock(stack) == lived.stock_then

    stack.rpc.call(
        RefundPurchase(
            purchase_id=lived.since[0],
            reason="A test",
            actor="support",
            idempotency_key=str(uuid4()),
        )
    )
    eventually(lambda: ann.balance_usd(stack), lambda usd: usd == 450 - 2 * KIT_USD)
    eventually(lambda: stock(stack), lambda left: left == lived.stock_then + 1)
    stack.rpc.call(
        ChangeProduct(
            product_id=product_id_of(KIT),
            stock_change=-len(lived.since),
            actor="an operator",
            reason="Sold since the moment",
            idempotency_key=str(uuid4()),
        )
    )
    assert stock(stack) == lived.stock_then - 1


def test_an_earlier_website_knows_nobody_who_came_since_and_their_wallets_stand(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack, ben = goes_back("gateway"), lived.ben
    assert lived.ann.can_log_in(stack)
    assert not ben.can_log_in(stack)
    assert ben.balance_usd(stack) == 25

    new = Person.registers(stack, ben.email)
    assert new.user_id != ben.user_id
    for whose, amount in ((ben, -25 * USD), (new, 25 * USD)):
        proposed = stack.rpc.call(
            ProposeAdjustment(
                user_id=whose.user_id,
                amount_micros=amount,
                reason="Registered again after a restore",
                proposed_by=uuid4(),
                idempotency_key=str(uuid4()),
            )
        )
        stack.rpc.call(
            DecideAdjustment(
                adjustment_id=proposed.adjustment_id,
                decided_by=uuid4(),
                is_approved=True,
                reason="Yes",
                idempotency_key=str(uuid4()),
            )
        )
    assert (ben.balance_usd(stack), new.balance_usd(stack)) == (0, 25)
    # Who came from the old system since comes again.
    republish(stack, "legacy", lived)
    eventually(lambda: registered(stack), lambda found: lived.cleo.user_id in found)
    assert stack.rpc.call(Verify(), timeout_s=60).clean


def test_an_earlier_legacy_moves_people_again_and_pays_them_once_and_its_exchanges_are_undone(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack, cleo, dan = goes_back("legacy"), lived.cleo, lived.dan
    assert moves(stack, "plans")[1].split()[0] == lived.plan
    assert moves(stack, "run", lived.plan)[0] == 0
    eventually(lambda: moves(stack, "verify", lived.plan)[0] == 0)
    assert moved(stack) == cleo.user_id
    assert cleo.balance_usd(stack) == OLD_USD
    assert len(deployments(stack, cleo)) == 1

    # Its quote is gone too: nobody exchanges twice by asking again.
    with pytest.raises(NotFound):
        stack.rpc.call(lived.exchange)
    page = stack.rpc.call(
        Statement(user_id=dan.user_id, since=lived.moment, kinds=[TransactionKind.EXCHANGE])
    )
    assert len(page.transactions) == 2
    for each in page.transactions:
        stack.rpc.call(
            Reverse(
                user_id=dan.user_id,
                transaction_id=each.transaction_id,
                reason="Forgotten by a restore",
                actor="an operator",
                idempotency_key=f"forgotten:{each.transaction_id}",
            )
        )
    assert dan.balance_usd(stack) == 50
    assert in_pools_usd(stack, dan) == (50, 50)
    assert operate(stack, "legacy", "services.legacy.pool_book", "verify")[0] == 0
    # Billing keeps the discount of the stake that was forgotten, until a stake is told anew.
    assert dan.discounts_bps(stack) == [200]
    assert stack.rpc.call(Verify(), timeout_s=60).clean


def registered(stack: System) -> set[UUID]:
    engine = create_engine(stack.database_url("gateway"))
    with engine.connect() as connection:
        found = set(connection.scalars(text("SELECT user_id FROM users")))
    engine.dispose()
    return found


def in_pools_usd(stack: System, whose: Person) -> tuple[float, float]:
    """By the book of the pools, and by the wallet's."""
    pools = {each.pool: each for each in stack.rpc.call(GetPools(user_id=whose.user_id)).pools}
    house = {each.account: each for each in stack.rpc.call(GetBooks()).house}
    return pools[POOL].other_units / USD, house[HouseAccount.POOLS].balance_micros / USD


def deployments(stack: System, whose: Person) -> set[UUID]:
    page = stack.rpc.call(ListDeployments(user_id=whose.user_id))
    return {each.deployment_id for each in page.deployments}


def test_an_earlier_analytics_counts_what_is_on_record_once(
    lived: Lived, goes_back: Callable[..., System]
) -> None:
    stack = goes_back("analytics")
    assert sold(stack, lived.moment.date()) == 1

    for _ in range(2):
        assert operate(stack, "analytics", "services.analytics.refill")[0] == 0

    assert sold(stack, lived.moment.date()) == 3


def sold(stack: System, day: date) -> int:
    """Kits, as they are counted."""
    popular = stack.rpc.call(GetPopularProducts(since=day, until=day)).products
    return sum(each.units for each in popular if each.product_id == product_id_of(KIT))
