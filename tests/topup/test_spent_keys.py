"""A 500 stays under our key at the card processor: what charges nobody is made under the next."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from chassis.identifiers import new_id
from contracts.errors import Unavailable
from contracts.topup import StartCardSetup
from deploy.stripe_sandbox.server import SandboxServer
from services.topup import spent_keys
from services.topup.charging import checkout
from services.topup.models import SpentKey
from services.topup.processor import KeySpent, Object, Processor
from tests.patience import insist
from tests.topup.conftest import USD, Customer, Desk
from tests.topup.test_lost_answers import count

CUSTOMERS, SESSIONS = "/v1/customers", "/v1/checkout/sessions"

broken = pytest.mark.parametrize("kind", ["error_before", "error_after"])
made = pytest.mark.parametrize("path", [CUSTOMERS, SESSIONS])


def break_down(desk: Desk, kind: str, path: str, times: int | None = 1) -> None:
    desk.sandbox.switch(kind, match={"method": "POST", "path": path}, times=times)


def attempts(desk: Desk) -> list[int]:
    with desk.till.database.read() as session:
        return [row.attempt for row in session.query(SpentKey)]


def buying(desk: Desk) -> Callable[[], str | None]:
    customer, key = Customer(desk, new_id()), str(uuid.uuid4())
    return lambda: customer.start_topup(idempotency_key=key).checkout_url


def saving_a_card(desk: Desk) -> Callable[[], str | None]:
    command = StartCardSetup(idempotency_key="key", user_id=new_id(), email="a@example.com")
    return lambda: checkout.start_card_setup(desk.till, command).checkout_url


@broken
@made
@pytest.mark.parametrize("wish", [buying, saving_a_card])
def test_a_page_is_opened_though_the_processor_broke_down_once(
    desk: Desk,
    sandbox_server: SandboxServer,
    kind: str,
    path: str,
    wish: Callable[[Desk], Callable[[], str | None]],
) -> None:
    ask = wish(desk)
    break_down(desk, kind, path)

    assert len({ask() for _ in range(2)}) == 1
    assert count(sandbox_server, "customer") == 1


@broken
def test_what_a_500_has_opened_is_the_page_and_there_is_no_other(
    desk: Desk, sandbox_server: SandboxServer, kind: str
) -> None:
    ask = buying(desk)
    break_down(desk, kind, SESSIONS)
    ask()

    assert count(sandbox_server, "checkout.session") == 1


@made
@pytest.mark.parametrize("wish", [buying, saving_a_card])
def test_whoever_repeats_a_request_gets_a_page_soon_after_an_hour_of_500s(
    desk: Desk, path: str, wish: Callable[[Desk], Callable[[], str | None]]
) -> None:
    ask = wish(desk)
    break_down(desk, "error_before", path, times=None)
    for _ in range(60):
        with pytest.raises(Unavailable):
            ask()
        desk.clock.advance(minutes=1)
    (spent,) = attempts(desk)
    desk.sandbox.mend()
    desk.clock.advance(seconds=spent_keys.LONGEST_WAIT.total_seconds())

    assert ask() is not None
    assert spent < 20


def test_a_clock_that_is_set_back_is_not_waited_for(desk: Desk) -> None:
    ask = buying(desk)
    break_down(desk, "error_before", SESSIONS, times=None)
    with pytest.raises(Unavailable):
        ask()
    desk.sandbox.mend()
    desk.clock.set(desk.clock() - timedelta(hours=3))

    assert ask() is not None


def test_the_next_key_is_written_down_before_it_is_used(
    desk: Desk, sandbox_server: SandboxServer
) -> None:
    ask = buying(desk)
    break_down(desk, "error_before", SESSIONS)
    desk.sandbox.switch("reset_after", match={"path": SESSIONS, "idempotency_key": "*:2"})

    with pytest.raises(Unavailable):
        ask()

    assert ask() is not None
    assert (attempts(desk), count(sandbox_server, "checkout.session")) == ([2], 1)


def test_no_next_key_is_taken_where_nobody_says_what_the_500_has_made(
    desk: Desk, sandbox_server: SandboxServer
) -> None:
    ask = buying(desk)
    break_down(desk, "error_after", SESSIONS)
    desk.sandbox.switch("reset_before", match={"method": "GET", "path": SESSIONS})

    with pytest.raises(Unavailable):
        ask()
    assert attempts(desk) == []
    assert ask() is not None
    assert count(sandbox_server, "checkout.session") == 1


def test_many_who_hear_of_it_at_once_take_the_same_next_key(
    desk: Desk, sandbox_server: SandboxServer
) -> None:
    ask = buying(desk)
    break_down(desk, "error_before", SESSIONS, times=1)

    with ThreadPoolExecutor(8) as pool:
        opened = set(pool.map(lambda _: _or_none(ask), range(8)))

    assert len(opened - {None}) == 1
    assert (attempts(desk), count(sandbox_server, "checkout.session")) == ([2], 1)


def _or_none(ask: Callable[[], str | None]) -> str | None:
    """The same key is in use at the processor while another one asks."""
    try:
        return insist(ask)
    except Unavailable:
        return None


@broken
def test_the_link_to_confirm_a_charge_is_sent_though_the_first_page_failed(
    desk: Desk, sandbox_server: SandboxServer, kind: str
) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    before = count(sandbox_server, "checkout.session")
    break_down(desk, kind, SESSIONS)

    customer.ask()

    (topup,) = customer.topups()
    told = [e["confirm_url"] for e in customer.events("auto_topup_paused")]
    assert (topup.status, told) == ("action_required", [topup.checkout_url])
    assert count(sandbox_server, "checkout.session") == before + 1


@pytest.mark.parametrize("paid", [(0,), (1,), (0, 1), (1, 0)])
def test_what_is_paid_on_a_page_that_nobody_knew_of_is_credited_or_shown_to_operators(
    desk: Desk,
    sandbox_server: SandboxServer,
    monkeypatch: pytest.MonkeyPatch,
    paid: tuple[int, ...],
) -> None:
    monkeypatch.setattr(Processor, "find_open_session", lambda *_: None)
    customer = Customer(desk, new_id())
    break_down(desk, "error_after", SESSIONS)
    customer.start_topup(25 * USD)
    with sandbox_server.sandbox.store.lock:
        pages = [page["id"] for page in sandbox_server.sandbox.store.newest("checkout.session")]
    assert len(pages) == 2

    for place in paid:
        desk.sandbox.pay(pages[place])
        checkout.settle_session(desk.till, pages[place])

    (topup,) = customer.topups()
    assert topup.status == "paid"
    assert topup.problem.startswith("paid twice") == (len(paid) == 2)
    assert len(customer.events("topup_paid")) == 1


def test_a_charge_is_never_sent_under_another_key(desk: Desk) -> None:
    customer = desk.customer()
    break_down(desk, "error_after", "/v1/payment_intents")
    customer.ask()
    desk.clock.advance(minutes=2)
    desk.sweep()

    assert (customer.charge_count(), customer.statuses(), attempts(desk)) == (1, ["paid"], [])


def test_whoever_was_slow_takes_the_next_key_that_somebody_else_took(desk: Desk) -> None:
    def create(key: str) -> Object:
        if key == "page":
            raise KeySpent("Something went wrong at our end.", "processor_failed")
        return {"id": key}

    def find_slowly() -> None:
        spent_keys.make(desk.till, "page", create, lambda: None)
        desk.clock.advance(minutes=1)

    assert spent_keys.make(desk.till, "page", create, find_slowly) == {"id": "page:2"}
    assert attempts(desk) == [2]
