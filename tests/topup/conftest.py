"""What the tests of the top-up rules stand on: a real database, the sandbox, a clock of ours."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import requests
import stripe
from sqlalchemy import text
from sqlalchemy.orm import Session

from chassis.database import Connected, connect
from chassis.identifiers import new_id
from chassis.money import to_cents
from contracts.billing import PurchaseShortOfFunds, RenewalShortOfFunds
from contracts.catalog import ListProducts
from contracts.errors import AccountFrozen, InsufficientFunds
from contracts.topup import (
    ConfigureAutoTopup,
    StartCardSetup,
    StartTopup,
    TopupStatus,
    Trigger,
)
from contracts.wallet import (
    AccountStatus,
    CreditPage,
    MadeCredit,
    TransactionKind,
    UnusedTopup,
    UnusedTopups,
    WalletCredited,
)
from deploy.stripe_sandbox.server import SandboxServer, warm_up
from deploy.stripe_sandbox.settings import Settings
from services.topup.automatic import pages, shortages, terms, triggers
from services.topup.charging import charges, checkout
from services.topup.models import AutoTopupSettings, Base, Topup
from services.topup.policy import Policy
from services.topup.processor import Processor
from services.topup.till import Till
from services.topup.wallet_questions import Entry, Funds
from tests.patience import PATIENCE_S
from tests.system import MigratedDatabases, System

SELLER = ("Mycelium Ltd", "Tax ID 1")
USD = 1_000_000
SECRET = "whsec_of_the_tests"
NOON = datetime(2027, 3, 10, 12, 0, tzinfo=UTC)


class Card:
    """Numbers of the processor's documented test cards."""

    GOOD = "4242424242424242"
    MASTERCARD = "5555555555554444"
    DECLINED_WHEN_CHARGED = "4000000000000341"
    DISPUTED = "4000000000000259"
    REFUNDS_LATE = "4000000000007726"
    REFUNDS_FAIL = "4000000000005126"
    ASKS_ALWAYS = "4000002760003184"


class Sandbox:
    """The payment sandbox with its switches."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()

    def post(self, path: str, **body: Any) -> Any:
        reply = self.session.post(f"{self.url}/_sandbox/{path}", json=body, timeout=PATIENCE_S)
        assert reply.ok, reply.text
        return reply.json()

    def switch(self, kind: str, **switch: Any) -> None:
        self.post("switches", kind=kind, **switch)

    def mend(self) -> None:
        """Switch every fault off."""
        self.session.delete(f"{self.url}/_sandbox/switches", timeout=PATIENCE_S)

    def pay(self, session_id: str, number: str = Card.GOOD, **body: Any) -> Any:
        return self.post(f"checkout/{session_id}/pay", number=number, **body)

    def behave(self, payment_method_id: str, name: str) -> None:
        self.post(f"payment_methods/{payment_method_id}/behave", **{"as": name})

    def delete_customer(self, customer_id: str) -> None:
        """As from the processor's dashboard."""
        reply = self.session.delete(
            f"{self.url}/v1/customers/{customer_id}",
            headers={"Authorization": "Bearer sk_test_x"},
            timeout=PATIENCE_S,
        )
        assert reply.ok, reply.text

    def move_clock(self, now: datetime) -> None:
        self.post("clock", offset_s=int(now.timestamp() - time.time()))

    def listed(self, what: str) -> list[dict[str, Any]]:
        """All ``refunds`` or ``disputes`` that there are, newest first."""
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.session.get(
                f"{self.url}/v1/{what}",
                params={"limit": "100", **after},
                headers={"Authorization": "Bearer sk_test_x"},
                timeout=PATIENCE_S,
            ).json()
            found += page["data"]
            if not page["has_more"]:
                return found
            after = {"starting_after": found[-1]["id"]}

    def totals(self, customer_id: str) -> Any:
        reply = self.session.get(
            f"{self.url}/_sandbox/totals", params={"customer": customer_id}, timeout=PATIENCE_S
        )
        return reply.json()


@dataclass
class Wallet:
    """What the wallet would say: by user, in micro-dollars."""

    balances: dict[UUID, int] = field(default_factory=dict)
    frozen: set[UUID] = field(default_factory=set)
    idle: set[UUID] = field(default_factory=set)
    failure: Exception | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    made: list[MadeCredit] = field(default_factory=list)
    """What came into wallets, in the order of the ledger."""
    asked_for_funds: int = 0
    left: dict[UUID, int] = field(default_factory=dict)
    """What is unused of a top-up, where it is less than all of it."""
    holds: dict[UUID, tuple[UUID, UUID, int]] = field(default_factory=dict)
    """By refund: the hold, whose it is, and how much."""

    def answers(self) -> None:
        if self.failure is not None:
            raise self.failure

    def held_micros(self, user_id: UUID) -> int:
        return sum(micros for _, whose, micros in self.holds.values() if whose == user_id)

    def unused(self, user_id: UUID, topup_ids: Sequence[UUID]) -> UnusedTopups:
        self.answers()
        frozen = user_id in self.frozen
        return UnusedTopups(
            topups=[
                UnusedTopup(topup_id=topup_id, unused_micros=self.left.get(topup_id, 10**12))
                for topup_id in topup_ids
            ],
            available_micros=self.balances.get(user_id, 0) - self.held_micros(user_id),
            status=AccountStatus.FROZEN if frozen else AccountStatus.OPEN,
        )

    def set_aside(self, user_id: UUID, refund_id: UUID, amount_micros: int) -> UUID:
        self.answers()
        if refund_id in self.holds:
            return self.holds[refund_id][0]
        if user_id in self.frozen:
            raise AccountFrozen("This wallet is frozen.")
        if self.balances.get(user_id, 0) - self.held_micros(user_id) < amount_micros:
            raise InsufficientFunds("Too little.", "0", "0")
        self.holds[refund_id] = (new_id(), user_id, amount_micros)
        return self.holds[refund_id][0]

    def entry(self, key: str) -> Entry | None:
        self.answers()
        return self.entries.get(key)

    def topup_credits_micros(self, since: datetime, until: datetime) -> int:
        self.answers()
        return sum(
            entry.amount_micros
            for key, entry in self.entries.items()
            if since <= entry.recorded_at < until and key.startswith("topup:")
        )

    def credits(self, after_position: int) -> CreditPage:
        """A page of one for each, so that there are some pages."""
        self.answers()
        position = min(after_position, len(self.made))
        page = self.made[position : position + 1]
        return CreditPage(
            credits=page,
            next_position=position + len(page),
            is_last=position + len(page) == len(self.made),
        )

    def balance(self, user_id: UUID) -> Funds:
        self.answers()
        return Funds(self.balances.get(user_id, 0), is_frozen=user_id in self.frozen)

    def balances_of(self, user_ids: Sequence[UUID]) -> dict[UUID, Funds]:
        return {user_id: self.balance(user_id) for user_id in user_ids if user_id in self.balances}

    def funds(self, user_id: UUID, _now: datetime) -> Funds:
        self.answers()
        self.asked_for_funds += 1
        return Funds(
            available_micros=self.balances.get(user_id, 0),
            is_frozen=user_id in self.frozen,
            is_idle=user_id in self.idle,
        )


class Clock:
    """A clock that a test moves; the sandbox's moves with it."""

    def __init__(self, sandbox: Sandbox, now: datetime = NOON) -> None:
        self._sandbox = sandbox
        self.set(now)

    def __call__(self) -> datetime:
        return self.now

    def set(self, now: datetime) -> None:
        self.now = now
        self._sandbox.move_clock(now)

    def advance(self, **delta: float) -> datetime:
        self.set(self.now + timedelta(**delta))
        return self.now


@dataclass
class Desk:
    """A till and what a test does with it."""

    till: Till
    sandbox: Sandbox
    wallet: Wallet
    clock: Clock
    queue: list[tuple[Callable[..., Any], tuple[Any, ...]]]

    def drain(self) -> None:
        """Do what was left for later, and what that leaves."""
        while self.queue:
            work, arguments = self.queue.pop(0)
            work(*arguments)

    def sweep(self) -> None:
        """One turn of every timer."""
        from services.topup.charging import giving_back, janitor, webhooks

        now = self.clock()
        with self.till.database.begin() as session:
            for trigger_id in triggers.DUE.take(session, now):
                self.queue.append((charges.pursue, (self.till, trigger_id)))
            for topup_id in janitor.DUE.take(session, now):
                self.queue.append((janitor.look, (self.till, topup_id)))
            for event_id in webhooks.DUE.take(session, now):
                self.queue.append((webhooks.work_off, (self.till, event_id)))
            for refund_id in giving_back.DUE.take(session, now):
                self.queue.append((giving_back.carry_out, (self.till, refund_id)))
        self.drain()

    def customer(self, number: str = Card.GOOD, **settings: Any) -> "Customer":
        """Somebody with a saved card, and with automatic top-up unless ``enabled=False``."""
        customer = Customer(self, new_id())
        customer.add_card(number)
        if settings.pop("enabled", True):
            self.wallet.balances[customer.user_id] = 10**12
            customer.configure(**settings)
            self.drain()
        self.wallet.balances[customer.user_id] = 0
        return customer


@dataclass
class Customer:
    desk: Desk
    user_id: UUID

    @property
    def customer_id(self) -> str:
        with self.desk.till.database.read() as session:
            return str(
                session.scalar(
                    text("SELECT customer_id FROM customers WHERE user_id = :user"),
                    {"user": self.user_id},
                )
            )

    def add_card(self, number: str = Card.GOOD) -> str:
        command = StartCardSetup(
            idempotency_key=str(uuid.uuid4()), user_id=self.user_id, email="a@example.com"
        )
        checkout.start_card_setup(self.desk.till, command)
        with self.desk.till.database.read() as session:
            session_id = session.scalar(
                text(
                    "SELECT session_id FROM card_setups WHERE user_id = :user"
                    " ORDER BY created_at DESC, done_at IS NULL DESC LIMIT 1"
                ),
                {"user": self.user_id},
            )
        self.desk.sandbox.pay(str(session_id), number)
        checkout.settle_session(self.desk.till, str(session_id))
        self.desk.clock.advance(seconds=1)
        return self.cards()[-1]

    def cards(self) -> list[str]:
        """Saved cards, the oldest first."""
        with self.desk.till.database.read() as session:
            return list(
                session.scalars(
                    text(
                        "SELECT payment_method_id FROM cards WHERE user_id = :user"
                        " AND removed_at IS NULL ORDER BY added_at"
                    ),
                    {"user": self.user_id},
                )
            )

    def configure(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "idempotency_key": str(uuid.uuid4()),
            "user_id": self.user_id,
            "enabled": True,
            "threshold_micros": 10 * USD,
            "topup_amount_micros": 25 * USD,
            "consent": True,
            **changes,
        }
        till = self.desk.till
        with till.database.begin() as session:
            trigger_id = terms.configure(
                session, till.clock(), ConfigureAutoTopup(**values), till.policy
            )
        if trigger_id is not None:
            charges.pursue(till, trigger_id)

    def raise_trigger(
        self,
        trigger: Trigger = Trigger.PURCHASE,
        needed_micros: int = 5 * USD,
        *,
        reference: str | None = None,
        raised_at: datetime | None = None,
        available_micros: int | None = 0,
        total_shortfall_micros: int | None = None,
    ) -> UUID | None:
        """An event, as its handler records it."""
        till = self.desk.till
        shortfall = needed_micros - (available_micros or 0)
        with till.database.begin() as session:
            raised = triggers.raise_trigger(
                session,
                self.user_id,
                trigger,
                reference or str(uuid.uuid4()),
                till.clock(),
                raised_at=raised_at or till.clock(),
                needed_micros=needed_micros,
                shortfall_micros=total_shortfall_micros or shortfall,
                available_micros=available_micros,
            )
        return raised.trigger_id if raised is not None else None

    def lack(self, needed_micros: int = 5 * USD, **told: Any) -> None:
        """The event that a purchase lacks money, as its handler takes it."""
        till = self.desk.till
        event = self.shortage(needed_micros, **told)
        with till.database.begin() as session:
            charges.cover(session, till, event, triggers.raise_for_purchase)

    def shortage(
        self,
        needed_micros: int = 5 * USD,
        *,
        reference: str | None = None,
        raised_at: datetime | None = None,
        available_micros: int = 0,
        total_shortfall_micros: int | None = None,
    ) -> PurchaseShortOfFunds:
        """What billing says of a purchase that lacks money."""
        shortfall = needed_micros - available_micros
        return PurchaseShortOfFunds(
            event_id=new_id(),
            occurred_at=raised_at or self.desk.clock(),
            user_id=self.user_id,
            purchase_id=UUID(reference) if reference else uuid.uuid4(),
            total_micros=needed_micros,
            shortfall_micros=shortfall,
            total_shortfall_micros=total_shortfall_micros or shortfall,
            available_micros=available_micros,
        )

    def lack_month(self, shortfall_micros: int = 5 * USD, **fields: Any) -> None:
        """The event that a month lacks money, as its handler takes it."""
        till = self.desk.till
        event = RenewalShortOfFunds(
            event_id=new_id(),
            occurred_at=fields.pop("occurred_at", till.clock()),
            user_id=self.user_id,
            deployment_id=fields.pop("deployment_id", uuid.uuid4()),
            shortfall_micros=shortfall_micros,
            available_micros=0,
            **fields,
        )
        with till.database.begin() as session:
            charges.cover(session, till, event, shortages.hear)

    def ask(self, trigger: Trigger = Trigger.PURCHASE, **event: Any) -> Any:
        """An event, and all that follows from it at once."""
        trigger_id = self.raise_trigger(trigger, **event)
        assert trigger_id is not None
        outcome = charges.pursue(self.desk.till, trigger_id)
        self.desk.drain()
        return outcome

    def charge_again(self) -> dict[str, Any]:
        """A second payment of the first top-up, as if the processor had forgotten its key."""
        (topup,) = self.topups()
        self.desk.sandbox.post("idempotency/prune")
        return self.desk.till.processor.charge_off_session(
            customer_id=self.customer_id,
            payment_method_id=self.cards()[0],
            amount_cents=to_cents(topup.amount_micros),
            topup_id=str(topup.topup_id),
            user_id=str(self.user_id),
        )

    def start_topup(self, amount_micros: int = 25 * USD, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "idempotency_key": str(uuid.uuid4()),
            "user_id": self.user_id,
            "email": "a@example.com",
            "amount_micros": amount_micros,
            **changes,
        }
        return checkout.start(self.desk.till, StartTopup(**values))

    def topups(self) -> list[Topup]:
        """Top-ups, the oldest first."""
        with self.desk.till.database.read() as session:
            return list(
                session.query(Topup)
                .filter(Topup.user_id == self.user_id)
                .order_by(Topup.created_at, Topup.topup_id)
            )

    def statuses(self) -> list[str]:
        return [topup.status for topup in self.topups()]

    def settings(self) -> AutoTopupSettings:
        with self.desk.till.database.read() as session:
            return session.get_one(AutoTopupSettings, self.user_id)

    def credit(self, amount_micros: int = USD, **fields: Any) -> WalletCredited:
        """What the wallet says of money that came, by a version before where no entry is named."""
        return WalletCredited(
            event_id=new_id(),
            occurred_at=fields.pop("occurred_at", self.desk.clock()),
            user_id=self.user_id,
            transaction_id=new_id(),
            kind=TransactionKind.TOPUP,
            amount_micros=amount_micros,
            balance_micros=amount_micros,
            available_micros=amount_micros,
            **fields,
        )

    def credited(self, **fields: Any) -> None:
        """The wallet credits what is paid, and says so."""
        from services.topup.charging import outcomes

        till = self.desk.till
        for topup in [topup for topup in self.topups() if topup.status == TopupStatus.PAID]:
            now = till.clock()
            with till.database.begin() as session:
                came = self.credit(topup.amount_micros, topup_id=topup.topup_id, **fields)
                outcomes.credited(session, came, now)
            held = self.desk.wallet.balances.get(self.user_id, 0)
            self.desk.wallet.balances[self.user_id] = held + topup.amount_micros
            entry = Entry(topup.amount_micros, till.clock())
            self.desk.wallet.entries[f"topup:{topup.topup_id}"] = entry

    def end_purchase(self, reference: str, reason: str = pages.ENDED) -> None:
        till = self.desk.till
        with till.database.begin() as session:
            pages.end_purchase(session, self.user_id, reference, reason, till.clock())

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the outbox holds of this type for this user, in order."""
        with self.desk.till.database.read() as session:
            return outbox(session, kind, self.user_id)

    def charged_cents(self) -> int:
        """What the processor took."""
        return int(self.desk.sandbox.totals(self.customer_id)["paid_cents"])

    def charge_count(self) -> int:
        return int(self.desk.sandbox.totals(self.customer_id)["charges"])


def outbox(session: Session, kind: str, user_id: UUID) -> list[dict[str, Any]]:
    return list(
        session.scalars(
            text(
                "SELECT payload FROM outbox WHERE type = :kind"
                " AND payload->>'user_id' = :user ORDER BY id"
            ),
            {"kind": kind, "user": str(user_id)},
        )
    )


def signed(body: str) -> str:
    """The header with which the processor would send this body."""
    return stripe.WebhookSignature.generate_signature_header(body, SECRET)


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[SandboxServer]:
    server = SandboxServer(Settings(port=0))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    warm_up()
    yield server
    server.stop()
    thread.join(PATIENCE_S)


@pytest.fixture
def sandbox(sandbox_server: SandboxServer) -> Sandbox:
    sandbox = Sandbox(sandbox_server.url)
    sandbox.post("reset")
    return sandbox


@pytest.fixture(scope="session")
def topup_database(databases: MigratedDatabases) -> Iterator[Connected]:
    database = connect(databases["topup"], pool_size=20)
    yield database
    database.engine.dispose()


def empty(database: Connected) -> None:
    """Forget everything."""
    names = ", ".join([*Base.metadata.tables, "outbox", "inbox"])
    with database.begin() as session:
        session.execute(text(f"TRUNCATE {names} CASCADE"))


@pytest.fixture
def database(topup_database: Connected) -> Connected:
    empty(topup_database)
    return topup_database


@pytest.fixture
def policy() -> Policy:
    return Policy(seller=SELLER)


def processor(url: str, read_timeout_s: float = 20) -> Processor:
    """The card processor in the sandbox. Patient, as in production: a machine that is busy with
    other tests makes no charge's outcome unknown."""
    return Processor(
        "sk_test_of_the_tests",
        api_base=url,
        read_timeout_s=read_timeout_s,
        network_retries=0,
        webhook_secret=SECRET,
    )


@pytest.fixture
def desk(database: Connected, sandbox: Sandbox, policy: Policy) -> Desk:
    queue: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    clock, wallet = Clock(sandbox), Wallet()
    till = Till(
        database=database,
        processor=processor(sandbox.url),
        wallet=wallet,
        policy=policy,
        public_url="http://127.0.0.1:8000",
        clock=clock,
        later=lambda work, *arguments, owner: queue.append((work, arguments)),  # noqa: ARG005
    )
    return Desk(till, sandbox, wallet, clock, queue)


@pytest.fixture(scope="module")
def product_id(stack: System) -> UUID:
    """A virtual machine of $15.00, of the module's own ``stack``."""
    products = stack.rpc.call(ListProducts(q="VM", limit=50)).products
    return next(p.product_id for p in products if p.price_micros == 15 * USD)
