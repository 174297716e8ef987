"""The cart, and a saved card that pays in one click, in a real browser."""

from playwright.sync_api import expect

from tests.e2e.conftest import PHONE, NewVisitor
from tests.e2e.visitor import ASKS_EACH_TIME, PASSWORD, Visitor


def test_a_cart_that_was_filled_before_the_account_is_paid_by_a_saved_card_in_one_click(
    new_visitor: NewVisitor,
) -> None:
    someone = new_visitor()
    page = someone.page
    someone.open("/marketplace")
    page.get_by_role("button", name="Add to cart: VM-Starter").click()
    expect(page.get_by_text("VM-Starter is in your cart.")).to_be_visible()
    someone.register()
    expect(page.get_by_text("from before you logged in: VM-Starter")).to_be_visible()
    someone.save_card()
    someone.open("/marketplace/gateway-eu")
    page.get_by_label("Quantity").fill("2")
    page.get_by_role("button", name="Add to cart").click()

    expect(page.get_by_role("link", name="Cart, 3 items")).to_be_visible()
    exact = page.get_by_role("radio", name="$15", exact=True)
    expect(exact).to_be_checked()
    expect(exact).to_have_accessible_description("leaves $0.00")
    expect(page.get_by_role("radio", name="$10", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Pay with Visa •••• 4242").click()
    someone.expect_purchase("completed")

    expect(page.get_by_role("link", name="Cart, 0 items")).to_be_visible()
    someone.expect_balance("$0.00")


def test_a_bank_that_asks_is_answered_on_its_page_without_scripts(new_visitor: NewVisitor) -> None:
    owner = new_visitor()
    owner.register()
    owner.save_card(ASKS_EACH_TIME)
    someone = new_visitor(PHONE, javascript=False)
    page = someone.page
    someone.open("/login?next=/marketplace/vm-starter/buy")
    page.get_by_label("Email").fill(owner.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    pay = page.get_by_role("button", name="Pay with Visa •••• 3184")
    for answer in ("Fail", "Complete"):
        pay.click()
        confirm = page.get_by_role("link", name="Confirm with your bank")
        expect(confirm).to_be_visible()
        assert someone.sideways_scroll() == 0
        confirm.click()
        page.get_by_role("button", name=answer).click()
        if answer == "Fail":
            _until(someone, "did not get the confirmation")

    _until(someone, "Purchase completed")


def test_auto_top_up_is_switched_on_with_its_terms_where_something_is_bought(
    visitor: Visitor,
) -> None:
    page = visitor.page
    visitor.save_card()
    visitor.open_buy_now("vm-starter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Switch on auto top-up instead").click()
    dialog.get_by_role("button", name="Switch on and buy").click()
    expect(page.locator("main .notice").first).to_contain_text("Auto top-up: ")
    page.get_by_label("I agree to automatic charges").check()
    page.get_by_role("button", name="Switch on and buy").click()
    visitor.expect_purchase("completed")

    visitor.expect_balance("$20.00")
    expect(page.locator("main")).to_contain_text("Active")


def _until(someone: Visitor, says: str) -> None:
    """The page follows without scripts: it loads itself again."""
    expect(someone.page.locator("main")).to_contain_text(says)
