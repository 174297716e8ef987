"""What holds for every page: widths, keyboard, the ways of a browser."""

import re

from playwright.sync_api import Browser, expect

from tests.e2e.conftest import PHONE, NewVisitor, give_roles
from tests.e2e.visitor import Visitor
from tests.system import System

PAGES = [
    "/",
    "/marketplace",
    "/marketplace?q=nothing+is+called+like+this",
    "/marketplace?category=compute&vcpu=2",
    "/compare?slug=vm-starter&slug=vm-production&slug=3node-memory-kit",
    "/marketplace/vm-starter",
    "/marketplace/vm-starter/buy",
    "/cart",
    "/dashboard",
    "/dashboard/wallet",
    "/dashboard/wallet/transactions",
    "/dashboard/wallet/auto-topup",
    "/dashboard/wallet/transfer",
    "/dashboard/wallet/refunds",
    "/dashboard/deployments",
    "/dashboard/purchases",
    "/dashboard/notifications",
    "/dashboard/account",
    "/dashboard/account/delete",
    "/dashboard/account/webhooks",
    "/dashboard/selling",
    "/dashboard/selling/products",
    "/dashboard/selling/profile",
    "/password/forgot",
    "/admin",
    "/admin/users",
    "/admin/charges",
    "/admin/operations",
    "/admin/operations/wallet",
    "/admin/roles",
    "/admin/audit",
    "/docs/billing",
    "/docs/search?q=auto+top-up",
    "/status",
    "/there-is-no-such-page",
]

# What the guidelines for accessible pages ask for, WCAG 2.2 SC 1.4.10.
SMALLEST_WIDTH = 320


def test_no_page_scrolls_sideways_on_a_phone(new_visitor: NewVisitor, system: System) -> None:
    someone = new_visitor(PHONE)
    someone.register()
    someone.buy_credits(25)
    someone.open_buy_now("vm-starter")
    someone.page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    someone.expect_purchase("completed")
    give_roles(system, someone)

    too_wide = {}
    for path in PAGES:
        someone.open(path)
        for width in (PHONE["width"], SMALLEST_WIDTH):
            someone.page.set_viewport_size({**PHONE, "width": width})
            if excess := someone.sideways_scroll():
                too_wide[path, width] = excess

    assert too_wide == {}


def test_every_page_has_one_heading_and_a_name_for_every_field(
    visitor: Visitor, system: System
) -> None:
    give_roles(system, visitor)
    faults = []
    for path in PAGES:
        visitor.open(path)
        headings = visitor.page.locator("h1").count()
        nameless: int = visitor.page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]"
            ".filter(field => !field.labels.length && !field.ariaLabel).length"
        )
        if (headings, nameless) != (1, 0):
            faults.append((path, headings, nameless))

    assert faults == []


def test_buy_now_works_with_the_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/marketplace/vm-starter")
    button = page.get_by_role("button", name="Buy Now")
    button.focus()

    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert dialog.evaluate("dialog => dialog.contains(document.activeElement)")
    page.keyboard.press("Escape")

    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()


def test_the_skip_link_is_the_first_stop_and_leads_to_the_content(visitor: Visitor) -> None:
    visitor.open("/marketplace")

    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Enter")

    expect(visitor.page.locator("#main")).to_be_focused()


def test_search_filter_and_load_more_find_products(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/marketplace")
    first_page = page.locator(".products .price").count()
    page.get_by_role("link", name="Load more").click()
    expect(page.locator(".products .price").nth(first_page)).to_be_visible()
    expect(page.locator(".products h2 a").nth(first_page)).to_be_focused()

    page.get_by_label("Search").fill("gateway")
    page.get_by_label("Price up to").fill("5")
    page.get_by_role("button", name="Search").click()

    expect(page.locator("#product-gateway-eu")).to_be_visible()
    expect(page.locator("#product-vm-production")).to_have_count(0)


def test_many_deployments_are_paged_through_and_the_dashboard_names_ten(visitor: Visitor) -> None:
    page = visitor.page
    visitor.buy_credits(50)
    visitor.buy_credits(50)
    visitor.open("/marketplace/storage-backup/buy?quantity=30")
    page.get_by_role("button", name=re.compile("^Buy Now for")).click()
    visitor.expect_purchase("completed")

    visitor.open("/dashboard")
    expect(page.locator(".share li")).to_have_count(10)
    page.get_by_text("The 10 most expensive of 30.").get_by_role(
        "link", name="See them all"
    ).click()
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_role("link", name="Older").click()
    expect(page.locator("tbody tr")).to_have_count(5)
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("tbody tr")).to_have_count(25)


def test_a_visitor_who_presses_buy_now_logs_in_and_is_back_at_it(new_visitor: NewVisitor) -> None:
    someone = new_visitor()
    someone.open("/marketplace/vm-starter")
    someone.page.get_by_role("button", name="Buy Now").click()
    expect(someone.page).to_have_url(re.compile("/login"))
    someone.page.get_by_role("link", name="Create an account").click()
    someone.page.get_by_label("Email").fill(someone.email)
    someone.page.get_by_label("Password").fill("correct horse battery staple")
    someone.page.get_by_role("button", name="Create account").click()

    expect(someone.page).to_have_url(re.compile("/marketplace/vm-starter/buy"))


def test_a_wrong_password_says_so_and_keeps_the_address(new_visitor: NewVisitor) -> None:
    someone = new_visitor()
    someone.open("/login")
    someone.page.get_by_label("Email").fill("nobody@example.org")
    someone.page.get_by_label("Password").fill("not the password")
    someone.page.get_by_role("button", name="Log in").click()

    expect(someone.page.get_by_role("alert")).to_contain_text("wrong")
    expect(someone.page.get_by_label("Email")).to_have_value("nobody@example.org")


def test_logging_out_closes_the_dashboard(visitor: Visitor) -> None:
    visitor.page.locator("details.account summary").click()
    visitor.page.get_by_role("button", name="Log out").click()
    expect(visitor.page.get_by_text("You are logged out.")).to_be_visible()

    visitor.open("/dashboard")

    assert visitor.path == "/login"


def test_a_time_stands_in_utc_and_in_the_reader_s_own_zone(
    browser: Browser, visitor: Visitor
) -> None:
    visitor.buy_credits(10)
    cookies = visitor.context.cookies()
    context = browser.new_context(timezone_id="Asia/Tokyo", storage_state={"cookies": cookies})
    page = context.new_page()
    page.goto(f"{visitor.base_url}/dashboard/wallet/transactions")

    shown = page.locator("time").first
    expect(shown).to_have_text(
        re.compile(r"^\d+\s\w+\s20\d\d, \d\d:\d\d\sUTC \(.*\d\d:\d\d\syour\stime\)$")
    )
    context.close()
