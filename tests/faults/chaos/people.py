"""People who go on buying, topping up, sending, trading, cancelling, taking credit back, and note
what they were told.

They use the HTTP API as a careful program does: a command keeps its key until it has a definite
answer. What somebody does is decided by a chance of their own.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import requests

from contracts.errors import NO_ANSWER, Conflict, ServiceError
from contracts.legacy import OrderStatus, PoolQuote, QuoteAddition, QuoteExchange, TakeQuote
from contracts.messages import ReplyT, Request
from contracts.wallet import AccountStatus, GetWallet, Unfreeze, Wallet
from services.catalog.seed import product_id_of
from tests.faults.chaos.product import PATIENCE_S, STOCKED, Product
from tests.faults.test_backups import operate
from tests.gateway.conftest import PASSWORD
from tests.gateway.test_main_job import GOOD_CARD, card_page, pay
from tests.patience import eventually

USD = 1_000_000
PRICES = {"vm-starter": 5, "vm-production": 15, STOCKED: 94}
NOTICED_AFTER_S = 10.0
"""Whoever waits longer for a page takes it for broken."""
HESITATES_S = 0.4
POOL = "TFP-USD"
REFUSED = 409
ENDED = (OrderStatus.DONE, OrderStatus.REFUSED, OrderStatus.DECLINED)
MACHINES = 4
"""So many at most run for a person: what there is more is cancelled."""


class Answer(NamedTuple):
    """What somebody saw of one request. ``status`` is 0 where nothing came back."""

    at: float
    took_s: float
    what: str
    status: int

    @property
    def is_error(self) -> bool:
        return self.status == 0 or self.status >= 500 or self.status == 429


@dataclass
class Wish:
    """A command that has no definite answer yet."""

    method: str
    path: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: str(uuid4()))
    then: Callable[[int, Any], None] = lambda *_: None


class Person:
    """``purchases`` are those that were promised, by key, and ``chosen`` what each is of;
    ``sent`` is what left, by transaction. ``orders`` in the pool of the old coin have no end that
    was told yet; ``traded_micros`` is what came of the others, below zero where it was given.
    ``refunds`` are what is to go back to cards, in cents; ``forgiven`` the lost disputes after
    which support has opened the wallet."""

    def __init__(self, product: Product, chance: random.Random) -> None:
        self.product, self.chance = product, chance
        self.answers: list[Answer] = []
        self.wishes: list[Wish] = []
        self.purchases: dict[str, str] = {}
        self.chosen: dict[str, str] = {}
        self.sent: dict[str, tuple[UUID, int]] = {}
        self.orders: list[TakeQuote] = []
        self.traded_micros = 0
        self.refunds: dict[str, int] = {}
        self.forgiven: set[str] = set()
        self.pages: list[str] = []
        self.friends: list[Person] = []
        self.http = requests.Session()
        self.email = f"{uuid4().hex[:12]}@example.com"

    # Their arrival, in peace.

    def arrives(self) -> "Person":
        account = self._insists("post", "/api/auth/register",
                                {"email": self.email, "password": PASSWORD})  # fmt: skip
        self.user_id = UUID(account["user_id"])
        self.http.headers["Authorization"] = f"Bearer {account['token']}"
        self.product.asks("gateway", "UPDATE users SET email_confirmed_at = now()"
                          " WHERE user_id = :user_id", user_id=self.user_id)  # fmt: skip
        topup = self._insists("post", "/api/wallet/topups", {"amount": 150})
        pay(topup["checkout_url"])
        eventually(
            lambda: self.told("/api/wallet/info")["balance"] >= 150,
            interval_s=0.2,
            within_s=PATIENCE_S,
        )
        self.is_topped_up = self.chance.random() < 0.7
        self.looks_after_cards()
        return self

    def looks_after_cards(self) -> None:
        """Who is topped up saves a card anew, where it is paused."""
        if not self.is_topped_up or (
            self.told("/api/wallet/auto-topup/status")["state"] == "active"
        ):
            return
        pay(self._insists("post", "/api/wallet/payment-methods", {})["checkout_url"])
        cards = eventually(
            lambda: self.told("/api/wallet/payment-methods")["payment_methods"],
            interval_s=0.2,
            within_s=PATIENCE_S,
        )
        settings = {
            "enabled": True,
            "threshold_amount": 10,
            "topup_amount": 25,
            "daily_limit": 300,
            "monthly_limit": 2000,
            "payment_method_id": cards[0]["payment_method_id"],
            "consent": True,
        }
        self._insists("post", "/api/wallet/auto-topup/configure", settings)

    def told(self, path: str) -> dict[str, Any]:
        """What a page says, asked until it says something: a part may still be on its way back."""
        answer = eventually(
            lambda: self.http.get(self.product.base_url + path, timeout=30),
            lambda seen: seen.status_code < 500 and seen.status_code != 429,
            interval_s=0.5,
            within_s=PATIENCE_S,
        )
        assert answer.ok, f"{path}: {answer.status_code} {answer.text[:300]}"
        told: dict[str, Any] = answer.json(parse_float=Decimal)
        return told

    def _insists(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        wish = Wish(method, path, body)
        self.wishes.append(wish)
        found: dict[str, Any] = {}
        wish.then = lambda status, said: found.update(said, http_status=status)
        eventually(lambda: self.asks_again(wish), interval_s=0.5, within_s=PATIENCE_S)
        assert found["http_status"] < 300, f"{path}: {found}"
        return found

    # What they do.

    def acts(self) -> None:
        act = self.chance.choices(
            [
                self.looks,
                self.buys,
                self.tops_up,
                self.sends,
                self.trades,
                self.cancels,
                self.takes_back,
                self.repeats,
            ],
            [4, 6, 2, 2, 2, 2, 1, 3],
        )[0]
        act()

    def looks(self) -> None:
        path = self.chance.choice(["/api/wallet/info", "/api/purchases", "/api/products"])
        self._requests("get", path, what="look")

    def buys(self) -> None:
        slug = self.chance.choices(list(PRICES), [6, 3, 1])[0]
        body = {"product_id": str(product_id_of(slug))}
        wish = Wish("post", "/api/wallet/instant-purchase", body)
        wish.then = lambda status, said: self._promised(wish, slug, status, said)
        self._begins(wish)

    def _promised(self, wish: Wish, slug: str, status: int, said: Any) -> None:
        if status in (200, 202):
            self.purchases[wish.key] = said["purchase_id"]
            self.chosen[said["purchase_id"]] = slug

    def tops_up(self) -> None:
        wish = Wish("post", "/api/wallet/topups", {"amount": self.chance.choice([20, 50, 120])})
        wish.then = self._shown_page
        self._begins(wish)

    def _shown_page(self, status: int, said: Any) -> None:
        if status == 201 and said["checkout_url"]:
            self.pages.append(said["checkout_url"])
            self.pays()

    def pays(self) -> None:
        """The pages that are open. No wire of ours leads from a person to the card processor."""
        for page in list(self.pages):
            try:
                answer = card_page(page, GOOD_CARD)
            except requests.RequestException:
                continue
            if answer.status_code < 500 and answer.status_code != 429:
                # Paid, or closed meanwhile: either way there is nothing left to do on it.
                self.pages.remove(page)

    def sends(self) -> None:
        friend = self.chance.choice(self.friends)
        amount = self.chance.randint(1, 900)
        body = {"to_email": friend.email, "amount": amount / 100}
        wish = Wish("post", "/api/wallet/transfers", body)
        wish.then = lambda status, said: self._has_sent(status, said, friend, amount)
        self._begins(wish)

    def _has_sent(self, status: int, said: Any, friend: "Person", cents: int) -> None:
        if status == 201:
            self.sent[said["transaction_id"]] = (friend.user_id, cents * USD // 100)

    def cancels(self) -> None:
        """Machines, where there are many."""
        status, said = self._requests("get", "/api/deployments?limit=100", what="look")
        if status != 200:
            return
        running = [one for one in said["deployments"] if one["status"] != "cancelled"]
        for machine in running[MACHINES:]:
            path = f"/api/deployments/{machine['deployment_id']}/cancel"
            self._begins(Wish("post", path, {"when": "now"}))

    def takes_back(self) -> None:
        """Some unused credit, to the card that paid for it."""
        status, said = self._requests("get", "/api/wallet/refundable", what="look")
        if status != 200 or not said["topups"]:
            return
        topup = self.chance.choice(said["topups"])
        cents = self.chance.randint(1, min(900, int(Decimal(topup["refundable_usd"]) * 100)))
        body = {"topup_id": topup["topup_id"], "amount": cents / 100}
        wish = Wish("post", "/api/wallet/refunds", body)
        wish.then = lambda status, said: self._gets_back(status, said, cents)
        self._begins(wish)

    def _gets_back(self, status: int, said: Any, cents: int) -> None:
        if status == 201:
            self.refunds[said["refund_id"]] = cents

    def is_let_in_again(self) -> None:
        """Who is frozen after a dispute pays what is owed, and support opens the wallet."""
        wallet = self._wallet()
        if wallet.available_micros < 0:
            cents = max(-(wallet.available_micros // (USD // 100)), 500)
            topup = self._insists("post", "/api/wallet/topups", {"amount": cents / 100})
            pay(topup["checkout_url"])
            wallet = eventually(
                self._wallet, lambda it: it.available_micros >= 0, 0.2, within_s=PATIENCE_S
            )
        if wallet.status is AccountStatus.FROZEN:
            with suppress(Conflict):  # It was opened by what was paid.
                self.product.rpc.call(
                    Unfreeze(
                        idempotency_key=str(uuid4()),
                        user_id=self.user_id,
                        reason="It is settled",
                        actor="support",
                    ),
                    timeout_s=60,
                )

        self.forgiven = self.lost()

    def lost(self) -> set[str]:
        """Disputes by which the bank has taken a payment of theirs back for good, or as yet."""
        mine = {
            row[0]
            for row in self.product.asks(
                "topup",
                "SELECT payment_id FROM topups WHERE user_id = :user_id",
                user_id=self.user_id,
            )
        }
        return {
            dispute["id"]
            for dispute in self.product.sandbox.listed("disputes")
            if dispute["payment_intent"] in mine
            and dispute["status"] != "won"
            and not dispute["status"].startswith("warning")
        }

    def _wallet(self) -> Wallet:
        return self.product.rpc.call(GetWallet(user_id=self.user_id), timeout_s=60)

    def opens_pool(self) -> None:
        """With $50, and as many old coins as an operator gives."""
        given = ("adjust", str(self.user_id), "TFP", "100", "--by", "a test", "--reason", "-")
        done = operate(self.product, "legacy", "services.legacy.pool_book", *given, settings={})
        assert done[0] == 0, done[1]
        parts = {"base_units": 100 * USD, "other_units": 50 * USD}
        self._wants(QuoteAddition(user_id=self.user_id, pool=POOL, **parts))
        eventually(self._has_traded, interval_s=0.5, within_s=PATIENCE_S)
        assert self.traded_micros == -50 * USD

    def _has_traded(self) -> bool:
        self.repeats()
        return not self.orders

    def trades(self) -> None:
        """A few dollars or old coins for the other: by calls, since the site has no API for it."""
        give = self.chance.choice(["USD", "USD", "TFP"])
        units = self.chance.randint(1, 300) * USD // 100
        self._wants(QuoteExchange(user_id=self.user_id, pool=POOL, give=give, give_units=units))

    def _wants(self, wish: Request[PoolQuote]) -> None:
        _, quote = self._calls(wish)
        if quote is not None:
            order = TakeQuote(
                user_id=self.user_id,
                quote_id=quote.quote_id,
                slippage_bps=500,
                idempotency_key=str(uuid4()),
            )
            self.orders.append(order)
            self.takes(order)

    def takes(self, order: TakeQuote) -> None:
        """Ask for it, or how it ended."""
        status, made = self._calls(order)
        if status == REFUSED or (made is not None and made.status in ENDED):
            self.orders.remove(order)
        if made is not None and made.status == OrderStatus.DONE:
            self.traded_micros += made.change.other_units

    def _calls(self, request: Request[ReplyT]) -> tuple[int, ReplyT | None]:
        """What a program of ours hears, with the status that a website would say of it."""
        began, status, reply = time.monotonic(), 200, None
        try:
            reply = self.product.rpc.call(request, timeout_s=NOTICED_AFTER_S)
        except NO_ANSWER:
            status = 0
        except ServiceError:
            status = REFUSED
        self.answers.append(Answer(began, time.monotonic() - began, "call", status))
        return status, reply

    def repeats(self) -> None:
        """What has no definite answer yet is asked again, under its key."""
        self.pays()
        for order in list(self.orders):
            self.takes(order)
        for wish in list(self.wishes):
            self.asks_again(wish)

    def _begins(self, wish: Wish) -> None:
        self.wishes.append(wish)
        self.asks_again(wish)

    def asks_again(self, wish: Wish) -> bool:
        status, said = self._requests(wish.method, wish.path, wish.body, wish.key)
        if status == 0 or status >= 500 or status == 429:
            return False
        self.wishes.remove(wish)
        wish.then(status, said)
        return True

    def _requests(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        what: str = "command",
    ) -> tuple[int, Any]:
        began = time.monotonic()
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = self.http.request(
                method, self.product.base_url + path, json=body, headers=headers,
                timeout=NOTICED_AFTER_S,
            )  # fmt: skip
            status, said = answer.status_code, answer.json()
        except (requests.RequestException, ValueError):
            status, said = 0, None
        self.answers.append(Answer(began, time.monotonic() - began, what, status))
        return status, said


class Crowd:
    """All of them, each on a thread, from :meth:`goes_on` to :meth:`rests`."""

    def __init__(self, product: Product, count: int, chance: random.Random) -> None:
        self.people = [Person(product, random.Random(chance.random())) for _ in range(count)]
        for person in self.people:
            person.arrives()
            person.friends = [each for each in self.people if each is not person]
        self.people[0].opens_pool()
        self._may_act, self._is_over = threading.Event(), threading.Event()
        self._idle = [threading.Event() for _ in self.people]
        self._threads = [
            threading.Thread(target=self._lives, args=each, daemon=True)
            for each in zip(self.people, self._idle, strict=True)
        ]
        self.broken: list[BaseException] = []
        for thread in self._threads:
            thread.start()

    def _lives(self, person: Person, idle: threading.Event) -> None:
        while not self._is_over.is_set():
            if not self._may_act.is_set():
                idle.set()
                self._may_act.wait(0.2)
                continue
            idle.clear()
            try:
                person.acts()
            except BaseException as error:
                self.broken.append(error)
                idle.set()
                return
            # A person who thinks: nothing that could be waited for happens meanwhile.
            time.sleep(person.chance.uniform(0.5, 1.5) * HESITATES_S)

    def goes_on(self) -> None:
        for idle in self._idle:
            idle.clear()
        self._may_act.set()

    def rests(self) -> None:
        """Begin nothing more; back when nobody is in the middle of something."""
        self._may_act.clear()
        for idle in self._idle:
            assert idle.wait(PATIENCE_S), "somebody is still waiting"
        if self.broken:
            raise self.broken[0]

    def gets_answers(self) -> None:
        """Ask again until everything that was asked has a definite answer."""

        def unanswered() -> list[object]:
            for person in self.people:
                person.repeats()
            return [
                (waits, person.answers[-1].status)
                for person in self.people
                for waits in (*person.wishes, *person.pages, *person.orders)
            ]

        eventually(unanswered, lambda waiting: not waiting, interval_s=0.3, within_s=PATIENCE_S)

    def answers(self, since: float, until: float) -> list[Answer]:
        return [
            answer
            for person in self.people
            for answer in person.answers
            if since <= answer.at < until
        ]

    def ends(self) -> None:
        self._is_over.set()
        self._may_act.set()
        for thread in self._threads:
            thread.join(30)
