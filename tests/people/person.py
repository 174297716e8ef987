"""Somebody who comes to the marketplace, and what is counted of that, noted by their own hand.

A person does over HTTP what a browser would do, from registering on, along one of the ``WAYS``.
What each step should change in the figures of :class:`contracts.analytics.Figures` is noted as it
is done: apart from what any service says of it.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from html import unescape
from typing import Any, Self
from uuid import UUID, uuid4

import requests

from chassis.identifiers import new_id
from contracts.billing import RefundPurchase
from contracts.topup import TopupKind
from services.catalog.seed import product_id_of
from tests.gateway.conftest import Api, error_of, granted
from tests.gateway.test_main_job import DECLINES_LATER, GOOD_CARD, card_page, pay
from tests.gateway.test_site import csrf_token
from tests.patience import PATIENCE_S, answered, eventually
from tests.patience import Browser as BrowserOfPages
from tests.system import System

USD = 1_000_000
STARTER, PRODUCTION = "vm-starter", "vm-production"
PRICES = {STARTER: 5, PRODUCTION: 15}
FEE_PART = 10
"""All products are other people's, and the marketplace keeps a tenth."""

BUY_NOW, CART = "buy_now", "cart"
DECLINED, DISPUTED = "4000000000000002", "4000000000000259"
WHY = "generic_decline"
"""What a card that is declined says."""

HESITATES_S = 121.0
"""Longer than the plan's two minutes."""


@dataclass
class Noted:
    """What happened, counted by hand. ``first_purchase_s`` are one by one, in whole seconds."""

    figures: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    burn_micros: int = 0
    auto_topup_users: int = 0
    first_purchase_s: list[int] = field(default_factory=list)
    answers_ms: dict[str, list[float]] = field(default_factory=dict)

    def __iadd__(self, other: "Noted") -> Self:
        for name in ("figures", "units", "ended", "failed"):
            getattr(self, name).update(getattr(other, name))
        self.burn_micros += other.burn_micros
        self.auto_topup_users += other.auto_topup_users
        self.first_purchase_s += other.first_purchase_s
        for kind, took_ms in other.answers_ms.items():
            self.answers_ms.setdefault(kind, []).extend(took_ms)
        return self


class Browser(Api):
    """Requests whose times are noted: those of pages, of answers about balances, of purchases.

    Where a part of the site is too busy to answer, they are sent again, as the site says.
    """

    noted: Noted

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        def ask() -> requests.Response:
            return super(Browser, self).request(method, path, **options)

        response = answered(ask)
        kind = _KINDS.get((method, path))
        if kind is not None:
            took_ms = response.elapsed.total_seconds() * 1_000
            self.noted.answers_ms.setdefault(kind, []).append(took_ms)
        return response


PAGE, BALANCE, PURCHASE = "wallet and marketplace pages", "balance checks", "purchases"
_KINDS = {
    ("GET", "/marketplace"): PAGE,
    ("GET", "/dashboard/wallet"): PAGE,
    ("GET", "/api/wallet/info"): BALANCE,
    ("POST", "/api/wallet/instant-purchase"): PURCHASE,
    ("POST", "/api/cart/checkout"): PURCHASE,
}


class Pages:
    """A browser that is logged in, without scripts."""

    def __init__(self, base_url: str, account: dict[str, str]) -> None:
        self._base_url = base_url
        self._http = BrowserOfPages()
        token = csrf_token(self.get("/login"))
        assert self.post("/login", {**account, "csrf_token": token}) == "/dashboard"

    def get(self, path: str, **headers: str) -> str:
        answer = self._http.get(self._base_url + path, headers=headers, timeout=PATIENCE_S)
        assert answer.ok, f"{path} {answer.status_code} {answer.text[:500]}"
        return answer.text

    def post(self, path: str, form: dict[str, str]) -> str:
        """Where it leads."""
        answer = self._http.post(
            self._base_url + path, data=form, timeout=PATIENCE_S, allow_redirects=False
        )
        assert answer.status_code == 303, f"{path} {answer.status_code} {answer.text[:500]}"
        return answer.headers["Location"]

    def send(self, page: str, action: str, **filled: str) -> str:
        """The form of a page that is sent to ``action``, filled in; where it leads."""
        form = re.search(rf'action="{re.escape(action)}".*?</form>', page, re.DOTALL)
        assert form, page[:2000]
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form[0]))
        return self.post(action, {**{k: unescape(v) for k, v in hidden.items()}, **filled})


class Person:
    """``noted`` is what their way through the marketplace should have changed."""

    def __init__(self, system: System, registered_at: Callable[[UUID], datetime]) -> None:
        self._system = system
        self._registered_at = registered_at
        self.noted = Noted()
        self.api = Browser(system.base_url)
        self.api.noted = self.noted

    def lives(self, way: "Way") -> "Person":
        self._registers()
        way(self)
        return self

    # The ways, each from registering to its end.

    def buys_credits_first(self) -> None:
        self._buys_credits(25)
        self._buys_now(STARTER)

    def hesitates(self) -> None:
        """Longer than two minutes."""
        until = time.monotonic() + HESITATES_S
        self._looks_around()
        # A person who thinks: nothing that could be waited for happens meanwhile.
        time.sleep(max(until - time.monotonic(), 0))
        self._buys_credits(10)
        self._buys_now(STARTER)

    def is_short_and_pays(self) -> None:
        purchase = self._is_short_of(STARTER)
        self._buys_credits(10, purchase_id=purchase["purchase_id"])
        self._sees_completed(purchase["purchase_id"], {STARTER: 1})

    def buys_a_cart(self) -> None:
        self._buys_credits(25)
        self._puts_into_cart(STARTER, 2)
        self._puts_into_cart(PRODUCTION, 1)
        purchase = granted(self.api.command("/api/cart/checkout", {"total_usd": 25}))
        self._begins(CART)
        self._completed(purchase, {STARTER: 2, PRODUCTION: 1})

    def leaves_the_dialog(self) -> None:
        self._looks_around()
        assert self.api.get(f"/marketplace/{STARTER}/buy").ok

    def leaves_the_card_page(self) -> None:
        """The purchase waits: it has not ended, for days to come."""
        purchase = self._is_short_of(STARTER)
        self._opens_card_page(5, purchase["purchase_id"])

    def is_declined_and_gives_up(self) -> None:
        purchase = self._is_short_of(STARTER)
        page = self._opens_card_page(5, purchase["purchase_id"])
        # The page says so, and can be tried again: no top-up has failed.
        assert card_page(page, DECLINED).status_code != 303
        self._gives_up(purchase["purchase_id"])

    def is_declined_and_takes_another_card(self) -> None:
        topup = self._starts_topup({"amount": 10})
        assert card_page(topup["checkout_url"], DECLINED).status_code != 303
        pay(topup["checkout_url"], GOOD_CARD)
        self._credited(topup, 10)
        self._buys_now(STARTER)

    def has_a_saved_card_declined(self) -> None:
        card = self._saves_card(DECLINES_LATER)
        topup = self._starts_topup({"amount": 10, "payment_method_id": card})
        assert topup["status"] == "failed"
        self._notes("topups_by_hand_failed")
        self.noted.failed[f"{TopupKind.MANUAL}:{WHY}"] += 1

    def is_topped_up(self) -> None:
        self._buys_credits(10)
        self._switches_on(self._saves_card(GOOD_CARD))
        body = {"product_id": self._id(PRODUCTION)}
        bought = granted(self.api.command("/api/wallet/purchase-with-topup", body))
        self._begins()
        self._notes("purchases_short")
        self._notes("topups_auto")
        self._notes("credits_auto_micros", 25 * USD)
        self._sees_completed(bought["purchase_id"], {PRODUCTION: 1})

    def has_a_topup_declined(self) -> None:
        self._buys_credits(12)
        self._switches_on(self._saves_card(DECLINES_LATER))
        body = {"product_id": self._id(PRODUCTION)}
        purchase = granted(self.api.command("/api/wallet/purchase-with-topup", body))
        address = f"/api/purchases/{purchase['purchase_id']}"
        eventually(
            lambda: granted(self.api.get(address)),
            lambda seen: seen["status_code"] == WHY,
        )
        self._begins()
        self._notes("purchases_short")
        self._notes("topups_auto_failed")
        self.noted.failed[f"{TopupKind.AUTO}:{WHY}"] += 1
        self._gives_up(purchase["purchase_id"])

    def cancels_the_machine(self) -> None:
        self._buys_credits(25)
        bought = self._buys_now(PRODUCTION)
        (deployment_id,) = bought["deployment_ids"]
        granted(self.api.command(f"/api/deployments/{deployment_id}/cancel", {"when": "now"}))
        self.noted.burn_micros -= PRICES[PRODUCTION] * USD

    def is_refunded(self) -> None:
        """By support, whole."""
        self._buys_credits(10)
        bought = self._buys_now(STARTER)
        self._system.rpc.call(
            RefundPurchase(
                idempotency_key=str(new_id()),
                purchase_id=UUID(bought["purchase_id"]),
                reason="It was slow",
                actor="a test",
            )
        )
        address = f"/api/purchases/{bought['purchase_id']}"
        eventually(lambda: granted(self.api.get(address)), lambda seen: seen["refunded_usd"] == 5)
        self._notes("refunded_micros", PRICES[STARTER] * USD)
        self.noted.burn_micros -= PRICES[STARTER] * USD

    def disputes(self) -> None:
        """The money goes back to the card, and the wallet is frozen: it buys nothing more."""
        self._buys_credits(25, DISPUTED)
        eventually(
            lambda: granted(self.api.get("/api/wallet/info")),
            lambda seen: seen["balance"] <= 0 and seen["status"] == "frozen",
        )
        self._notes("reversed_micros", 25 * USD)
        body = {"product_id": self._id(STARTER)}
        refused = self.api.command("/api/wallet/instant-purchase", body)
        assert error_of(refused) == (403, "account_frozen")
        self._begins()
        self._ends("failed", "account_frozen")

    def buys_on_the_pages(self) -> None:
        """Looks, looks again, presses Buy Now, and pays by card."""
        pages = self._opens_a_browser()
        for _ in range(2):
            pages.get(f"/marketplace/{STARTER}")
        dialog = pages.get(f"/marketplace/{STARTER}/buy", **{"HX-Request": "true"})
        card = pages.send(dialog, "/purchases", amount="custom", custom_amount="10")
        self._comes_to(BUY_NOW, "product_page", "dialog", "card_page", "completed")
        self._begins()
        self._notes("purchases_short")
        pay(card)
        self._notes("topups_by_hand")
        self._notes("credits_by_hand_micros", 10 * USD)
        (waiting,) = granted(self.api.get("/api/purchases"))["purchases"]
        followed = f"/purchases/{waiting['purchase_id']}"
        eventually(lambda: pages.get(followed), lambda page: 'data-status="completed"' in page)
        self._sees_completed(waiting["purchase_id"], {STARTER: 1})
        # A page that a program opens is on no path.
        assert self.api.get(f"/marketplace/{PRODUCTION}").ok

    def leaves_the_card_page_of_a_cart(self) -> None:
        """Looks at something as well; pays neither in the dialog's way nor in the end."""
        pages = self._opens_a_browser()
        page = pages.get(f"/marketplace/{STARTER}")
        put = {"csrf_token": csrf_token(page), "product": STARTER, "quantity": "1"}
        assert pages.post("/cart", put) == "/cart"
        purchase = pages.send(pages.get("/cart"), "/cart/checkout")
        self._begins(CART)
        self._notes("purchases_short")
        action = f"{purchase}/credits"
        pages.send(pages.get(purchase), action, amount="custom", custom_amount="5")
        pages.get(f"{purchase}?cancelled")
        self._comes_to(BUY_NOW, "product_page", left="product_page")
        self._comes_to(CART, "filled", "cart_page", "card_page", left="card_page")

    def leaves_the_pages(self) -> None:
        """The dialog from the list; a second browser, and one that is not to be followed."""
        self._opens_a_browser().get(f"/marketplace/{STARTER}/buy")
        self._comes_to(BUY_NOW, "dialog", left="dialog")
        self._opens_a_browser().get(f"/marketplace/{STARTER}")
        self._comes_to(BUY_NOW, "product_page", left="product_page")
        self._opens_a_browser().get(f"/marketplace/{STARTER}", **{"Sec-GPC": "1"})
        requests.get(f"{self.api.base_url}/marketplace/{STARTER}", timeout=PATIENCE_S)

    # Their steps.

    def _opens_a_browser(self) -> Pages:
        return Pages(self.api.base_url, self._account)

    def _comes_to(self, way: str, *steps: str, left: str = "") -> None:
        for step in steps:
            self._notes(f"paths_{way}_{step}")
        if left:
            self._notes(f"left_{way}_{left}")

    def _registers(self) -> None:
        self._account = {"email": f"{uuid4()}@example.com", "password": "correct horse battery"}
        answer = granted(self.api.post("/api/auth/register", self._account))
        self.api.token, self.api.user_id = answer["token"], UUID(answer["user_id"])
        self._notes("registrations")

    def _looks_around(self) -> None:
        for path in ("/marketplace", "/dashboard/wallet", "/api/wallet/info"):
            assert self.api.get(path).ok

    def _starts_topup(self, body: dict[str, Any]) -> dict[str, Any]:
        topup: dict[str, Any] = granted(self.api.command("/api/wallet/topups", body))
        return topup

    def _opens_card_page(self, dollars: int, purchase_id: str) -> str:
        topup = self._starts_topup({"amount": dollars, "purchase_id": purchase_id})
        return str(topup["checkout_url"])

    def _buys_credits(self, dollars: int, card: str = GOOD_CARD, **more: str) -> None:
        self._looks_around()
        topup = self._starts_topup({"amount": dollars, **more})
        pay(topup["checkout_url"], card)
        self._credited(topup, dollars)

    def _credited(self, topup: dict[str, Any], dollars: int) -> None:
        address = f"/api/wallet/topups/{topup['topup_id']}"
        eventually(
            lambda: granted(self.api.get(address)), lambda seen: seen["status"] == "credited"
        )
        self._notes("topups_by_hand")
        self._notes("credits_by_hand_micros", dollars * USD)

    def _saves_card(self, number: str) -> str:
        pay(granted(self.api.command("/api/wallet/payment-methods"))["checkout_url"], number)
        cards = eventually(
            lambda: [
                card["payment_method_id"]
                for card in granted(self.api.get("/api/wallet/payment-methods"))["payment_methods"]
                if card["last4"] == number[-4:]
            ]
        )
        return str(cards[0])

    def _switches_on(self, card: str) -> None:
        settings = {
            "enabled": True,
            "threshold_amount": 10,
            "topup_amount": 25,
            "payment_method_id": card,
            "consent": True,
        }
        granted(self.api.command("/api/wallet/auto-topup/configure", settings))
        self.noted.auto_topup_users += 1

    def _buys_now(self, slug: str) -> dict[str, Any]:
        body = {"product_id": self._id(slug)}
        bought = granted(self.api.command("/api/wallet/instant-purchase", body))
        self._begins()
        return self._completed(bought, {slug: 1})

    def _puts_into_cart(self, slug: str, quantity: int) -> None:
        body = {"product_id": self._id(slug), "quantity": quantity}
        granted(self.api.command("/api/cart", body))

    def _is_short_of(self, slug: str) -> dict[str, Any]:
        answer = self.api.command("/api/wallet/instant-purchase", {"product_id": self._id(slug)})
        purchase: dict[str, Any] = granted(answer)
        assert (answer.status_code, purchase["status"]) == (202, "awaiting_funds")
        self._begins()
        self._notes("purchases_short")
        return purchase

    def _sees_completed(self, purchase_id: str, units: dict[str, int]) -> dict[str, Any]:
        bought = eventually(
            lambda: granted(self.api.get(f"/api/purchases/{purchase_id}")),
            lambda seen: seen["status"] == "completed",
        )
        return self._completed(bought, units)

    def _completed(self, bought: dict[str, Any], units: dict[str, int]) -> dict[str, Any]:
        """Paid, and running: at once, but for a machine so busy that a call takes too long."""
        if bought["status"] == "pending":
            return self._sees_completed(bought["purchase_id"], units)
        assert bought["status"] == "completed", bought
        micros = sum(PRICES[slug] * count for slug, count in units.items()) * USD
        self._notes("purchases_completed")
        self._notes(f"purchases_completed_{self._way}")
        self._notes("sales_micros", micros)
        self._notes("fees_micros", micros // FEE_PART)
        self.noted.units.update(units)
        self.noted.burn_micros += micros
        for deployment_id in bought["deployment_ids"]:
            eventually(
                lambda one=deployment_id: granted(self.api.get(f"/api/deployments/{one}")),
                lambda seen: seen["status"] == "active",
            )
        assert self.api.user_id is not None
        paid_at = datetime.fromisoformat(bought["updated_at"])
        took_s = int((paid_at - self._registered_at(self.api.user_id)).total_seconds())
        self.noted.first_purchase_s.append(took_s)
        self._notes("first_purchases")
        self._notes("first_purchases_in_time", took_s <= 120)
        self._notes("first_purchase_s", took_s)
        return bought

    def _gives_up(self, purchase_id: str) -> None:
        seen = granted(self.api.command(f"/api/purchases/{purchase_id}/cancel"))
        self._ends("cancelled", seen["status_code"])

    def _begins(self, way: str = BUY_NOW) -> None:
        self._way = way
        self._notes("purchases_begun")
        self._notes(f"purchases_begun_{way}")

    def _ends(self, status: str, code: str) -> None:
        self._notes(f"purchases_{status}")
        self.noted.ended[f"{status}:{code}"] += 1

    def _notes(self, figure: str, by: int = 1) -> None:
        self.noted.figures[figure] += by

    def _id(self, slug: str) -> str:
        return str(product_id_of(slug))


Way = Callable[[Person], None]

WAYS: dict[Way, int] = {
    Person.buys_credits_first: 15,
    Person.is_short_and_pays: 22,
    Person.buys_a_cart: 14,
    Person.hesitates: 6,
    Person.is_topped_up: 8,
    Person.has_a_topup_declined: 2,
    Person.leaves_the_dialog: 6,
    Person.leaves_the_card_page: 4,
    Person.is_declined_and_gives_up: 2,
    Person.is_declined_and_takes_another_card: 4,
    Person.has_a_saved_card_declined: 2,
    Person.cancels_the_machine: 4,
    Person.is_refunded: 3,
    Person.disputes: 1,
    Person.buys_on_the_pages: 3,
    Person.leaves_the_card_page_of_a_cart: 2,
    Person.leaves_the_pages: 2,
}
"""How many of a hundred people go each way."""
