"""The faults: one list, each with a name, how it begins and how it ends."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from deploy.parts import LISTENERS, PROCESSES
from tests.faults.chaos.messages import Delays, Repeats, poisons
from tests.faults.chaos.product import DISK_BYTES, SETTINGS, Product

Inject = Callable[[Product, random.Random], AbstractContextManager[None]]

LATENCY_S = {"broker": 0.1, "database": 0.05, "processor": 1.5}
SERVERS = ("database", "broker")
AHEAD = timedelta(days=3)
BEHIND = timedelta(hours=-2)


@dataclass(frozen=True)
class Fault:
    """``injects`` begins it on entering and ends it on leaving. Two that touch the same part are
    not tried at once. ``needs_disk``: the database has to have a disk of its own."""

    name: str
    touches: str
    injects: Inject
    needs_disk: bool = False


def _part(victim: str) -> str:
    """What is touched with a process: the sandbox is the card processor."""
    return "processor" if victim == "sandbox" else victim


def _killed(victim: str) -> Fault:
    @contextmanager
    def injects(product: Product, chance: random.Random) -> Iterator[None]:
        product.kills(victim)
        yield
        product.repairs()

    return Fault(f"{victim} is killed", _part(victim), injects)


def _frozen(victim: str) -> Fault:
    @contextmanager
    def injects(product: Product, chance: random.Random) -> Iterator[None]:
        frozen = product.freezes(victim)
        yield
        for process in frozen:
            if process.is_running():
                process.resume()

    return Fault(f"{victim} is frozen", _part(victim), injects)


def _wire(name: str, what: str, begins: Callable[[Product], Any]) -> Fault:
    @contextmanager
    def injects(product: Product, chance: random.Random) -> Iterator[None]:
        begins(product)
        yield
        product.wires[name].mend()

    return Fault(f"{name} {what}", name, injects)


def _slow(name: str) -> Fault:
    def begins(product: Product) -> None:
        product.wires[name].latency_s = LATENCY_S[name]

    return _wire(name, f"is slow ({LATENCY_S[name] * 1000:.0f} ms each way)", begins)


def _cut(name: str) -> Fault:
    return _wire(name, "hangs up on everybody", lambda product: product.wires[name].cut())


def _silent(name: str) -> Fault:
    return _wire(name, "falls silent", lambda product: product.wires[name].silence())


def _clock(victim: str, by: timedelta, words: str) -> Fault:
    @contextmanager
    def injects(product: Product, chance: random.Random) -> Iterator[None]:
        product.sets_clock(victim, product.ahead + by)
        yield
        product.sets_clock(victim, product.ahead)

    return Fault(f"{victim}'s clock jumps {words}, and back", victim, injects)


@contextmanager
def _full_disk(product: Product, chance: random.Random) -> Iterator[None]:
    ballast = product.disk / "ballast"
    with ballast.open("wb") as file:
        try:
            for _ in range(DISK_BYTES // 65_536):
                file.write(b"\0" * 65_536)
                file.flush()
        except OSError:
            pass
    yield
    ballast.unlink()
    product.repairs()


@contextmanager
def _disk_alarm(product: Product, chance: random.Random) -> Iterator[None]:
    product.node.apply("rabbit_disk_monitor", "set_disk_free_limit", "1000000000000000")
    yield
    product.node.apply("rabbit_disk_monitor", "set_disk_free_limit", "50000000")


@contextmanager
def _repeated(product: Product, chance: random.Random) -> Iterator[None]:
    with Repeats(product, chance.random()):
        yield


@contextmanager
def _delayed(product: Product, chance: random.Random) -> Iterator[None]:
    with Delays(product, chance.random()):
        yield


@contextmanager
def _poisoned(product: Product, chance: random.Random) -> Iterator[None]:
    poisons(product)
    yield


def _processor(name: str, kind: str, **switch: Any) -> Fault:
    """A switch of the sandbox's, for every other request or webhook."""

    @contextmanager
    def injects(product: Product, chance: random.Random) -> Iterator[None]:
        product.sandbox.switch(kind, **{"times": None, **switch})
        yield
        product.sandbox.mend()
        product.sandbox.post("webhooks/release", order="newest_first")

    return Fault(f"processor {name}", "processor", injects)


PAYING = {"path": "/v1/payment_intents*", "method": "POST"}


def _declined(code: str, card: str) -> Fault:
    """Every saved card is declined, and works again afterwards."""

    @contextmanager
    def injects(product: Product, chance: random.Random) -> Iterator[None]:
        cards = [row[0] for row in product.asks("topup", "SELECT payment_method_id FROM cards")]
        for each in cards:
            product.sandbox.behave(each, card)
        yield
        for each in cards:
            product.sandbox.behave(each, "4242424242424242")

    return Fault(f"processor declines: {code}", "processor", injects)


@contextmanager
def _keys_forgotten(product: Product, chance: random.Random) -> Iterator[None]:
    """Answers are lost, and the processor forgets its idempotency keys: after the time in which a
    charge may be sent again, which is five minutes for a product whose keys live for a day."""
    product.sandbox.switch("timeout_after", times=None, seconds=4, match=PAYING)
    yield
    product.sandbox.mend()
    product.sandbox.post("idempotency/prune", in_s=int(SETTINGS["STALE_AFTER_S"]))


DISPUTES = 3
"""So many payments at most are disputed at once."""


@contextmanager
def _disputed(product: Product, chance: random.Random) -> Iterator[None]:
    """Banks take payments back, all of them or a part, and some ask first; then they decide."""
    payments = product.asks(
        "topup",
        "SELECT payment_id FROM topups AS t WHERE status = 'credited' AND NOT EXISTS"
        " (SELECT FROM disputes AS d WHERE d.topup_id = t.topup_id) ORDER BY topup_id",
    )
    opened = [
        product.sandbox.post(
            f"charges/{payment_id}/dispute",
            reason=chance.choice(["fraudulent", "product_not_received", "inquiry"]),
            amount=chance.choice([None, chance.randint(100, 500), chance.randint(100, 500)]),
        )
        for [payment_id] in chance.sample(payments, min(DISPUTES, len(payments)))
    ]
    yield
    for dispute in opened:
        if dispute["status"].startswith("warning") and chance.random() < 0.7:
            product.sandbox.post(f"disputes/{dispute['id']}/escalate")
        outcome = chance.choice(["won", "lost"])
        product.sandbox.post(f"disputes/{dispute['id']}/close", outcome=outcome)


@contextmanager
def _sent_back(product: Product, chance: random.Random) -> Iterator[None]:
    """Banks do not take what is refunded to cards: half of it comes back, also what is older."""
    yield
    for refund in product.sandbox.listed("refunds"):
        if refund["status"] == "succeeded" and chance.random() < 0.5:
            product.sandbox.post(f"refunds/{refund['id']}/fail")


FAULTS = (
    *(_killed(name) for name in (*PROCESSES, *SERVERS)),
    *(_frozen(name) for name in (*PROCESSES, *SERVERS)),
    *(_slow(name) for name in LATENCY_S),
    *(_cut(name) for name in LATENCY_S),
    *(_silent(name) for name in LATENCY_S),
    *(_clock(name, AHEAD, "3 days ahead") for name in LISTENERS),
    *(_clock(name, BEHIND, "2 hours back") for name in LISTENERS),
    Fault("database's disk is full", "database", _full_disk, needs_disk=True),
    Fault("broker's disk alarm", "broker", _disk_alarm),
    Fault("events are repeated", "broker", _repeated),
    Fault("events are delayed and reordered", "broker", _delayed),
    Fault("events and calls are spoiled", "broker", _poisoned),
    _processor("answers with 500", "error_before"),
    _processor("charges, and answers with 500", "error_after", match=PAYING),
    _processor("says nothing", "timeout_before", seconds=4),
    _processor("charges, and says nothing", "timeout_after", seconds=4, match=PAYING),
    _processor("hangs up", "reset_before"),
    _processor("charges, and hangs up", "reset_after", match=PAYING),
    _processor("says 429", "rate_limit"),
    _processor("takes 5 s (409 for who asks again)", "latency", seconds=5, match=PAYING),
    _processor("tells late", "webhook_delay", seconds=6),
    _processor("tells three times", "webhook_repeat", copies=3),
    _processor("tells in another order", "webhook_hold"),
    _processor("tells nothing", "webhook_drop"),
    Fault("processor charges, says nothing, forgets keys", "processor", _keys_forgotten),
    _declined("insufficient_funds", "4000000000009995"),
    _declined("stolen_card", "4000000000009979"),
    _declined("authentication_required", "4000002760003184"),
    Fault("payments are disputed, and the banks decide", "processor", _disputed),
    Fault("refunds to cards come back", "processor", _sent_back),
)


def some_of(faults: list[Fault], chance: random.Random, count: int) -> list[Fault]:
    """So many at most, each of another part, in the order in which they can begin: what needs the
    database or the broker to begin and to end comes before what disturbs these."""
    found: dict[str, Fault] = {}
    for fault in chance.sample(faults, min(2 * count, len(faults))):
        if len(found) < count:
            found.setdefault(fault.touches, fault)
    return sorted(found.values(), key=lambda fault: fault.touches in SERVERS)
