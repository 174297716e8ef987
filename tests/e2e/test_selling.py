"""Somebody sells: a profile, a product from its form to the marketplace, a new price, the end."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import NewVisitor, give_roles
from tests.e2e.visitor import Visitor
from tests.system import System

PICTURES = os.environ.get("PICTURES_OF_SELLING", "")


def look(seller: Visitor, name: str) -> None:
    """For whoever works on these pages: PICTURES_OF_SELLING=folder."""
    if PICTURES:
        for width in (1280, 375):
            seller.page.set_viewport_size({"width": width, "height": 900})
            seller.page.screenshot(path=Path(PICTURES) / f"{name}-{width}.png", full_page=True)
            assert seller.sideways_scroll() == 0


@pytest.fixture
def seller(new_visitor: NewVisitor, system: System) -> Visitor:
    """Without JavaScript, as every form has to work."""
    someone = new_visitor(javascript=False)
    someone.register()
    give_roles(system, someone)
    return someone


def press(seller: Visitor, name: str) -> None:
    seller.page.get_by_role("button", name=name, exact=True).click()


def write_profile(seller: Visitor) -> None:
    page = seller.page
    seller.open("/dashboard/selling")
    look(seller, "selling")
    page.get_by_role("link", name="Your products").click()
    page.get_by_role("link", name="New product").click()
    page.get_by_label("Name").fill("Hilltop <Hosting>")
    page.get_by_label("About you").fill("Two racks on a hill.\nWe answer within a day.")
    page.get_by_label("Support address").fill("help@hilltop.example")
    page.get_by_label("Support page").fill("https://hilltop.example/help")
    press(seller, "Review")
    look(seller, "profile-review")
    press(seller, "Save")
    expect(page.get_by_text("Write plain text")).to_be_visible()
    page.get_by_label("Name").fill("Hilltop Hosting")
    look(seller, "profile")
    press(seller, "Review")
    press(seller, "Save")
    expect(page.get_by_text("Sold as Hilltop Hosting")).to_be_visible()


def put_up(seller: Visitor) -> None:
    page = seller.page
    page.get_by_role("link", name="New product").click()
    page.get_by_label("Name", exact=True).fill("Hill-VM")
    page.get_by_label("Summary").fill("A machine with a view.")
    page.get_by_label("Description").fill("Wakes early.\n\nSleeps never.")
    page.get_by_label("vCPU").fill("4 dedicated")
    page.get_by_label("Memory").fill("8 GB")
    page.get_by_label("More lines").fill("View: south")
    page.get_by_label("Host name").check()
    page.get_by_label("Family").fill("hill-vm")
    page.get_by_text("Add a meter").click()
    page.get_by_label("What is used").first.fill("Traffic")
    page.get_by_label("Unit", exact=True).first.fill("GB")
    page.locator("[name='meter.0.price']").fill("0.02")
    page.get_by_label("Other prices above").first.fill("1000: 0.01")
    page.locator("[name=price]").fill("12,50")
    press(seller, "Preview")
    expect(page.get_by_text("with a point before the cents")).to_be_visible()
    look(seller, "new")
    page.locator("[name=price]").fill("12.50")
    page.get_by_label("Stock").fill("3")
    press(seller, "Preview")
    expect(page.get_by_text("Nothing is published yet.")).to_be_visible()
    look(seller, "preview")
    press(seller, "Change it")
    expect(page.get_by_label("More lines")).to_have_value("View: south")
    press(seller, "Preview")
    press(seller, "Publish")
    expect(page.get_by_text("Hill-VM is for sale.")).to_be_visible()
    look(seller, "product")


def change(seller: Visitor) -> None:
    page = seller.page
    page.get_by_label("New price").fill("15")
    press(seller, "Review the price")
    expect(page.get_by_text("30 days ahead")).to_be_visible()
    look(seller, "price-review")
    press(seller, "Change price to $15.00")
    page.get_by_label("How many are left").fill("5")
    press(seller, "Review the stock")
    look(seller, "stock-review")
    press(seller, "Change the stock")
    page.get_by_text("Add another meter").first.click()
    page.locator("[name='meter.1.label']").fill("Calls")
    page.locator("[name='meter.1.unit']").fill("calls")
    page.locator("[name='meter.1.price']").fill("0.0015")
    page.locator("[name='meter.1.per_units']").fill("1000")
    look(seller, "meters")
    press(seller, "Review what use costs")
    look(seller, "meters-review")
    press(seller, "Change it")
    page.get_by_label("Summary").fill("A machine with a better view.")
    press(seller, "Preview the change")
    look(seller, "texts-review")
    press(seller, "Change it")


def test_a_product_is_put_up_priced_counted_and_retired(
    seller: Visitor, new_visitor: NewVisitor
) -> None:
    page = seller.page
    write_profile(seller)
    put_up(seller)
    change(seller)

    buyer = new_visitor()
    buyer.open("/marketplace?q=hill-vm")
    buyer.page.get_by_role("link", name="Hill-VM", exact=True).click()
    expect(buyer.page.get_by_text("A machine with a better view.")).to_be_visible()
    expect(buyer.page.get_by_text("5 left")).to_be_visible()
    expect(buyer.page.get_by_text("above 1,000 GB $0.01 per GB")).to_be_visible()
    expect(buyer.page.get_by_text("$0.0015 per 1,000 calls")).to_be_visible()
    expect(buyer.page.locator(".price")).to_have_text(re.compile(r"\$15\.00"))
    buyer.page.get_by_role("link", name="Hilltop Hosting").click()
    expect(buyer.page.get_by_role("heading", name="Hilltop Hosting")).to_be_visible()
    expect(buyer.page.get_by_text("Two racks on a hill.")).to_be_visible()
    look(buyer, "provider")

    press(seller, "Review")
    look(seller, "retire-review")
    press(seller, "Sell it no more")
    expect(page.get_by_text("Sold no more; existing customers go on.")).to_be_visible()
    page.get_by_role("link", name="Your products").click()
    expect(page.get_by_text("Retired")).to_be_visible()
    look(seller, "products")
