"""One purchase has one payer at a time: a card page, or auto top-up, and never both."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chassis.money import format_usd
from contracts.errors import (
    AccountFrozen,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    Unavailable,
)
from contracts.topup import RefusalCode, Topup, Trigger
from services.topup import topups
from services.topup.automatic import pages
from services.topup.automatic.rule import Refusal
from services.topup.charging import checkout
from tests.crashes import Died, dies_at
from tests.topup.conftest import USD, Card, Customer, Desk

PRICE = 32 * USD


class Buyer:
    """Somebody whose auto top-up is on, and who waits for a purchase of $32."""

    def __init__(self, desk: Desk, *, number: str = Card.GOOD, **settings: Any) -> None:
        self.desk = desk
        self.customer: Customer = desk.customer(number, **settings)
        self.purchase_id = uuid.uuid4()

    def open_page(self, amount_micros: int = PRICE, **changes: Any) -> Topup:
        opened: Topup = self.customer.start_topup(
            amount_micros, purchase_id=self.purchase_id, **changes
        )
        return opened

    def lacks_money(self) -> Any:
        """Billing says that the purchase is short of funds."""
        reference = str(self.purchase_id)
        return self.customer.ask(Trigger.PURCHASE, needed_micros=PRICE, reference=reference)

    def session_of(self, topup: Topup) -> str:
        (row,) = [row for row in self.customer.topups() if row.topup_id == topup.topup_id]
        return str(row.session_id)

    def status_at_processor(self, topup: Topup) -> str:
        return str(self.desk.till.processor.get_session(self.session_of(topup))["status"])

    def pay(self, topup: Topup) -> None:
        self.desk.sandbox.pay(self.session_of(topup))

    def complete(self) -> None:
        self.customer.end_purchase(str(self.purchase_id), pages.PAID_OTHERWISE)

    def end_unpaid(self) -> None:
        self.customer.end_purchase(str(self.purchase_id), pages.ENDED)

    def open_pages(self) -> list[Any]:
        """At the processor, of this customer's, to pay on."""
        sessions = self.desk.till.processor._client.v1.checkout.sessions
        found = self.desk.till.processor._list(
            sessions.list, {"customer": self.customer.customer_id, "status": "open"}
        )
        return [page["id"] for page in found if page["mode"] == "payment"]

    def refusal(self) -> str:
        outcome = self.lacks_money()
        return outcome.code if isinstance(outcome, Refusal) else ""


@pytest.fixture
def buyer(desk: Desk) -> Buyer:
    found = Buyer(desk)
    desk.clock.advance(minutes=10)
    return found


# What else may pay while a page is open


def test_while_a_page_is_open_auto_topup_leaves_the_purchase_to_it(buyer: Buyer) -> None:
    buyer.open_page()

    assert (buyer.refusal(), buyer.customer.charge_count()) == (RefusalCode.CARD_PAGE_OPEN, 0)


def test_a_page_that_was_opened_during_the_cool_down_is_the_only_payer(
    desk: Desk, buyer: Buyer
) -> None:
    buyer.customer.ask(needed_micros=5 * USD)
    buyer.customer.credited()
    desk.clock.advance(seconds=1)
    assert buyer.refusal() == RefusalCode.COOL_DOWN
    page = buyer.open_page()

    desk.clock.advance(minutes=2)
    desk.sweep()
    buyer.pay(page)
    checkout.refresh(desk.till, buyer.customer.user_id, page.topup_id)
    desk.clock.advance(minutes=2)
    desk.sweep()

    assert buyer.customer.charged_cents() == 25_00 + 32_00


def test_what_a_page_pays_for_is_no_part_of_another_charge(desk: Desk, buyer: Buyer) -> None:
    buyer.open_page()
    buyer.lacks_money()

    charge = buyer.customer.ask(needed_micros=30 * USD, total_shortfall_micros=30 * USD + PRICE)

    assert charge.amount_micros == 30 * USD


def test_a_page_that_is_not_paid_hands_the_purchase_back(desk: Desk, buyer: Buyer) -> None:
    page = buyer.open_page()
    buyer.lacks_money()

    desk.clock.advance(minutes=31)
    desk.sweep()
    desk.clock.advance(seconds=6)
    desk.sweep()

    assert buyer.status_at_processor(page) == "expired"
    assert buyer.customer.charged_cents() == 32_00


def test_a_page_whose_closing_failed_is_closed_by_the_janitor(desk: Desk, buyer: Buyer) -> None:
    page = buyer.open_page()
    desk.sandbox.switch("reset_before", match={"path": "/v1/checkout/sessions/*/expire"}, times=2)
    buyer.complete()

    desk.sweep()
    before = buyer.status_at_processor(page)
    for _ in range(2):
        desk.clock.advance(seconds=31)
        desk.sweep()

    assert (before, buyer.status_at_processor(page)) == ("open", "expired")


def test_the_end_of_another_page_leaves_the_one_on_which_it_is_paid(
    desk: Desk, buyer: Buyer
) -> None:
    page = buyer.open_page()
    other = desk.till.processor.create_payment_session(
        customer_id=buyer.customer.customer_id, amount_cents=32_00, topup_id=str(page.topup_id),
        user_id=str(buyer.customer.user_id), save_card=False, success_url="http://127.0.0.1/",
        cancel_url="http://127.0.0.1/", idempotency_key="another",
    )  # fmt: skip

    checkout.settle_session(desk.till, other["id"])
    checkout.close_page(desk.till, other["id"])
    before = buyer.customer.statuses()
    buyer.pay(page)
    checkout.settle_session(desk.till, buyer.session_of(page))

    assert (before, buyer.customer.statuses()) == (["processing"], ["paid"])


# A purchase that is funded otherwise


def test_a_purchase_that_was_paid_otherwise_closes_its_page(desk: Desk, buyer: Buyer) -> None:
    page = buyer.open_page()
    buyer.complete()

    desk.sweep()

    (row,) = buyer.customer.topups()
    assert buyer.status_at_processor(page) == "expired"
    assert (row.status, row.failure_message) == ("cancelled", pages.PAID_OTHERWISE)


def test_a_purchase_that_ended_unpaid_closes_its_page(desk: Desk, buyer: Buyer) -> None:
    page = buyer.open_page()
    buyer.end_unpaid()

    desk.sweep()

    (row,) = buyer.customer.topups()
    assert buyer.status_at_processor(page) == "expired"
    assert (row.status, row.failure_message) == ("cancelled", pages.ENDED)


def test_nobody_is_led_to_a_page_that_is_to_be_closed(desk: Desk, buyer: Buyer) -> None:
    key = str(uuid.uuid4())
    buyer.open_page(idempotency_key=key)
    buyer.complete()

    assert buyer.open_page(idempotency_key=key).checkout_url is None


def test_a_page_that_is_paid_at_the_moment_of_its_closing_is_credited_once(
    desk: Desk, buyer: Buyer
) -> None:
    page = buyer.open_page()
    buyer.complete()
    buyer.pay(page)

    desk.sweep()
    desk.sweep()

    assert buyer.customer.statuses() == ["paid"]
    assert len(buyer.customer.events("topup_paid")) == 1
    assert buyer.customer.charged_cents() == 32_00


def test_the_page_to_confirm_a_charge_is_closed_when_its_purchase_is_paid_otherwise(
    desk: Desk,
) -> None:
    buyer = Buyer(desk, number=Card.ASKS_ALWAYS)
    desk.clock.advance(minutes=10)
    buyer.lacks_money()
    (asked,) = buyer.customer.topups()
    assert asked.status == "action_required"

    buyer.complete()
    desk.sweep()

    session = desk.till.processor.get_session(str(asked.session_id))
    settings = buyer.customer.settings()
    assert (session["status"], buyer.customer.statuses()) == ("expired", ["cancelled"])
    assert (settings.paused_code, settings.confirm_url) == ("not_confirmed", None)


def test_a_charge_whose_purchase_ended_before_the_link_was_made_has_no_page(desk: Desk) -> None:
    buyer = Buyer(desk, number=Card.ASKS_ALWAYS)
    desk.clock.advance(minutes=10)
    desk.sandbox.switch("reset_before", match={"path": "/v1/checkout/sessions"})
    buyer.lacks_money()
    buyer.complete()

    desk.sweep()

    (row,) = buyer.customer.topups()
    assert (row.status, row.session_id) == ("cancelled", None)
    assert buyer.open_pages() == []


def test_a_charge_whose_purchase_ends_while_the_link_is_made_is_closed_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    buyer = Buyer(desk, number=Card.ASKS_ALWAYS)
    desk.clock.advance(minutes=10)

    def meanwhile(name: str) -> None:
        if name == "topup.after_confirm_page":
            buyer.complete()

    monkeypatch.setattr(checkout, "crash_point", meanwhile)
    buyer.lacks_money()
    before = len(buyer.open_pages())

    desk.sweep()

    assert (before, buyer.open_pages()) == (1, [])
    assert buyer.customer.statuses() == ["cancelled"]


# Two pages for one purchase


def test_a_second_page_for_a_purchase_closes_the_first(desk: Desk, buyer: Buyer) -> None:
    first = buyer.open_page()
    second = buyer.open_page(40 * USD)

    assert buyer.status_at_processor(first) == "expired"
    assert buyer.status_at_processor(second) == "open"
    assert buyer.customer.topups()[0].failure_message == pages.REPLACED


def test_a_second_page_is_refused_when_the_first_was_paid(desk: Desk, buyer: Buyer) -> None:
    buyer.pay(buyer.open_page())

    with pytest.raises(Conflict, match="being confirmed"):
        buyer.open_page()

    assert buyer.customer.statuses() == ["paid"]


def test_a_second_page_is_refused_while_the_first_cannot_be_closed(
    desk: Desk, buyer: Buyer
) -> None:
    first = buyer.open_page()
    desk.sandbox.switch("reset_before", match={"path": "/v1/checkout/sessions/*/expire"})

    with pytest.raises(Unavailable):
        buyer.open_page()

    desk.clock.advance(seconds=31)
    desk.sweep()
    assert buyer.status_at_processor(first) == "expired"


def test_many_pages_for_one_purchase_opened_at_once_leave_one_that_can_be_paid(
    desk: Desk, buyer: Buyer
) -> None:
    def open_page(_number: int) -> Topup | None:
        try:
            return buyer.open_page()
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as threads:
        opened = [page for page in threads.map(open_page, range(8)) if page is not None]

    usable = [row for row in buyer.customer.topups() if row.status in topups.PAYABLE]
    payable = [
        page for page in opened if page.checkout_url and buyer.status_at_processor(page) == "open"
    ]
    assert (len(usable), len(payable)) == (1, 1)


def test_one_request_for_a_page_sent_many_times_at_once_opens_one(desk: Desk, buyer: Buyer) -> None:
    key = str(uuid.uuid4())

    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(lambda _number: buyer.open_page(idempotency_key=key), range(8)))

    again = buyer.open_page(idempotency_key=key)
    assert {page.topup_id for page in opened} == {again.topup_id}
    assert buyer.status_at_processor(again) == "open"
    assert again.checkout_url is not None


def test_a_page_of_somebody_elses_purchase_is_in_nobodys_way(desk: Desk, buyer: Buyer) -> None:
    stranger = Buyer(desk)
    stranger.purchase_id = buyer.purchase_id
    stranger.open_page()

    assert buyer.open_page().checkout_url is not None


# Opening a page while something else pays


def test_no_page_is_opened_while_an_automatic_charge_is_in_flight(desk: Desk, buyer: Buyer) -> None:
    desk.sandbox.switch("reset_after", match={"path": "/v1/payment_intents"})
    buyer.lacks_money()
    assert buyer.customer.statuses() == ["unknown"]

    with pytest.raises(Conflict, match="being confirmed"):
        buyer.open_page()


def test_no_page_is_opened_while_paid_credits_are_on_their_way(desk: Desk, buyer: Buyer) -> None:
    buyer.lacks_money()
    assert buyer.customer.statuses() == ["paid"]

    with pytest.raises(Conflict, match="being confirmed"):
        buyer.open_page()


def test_no_page_is_opened_beside_the_link_to_confirm_the_charge(desk: Desk) -> None:
    buyer = Buyer(desk, number=Card.ASKS_ALWAYS)
    desk.clock.advance(minutes=10)
    buyer.lacks_money()

    with pytest.raises(Conflict, match="being confirmed"):
        buyer.open_page()


def test_after_a_decline_the_purchase_can_be_paid_by_hand(desk: Desk) -> None:
    buyer = Buyer(desk, number=Card.DECLINED_WHEN_CHARGED)
    desk.clock.advance(minutes=10)
    buyer.lacks_money()

    assert buyer.open_page().checkout_url is not None


@pytest.mark.parametrize("end", [Buyer.complete, Buyer.end_unpaid])
def test_no_page_is_opened_for_a_purchase_that_has_ended(
    buyer: Buyer, end: Callable[[Buyer], None]
) -> None:
    end(buyer)

    with pytest.raises(Conflict, match="already paid, or has ended"):
        buyer.open_page()


def test_a_page_and_a_charge_that_begin_at_once_are_one_payer(desk: Desk) -> None:
    for _ in range(5):
        buyer = Buyer(desk)
        desk.clock.advance(minutes=10)

        def open_page(_buyer: Buyer = buyer) -> bool:
            try:
                return _buyer.open_page().checkout_url is not None
            except Conflict:
                return False

        with ThreadPoolExecutor(2) as threads:
            page, charge = threads.submit(open_page), threads.submit(buyer.lacks_money)
            outcome = charge.result()

        assert page.result() != (not isinstance(outcome, Refusal))


# Crashes


def test_a_page_that_the_processor_does_not_know_any_more_holds_nothing_up(
    desk: Desk, buyer: Buyer
) -> None:
    buyer.open_page()
    buyer.lacks_money()
    desk.sandbox.post("reset")
    desk.clock.advance(minutes=31)

    desk.sweep()

    assert buyer.customer.statuses() == ["cancelled"]


def test_a_page_that_a_crash_kept_from_being_opened_holds_nothing_up(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_at(monkeypatch, checkout, "topup.after_session")
    with pytest.raises(Died):
        buyer.open_page()
    assert buyer.refusal() == RefusalCode.CARD_PAGE_OPEN

    desk.clock.advance(minutes=3)
    desk.sweep()
    desk.clock.advance(seconds=6)
    desk.sweep()

    assert buyer.customer.statuses()[0] == "cancelled"
    assert buyer.customer.charged_cents() == 32_00


@pytest.mark.parametrize("point", ["topup.before_close", "topup.after_close"])
def test_a_crash_while_the_first_page_is_closed_leaves_none_open(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    first = buyer.open_page()
    with monkeypatch.context() as patch:
        dies_at(patch, checkout, point)
        with pytest.raises(Died):
            buyer.open_page()

    desk.sweep()

    assert buyer.status_at_processor(first) == "expired"
    assert buyer.customer.statuses() == ["cancelled"]


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_page_that_came_too_late_is_shown_to_nobody(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    def meanwhile(name: str) -> None:
        if name == "topup.after_session":
            buyer.complete()
            if not is_closed:
                match = {"path": "/v1/checkout/sessions/*/expire"}
                desk.sandbox.switch("reset_before", match=match, times=2)

    monkeypatch.setattr(checkout, "crash_point", meanwhile)
    page = buyer.open_page()

    assert (page.status, page.checkout_url) == ("cancelled", None)
    assert len(buyer.open_pages()) == (0 if is_closed else 1)
    assert page.failure_message == pages.PAID_OTHERWISE


def test_the_same_key_opens_the_same_page_of_a_purchase(buyer: Buyer) -> None:
    key = str(uuid.uuid4())
    first, again = buyer.open_page(idempotency_key=key), buyer.open_page(idempotency_key=key)

    assert again.checkout_url == first.checkout_url


def test_the_same_key_for_another_purchase_is_a_conflict(buyer: Buyer) -> None:
    key = str(uuid.uuid4())
    buyer.open_page(idempotency_key=key)
    buyer.purchase_id = uuid.uuid4()

    with pytest.raises(IdempotencyConflict):
        buyer.open_page(idempotency_key=key)


# A frozen wallet


def test_a_frozen_wallet_sells_no_credits(desk: Desk, buyer: Buyer) -> None:
    desk.wallet.frozen.add(buyer.customer.user_id)

    with pytest.raises(AccountFrozen, match="Write to support"):
        buyer.customer.start_topup(25 * USD)

    assert buyer.customer.topups() == []


@pytest.mark.parametrize(("owed_micros", "most_micros"), [(7_005_000, 7_010_000), (1, 5 * USD)])
def test_a_frozen_wallet_that_owes_takes_what_settles_it_and_no_more(
    desk: Desk, buyer: Buyer, owed_micros: int, most_micros: int
) -> None:
    desk.wallet.frozen.add(buyer.customer.user_id)
    desk.wallet.balances[buyer.customer.user_id] = -owed_micros

    with pytest.raises(AccountFrozen, match=format_usd(most_micros).replace("$", r"\$")):
        buyer.customer.start_topup(most_micros + USD // 100)

    assert buyer.customer.start_topup(most_micros).checkout_url is not None


def test_a_page_that_is_open_when_the_wallet_freezes_is_closed(desk: Desk, buyer: Buyer) -> None:
    page = buyer.customer.start_topup(25 * USD)

    with desk.till.database.begin() as session:
        pages.close_frozen(session, buyer.customer.user_id, desk.clock(), desk.clock())
    desk.sweep()

    (row,) = buyer.customer.topups()
    assert buyer.status_at_processor(page) == "expired"
    assert (row.status, row.failure_message) == ("cancelled", pages.FROZEN)


def test_a_page_to_settle_a_debt_is_not_closed_by_late_news_of_the_freezing(
    desk: Desk, buyer: Buyer
) -> None:
    froze_at = desk.clock()
    desk.clock.advance(seconds=5)
    desk.wallet.frozen.add(buyer.customer.user_id)
    desk.wallet.balances[buyer.customer.user_id] = -7 * USD
    page = buyer.customer.start_topup(7 * USD)

    with desk.till.database.begin() as session:
        pages.close_frozen(session, buyer.customer.user_id, froze_at, desk.clock())
    desk.sweep()

    assert buyer.status_at_processor(page) == "open"


def test_no_page_is_opened_while_nobody_can_say_whether_the_wallet_is_frozen(
    desk: Desk, buyer: Buyer
) -> None:
    desk.wallet.failure = DeadlineExceeded("no answer")

    with pytest.raises(Unavailable, match="Nothing was charged"):
        buyer.customer.start_topup(25 * USD)


def test_the_same_request_again_leads_to_its_page_though_the_wallet_froze(
    desk: Desk, buyer: Buyer
) -> None:
    key = str(uuid.uuid4())
    first = buyer.customer.start_topup(25 * USD, idempotency_key=key)
    desk.wallet.frozen.add(buyer.customer.user_id)

    assert buyer.customer.start_topup(25 * USD, idempotency_key=key).topup_id == first.topup_id
