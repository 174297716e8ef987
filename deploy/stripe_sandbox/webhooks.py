"""Delivery of events: signed, retried with a growing delay, at least once, in no certain order.

One thread decides what is due; a few others send, so that a slow receiver does not hold up all.
A delivery is: new ─▶ pending ─▶ delivered | failed;  new ─▶ held ─▶ pending;  new ─▶ dropped.
"""

import http.client
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from . import checkout, events, later, library
from .sandbox import Sandbox
from .store import Object
from .switches import WEBHOOK_KINDS, Switch

SENDERS = 4
TIMEOUT_S = 10.0
ATTEMPTS_MAX = 40
RETRY_DELAY_S_MAX = 300.0
_SWEEP_S = 5.0
_log = logging.getLogger("stripe_sandbox.webhooks")


class Dispatcher:
    """Sends what `events.record` queued, until stopped."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._busy: set[str] = set()
        self._behind: dict[str, list[str]] = {}
        """Those that are sent after another one, by its id, once that was tried."""
        self._swept_at = time.monotonic()
        self._pool = ThreadPoolExecutor(SENDERS, "webhook")
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after what is being sent right now."""
        self._sandbox.stopping.set()
        self._sandbox.wake.set()
        self._thread.join(TIMEOUT_S)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        while not self._sandbox.stopping.is_set():
            self._sandbox.wake.clear()
            try:
                pause = self.turn()
            except Exception:
                _log.exception("The webhook thread had an error and goes on.")
                pause = 1.0
            self._sandbox.wake.wait(pause)

    def turn(self) -> float:
        """Do whatever is due; returns the seconds until something may be due again."""
        with self._sandbox.store.transaction():
            next_s = later.run_due(self._sandbox)
        pause = min(self._send_due(), _SWEEP_S if next_s is None else max(0.05, next_s))
        if time.monotonic() - self._swept_at > _SWEEP_S:
            self._swept_at = time.monotonic()
            with self._sandbox.store.transaction():
                checkout.expire_all_due(self._sandbox)
        return pause

    def _send_due(self) -> float:
        """Hand what is due to the senders; returns the seconds until the next one is."""
        with self._sandbox.store.transaction():
            now = time.time()
            for event_id in self._sandbox.deliveries.take(now):
                delivery = self._sandbox.store.find("delivery", event_id)
                # One that is being sent is put back by whoever sends it.
                if delivery is not None and event_id not in self._busy:
                    self._hand_on(delivery, now)
            next_at = self._sandbox.deliveries.next_at()
        return _SWEEP_S if next_at is None else min(_SWEEP_S, max(0.01, next_at - now))

    def _hand_on(self, delivery: Object, now: float) -> None:
        if delivery["state"] == "new":
            self._plan(delivery, now)
        if delivery["state"] != "pending":
            return
        if delivery["due_at"] > now:
            self._sandbox.deliveries.put(delivery["due_at"], delivery["id"])
        elif self._is_behind(delivery):
            self._behind.setdefault(delivery["after"], []).append(delivery["id"])
        else:
            self._busy.add(delivery["id"])
            self._pool.submit(self._send, delivery["id"])

    def _is_behind(self, delivery: Object) -> bool:
        before = self._sandbox.store.find("delivery", delivery["after"])
        return before is not None and before["attempts"] == 0

    def _plan(self, delivery: Object, now: float) -> None:
        """Apply the switches that fit a new delivery."""
        delivery |= {"state": "pending", "due_at": now}
        if self._sandbox.switches:
            event = self._sandbox.store.get("event", delivery["id"])
            facts = {
                "type": event["type"],
                **events.about(self._sandbox, event["data"]["object"]),
            }
            for switch in self._sandbox.switches.take(WEBHOOK_KINDS, facts):
                self._apply(switch, delivery, now)
        self._sandbox.store.put("delivery", delivery)

    def _apply(self, switch: Switch, delivery: Object, now: float) -> None:
        if switch.kind == "webhook_delay":
            delivery["due_at"] = now + switch.seconds
        elif switch.kind == "webhook_repeat":
            delivery["copies"] = switch.copies
        elif switch.kind == "webhook_hold":
            delivery["state"] = "held"
        elif switch.kind == "webhook_drop":
            delivery["state"] = "dropped"
        else:
            delivery["state"] = "held"
            switch.gathered.append(delivery["id"])
            if len(switch.gathered) == switch.count:
                release(self._sandbox, switch.gathered[::-1])

    def _send(self, event_id: str) -> None:
        try:
            with self._sandbox.store.lock:
                event = dict(self._sandbox.store.get("event", event_id))
                url = self._sandbox.store.get("delivery", event_id)["url"]
            status = _post(url, json.dumps(event), self._sandbox.settings.webhook_secret)
            with self._sandbox.store.transaction():
                self._note(event_id, status)
        except Exception:
            _log.exception("Event %s could not be sent.", event_id)
        finally:
            with self._sandbox.store.lock:
                self._busy.discard(event_id)
                for each in (event_id, *self._behind.pop(event_id, ())):
                    self._put_back(each)
            self._sandbox.wake.set()

    def _put_back(self, event_id: str) -> None:
        delivery = self._sandbox.store.find("delivery", event_id)
        if delivery is not None and delivery["state"] == "pending":
            self._sandbox.deliveries.put(delivery["due_at"], event_id)

    def _note(self, event_id: str, status: int | None) -> None:
        delivery = self._sandbox.store.find("delivery", event_id)
        if delivery is None:
            return
        delivery["attempts"] += 1
        delivery["last_status"] = status
        if status is not None and 200 <= status < 300:
            delivery["sent"] += 1
            if delivery["sent"] >= delivery["copies"]:
                self._finish(delivery, "delivered")
        elif delivery["attempts"] >= ATTEMPTS_MAX:
            self._finish(delivery, "failed")
        else:
            first = self._sandbox.settings.webhook_retry_s
            delay = min(first * 2 ** (delivery["attempts"] - 1), RETRY_DELAY_S_MAX)
            delivery["due_at"] = time.time() + delay
        self._sandbox.store.put("delivery", delivery)

    def _finish(self, delivery: Object, state: str) -> None:
        delivery["state"] = state
        if state == "delivered":
            event = self._sandbox.store.get("event", delivery["id"])
            event["pending_webhooks"] = 0
            self._sandbox.store.put("event", event)


def release(sandbox: Sandbox, event_ids: list[str]) -> int:
    """Send held deliveries, one after the other in this order. The caller holds the lock."""
    before: str | None = None
    for event_id in event_ids:
        delivery = sandbox.store.get("delivery", event_id)
        delivery |= {"state": "pending", "due_at": time.time(), "after": before}
        sandbox.store.put("delivery", delivery)
        sandbox.deliveries.put(delivery["due_at"], event_id)
        before = event_id
    sandbox.wake.set()
    return len(event_ids)


def send_again(sandbox: Sandbox, event_id: str, copies: int = 1) -> Object:
    """Send an event again, whatever became of it. The caller holds the lock."""
    event = sandbox.store.get("event", event_id)
    delivery = sandbox.store.find("delivery", event_id)
    if delivery is None:
        delivery = events.new_delivery(event, sandbox)
    delivery |= {"state": "pending", "due_at": time.time(), "after": None}
    delivery |= {"sent": 0, "copies": copies}
    sandbox.deliveries.put(delivery["due_at"], event_id)
    sandbox.wake.set()
    return sandbox.store.put("delivery", delivery)


def _post(url: str, body: str, secret: str) -> int | None:
    """Send one signed event; returns the HTTP status, or None when nobody answered."""
    signature = library.module().WebhookSignature.generate_signature_header(body, secret)
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request(
            "POST",
            parts.path + (f"?{parts.query}" if parts.query else "") or "/",
            body.encode(),
            {
                "Content-Type": "application/json; charset=utf-8",
                "Stripe-Signature": signature,
                "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            },
        )
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
