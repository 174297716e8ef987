"""Declines: told, counted, waited for twice as long each time, and paused."""

import pytest

from contracts.topup import RefusalCode, Trigger
from services.topup.automatic import card_changes
from services.topup.cards import declines
from services.topup.cards.declines import Verdict
from services.topup.charging import checkout, outcomes
from services.topup.processor import KEY_REFUSED, OutcomeUnknown, ProcessorError, Rejected
from tests.topup.conftest import USD, Card, Customer, Desk
from tests.topup.test_webhooks import events_of, receive

DELAY_S = 300


def decline_again(desk: Desk, customer: Customer) -> None:
    """Wait until the next attempt is due, and make it."""
    until = customer.settings().cool_down_until
    assert until is not None
    desk.clock.set(until)
    desk.sweep()


def test_the_delay_doubles_with_every_decline(desk: Desk) -> None:
    customer = desk.customer(Card.DECLINED_WHEN_CHARGED)
    customer.ask()
    waits = []
    for _ in range(3):
        until = customer.settings().cool_down_until
        assert until is not None
        waits.append((until - desk.clock()).total_seconds())
        decline_again(desk, customer)

    assert waits == [DELAY_S, 2 * DELAY_S, 4 * DELAY_S]


def test_four_declines_in_a_row_pause_it(desk: Desk) -> None:
    customer = desk.customer(Card.DECLINED_WHEN_CHARGED)
    customer.ask()
    for _ in range(3):
        decline_again(desk, customer)

    desk.clock.advance(days=1)
    desk.sweep()

    assert customer.statuses() == ["failed"] * 4
    assert customer.settings().paused_code == "too_many_declines"
    assert [event["code"] for event in customer.events("auto_topup_paused")] == [
        "too_many_declines"
    ]


def test_a_failure_does_not_release_the_cool_down(desk: Desk) -> None:
    customer = desk.customer(Card.DECLINED_WHEN_CHARGED)
    customer.ask()

    outcomes = [customer.ask() for _ in range(5)]

    assert {outcome.code for outcome in outcomes} == {RefusalCode.COOL_DOWN}
    assert len(customer.topups()) == 1


def test_a_success_forgets_the_declines(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeCustomerFail")
    customer.ask()
    desk.sandbox.behave(customer.cards()[0], "pm_card_visa")
    decline_again(desk, customer)

    assert (customer.statuses(), customer.settings().declines) == (["failed", "paid"], 0)


def test_a_stolen_card_is_never_tried_again(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeDeclinedStolenCard")
    customer.ask()

    desk.clock.advance(days=1)
    outcome = customer.ask()

    assert (outcome.code, customer.statuses()) == (RefusalCode.PAUSED, ["failed"])
    assert customer.settings().paused_code == "card_refused"


def test_a_stolen_card_is_never_tried_again_though_it_was_the_fourth_decline(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeCustomerFail")
    customer.ask()
    for _ in range(2):
        decline_again(desk, customer)
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeDeclinedStolenCard")
    decline_again(desk, customer)

    desk.clock.advance(days=1)
    customer.configure()
    desk.drain()

    assert customer.statuses() == ["failed"] * 4
    assert customer.settings().paused_code == "card_refused"


def test_a_stolen_backup_card_is_dropped_though_it_was_the_fourth_decline(desk: Desk) -> None:
    customer = desk.customer()
    first, backup = customer.cards()[0], customer.add_card(Card.DECLINED_WHEN_CHARGED)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(payment_method_id=first, backup_payment_method_id=backup)
    desk.wallet.balances[customer.user_id] = 0
    desk.sandbox.behave(first, "pm_card_chargeCustomerFail")
    customer.ask()
    for _ in range(2):
        decline_again(desk, customer)
    desk.sandbox.behave(backup, "pm_card_chargeDeclinedStolenCard")
    decline_again(desk, customer)

    settings = customer.settings()
    assert [topup.payment_method_id for topup in customer.topups()] == [first, backup] * 2
    assert (settings.payment_method_id, settings.backup_payment_method_id) == (first, None)
    assert settings.paused_code == "too_many_declines"


def test_a_new_card_resumes_and_pays_for_what_waits(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeDeclinedLostCard")
    customer.ask(needed_micros=5 * USD)

    customer.add_card(Card.MASTERCARD)
    desk.sweep()

    assert customer.statuses() == ["failed", "paid"]
    assert customer.topups()[1].card_brand == "mastercard"
    assert len(customer.events("auto_topup_resumed")) == 1


def test_a_balance_that_fell_before_or_during_a_pause_is_topped_up_after_it(desk: Desk) -> None:
    customer = desk.customer()
    desk.wallet.balances[customer.user_id] = 3 * USD
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeDeclinedLostCard")
    customer.ask(Trigger.LOW_BALANCE, available_micros=None)

    customer.add_card(Card.MASTERCARD)
    desk.clock.advance(seconds=5)
    desk.sweep()

    assert customer.statuses() == ["failed", "paid"]


def test_a_pause_that_ends_with_enough_in_the_wallet_charges_nothing(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_chargeDeclinedLostCard")
    customer.ask(Trigger.LOW_BALANCE, available_micros=None)
    desk.wallet.balances[customer.user_id] = 10 * USD

    customer.add_card(Card.MASTERCARD)
    desk.clock.advance(seconds=5)
    desk.sweep()

    assert (customer.statuses(), customer.events("auto_topup_refused")) == (["failed"], [])


def test_the_backup_card_is_charged_after_the_first_was_declined(desk: Desk) -> None:
    customer = desk.customer()
    first = customer.cards()[0]
    backup = customer.add_card(Card.MASTERCARD)
    customer.configure(payment_method_id=first, backup_payment_method_id=backup)
    desk.drain()
    customer.credited()
    desk.wallet.balances[customer.user_id] = 0
    desk.clock.advance(minutes=2)
    desk.sandbox.behave(first, "pm_card_chargeCustomerFail")
    customer.ask(needed_micros=5 * USD)

    decline_again(desk, customer)

    assert customer.statuses()[-2:] == ["failed", "paid"]
    assert customer.topups()[-1].payment_method_id == backup


def test_a_question_of_the_banks_pauses_at_once_and_sends_a_link(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")

    customer.ask()

    (paused,) = customer.events("auto_topup_paused")
    assert (paused["code"], customer.statuses()) == (
        "authentication_required",
        ["action_required"],
    )
    assert paused["confirm_url"].startswith(desk.sandbox.url)


def test_the_stopped_intent_is_cancelled_before_the_page_is_opened(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    desk.sandbox.switch("reset_before", match={"path": "/v1/payment_intents/*/cancel"})
    customer.ask()
    (before,) = customer.topups()

    desk.clock.advance(minutes=2)
    desk.sweep()

    (after,) = customer.topups()
    assert (before.session_id is None, after.session_id is None) == (True, False)
    assert desk.till.processor.get_payment(str(after.payment_id))["status"] == "canceled"


def test_one_incomplete_charge_and_not_one_every_hour(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask()

    for _ in range(12):
        desk.clock.advance(minutes=61)
        customer.ask(Trigger.PURCHASE)
        desk.sweep()

    assert len(customer.topups()) == 1


def test_the_person_confirms_on_the_page_and_it_goes_on(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    (topup,) = customer.topups()
    assert topup.session_id is not None

    desk.sandbox.pay(topup.session_id, Card.ASKS_ALWAYS, authenticate=True)
    checkout.settle_session(desk.till, topup.session_id)
    desk.sweep()

    settings = customer.settings()
    assert (customer.statuses(), settings.paused_code) == (["paid"], "")
    assert settings.confirm_url is None
    assert customer.charge_count() == 1


@pytest.mark.parametrize("first", ["payment_intent.succeeded", "checkout.session.completed"])
def test_the_card_that_was_confirmed_is_charged_from_now_on(desk: Desk, first: str) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    desk.sandbox.pay(str(customer.topups()[0].session_id), Card.MASTERCARD)

    (event,) = events_of(desk, first)
    receive(desk, event)

    settings = customer.settings()
    assert (customer.statuses(), settings.paused_code) == (["paid"], "")
    assert settings.payment_method_id == customer.cards()[-1] != customer.cards()[0]


def test_the_backup_stays_when_another_card_is_confirmed(desk: Desk) -> None:
    customer = desk.customer()
    first, backup = customer.cards()[0], customer.add_card(Card.DISPUTED)
    desk.wallet.balances[customer.user_id] = 10**12
    customer.configure(payment_method_id=first, backup_payment_method_id=backup)
    desk.wallet.balances[customer.user_id] = 0
    desk.sandbox.behave(first, "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    desk.sandbox.pay(str(customer.topups()[-1].session_id), Card.MASTERCARD)

    receive(desk, events_of(desk, "payment_intent.succeeded")[-1])

    settings = customer.settings()
    assert settings.payment_method_id not in (None, first, backup)
    assert settings.backup_payment_method_id == backup


def test_a_late_webhook_does_not_bring_back_the_card_that_was_confirmed(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    (topup,) = customer.topups()
    desk.sandbox.pay(str(topup.session_id), Card.ASKS_ALWAYS, authenticate=True)
    checkout.refresh(desk.till, customer.user_id, topup.topup_id)
    confirmed = customer.settings().payment_method_id
    chosen = customer.add_card(Card.MASTERCARD)
    customer.configure(payment_method_id=chosen)
    with desk.till.database.begin() as session:
        card_changes.remove(session, customer.user_id, str(confirmed), desk.clock())

    (event,) = events_of(desk, "checkout.session.completed")
    receive(desk, event)

    assert customer.settings().payment_method_id == chosen


def test_a_card_that_was_chosen_before_the_news_of_the_confirmation_stays(desk: Desk) -> None:
    customer = desk.customer()
    chosen = customer.add_card(Card.MASTERCARD)
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    desk.sandbox.pay(str(customer.topups()[0].session_id), Card.ASKS_ALWAYS, authenticate=True)
    customer.configure(payment_method_id=chosen)

    (event,) = events_of(desk, "checkout.session.completed")
    receive(desk, event)

    assert (customer.statuses(), customer.settings().payment_method_id) == (["paid"], chosen)


def let_the_link_expire(desk: Desk) -> Customer:
    """Somebody whose bank asks, and who does not answer within a day."""
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    for _ in range(6):
        desk.clock.advance(hours=5)
        desk.sweep()
    return customer


def test_a_link_that_expired_says_what_helps_instead(desk: Desk) -> None:
    customer = let_the_link_expire(desk)

    settings = customer.settings()
    assert (settings.paused_code, settings.confirm_url) == ("not_confirmed", None)
    assert "settings again" in settings.paused_reason
    paused = customer.events("auto_topup_paused")
    assert [event["code"] for event in paused] == ["authentication_required", "not_confirmed"]


def test_saving_again_after_the_link_expired_sends_a_new_one(desk: Desk) -> None:
    customer = let_the_link_expire(desk)

    customer.configure()
    desk.drain()

    assert customer.statuses() == ["cancelled", "action_required"]
    assert customer.settings().confirm_url is not None


def test_a_charge_that_nobody_can_confirm_makes_way(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    desk.sandbox.switch("reset_before", match={"path": "/v1/checkout/sessions"}, times=1)
    customer.ask(needed_micros=5 * USD)
    desk.sandbox.delete_customer(customer.customer_id)

    desk.clock.advance(minutes=2)
    desk.sweep()

    assert (customer.statuses(), customer.settings().paused_code) == (
        ["cancelled"],
        "not_confirmed",
    )


def test_that_the_bank_asks_is_told_at_once_and_the_link_when_there_is_one(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    desk.sandbox.switch("reset_before", match={"path": "/v1/checkout/sessions"}, times=1)
    customer.ask(needed_micros=5 * USD)
    told = [event["confirm_url"] for event in customer.events("auto_topup_paused")]

    desk.clock.advance(minutes=2)
    desk.sweep()
    later = [event["confirm_url"] for event in customer.events("auto_topup_paused")]

    assert told == [None]
    assert later == [None, customer.settings().confirm_url]


def test_our_own_key_refused_is_no_reason_to_give_a_charge_up(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    desk.sandbox.switch("reset_before", match={"path": "/v1/checkout/sessions"}, times=1)
    customer.ask(needed_micros=5 * USD)

    def refuse(**_call: object) -> None:
        raise Rejected("Invalid API key.", KEY_REFUSED)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.till.processor, "create_payment_session", refuse)
        desk.clock.advance(minutes=2)
        desk.sweep()
    desk.clock.advance(minutes=10)
    desk.sweep()

    assert customer.statuses() == ["action_required"]
    assert customer.settings().confirm_url is not None


@pytest.mark.parametrize(
    "error", [OutcomeUnknown("No answer."), Rejected("No such customer.", "resource_missing")]
)
def test_who_got_no_page_leaves_the_link_that_somebody_else_got_meanwhile(
    desk: Desk, error: ProcessorError
) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)
    (topup,) = customer.topups()
    link = customer.settings().confirm_url

    checkout._go_on_without_link(desk.till, topup, error)

    assert link is not None
    assert (customer.settings().confirm_url, customer.statuses()) == (link, ["action_required"])


def test_another_page_that_expires_leaves_the_link(desk: Desk) -> None:
    customer = desk.customer()
    customer.start_topup()
    desk.clock.advance(hours=20)
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)

    desk.clock.advance(hours=5)
    desk.sweep()

    assert customer.statuses() == ["cancelled", "action_required"]
    assert customer.settings().confirm_url is not None


def test_a_new_card_instead_of_confirming_closes_the_page(desk: Desk) -> None:
    customer = desk.customer()
    desk.sandbox.behave(customer.cards()[0], "pm_card_authenticationRequired")
    customer.ask(needed_micros=5 * USD)

    customer.add_card(Card.MASTERCARD)
    for _ in range(4):
        desk.clock.advance(minutes=1)
        desk.sweep()

    assert customer.statuses() == ["cancelled", "paid"]
    assert customer.charge_count() == 1


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        (("card_declined", "insufficient_funds", "try_again_later"), Verdict.RETRY_LATER),
        (("card_declined", "generic_decline", ""), Verdict.RETRY_LATER),
        (("card_declined", "generic_decline", "do_not_try_again"), Verdict.TERMINAL),
        (("expired_card", "expired_card", "confirm_card_data"), Verdict.TERMINAL),
        (("card_declined", "fraudulent", ""), Verdict.TERMINAL),
        (("authentication_required", "authentication_required", ""), Verdict.NEEDS_PERSON),
        (("card_declined", "authentication_required", ""), Verdict.NEEDS_PERSON),
    ],
)
def test_codes_and_advice_decide_whether_to_try_again(
    codes: tuple[str, str, str], verdict: Verdict
) -> None:
    assert declines.verdict(*codes) == verdict


def test_fraud_is_told_as_a_plain_decline() -> None:
    assert declines.sentence("card_declined", "fraudulent") == declines.sentence("card_declined")


@pytest.mark.parametrize(
    ("error", "code", "decline_code"),
    [
        ({"code": "expired_card", "decline_code": "expired_card"}, "expired_card", "expired_card"),
        ({"code": "authentication_required"}, "authentication_required", ""),
        ({"message": "No."}, "card_declined", ""),
        (None, "card_declined", ""),
    ],
)
def test_a_decline_is_named_as_the_processor_names_it(
    error: dict[str, str] | None, code: str, decline_code: str
) -> None:
    told = outcomes._last_decline({"id": "pi_1", "last_payment_error": error})

    assert (told.code, told.decline_code) == (code, decline_code)
