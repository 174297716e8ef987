"""Nothing sent is nothing charged: told from a call whose answer was lost, for every try of it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from chassis.identifiers import new_id
from contracts.topup import TopupKind, TopupStatus
from services.topup import topups
from services.topup.automatic import limits
from services.topup.charging import charges
from services.topup.processor import UNREACHED, OutcomeUnknown, Processor, Unreached
from tests.patience import PATIENCE_S
from tests.topup.conftest import USD, Customer, Desk, Sandbox


def processor(url: str, retries: int = 0, read_timeout_s: float = 20) -> Processor:
    return Processor(
        "sk_test_of_the_tests",
        api_base=url,
        connect_timeout_s=30,
        read_timeout_s=read_timeout_s,
        network_retries=retries,
    )


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def hanging_up_once(answer: bytes = b"") -> Iterator[str]:
    """A server that takes one connection, says this, hangs up, and is gone."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            listener.close()
            connection.recv(65_536)
            connection.sendall(answer)
            connection.close()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.join(PATIENCE_S)


def error_of(asked: Processor) -> OutcomeUnknown:
    with pytest.raises(OutcomeUnknown) as caught:
        asked.get_payment("pi_1")
    return caught.value


@pytest.mark.parametrize("retries", [0, 1])
def test_a_refused_connection_is_nothing_sent(retries: int) -> None:
    error = error_of(processor(f"http://127.0.0.1:{unused_port()}", retries))

    assert isinstance(error, Unreached)


def test_a_name_that_does_not_exist_is_nothing_sent() -> None:
    assert isinstance(error_of(processor("http://processor.invalid")), Unreached)


def test_a_server_without_tls_is_nothing_sent(sandbox: Sandbox) -> None:
    assert isinstance(error_of(processor(sandbox.url.replace("http:", "https:"))), Unreached)


@pytest.mark.parametrize("kind", ["reset_before", "timeout_before"])
def test_an_answer_that_is_lost_may_have_been_sent(sandbox: Sandbox, kind: str) -> None:
    sandbox.switch(kind, match={"method": "GET"}, seconds=3)

    assert not isinstance(error_of(processor(sandbox.url, read_timeout_s=2)), Unreached)


def test_a_kept_connection_that_breaks_may_have_sent(sandbox: Sandbox) -> None:
    asked = processor(sandbox.url)
    asked.customers_by_email("nobody@example.com")
    sandbox.switch("reset_before", match={"method": "GET"})

    assert not isinstance(error_of(asked), Unreached)


def test_a_first_try_that_may_have_arrived_counts_though_the_last_one_was_refused() -> None:
    with hanging_up_once() as url:
        error = error_of(processor(url, retries=1))

    assert not isinstance(error, Unreached)


def test_a_redirect_is_not_followed() -> None:
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen(1)
        elsewhere.settimeout(0)
        place = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        answer = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
        with hanging_up_once(answer.encode()) as url:
            error = error_of(processor(url))

        with pytest.raises(BlockingIOError):
            elsewhere.accept()

    assert not isinstance(error, Unreached)


def test_behind_a_proxy_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging_up_once() as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        error = error_of(processor("http://processor.invalid"))

    assert not isinstance(error, Unreached)


def go_away(desk: Desk) -> Processor:
    """The processor cannot be reached; what it was."""
    before = desk.till.processor
    desk.till = replace(desk.till, processor=processor(f"http://127.0.0.1:{unused_port()}"))
    return before


def ask_in_vain(desk: Desk, **event: object) -> Customer:
    """Somebody whose purchase asked for a charge while the processor was away for a moment."""
    customer = desk.customer()
    back = go_away(desk)
    customer.ask(needed_micros=5 * USD, **event)
    desk.till = replace(desk.till, processor=back)
    return customer


def test_a_processor_that_was_away_for_a_moment_is_asked_again_after_a_minute(desk: Desk) -> None:
    customer = ask_in_vain(desk)
    before = customer.statuses()

    desk.clock.advance(seconds=61)
    desk.sweep()

    assert (before, customer.statuses()) == (["cancelled"], ["cancelled", "paid"])
    assert customer.charge_count() == 1


def test_while_it_stays_away_it_is_asked_every_five_minutes_and_the_fuse_holds(desk: Desk) -> None:
    customer = desk.customer()
    back = go_away(desk)
    customer.ask()
    for _ in range(59):
        desk.clock.advance(minutes=1, seconds=1)
        desk.sweep()
    tries = len(customer.topups())
    desk.till = replace(desk.till, processor=back)

    desk.clock.advance(minutes=5)
    desk.sweep()

    assert tries == 13
    assert customer.statuses()[-1] == "paid"
    assert customer.charge_count() == 1


def test_other_users_are_charged_meanwhile(desk: Desk) -> None:
    ask_in_vain(desk)
    other = desk.customer()

    other.ask()

    assert other.statuses() == ["paid"]


def test_what_somebody_else_has_taken_up_meanwhile_stays_unknown(desk: Desk) -> None:
    customer = desk.customer()
    trigger_id = customer.raise_trigger()
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    (topup,) = customer.topups()
    with desk.till.database.begin() as session:
        sent = topups.lock(session, topup.topup_id)
        charges._mark_sent(session, sent, desk.till.policy, desk.clock())
    with desk.till.database.begin() as session:
        session.merge(sent).next_look_at = desk.clock() + timedelta(minutes=9)
    go_away(desk)

    charges.send(desk.till, sent)

    assert customer.statuses() == ["unknown"]


def test_a_call_of_a_process_that_died_may_arrive_though_the_next_one_reached_nobody(
    desk: Desk,
) -> None:
    customer = desk.customer()
    trigger_id = customer.raise_trigger()
    assert trigger_id is not None
    charges.pursue(desk.till, trigger_id)
    (topup,) = customer.topups()
    with desk.till.database.begin() as session:
        sent = topups.lock(session, topup.topup_id)
        charges._mark_sent(session, sent, desk.till.policy, desk.clock())
    # Sent, and then the process died. The janitor is told of no payment yet; right then the
    # processor goes away, comes back, and has had the first call all the while.
    back = go_away(desk)
    desk.till.processor.find_payments = back.find_payments  # type: ignore[method-assign]
    desk.clock.advance(seconds=61)
    desk.sweep()
    before = customer.statuses()
    desk.till = replace(desk.till, processor=back)
    charge_late(desk, customer, topup.topup_id)

    for _ in range(4):
        desk.clock.advance(minutes=5)
        desk.sweep()

    assert (before, customer.statuses()) == (["unknown"], ["paid"])
    assert customer.charge_count() == 1


def charge_late(desk: Desk, customer: Customer, topup_id: UUID) -> None:
    """The call that was on its way arrives."""
    desk.till.processor.charge_off_session(
        customer_id=customer.customer_id,
        payment_method_id=customer.cards()[0],
        amount_cents=25_00,
        topup_id=str(topup_id),
        user_id=str(customer.user_id),
    )


def test_a_page_that_could_not_be_opened_is_no_automatic_attempt(desk: Desk) -> None:
    customer, now = desk.customer(), desk.clock()

    def fail(kind: TopupKind) -> int:
        with desk.till.database.begin() as session:
            topup = topups.new(customer.user_id, kind, 25 * USD, str(new_id()), now)
            topup.status, topup.failure_code = TopupStatus.FAILED, UNREACHED
            session.add(topup)
            session.flush()
            return limits.unsent_count(session, customer.user_id, now)

    assert [fail(kind) for kind in (TopupKind.MANUAL, TopupKind.AUTO, TopupKind.MANUAL)] == [
        0,
        1,
        1,
    ]
