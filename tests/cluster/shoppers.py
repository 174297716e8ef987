"""People who buy and pay all the time, and what must be true afterwards of each of them."""

import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self
from uuid import UUID, uuid4

import kombu
import requests

from chassis.broker import dead_letter_queue
from contracts.wallet import Verify
from deploy.local.processes import ROOT
from deploy.parts import LISTENERS
from services.catalog.seed import product_id_of
from tests.gateway.conftest import PASSWORD, Api, granted
from tests.gateway.test_main_job import pay, switch_on_auto_topup
from tests.patience import eventually
from tests.system import System

SLUG, PRICE_USD = "vm-starter", 5
CREDIT_USD = 50
AUTO_TOPUP_USD = 20
REST_S = 0.4
"""Between two wishes of one person."""
GIVES_UP_S = 300.0
WITHOUT_TOPUPS = "no auto top-up"
"""What a forecast lacks that had no answer of the top-up service within a second."""
WITHOUT_MONEY = "no money yet"
"""What a purchase lacks that no automatic top-up has paid for within ten seconds."""
AWAY_S = 35.0
"""So long a fault lasts: enough for whoever is left to notice."""


@dataclass(frozen=True)
class Wish:
    """Something that was asked for, with its key, until it was granted."""

    began_at: float
    granted_at: float

    @property
    def took_s(self) -> float:
        return self.granted_at - self.began_at


class Shopper:
    """Buys machines of $5, and credits of $50 when too few are left; repeats what is not granted.

    ``purchases`` and ``topups`` are what was granted, by the keys under which they were asked for:
    what nobody may lose or double any more.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self.purchases: dict[str, UUID] = {}
        self.topups: dict[str, UUID] = {}
        self.wishes: list[Wish] = []
        self.refused: Counter[str] = Counter()
        self._left_usd = 0

    def register(self) -> None:
        credentials = {"email": f"{uuid4()}@example.com", "password": PASSWORD}
        account = granted(self._api.post("/api/auth/register", credentials))
        self._api.user_id = UUID(account["user_id"])
        login = granted(self._api.post("/api/auth/login", credentials))
        self._api.token = login["token"]
        self.get_ready()

    def get_ready(self) -> None:
        self.buy_credits()

    def shop(self, until: threading.Event) -> None:
        """Go on until told to stop; what was begun by then is finished."""
        while not until.wait(REST_S):
            if self._left_usd < PRICE_USD:
                self.buy_credits()
            else:
                self.buy()
                self.look_ahead()

    def buy(self) -> None:
        key = str(uuid4())
        body = {"product_id": str(product_id_of(SLUG))}
        done = self._insist(lambda: self._api.command("/api/wallet/instant-purchase", body, key))
        self.purchases[key] = done["purchase_id"]
        self._left_usd -= PRICE_USD

    def buy_credits(self) -> None:
        key = str(uuid4())
        body = {"amount": CREDIT_USD}
        topup = self._insist(lambda: self._api.command("/api/wallet/topups", body, key))
        pay(topup["checkout_url"])
        self.topups[key] = topup["topup_id"]
        self._left_usd += CREDIT_USD

    @property
    def credited_usd(self) -> int:
        """What their cards have to have paid, and their wallet to have got."""
        return CREDIT_USD * len(self.topups)

    def look_ahead(self) -> None:
        """Once the forecast knows auto top-up, without which it is told where that is away."""
        self._insist(
            lambda: self._api.get("/api/wallet/forecast"),
            lambda forecast: "" if forecast["is_auto_topup_known"] else WITHOUT_TOPUPS,
        )

    def problems(self) -> list[str]:
        """What is not as it has to be, now that all parts answer again. Empty in the end."""
        bought = self._all("purchases")
        paid = {
            granted(self._api.get(f"/api/wallet/topups/{topup_id}"))["status"]
            for topup_id in self.topups.values()
        }
        ids = [each["purchase_id"] for each in bought]
        running = sum(len(each["deployment_ids"]) for each in bought)
        balance = granted(self._api.get("/api/wallet/info"))["balance"]
        notices = Counter(each["kind"] for each in self._all("notifications"))
        count = len(self.purchases)
        owed = self.credited_usd - PRICE_USD * count
        found = {
            "purchases": (sorted(ids), sorted(self.purchases.values())),
            "states": ({each["status"] for each in bought}, {"completed"} if count else set()),
            "top-ups": (paid, {"credited"} if self.topups else set()),
            "deployments": (running, count),
            "notices": (notices["purchase_completed"], count),
            "balance": (balance, owed),
        }
        return [f"{what}: {is_} != {ought}" for what, (is_, ought) in found.items() if is_ != ought]

    def _all(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = granted(self._api.get(f"/api/{what}?limit=100{cursor}"))
            found += page[what]
            if not page["next_cursor"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def _insist(
        self,
        ask: Callable[[], requests.Response],
        lacks: Callable[[Any], str] = lambda _: "",
    ) -> Any:
        """Ask until it is granted, and the answer lacks nothing."""
        began_at = time.monotonic()
        while True:
            try:
                answer = ask()
                lacking = lacks(granted(answer)) if answer.ok else f"{answer.status_code}"
                if not lacking:
                    break
                self.refused[lacking] += 1
                assert answer.status_code in (200, 202, 500, 502, 503, 504), answer.text
            except requests.RequestException as error:
                self.refused[type(error).__name__] += 1
            assert time.monotonic() - began_at < GIVES_UP_S, "nothing was granted any more"
            time.sleep(REST_S)
        self.wishes.append(Wish(began_at, time.monotonic()))
        return granted(answer)


class ToppedUp(Shopper):
    """Buys no credits: each machine that the wallet cannot pay has the saved card charged once.

    They wait for each of their machines, and nothing else makes auto top-up charge. So it is known
    how often it should have: a charge that is made again, because the answer or the commit of the
    first was lost, is one too many, though card processor, top-ups and ledger agree about it.
    """

    def get_ready(self) -> None:
        page = granted(self._api.command("/api/wallet/payment-methods"))["checkout_url"]
        pay(page)
        switch_on_auto_topup(self._api, threshold_amount=0, topup_amount=AUTO_TOPUP_USD)

    def shop(self, until: threading.Event) -> None:
        while not until.wait(REST_S):
            self.buy()
            self.look_ahead()

    def buy(self) -> None:
        key = str(uuid4())
        body = {"product_id": str(product_id_of(SLUG))}
        done = self._insist(
            lambda: self._api.command("/api/wallet/purchase-with-topup", body, key),
            lambda purchase: "" if purchase["status"] == "completed" else WITHOUT_MONEY,
        )
        self.purchases[key] = done["purchase_id"]

    @property
    def credited_usd(self) -> int:
        return math.ceil(PRICE_USD * len(self.purchases) / AUTO_TOPUP_USD) * AUTO_TOPUP_USD


class Town:
    """Shoppers at once, each a thread, of whom some are topped up automatically.
    ``is_documented`` is that of :class:`Api`."""

    def __init__(
        self, base_url: str, count: int, *, topped_up: int = 0, is_documented: bool = True
    ) -> None:
        kinds = [ToppedUp] * topped_up + [Shopper] * (count - topped_up)
        self.shoppers = [kind(Api(base_url, is_documented=is_documented)) for kind in kinds]
        self._until = threading.Event()
        self._threads: list[threading.Thread] = []
        self._broken: list[BaseException] = []

    def open(self) -> None:
        for shopper in self.shoppers:
            shopper.register()

    def __enter__(self) -> Self:
        """They shop within this block."""
        self._until.clear()
        self._threads = [
            threading.Thread(target=self._shop, args=(shopper,)) for shopper in self.shoppers
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._until.set()
        for thread in self._threads:
            thread.join()
        assert not self._broken, self._broken

    def _shop(self, shopper: Shopper) -> None:
        try:
            shopper.shop(self._until)
        except BaseException as error:
            self._broken.append(error)

    def goes_on(self, count: int = 20) -> None:
        """Wait until so many more wishes were granted."""
        before = self.granted
        eventually(lambda: self.granted - before, lambda more: more >= count or self._broken)

    @property
    def granted(self) -> int:
        return sum(len(shopper.wishes) for shopper in self.shoppers)

    def wishes(self) -> list[Wish]:
        return [wish for shopper in self.shoppers for wish in list(shopper.wishes)]

    def settles(self) -> None:
        """Wait until everything is as it has to be, of each of them.

        An event whose handler failed while a disk was full is tried again two minutes later.
        """
        for shopper in self.shoppers:
            eventually(shopper.problems, lambda found: not found, interval_s=0.5, within_s=180)

    @property
    def credited_usd(self) -> int:
        return sum(shopper.credited_usd for shopper in self.shoppers)


@dataclass(frozen=True)
class Pause:
    """What people noticed of a fault: how long the longest of their wishes took, in seconds, for
    how long nobody at all was granted anything, and which errors they were shown."""

    fault: str
    granted: int
    longest_wish_s: float
    nobody_s: float
    refused: dict[str, int]

    def __str__(self) -> str:
        refused = ", ".join(f"{count} x {what}" for what, count in sorted(self.refused.items()))
        return (
            f"{self.fault:<40} {self.granted:>5} granted; longest wish {self.longest_wish_s:.1f} s,"
            f" nobody for {self.nobody_s:.1f} s; shown: {refused or 'nothing'}"
        )


def pause_of(town: Town, name: str, fault: Callable[[], None]) -> Pause:
    """Let people shop through a fault, and until all goes on after it."""
    for shopper in town.shoppers:
        shopper.refused.clear()
    with town:
        town.goes_on()
        began_at = time.monotonic()
        fault()
        town.goes_on()
    wishes = [wish for wish in town.wishes() if wish.granted_at > began_at]
    moments = [began_at, *sorted(wish.granted_at for wish in wishes)]
    return Pause(
        name,
        len(wishes),
        max(wish.took_s for wish in wishes),
        max(later - earlier for earlier, later in pairwise(moments)),
        dict(sum((shopper.refused for shopper in town.shoppers), Counter())),
    )


def add_up(system: System, town: Town) -> None:
    """Hold all books against each other, and against what people were granted."""
    town.settles()
    assert captured_usd(system) == town.credited_usd
    verdict = system.rpc.call(Verify())
    assert verdict.clean, verdict.first_difference
    assert not dead_letters(system)
    topup = system.process("topup")
    compared = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "services.topup.reconcile"],
        env=dict(topup.environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr


def dead_letters(system: System) -> dict[str, int]:
    """How many each service of this system has that runs, of those that have any."""
    with kombu.Connection(system.vhost.admin_uri) as connection:
        channel = connection.channel()
        counts = {
            name: channel.queue_declare(dead_letter_queue(name).name, passive=True).message_count
            for name in LISTENERS
            if system.is_running(name)
        }
    assert counts, "none of these services runs"
    return {name: count for name, count in counts.items() if count}


def captured_usd(system: System) -> int:
    """What the card processor took, of all cards, in dollars."""
    total, after = 0, {}
    while True:
        page = requests.get(
            f"{system.sandbox_url}/v1/payment_intents",
            params={"limit": 100, **after},
            auth=("sk_test_local_sandbox", ""),
            timeout=30,
        ).json()
        total += sum(each["amount_received"] for each in page["data"])
        if not page["has_more"]:
            return total // 100
        after = {"starting_after": page["data"][-1]["id"]}
