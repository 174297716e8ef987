"""The pictures of the README: ``make screenshots`` writes them to docs/images.

The name keeps it out of an ordinary run: a picture is taken on purpose.
"""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import PHONE, NewVisitor
from tests.e2e.visitor import PASSWORD, Visitor

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WANTED = ("vm-production", "gateway-eu", "storage-backup")
EMAIL = "you@example.org"


@pytest.fixture
def customer(new_visitor: NewVisitor) -> Visitor:
    """Somebody with $47.50, three deployments that burn $23.00 a month, and auto top-up."""
    someone = new_visitor()
    someone.email = EMAIL
    someone.register()
    someone.buy_credits(50)
    someone.open("/dashboard/wallet")
    someone.page.get_by_role("radio", name="Custom").check(force=True)
    someone.page.get_by_label("Custom amount").fill("20.50")
    someone.page.get_by_role("button", name="Buy Credits").click()
    someone.pay_on_card_page()
    someone.save_card()
    someone.page.get_by_label("Daily limit").fill("50")
    someone.page.get_by_label("Monthly limit").fill("200")
    someone.page.get_by_label("Enable auto top-up").check()
    someone.page.get_by_label("I agree to automatic charges").check()
    someone.page.get_by_role("button", name="Save Settings").click()
    expect(someone.page.get_by_text("Auto top-up is on.")).to_be_visible()
    for slug in WANTED:
        someone.open_buy_now(slug)
        someone.page.get_by_role("button", name=re.compile("^Buy Now for")).click()
        someone.expect_purchase("completed")
    someone.expect_balance("$47.50")
    return someone


def test_take_the_pictures(customer: Visitor, browser: Browser) -> None:
    for path, name in (
        ("/marketplace", "marketplace"),
        ("/dashboard", "dashboard"),
        ("/dashboard/wallet", "wallet"),
        ("/dashboard/wallet/auto-topup", "auto-topup"),
        ("/", "landing"),
    ):
        customer.open(path)
        customer.page.wait_for_load_state("networkidle")
        customer.page.screenshot(path=IMAGES / f"{name}.png")
    customer.open_buy_now("vm-starter")
    customer.page.screenshot(path=IMAGES / "buy-now.png")
    _phone(customer, browser)

    assert len(list(IMAGES.glob("*.png"))) >= 8


def _phone(customer: Visitor, browser: Browser) -> None:
    """The same person on a phone at night."""
    context = browser.new_context(
        viewport=PHONE,  # type: ignore[arg-type]
        color_scheme="dark",
        device_scale_factor=1.5,
    )
    phone = Visitor(context, context.new_page(), customer.base_url, customer.sandbox_url)
    phone.open("/login")
    phone.page.get_by_label("Email").fill(EMAIL)
    phone.page.get_by_label("Password").fill(PASSWORD)
    phone.page.get_by_role("button", name="Log in").click()
    expect(phone.page.locator(".balance")).to_have_text("$47.50")
    for path, name in (("/dashboard", "phone-dashboard"), ("/marketplace", "phone-marketplace")):
        phone.open(path)
        phone.page.wait_for_load_state("networkidle")
        phone.page.screenshot(path=IMAGES / f"{name}.png")
    context.close()
