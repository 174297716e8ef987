"""The product's main job in a real browser: from registering to automatic top-up."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import DESKTOP, PHONE, NewVisitor


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_new_user_buys_credits_once_and_everything_else_happens_by_itself(
    new_visitor: NewVisitor, window: dict[str, int]
) -> None:
    someone = new_visitor(window)
    page = someone.page

    someone.register()
    expect(page.locator(".balance")).to_have_text("$0.00")

    page.get_by_role("link", name="Marketplace").first.click()
    page.get_by_role("link", name="Buy Now: VM-Starter").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("$5.00 more")

    someone.choose_credits(25)
    dialog.get_by_role("button", name="Buy Credits and continue").click()
    someone.pay_on_card_page()
    someone.expect_purchase("completed")

    someone.expect_balance("$20.00")
    someone.expect_on("/dashboard", "main", "$5.00/month")
    someone.expect_on("/dashboard/deployments", "main tr:has-text('VM-Starter')", "Active")

    someone.save_card()
    someone.switch_auto_topup_on(threshold="10", amount="25")
    expect(page.locator(".page-head")).to_contain_text("Active")

    someone.open_buy_now("vm-builder")
    expect(dialog).to_contain_text("Auto top-up")
    expect(dialog).to_contain_text("$21.00")
    dialog.get_by_role("button", name=re.compile("Buy Now")).click()
    someone.expect_purchase("completed")

    someone.open("/dashboard/wallet/transactions?kind=auto_topup")
    charge = page.locator("tbody tr")
    expect(charge).to_have_count(1)
    expect(charge).to_contain_text("+$25.00")
    expect(charge).to_contain_text("Charged because a purchase was short of credits")
    expect(charge).to_contain_text("threshold $10.00")
    someone.expect_balance("$21.00")
