"""What is due later costs a turn of the sandbox nothing, however much of it there is."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.stripe_sandbox import checkout, events, later, webhooks
from deploy.stripe_sandbox.sandbox import Sandbox
from deploy.stripe_sandbox.settings import Settings
from deploy.stripe_sandbox.store import Store


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(Settings(webhook_url="http://127.0.0.1:1/", later_s=3_600), Store())


def notices(sandbox: Sandbox) -> None:
    sandbox.switches.add({"kind": "webhook_delay", "times": None, "seconds": 3_600.0})
    for number in range(100):
        events.record(sandbox, "customer.created", {"id": f"cus_{number}", "object": "customer"})


def acts(sandbox: Sandbox) -> None:
    for number in range(100):
        later.plan(sandbox, "capture", f"ch_{number}")


def pages(sandbox: Sandbox) -> None:
    for number in range(100):
        expires_at = sandbox.now() + 3_600
        session = {"id": f"cs_{number}", "status": "open", "expires_at": expires_at}
        sandbox.store.put("checkout.session", session)


@pytest.mark.parametrize("waiting", [notices, acts, pages])
def test_a_turn_looks_at_nothing_that_is_due_later(
    sandbox: Sandbox, waiting: Callable[[Sandbox], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(sandbox)
    dispatcher = webhooks.Dispatcher(sandbox)
    dispatcher.turn()
    looked_at: list[tuple[Any, ...]] = []
    for look in ("find", "newest"):
        monkeypatch.setattr(sandbox.store, look, lambda *what: looked_at.append(what) or [])

    dispatcher.turn()
    checkout.expire_all_due(sandbox)

    assert looked_at == []


def test_what_an_earlier_run_left_is_done_when_it_is_due(sandbox: Sandbox) -> None:
    sandbox.store.put("later", {"id": "later_1", "act": "x", "of": "y", "due_at": 5})
    for status in ("open", "complete"):
        session = {"id": f"cs_{status}", "status": status, "expires_at": 6}
        sandbox.store.put("checkout.session", session)
    for state in ("new", "pending", "held", "delivered"):
        sandbox.store.put("delivery", {"id": f"evt_{state}", "state": state, "due_at": 7.0})

    again = Sandbox(sandbox.settings, sandbox.store)

    assert list(again.planned.take(5)) == ["later_1"]
    assert list(again.open_pages.take(6)) == ["cs_open"]
    assert list(again.deliveries.take(7)) == ["evt_new", "evt_pending"]
