"""The pages that move money: declines, repeats, limits, and browsers without JavaScript."""

import re
from dataclasses import replace

import pytest
import requests
from playwright.sync_api import Locator, expect

from tests.e2e.conftest import NewVisitor
from tests.e2e.visitor import (
    ASKS_EACH_TIME,
    CARD_DECLINED_LATER,
    DISPUTED,
    Visitor,
)
from tests.patience import PATIENCE_S, eventually
from tests.system import System


def buy_with_a_card_that_does_not_pay(visitor: Visitor, card: str, says: str) -> Locator:
    """The page of a purchase that auto top-up could not pay for: its alert, with the reason."""
    page = visitor.page
    visitor.save_card(card)
    visitor.switch_auto_topup_on(threshold="0")
    visitor.open_buy_now("gateway-eu")
    page.get_by_role("dialog").get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("awaiting_funds")
    alert = page.locator("#purchase-status").get_by_role("alert")
    expect(alert).to_contain_text(says)
    return alert


def cards_offered(visitor: Visitor) -> str:
    """The saved cards on the auto top-up page, asked for anew."""
    visitor.open("/dashboard/wallet/auto-topup")
    return visitor.page.get_by_label("Payment method").inner_text()


def let_the_next_charge_take(system: System, seconds: int) -> None:
    match = {"method": "POST", "path": "/v1/payment_intents"}
    answer = requests.post(
        f"{system.sandbox_url}/_sandbox/switches",
        json={"kind": "latency", "seconds": seconds, "times": 1, "match": match},
        timeout=PATIENCE_S,
    )
    assert answer.ok, answer.text


def test_a_declined_automatic_charge_is_told_and_can_be_paid_by_hand(visitor: Visitor) -> None:
    page = visitor.page
    buy_with_a_card_that_does_not_pay(visitor, CARD_DECLINED_LATER, "declined")

    visitor.choose_credits(10)
    page.locator("#purchase-status").get_by_role("button", name="Use another card").click()
    visitor.pay_on_card_page()
    visitor.expect_purchase("completed")

    visitor.expect_balance("$5.00")
    expect(page.locator("main .notice")).to_have_count(0)
    visitor.expect_on("/dashboard/notifications", "main", "declined")


def test_leaving_the_card_page_keeps_the_purchase(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open_buy_now("vm-starter")
    page.get_by_role("button", name="Buy Credits and continue").click()
    page.get_by_role("link", name="Cancel and go back").click()

    expect(page.get_by_text("Your purchase is kept.").first).to_be_visible()
    visitor.expect_purchase("awaiting_funds")
    page.get_by_role("button", name="Cancel this purchase").click()
    visitor.expect_purchase("cancelled")


@pytest.mark.parametrize(
    ("quantity", "says"), [(1, "Set aside for you until"), (20, "Not set aside for you")]
)
def test_a_purchase_that_waits_says_whether_its_stock_is_set_aside(
    visitor: Visitor, quantity: int, says: str
) -> None:
    page = visitor.page
    visitor.open(f"/marketplace/3node-memory-kit/buy?quantity={quantity}")
    page.get_by_role("button", name="Buy Credits and continue").click()
    page.get_by_role("link", name="Cancel and go back").click()

    expect(page.locator("#purchase-status")).to_contain_text(says)
    page.get_by_role("button", name="Cancel this purchase").click()
    visitor.expect_purchase("cancelled")


def test_a_custom_amount_is_bought_to_the_cent(visitor: Visitor) -> None:
    visitor.open("/dashboard/wallet")
    visitor.page.get_by_role("radio", name="Custom").check(force=True)
    visitor.page.get_by_label("Custom amount").fill("12.50")
    visitor.page.get_by_role("button", name="Buy Credits").click()
    visitor.pay_on_card_page()

    expect(visitor.page.locator("#topup-status")).to_contain_text("Your balance is $12.50")
    visitor.page.get_by_role("link", name="Receipt").click()
    expect(visitor.page.locator("main")).to_contain_text("$12.50")


@pytest.mark.parametrize("javascript", [True, False], ids=["scripts", "no_scripts"])
def test_unused_credits_go_back_to_their_card(new_visitor: NewVisitor, *, javascript: bool) -> None:
    someone = new_visitor(javascript=javascript)
    someone.register()
    page = someone.page
    if javascript:
        someone.buy_credits(25)
        someone.save_card()
        someone.switch_auto_topup_on(threshold="10")
    else:
        someone.open("/dashboard/wallet")
        someone.choose_credits(25)
        someone.press_card_page()
        someone.pay_on_card_page()
        eventually(lambda: has_credits(someone))

    someone.open("/dashboard/wallet")
    page.get_by_role("link", name="Refunds to your card").click()
    page.get_by_role("button", name="Refund $25.00").click()
    notice = page.get_by_text("Auto top-up is switched off")
    expect(notice).to_have_count(1 if javascript else 0)
    page.get_by_role("button", name="Refund $25.00").click()

    someone.expect_on("/dashboard/wallet/refunds", "main", "Paid back")
    expect(page.locator("main")).to_contain_text("No credits that you bought")
    page.get_by_role("link", name="Receipt").click()
    expect(page.locator("main")).to_contain_text("Refunded on")
    someone.expect_balance("$0.00")


def has_credits(someone: Visitor) -> bool:
    someone.open("/dashboard/wallet")
    return "$25.00" in someone.page.locator(".balance").inner_text()


def test_the_header_shows_the_balance_that_the_page_tells_of(new_visitor: NewVisitor) -> None:
    someone = new_visitor()
    someone.register()
    other_tab = someone.context.new_page()
    other_tab.goto(f"{someone.base_url}/dashboard")
    header = other_tab.locator("details.account summary")
    expect(header).to_contain_text("$0.00")

    someone.buy_credits(25)

    expect(someone.page.locator("details.account summary")).to_contain_text("$25.00")
    other_tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(header).to_contain_text("$25.00")
    expect(other_tab.locator(".balance")).to_have_text("$25.00")


def test_an_amount_that_nobody_can_mean_is_refused_with_a_sentence(visitor: Visitor) -> None:
    field = visitor.page.get_by_label("Custom amount")
    for amount in ("", "-5", "abc", "0", "1.234", "1e9", "999999999999", "3"):
        visitor.open("/dashboard/wallet")
        visitor.page.get_by_role("radio", name="Custom").check(force=True)
        field.fill(amount)
        visitor.page.get_by_role("button", name="Buy Credits").click()

        expect(visitor.page.locator(".custom-amount .field-error")).to_have_count(1)
        expect(visitor.page.get_by_role("radio", name="Custom")).to_be_checked()
        expect(field).to_have_value(amount)
        expect(field).to_have_attribute("aria-invalid", "true")


def test_a_wrong_amount_in_the_dialog_is_shown_again_beside_what_is_bought(
    visitor: Visitor,
) -> None:
    visitor.open_buy_now("vm-starter")
    visitor.page.get_by_role("radio", name="Custom").check(force=True)
    visitor.page.get_by_label("Custom amount").fill("12,50")
    visitor.page.get_by_role("button", name="Buy Credits and continue").click()

    expect(visitor.page.get_by_label("Custom amount")).to_have_value("12,50")
    expect(visitor.page.locator("main .field-error")).to_contain_text("point before the cents")
    assert visitor.path == "/marketplace/vm-starter/buy"


def test_buy_now_announces_the_charge_that_the_threshold_sets_off(visitor: Visitor) -> None:
    page = visitor.page
    visitor.buy_credits(10)
    visitor.save_card()
    visitor.switch_auto_topup_on()
    expect(page.get_by_text("Auto top-up is on.")).to_be_visible()

    visitor.open_buy_now("vm-starter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("below $10.00, so auto top-up charges $25.00 to Visa •••• 4242")
    expect(dialog.locator(".pairs")).to_contain_text("Balance after$30.00")
    dialog.get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("completed")

    visitor.expect_balance("$30.00")


def test_the_page_of_a_purchase_says_that_a_charge_follows(
    visitor: Visitor, system: System
) -> None:
    page = visitor.page
    visitor.buy_credits(10)
    visitor.save_card()
    visitor.switch_auto_topup_on()
    expect(page.get_by_text("Auto top-up is on.")).to_be_visible()
    let_the_next_charge_take(system, seconds=15)

    visitor.open_buy_now("vm-starter")
    page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("completed")

    expect(page.locator("#purchase-status .notice")).to_contain_text("$25.00 is being charged")
    expect(page.locator("#purchase-status .notice")).to_have_count(0)
    expect(page.locator("#purchase-status")).to_contain_text("Credit balance now$30.00")


def test_auto_topup_below_the_threshold_warns_before_it_charges(visitor: Visitor) -> None:
    visitor.save_card()
    visitor.switch_auto_topup_on(amount="30")
    expect(visitor.page.get_by_text("Saving this will charge you $30.00 now")).to_be_in_viewport()
    visitor.expect_balance("$0.00")

    visitor.switch_auto_topup_on(amount="30")
    visitor.page.get_by_role("button", name="Save and charge $30.00 now").first.click()

    expect(visitor.page.get_by_text("your card is being charged now")).to_be_visible()
    # Nothing is pressed and nothing reloaded: the page tells of the charge to its end.
    expect(visitor.page.locator("#last-charge")).to_contain_text("Credited")
    expect(visitor.page.get_by_text("A charge is under way.")).to_have_count(0)


def test_a_threshold_raised_above_the_balance_warns_before_it_charges(visitor: Visitor) -> None:
    visitor.buy_credits(25)
    visitor.save_card()
    visitor.switch_auto_topup_on()
    expect(visitor.page.get_by_text("Auto top-up is on.")).to_be_visible()

    visitor.switch_auto_topup_on(threshold="60")

    expect(visitor.page.get_by_text("Saving this will charge you $35.00 now")).to_be_visible()
    visitor.open("/dashboard/wallet/auto-topup")
    expect(visitor.page.get_by_label("When credits are below")).to_have_value("10")


def test_auto_topup_without_consent_is_not_saved_and_keeps_what_was_typed(
    visitor: Visitor,
) -> None:
    visitor.save_card()
    visitor.open("/dashboard/wallet/auto-topup")
    visitor.page.get_by_label("Enable auto top-up").check()
    visitor.page.get_by_label("When credits are below").fill("7")
    visitor.page.get_by_role("button", name="Save Settings").click()

    expect(visitor.page.get_by_role("alert")).to_contain_text("consent")
    expect(visitor.page.get_by_label("When credits are below")).to_have_value("7")


def test_a_save_that_changes_no_term_needs_no_new_consent_and_others_do(
    visitor: Visitor,
) -> None:
    page = visitor.page
    visitor.buy_credits(50)
    visitor.save_card()
    visitor.switch_auto_topup_on()
    consent = page.get_by_label("I agree to automatic charges")
    expect(page.get_by_text("Auto top-up is on.")).to_be_visible()
    expect(consent).not_to_be_checked()

    page.get_by_role("button", name="Save Settings").click()
    expect(page.get_by_text("Auto top-up is on.")).to_be_visible()
    page.get_by_label("Purchase this amount").fill("30")
    page.get_by_role("button", name="Save Settings").click()

    expect(page.get_by_role("alert")).to_contain_text("consent")
    expect(consent).not_to_be_checked()


def test_a_box_that_was_ticked_speaks_for_the_terms_beside_it_alone(visitor: Visitor) -> None:
    page = visitor.page
    visitor.save_card()
    visitor.switch_auto_topup_on(amount="30")
    expect(page.get_by_label("I agree to automatic charges")).to_be_checked()

    page.get_by_label("Purchase this amount").fill("300")
    page.get_by_role("button", name="Save and charge").first.click()

    expect(page.get_by_role("alert")).to_contain_text("consent")
    expect(page.get_by_label("I agree to automatic charges")).not_to_be_checked()


def test_a_limit_that_could_mean_two_amounts_is_not_saved(visitor: Visitor) -> None:
    page = visitor.page
    visitor.save_card()
    for typed in ("12,50", "0,5", "1_0", "１２", "0"):
        visitor.open("/dashboard/wallet/auto-topup")
        page.get_by_label("Enable auto top-up").check()
        page.get_by_label("Daily limit").fill(typed)
        page.get_by_label("I agree to automatic charges").check()
        page.get_by_role("button", name="Save Settings").click()

        expect(page.get_by_role("alert")).to_contain_text("Daily limit: ")
        expect(page.get_by_label("Daily limit")).to_have_value(typed)


def test_switching_off_works_whatever_is_typed(visitor: Visitor) -> None:
    page = visitor.page
    visitor.buy_credits(50)
    visitor.save_card()
    visitor.switch_auto_topup_on()
    expect(page.get_by_text("Auto top-up is on.")).to_be_visible()

    page.get_by_label("Daily limit").fill("12,50")
    page.get_by_label("Enable auto top-up").uncheck()
    page.get_by_role("button", name="Save Settings").click()

    expect(page.get_by_text("Auto top-up is off.")).to_be_visible()


def test_topping_up_now_asks_first_without_javascript_too(new_visitor: NewVisitor) -> None:
    someone = new_visitor(javascript=False)
    someone.register()
    page = someone.page
    someone.buy_credits(50)
    someone.open("/dashboard/wallet/auto-topup")
    page.get_by_role("button", name="Add a card").click()
    someone.pay_on_card_page()
    eventually(lambda: cards_offered(someone), lambda cards: "4242" in cards)
    someone.switch_auto_topup_on(threshold="40", amount="25")

    page.get_by_role("link", name="Top up now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Charge $25.00 now?")
    expect(page.locator("main")).to_contain_text("Balance after$75.00")
    someone.expect_balance("$50.00")
    someone.open("/dashboard/wallet/auto-topup/trigger")
    page.get_by_role("button", name="Charge $25.00 now").click()

    expect(page.locator("#topup-status")).to_contain_text("$25.00")


def test_limits_show_how_far_they_are_used(visitor: Visitor) -> None:
    visitor.save_card()
    visitor.open("/dashboard/wallet/auto-topup")
    visitor.page.get_by_label("Daily limit").fill("50")
    visitor.page.get_by_label("Monthly limit").fill("200")
    visitor.page.get_by_label("Enable auto top-up").check()
    visitor.page.get_by_label("When credits are below").fill("0")
    visitor.page.get_by_label("I agree to automatic charges").check()
    visitor.page.get_by_role("button", name="Save Settings").click()

    expect(visitor.page.locator("progress")).to_have_count(2)
    expect(visitor.page.locator("main")).to_contain_text("$0.00 of $50.00")


def test_a_payment_that_the_bank_asks_about_is_confirmed_on_the_page(visitor: Visitor) -> None:
    page = visitor.page
    alert = buy_with_a_card_that_does_not_pay(visitor, ASKS_EACH_TIME, "bank")
    where = page.url
    expect(
        page.locator("#purchase-status").get_by_role("button", name="Buy Credits")
    ).to_have_count(0)
    visitor.open("/dashboard/wallet/auto-topup")
    expect(page.get_by_role("alert")).to_contain_text("Auto top-up is paused")

    page.goto(where)
    alert.get_by_role("link", name="Confirm with your bank").click()
    visitor.pay_on_card_page(ASKS_EACH_TIME)

    page.goto(where)
    visitor.expect_purchase("completed")
    visitor.open("/dashboard/wallet/auto-topup")
    expect(page.locator(".page-head")).to_contain_text("Active")


def expect_frozen_wallet(visitor: Visitor) -> None:
    def is_frozen() -> bool:
        visitor.open("/dashboard/wallet")
        return visitor.page.get_by_text("Your wallet is frozen").count() == 1

    eventually(is_frozen)
    expect(visitor.page.get_by_role("button", name="Buy Credits")).to_have_count(0)


def test_a_frozen_wallet_offers_no_credits_and_says_what_to_do(visitor: Visitor) -> None:
    visitor.open("/dashboard/wallet")
    visitor.choose_credits(25)
    visitor.page.get_by_role("button", name="Buy Credits").click()
    visitor.pay_on_card_page(DISPUTED)

    expect_frozen_wallet(visitor)
    expect(visitor.page.get_by_role("alert")).to_contain_text("Write to support")


def test_a_debt_that_a_refund_left_is_paid_and_the_wallet_opens(visitor: Visitor) -> None:
    page = visitor.page
    visitor.buy_credits(25)
    visitor.open_buy_now("vm-builder")
    page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("completed")
    refund_last_payment(visitor)

    expect_frozen_wallet(visitor)
    page.get_by_role("button", name="Pay $24.00").click()
    visitor.pay_on_card_page()
    expect(page.locator("#topup-status")).to_have_attribute("data-status", "credited")

    visitor.open("/dashboard/wallet")
    expect(page.get_by_text("Your wallet is frozen")).to_have_count(0)


def refund_last_payment(visitor: Visitor) -> None:
    """As from the processor's dashboard."""
    key = {"Authorization": "Bearer sk_test_x"}
    payments = requests.get(
        f"{visitor.sandbox_url}/v1/payment_intents", headers=key, timeout=PATIENCE_S
    ).json()["data"]
    answer = requests.post(
        f"{visitor.sandbox_url}/_sandbox/charges/{payments[0]['id']}/refund",
        json={},
        timeout=PATIENCE_S,
    )
    assert answer.ok, answer.text


def another_tab(visitor: Visitor) -> Visitor:
    return replace(visitor, page=visitor.context.new_page())


def expect_card_page_closed(visitor: Visitor) -> None:
    def is_closed() -> bool:
        visitor.page.reload()
        return visitor.page.get_by_text("Nothing was charged.").count() == 1

    eventually(is_closed)


def test_a_purchase_that_is_paid_otherwise_closes_its_card_page(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open_buy_now("vm-starter")
    page.get_by_role("button", name="Buy Credits and continue").click()
    expect(page.get_by_label("Card number")).to_be_visible()
    another_tab(visitor).buy_credits(25)

    expect_card_page_closed(visitor)
    page.get_by_role("link", name="Go back").click()

    expect(page.get_by_text("This purchase is already paid.")).to_be_visible()
    visitor.expect_balance("$20.00")


def test_two_tabs_with_two_card_pages_for_one_purchase_are_one_charge(visitor: Visitor) -> None:
    visitor.open_buy_now("vm-starter")
    visitor.page.get_by_role("button", name="Buy Credits and continue").click()
    expect(visitor.page.get_by_label("Card number")).to_be_visible()
    tab = another_tab(visitor)
    tab.open("/dashboard/purchases")
    tab.page.get_by_role("link", name=re.compile("^Open")).first.click()
    expect(tab.page.get_by_role("heading", name="Your card page is open")).to_be_visible()
    tab.page.get_by_text("Pay another amount").click()
    tab.choose_credits(25)
    tab.page.locator("#purchase-status").get_by_role("button", name="Buy Credits").click()
    expect(tab.page.get_by_label("Card number")).to_be_visible()

    expect_card_page_closed(visitor)
    tab.pay_on_card_page()
    tab.expect_purchase("completed")

    tab.expect_balance("$20.00")


def test_during_the_cool_down_it_is_said_when_auto_topup_pays_by_itself(visitor: Visitor) -> None:
    page = visitor.page
    visitor.save_card()
    visitor.switch_auto_topup_on(threshold="0")
    visitor.open_buy_now("vm-starter")
    page.get_by_role("dialog").get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("completed")

    visitor.open_buy_now("vm-builder")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Auto top-up pays by itself in")
    dialog.get_by_role("button", name=re.compile("^Buy Now for")).click()

    visitor.expect_purchase("awaiting_funds")
    expect(page.get_by_role("heading", name=re.compile("Auto top-up pays at"))).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_text("Pay by card instead")).to_be_visible()


def test_a_double_click_buys_once(visitor: Visitor) -> None:
    visitor.buy_credits(25)
    visitor.open_buy_now("vm-starter")
    visitor.page.get_by_role("button", name=re.compile("^Buy Now for")).dblclick()
    visitor.expect_purchase("completed")

    visitor.expect_balance("$20.00")


def test_without_javascript_the_purchase_completes_as_well(new_visitor: NewVisitor) -> None:
    someone = new_visitor(javascript=False)
    someone.register()
    someone.open("/marketplace/vm-starter")
    someone.page.get_by_role("button", name="Buy Now").click()
    someone.choose_credits(25)
    someone.page.get_by_role("button", name="Buy Credits and continue").click()
    someone.pay_on_card_page()
    someone.expect_purchase("completed")

    someone.expect_balance("$20.00")


def test_going_back_and_sending_the_form_again_buys_once(new_visitor: NewVisitor) -> None:
    someone = new_visitor(javascript=False)
    someone.register()
    someone.buy_credits(25)
    someone.open("/marketplace/vm-starter/buy")
    someone.page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    someone.expect_purchase("completed")
    first = someone.path

    someone.page.go_back()
    someone.page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    someone.expect_purchase("completed")

    assert someone.path == first
    someone.expect_balance("$20.00")


@pytest.mark.soak
def test_buying_while_billing_is_away_can_be_pressed_again_and_buys_once(
    visitor: Visitor, system: System
) -> None:
    page = visitor.page
    visitor.buy_credits(25)
    visitor.open_buy_now("vm-starter")
    system.stop("billing")
    try:
        page.get_by_role("button", name=re.compile("^Buy Now for")).click()
        expect(page.get_by_text("Pressing again is safe")).to_be_visible(timeout=30_000)
        page.goto(f"{visitor.base_url}/dashboard")
        expect(page.get_by_text("Your burn rate cannot be shown")).to_be_visible(timeout=30_000)
        page.go_back()
    finally:
        system.start("billing")

    page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("completed")

    visitor.expect_balance("$20.00")
