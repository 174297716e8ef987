"""Unused credit goes back to its card: set aside, refunded, taken, each once whatever breaks."""

import threading
import uuid
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from chassis.identifiers import new_id
from contracts.errors import (
    AccountFrozen,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InsufficientFunds,
    NotFound,
    PaymentFailed,
    Unavailable,
)
from contracts.topup import (
    CardRefund,
    CardRefundStatus,
    ListCardRefunds,
    RefundTopup,
    TopupStatus,
)
from deploy.stripe_sandbox.server import SandboxServer
from services.topup import problems
from services.topup.charging import card_refunds, giving_back, outcomes, receipts, reversals
from services.topup.charging.card_refunds import TRANSITIONS
from services.topup.models import CardRefundRow
from services.topup.policy import Policy
from services.topup.processor import KEY_REFUSED, OutcomeUnknown, Rejected
from tests.crashes import Died, dies_at
from tests.locks import done_after
from tests.patience import PATIENCE_S, eventually, insist
from tests.topup.conftest import NOON, USD, Card, Customer, Desk
from tests.topup.test_lost_answers import count, lose, lost

REFUNDS = "/v1/refunds"
S = CardRefundStatus


class Buyer(Customer):
    """Somebody who bought credits of $25 with a card."""

    def buys(self, amount_micros: int = 25 * USD) -> UUID:
        card = self.cards()[0]
        topup_id: UUID = self.start_topup(amount_micros, payment_method_id=card).topup_id
        self.credited()
        self.desk.clock.advance(seconds=1)
        return topup_id

    def wants_back(
        self, topup_id: UUID, amount_micros: int | None = None, key: str | None = None
    ) -> CardRefund:
        command = RefundTopup(
            idempotency_key=key or str(uuid.uuid4()),
            user_id=self.user_id,
            topup_id=topup_id,
            amount_micros=amount_micros,
        )
        return giving_back.give_back(self.desk.till, command)

    def refunds(self) -> list[CardRefund]:
        with self.desk.till.database.read() as session:
            return card_refunds.page(session, ListCardRefunds(user_id=self.user_id)).refunds

    def sees(self) -> tuple[str, int, int, int]:
        """The refund's status; and, in dollars, what went back to the card, what the wallet is
        left with, and what of that is set aside."""
        (refund,) = self.refunds()
        balance, held = self.wallet()
        refunded = self.desk.sandbox.totals(self.customer_id)["refunded_cents"] // 100
        return str(refund.status), refunded, balance, held

    def wallet(self) -> tuple[int, int]:
        """Balance and holds as the events leave them, in dollars."""
        balance = self.desk.wallet.balances[self.user_id]
        held = dict(self.desk.wallet.holds)
        for event in self.events("topup_reversed"):
            balance -= event["amount_micros"]
            if event["hold_id"]:
                hold_id, _, micros = held.pop(UUID(event["refund_id"]))
                assert (str(hold_id), micros) == (event["hold_id"], event["amount_micros"])
        for event in self.events("topup_restored"):
            balance += event["amount_micros"]
        for event in self.events("card_refund_refused"):
            if event["hold_id"]:
                assert str(held.pop(UUID(event["refund_id"]))[0]) == event["hold_id"]
        left = sum(micros for _, whose, micros in held.values() if whose == self.user_id)
        return balance // USD, left // USD


@pytest.fixture
def buyer(desk: Desk) -> Buyer:
    return buyer_with(desk)


def buyer_with(desk: Desk, card: str = Card.GOOD) -> Buyer:
    buyer = Buyer(desk, new_id())
    buyer.add_card(card)
    return buyer


# What is paid back


def test_what_is_unused_goes_back_once_for_a_key(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    desk.wallet.left[topup_id] = 20 * USD
    first, again = (buyer.wants_back(topup_id, key="key") for _ in range(2))

    assert (first.status, first.amount_micros, first.card_last4) == (S.SUCCEEDED, 20 * USD, "4242")
    assert (again.refund_id, again.replayed) == (first.refund_id, True)
    assert buyer.sees() == ("succeeded", 20, 5, 0)
    with pytest.raises(IdempotencyConflict):
        buyer.wants_back(topup_id, 10 * USD, key="key")


def test_its_receipt_shows_it(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    buyer.wants_back(topup_id, 10 * USD)

    with desk.till.database.read() as session:
        receipt = receipts.receipt(session, buyer.user_id, topup_id)

    assert [line.amount_micros for line in receipt.lines] == [25 * USD, -10 * USD]
    assert receipt.lines[1].label == "Refunded on 2027-03-10"


def test_the_webhook_and_our_own_answer_count_once(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    buyer.wants_back(topup_id, 10 * USD)
    for _ in range(2):
        reversals.take_refunds(desk.till, buyer.topups()[0].payment_id or "")

    assert buyer.sees() == ("succeeded", 10, 15, 0)


def test_a_refund_in_the_dashboard_captures_no_hold(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    payment_id = buyer.topups()[0].payment_id or ""
    desk.till.processor.refund(payment_id, 1_500, idempotency_key="by hand")
    reversals.take_refunds(desk.till, payment_id)

    (event,) = buyer.events("topup_reversed")
    assert (event["refund_id"], event["hold_id"]) == (None, None)
    with pytest.raises(Conflict, match=r"\$10\.00 of these credits"):
        buyer.wants_back(topup_id, 11 * USD)
    assert buyer.wants_back(topup_id).amount_micros == 10 * USD


@pytest.mark.parametrize(
    ("balance", "left", "refundable"),
    [(25, 25, 25), (25, 30, 25), (24.999_999, 25, 24.99), (10, 25, 10), (25, 7.509_999, 7.5)],
)
def test_no_more_than_is_unused_available_and_was_paid(
    desk: Desk, buyer: Buyer, balance: float, left: float, refundable: float
) -> None:
    topup_id = buyer.buys()
    desk.wallet.balances[buyer.user_id] = round(balance * USD)
    desk.wallet.left[topup_id] = round(left * USD)
    most = round(refundable * USD)

    (offer,) = giving_back.refundable(desk.till, buyer.user_id).topups
    assert offer.refundable_micros == most
    with pytest.raises(Conflict) as refusal:
        buyer.wants_back(topup_id, most + 10_000)
    assert refusal.value.details == (str(most),)
    assert buyer.wants_back(topup_id, most).amount_micros == most


def test_what_is_all_spent_or_a_part_of_a_cent_is_refused(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    with pytest.raises(BadRequest):
        buyer.wants_back(topup_id, 10 * USD + 1)
    desk.wallet.left[topup_id] = 9_999
    with pytest.raises(Conflict):
        buyer.wants_back(topup_id)

    assert giving_back.refundable(desk.till, buyer.user_id).topups == []
    assert (buyer.refunds(), desk.wallet.holds) == ([], {})


@pytest.mark.parametrize("late", [-1, 0])
def test_it_is_paid_back_until_the_window_has_passed(desk: Desk, buyer: Buyer, late: int) -> None:
    topup_id = buyer.buys()
    paid_at = buyer.topups()[0].paid_at
    assert paid_at is not None
    desk.clock.set(paid_at + timedelta(days=14, microseconds=late))

    offered = giving_back.refundable(desk.till, buyer.user_id).topups
    if late < 0:
        assert [offer.refundable_until for offer in offered] == [paid_at + timedelta(days=14)]
        assert buyer.wants_back(topup_id).status == S.SUCCEEDED
    else:
        assert offered == []
        with pytest.raises(Conflict, match="too late"):
            buyer.wants_back(topup_id)


@pytest.mark.parametrize("policy", [Policy(card_refund_window=timedelta(0))])
def test_where_it_is_not_offered_nothing_is_paid_back(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    desk.clock.set(buyer.topups()[0].paid_at or desk.clock())

    assert giving_back.refundable(desk.till, buyer.user_id).topups == []
    with pytest.raises(Conflict):
        buyer.wants_back(topup_id)


def test_nobody_gets_back_what_somebody_else_paid(desk: Desk, buyer: Buyer) -> None:
    """Of people who came before and after."""
    other, topup_id = buyer_with(desk), buyer.buys()
    last = buyer_with(desk)
    for somebody in (other, last):
        somebody.buys()
        with pytest.raises(NotFound):
            somebody.wants_back(topup_id)
        assert len(giving_back.refundable(desk.till, somebody.user_id).topups) == 1
    refund = buyer.wants_back(topup_id)

    assert (other.refunds(), last.refunds()) == ([], [])
    with desk.till.database.read() as session, pytest.raises(NotFound):
        card_refunds.get(session, last.user_id, refund.refund_id)


def test_nothing_goes_back_from_a_frozen_wallet_or_during_a_dispute(
    desk: Desk, buyer: Buyer
) -> None:
    topup_id, other = buyer.buys(), buyer.buys(10 * USD)
    desk.wallet.frozen.add(buyer.user_id)
    with pytest.raises(AccountFrozen):
        buyer.wants_back(topup_id)
    assert giving_back.refundable(desk.till, buyer.user_id).blocked_reason == giving_back.FROZEN
    desk.wallet.frozen.clear()
    dispute = desk.sandbox.post(f"charges/{buyer.topups()[1].payment_id}/dispute")
    reversals.take_dispute(desk.till, dispute["id"])

    with pytest.raises(Conflict, match="disputed"):
        buyer.wants_back(topup_id)
    assert giving_back.refundable(desk.till, buyer.user_id).blocked_reason == giving_back.DISPUTED
    assert (buyer.refunds(), other != topup_id) == ([], True)


def test_what_is_not_credited_or_needs_an_operator_is_not_paid_back(
    desk: Desk, buyer: Buyer
) -> None:
    card = buyer.cards()[0]
    topup_id = buyer.start_topup(payment_method_id=card).topup_id
    desk.wallet.balances[buyer.user_id] = 100 * USD
    assert buyer.statuses() == [TopupStatus.PAID]
    with pytest.raises(Conflict, match="not in your wallet"):
        buyer.wants_back(topup_id)
    buyer.credited()
    buyer.charge_again()
    found = desk.till.processor.find_payments(buyer.customer_id, str(topup_id), 0)
    outcomes.record_payment(desk.till, found[0])

    with pytest.raises(Conflict, match="Something is wrong"):
        buyer.wants_back(topup_id)
    assert giving_back.refundable(desk.till, buyer.user_id).topups == []


# Auto top-up


def test_auto_topup_is_switched_off_and_does_not_buy_the_credits_again(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=10 * USD)
    desk.clock.advance(minutes=2)
    buyer = Buyer(desk, customer.user_id)
    topup_id = buyer.buys()
    assert giving_back.refundable(desk.till, buyer.user_id).switches_off_auto_topup
    charges = buyer.charge_count()
    buyer.wants_back(topup_id)

    assert not buyer.settings().is_enabled
    assert buyer.events("auto_topup_settings_changed")[-1]["threshold_micros"] is None
    desk.clock.advance(minutes=5)
    buyer.ask()
    desk.sweep()
    assert buyer.charge_count() == charges
    assert not giving_back.refundable(desk.till, buyer.user_id).switches_off_auto_topup


def test_what_is_refused_at_once_leaves_auto_topup_on(desk: Desk) -> None:
    customer = desk.customer(threshold_micros=10 * USD)
    buyer = Buyer(desk, customer.user_id)
    topup_id = buyer.buys()
    with pytest.raises(Conflict):
        buyer.wants_back(topup_id, 30 * USD)

    assert buyer.settings().is_enabled


# What the bank and the processor say


def test_a_bank_that_takes_its_time(desk: Desk) -> None:
    buyer = buyer_with(desk, Card.REFUNDS_LATE)
    refund = buyer.wants_back(buyer.buys())
    assert (refund.status, buyer.sees()) == (S.PENDING, ("pending", 25, 0, 0))
    payment_id = buyer.topups()[0].payment_id or ""
    eventually(lambda: desk.till.processor.refunds_of(payment_id)[0]["status"] == "succeeded")
    for _ in range(2):
        reversals.take_refunds(desk.till, buyer.topups()[0].payment_id or "")

    assert buyer.sees() == ("succeeded", 25, 0, 0)


@pytest.mark.parametrize("card", [Card.GOOD, Card.REFUNDS_LATE])
def test_what_the_bank_sends_back_is_in_the_wallet_again_and_may_be_asked_for_anew(
    desk: Desk, card: str
) -> None:
    buyer = buyer_with(desk, card)
    topup_id = buyer.buys()
    refund = buyer.wants_back(topup_id)
    made = desk.till.processor.refunds_of(buyer.topups()[0].payment_id or "")[0]
    desk.sandbox.post(f"refunds/{made['id']}/fail")
    for _ in range(2):
        reversals.take_refunds(desk.till, buyer.topups()[0].payment_id or "")

    assert buyer.sees() == ("failed", 0, 25, 0)
    assert buyer.refunds()[0].reason == card_refunds.NOT_TAKEN
    (event,) = buyer.events("topup_restored")
    assert event["refund_id"] == str(refund.refund_id)
    desk.wallet.holds.clear()
    assert buyer.wants_back(topup_id).amount_micros == 25 * USD


@pytest.mark.parametrize(
    ("status", "ends"),
    [("failed", "refused"), ("canceled", "refused"), ("requires_action", "pending")],
)
def test_each_word_of_the_processors_for_its_first_answer(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, status: str, ends: str
) -> None:
    refund = desk.till.processor.refund

    def answer(*arguments: Any, **fields: Any) -> Any:
        return {**refund(*arguments, **fields), "status": status}

    monkeypatch.setattr(desk.till.processor, "refund", answer)
    topup_id = buyer.buys()
    if ends == "refused":
        with pytest.raises(PaymentFailed):
            buyer.wants_back(topup_id)
    else:
        buyer.wants_back(topup_id)

    was_taken = ends == "pending"
    assert (buyer.refunds()[0].status, buyer.wallet()) == (ends, (0 if was_taken else 25, 0))
    assert len(buyer.events("topup_reversed")) == was_taken


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("charge_disputed", "Your bank has disputed"),
        ("charge_already_refunded", "All of this payment was refunded"),
        ("balance_insufficient", "The card processor refused the refund"),
    ],
)
def test_a_refusal_of_the_processors_frees_the_credit_and_says_why(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    def refuse(*_arguments: Any, **_fields: Any) -> Any:
        raise Rejected("No.", code)

    topup_id = buyer.buys()
    with monkeypatch.context() as patched:
        patched.setattr(desk.till.processor, "refund", refuse)
        for _ in range(2):
            with pytest.raises(PaymentFailed, match=said):
                buyer.wants_back(topup_id, key="key")

    assert buyer.sees() == ("refused", 0, 25, 0)
    (event,) = buyer.events("card_refund_refused")
    assert said in event["reason"]
    desk.wallet.holds.clear()
    assert buyer.wants_back(topup_id).status == S.SUCCEEDED


def test_while_the_processor_refuses_our_key_it_waits(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_fields: Any) -> Any:
        raise Rejected("Invalid API key.", KEY_REFUSED)

    with monkeypatch.context() as patched:
        patched.setattr(desk.till.processor, "refund", refuse)
        assert buyer.wants_back(buyer.buys()).status == S.SENT
    desk.clock.advance(seconds=31)
    desk.sweep()

    assert buyer.sees() == ("succeeded", 25, 0, 0)


def test_money_that_moved_after_it_was_given_up_counts(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refund = desk.till.processor.refund

    def refuse(*arguments: Any, **fields: Any) -> Any:
        refund(*arguments, **fields)
        raise Rejected("No.", "charge_already_refunded")

    monkeypatch.setattr(desk.till.processor, "refund", refuse)
    with pytest.raises(PaymentFailed):
        buyer.wants_back(buyer.buys())
    reversals.take_refunds(desk.till, buyer.topups()[0].payment_id or "")

    (said,) = buyer.refunds()
    assert (said.status, said.reason) == (S.SUCCEEDED, "")
    assert [event["amount_micros"] for event in buyer.events("topup_reversed")] == [25 * USD]


# The wallet


def test_what_the_wallet_has_not_got_is_declined_and_asked_again_says_so(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topup_id = buyer.buys()

    def spend_first(*_arguments: Any) -> Any:
        raise InsufficientFunds("Too little.", "0", "0")

    with monkeypatch.context() as patched:
        patched.setattr(desk.wallet, "set_aside", spend_first)
        for _ in range(2):
            with pytest.raises(InsufficientFunds, match="spent meanwhile"):
                buyer.wants_back(topup_id, key="key")

    assert buyer.sees() == ("declined", 0, 25, 0)
    assert buyer.wants_back(topup_id).status == S.SUCCEEDED


def test_a_gift_does_not_go_back_in_the_place_of_credit_that_was_spent_meanwhile(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set aside is there, and is no credit of this top-up any more."""
    topup_id, set_aside = buyer.buys(), desk.wallet.set_aside

    def spend_first(user_id: UUID, refund_id: UUID, amount_micros: int) -> UUID:
        desk.wallet.left[topup_id] = amount_micros - 1
        return set_aside(user_id, refund_id, amount_micros)

    monkeypatch.setattr(desk.wallet, "set_aside", spend_first)
    with pytest.raises(Conflict, match="spent meanwhile"):
        buyer.wants_back(topup_id)

    assert buyer.sees() == ("refused", 0, 25, 0)


def test_what_freezes_between_two_steps_does_not_go_back(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topup_id, set_aside = buyer.buys(), desk.wallet.set_aside

    def freeze_after(user_id: UUID, refund_id: UUID, amount_micros: int) -> UUID:
        hold_id = set_aside(user_id, refund_id, amount_micros)
        desk.wallet.frozen.add(user_id)
        return hold_id

    monkeypatch.setattr(desk.wallet, "set_aside", freeze_after)
    with pytest.raises(AccountFrozen):
        buyer.wants_back(topup_id)

    assert buyer.sees() == ("refused", 0, 25, 0)


@pytest.mark.parametrize("failure", [DeadlineExceeded("Late."), Unavailable("Away.")])
def test_a_wallet_that_does_not_answer_moves_nothing(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    topup_id = buyer.buys()
    desk.wallet.failure = failure
    with pytest.raises(Unavailable):
        buyer.wants_back(topup_id)
    desk.wallet.failure = None

    def lost(*_arguments: Any) -> Any:
        raise failure

    for asked in ("set_aside", "unused"):
        with monkeypatch.context() as patched:
            if asked == "set_aside":
                patched.setattr(desk.wallet, asked, lost)
                assert buyer.wants_back(topup_id).status == S.REQUESTED
            else:
                patched.setattr(desk.wallet, asked, lost)
                desk.clock.advance(seconds=31)
                desk.sweep()
                assert buyer.sees() == ("held", 0, 25, 25)
    desk.clock.advance(seconds=61)
    desk.sweep()

    assert buyer.sees() == ("succeeded", 25, 0, 0)


# Whatever breaks

STEPS = (
    "topup.refund_written",
    "topup.refund_set_aside",
    "topup.refund_held",
    "topup.before_refund",
    "topup.after_refund",
    "topup.refund_recorded",
)


@pytest.mark.parametrize("is_told", [False, True], ids=["by_itself", "by_its_webhook"])
@pytest.mark.parametrize("point", STEPS)
def test_a_crash_at_any_step_comes_to_one_refund(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, point: str, is_told: bool
) -> None:
    dies_at(monkeypatch, giving_back, point)
    topup_id = buyer.buys()
    with pytest.raises(Died):
        buyer.wants_back(topup_id, key="key")
    if is_told:
        reversals.take_refunds(desk.till, buyer.topups()[0].payment_id or "")

    desk.clock.advance(seconds=61)
    desk.sweep()

    assert buyer.sees() == ("succeeded", 25, 0, 0)
    assert buyer.wants_back(topup_id, key="key").replayed
    assert len(buyer.events("topup_reversed")) == 1


@pytest.mark.parametrize("point", STEPS)
def test_after_a_crash_who_asks_again_need_not_wait(
    buyer: Buyer, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    dies_at(monkeypatch, giving_back, point)
    topup_id = buyer.buys()
    with pytest.raises(Died):
        buyer.wants_back(topup_id, key="key")

    assert buyer.wants_back(topup_id, key="key").status == S.SUCCEEDED
    assert buyer.sees() == ("succeeded", 25, 0, 0)


@lost
@pytest.mark.parametrize("days", [0, 3])
def test_a_lost_answer_comes_to_one_refund_however_late_it_is_looked_for(
    desk: Desk, buyer: Buyer, sandbox_server: SandboxServer, kind: str, days: int
) -> None:
    topup_id = buyer.buys()
    lose(desk, kind, "POST", REFUNDS)
    assert buyer.wants_back(topup_id, 10 * USD).status == S.SENT
    assert buyer.wallet() == (25, 10)
    if days:
        desk.sandbox.post("idempotency/prune")
    desk.clock.advance(days=days, seconds=61)
    desk.sweep()

    assert buyer.sees() == ("succeeded", 10, 15, 0)
    assert count(sandbox_server, "refund") == 1


def test_a_stored_failure_is_given_another_key_once_nothing_was_made_under_the_first(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refund, keys = desk.till.processor.refund, []

    def fail_first_key(*arguments: Any, idempotency_key: str, **fields: Any) -> Any:
        keys.append(idempotency_key.rpartition(":")[2])
        if keys[-1] == "1":
            raise OutcomeUnknown("Something went wrong at our end.", "processor_failed")
        return refund(*arguments, idempotency_key=idempotency_key, **fields)

    monkeypatch.setattr(desk.till.processor, "refund", fail_first_key)
    buyer.wants_back(buyer.buys())
    for seconds in (60, 120, 240, 480, 960):
        desk.clock.advance(seconds=seconds)
        desk.sweep()

    assert buyer.sees() == ("succeeded", 25, 0, 0)
    assert (keys[0], keys[-1], sorted(keys)) == ("1", "2", keys)


@pytest.mark.parametrize("late", [0, 1])
def test_what_was_held_up_before_the_call_is_not_sent_late(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """By then somebody else may have looked in vain, and sent it under another key."""

    def held_up(name: str) -> None:
        if name == "topup.before_refund":
            late_by = timedelta(microseconds=late)
            desk.clock.set(desk.clock() + desk.till.policy.stale_after + late_by)

    topup_id = buyer.buys()
    with monkeypatch.context() as patched:
        patched.setattr(giving_back, "crash_point", held_up)
        refund = buyer.wants_back(topup_id)

    assert refund.status == ("sent" if late else "succeeded")
    desk.clock.advance(minutes=11)
    desk.sweep()
    assert buyer.sees() == ("succeeded", 25, 0, 0)


def test_a_refund_of_somebody_elses_making_may_have_no_metadata_at_all(
    desk: Desk, buyer: Buyer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor's library says that they may be null."""
    topup_id, refunds_of = buyer.buys(), desk.till.processor.refunds_of
    payment_id = buyer.topups()[0].payment_id or ""
    desk.till.processor.refund(payment_id, 500, idempotency_key="by hand")

    def with_null(payment_id: str) -> list[Any]:
        return [{**each, "metadata": each["metadata"] or None} for each in refunds_of(payment_id)]

    monkeypatch.setattr(desk.till.processor, "refunds_of", with_null)
    lose(desk, "reset_before", "POST", REFUNDS)
    buyer.wants_back(topup_id, 10 * USD)
    desk.clock.advance(seconds=61)
    desk.sweep()

    assert [refund.status for refund in buyer.refunds()] == [S.SUCCEEDED]


def test_what_may_still_arrive_is_not_sent_under_another_key(
    desk: Desk, buyer: Buyer, sandbox_server: SandboxServer
) -> None:
    topup_id = buyer.buys()
    lose(desk, "reset_before", "POST", REFUNDS)
    buyer.wants_back(topup_id)
    desk.clock.advance(minutes=5, seconds=1)
    desk.sweep()
    assert (buyer.refunds()[0].status, count(sandbox_server, "refund")) == ("sent", 0)
    desk.clock.advance(minutes=11)
    desk.sweep()

    assert buyer.sees() == ("succeeded", 25, 0, 0)


def test_two_presses_at_the_same_moment_are_one_refund(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    answers: list[str] = []
    both = threading.Barrier(2)

    def press() -> None:
        key = str(uuid.uuid4())
        both.wait(PATIENCE_S)
        try:
            made = insist(lambda: buyer.wants_back(topup_id, 20 * USD, key))
            answers.append(str(made.status))
        except Conflict:
            answers.append("conflict")

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["conflict", "succeeded"]
    assert buyer.sees() == ("succeeded", 20, 5, 0)


def test_one_at_a_time(desk: Desk, buyer: Buyer) -> None:
    first, second = buyer.buys(), buyer.buys(10 * USD)
    lose(desk, "reset_before", "POST", REFUNDS)
    buyer.wants_back(first)

    with pytest.raises(Conflict, match="Another refund"):
        buyer.wants_back(second)
    assert giving_back.refundable(desk.till, buyer.user_id).blocked_reason == giving_back.UNDER_WAY


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ("due_at = now()", "what_is_being_made_is_due"),
        ("status = 'sent'", "what_is_being_made_is_due"),
        ("hold_id = NULL", "what_went_out_was_set_aside"),
    ],
)
def test_the_database_refuses_a_refund_that_nobody_goes_on_with(
    desk: Desk, buyer: Buyer, wrong: str, refusal: str
) -> None:
    buyer.wants_back(buyer.buys())

    with desk.till.database.rehearse() as session, pytest.raises(IntegrityError, match=refusal):
        session.execute(text(f"UPDATE card_refunds SET {wrong}"))  # noqa: S608


def test_a_refund_waits_for_another_command_of_its_owner(desk: Desk, buyer: Buyer) -> None:
    """Who buys, or asks for another refund, at the same moment is seen."""
    topup_id = buyer.buys()

    def other(session: Any) -> None:
        command = RefundTopup(idempotency_key="o", user_id=buyer.user_id, topup_id=topup_id)
        wish = giving_back._Wish(command, 5 * USD)
        giving_back.request(session, desk.till, wish)

    def wants() -> None:
        with pytest.raises(Conflict, match="Another refund"):
            buyer.wants_back(topup_id)

    done_after(desk.till.database, other, wants)


def test_a_refund_that_nobody_answers_is_a_problem(desk: Desk, buyer: Buyer) -> None:
    topup_id = buyer.buys()
    lose(desk, "reset_before", "POST", REFUNDS)
    refund = buyer.wants_back(topup_id)

    def found() -> list[str]:
        with desk.till.database.read() as session:
            listed = problems.listed(session, desk.clock(), 10).problems
        return [problem.code for problem in listed]

    assert found() == []
    desk.clock.advance(minutes=10, seconds=1)
    assert found() == ["stuck_refund"]
    assert refund.status == S.SENT


def test_pages_of_refunds_are_complete_newest_first(desk: Desk, buyer: Buyer) -> None:
    made = [buyer.wants_back(buyer.buys(), 5 * USD).refund_id for _ in range(3)]
    cursor, seen = None, []
    for _ in range(2):
        with desk.till.database.read() as session:
            asked = ListCardRefunds(user_id=buyer.user_id, limit=2, cursor=cursor)
            page = card_refunds.page(session, asked)
        cursor = page.next_cursor
        seen += [refund.refund_id for refund in page.refunds]

    assert (seen, cursor) == (made[::-1], None)


def test_every_move_is_in_the_table_or_raises() -> None:
    for status in CardRefundStatus:
        for to in CardRefundStatus:
            row = CardRefundRow(status=status)
            if to in TRANSITIONS[status]:
                card_refunds.move(row, NOON, to)
                assert row.status == to
            else:
                with pytest.raises(Conflict):
                    card_refunds.move(row, NOON, to)
