"""Everybody can use the pages: contrast, names and roles by axe, and a focus that is seen."""

import re
from collections.abc import Iterator
from itertools import cycle
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import give_roles, visiting
from tests.e2e.test_pages import PAGES
from tests.e2e.visitor import Visitor
from tests.system import System

AXE = Axe()
RULES: dict["Theme", dict[str, Any]] = {
    "light": {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    # The other theme has other colours, and nothing else that is different.
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}},
}
VIOLATIONS_ALONE = {"resultTypes": ["violations"]}
"""What passes is thousands of nodes, which take longer to tell than to look at."""

# The ring of the focused element, or of what stands for it: a card for its link, a tile for its
# radio button. WCAG 2.2, SC 1.4.11: three to one against what is around it.
FOCUSED = """() => {
  const focused = document.activeElement;
  if (!focused || focused === document.body) return null;
  const shown = [focused, focused.nextElementSibling, focused.closest(".product")]
    .find((place) => place && getComputedStyle(place).outlineStyle !== "none");
  // The browser draws the ring of a part that it put into a field, a date's calendar, itself.
  if (!focused.matches(":focus")) return { isForeign: true };
  const named = focused.outerHTML.slice(0, 120);
  if (!shown) return { named, ring: null };
  const solid = (colour) => colour && !/, 0\\)$|transparent/.test(colour);
  let around = shown.parentElement;
  while (around && !solid(getComputedStyle(around).backgroundColor)) around = around.parentElement;
  return {
    named,
    ring: getComputedStyle(shown).outlineColor,
    around: around ? getComputedStyle(around).backgroundColor : "rgb(255, 255, 255)",
    isOnPicture: Boolean(focused.closest(".night")),
  };
}"""
STOPS_MAX = 60

Theme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def regular(browser: Browser, system: System) -> Iterator[Visitor]:
    """Somebody with credits, a deployment, a purchase that waits, and a saved card."""
    with visiting(browser, system) as new_visitor:
        someone = new_visitor()
        someone.register()
        someone.buy_credits(10)
        someone.buy_now("vm-starter")
        someone.expect_purchase("completed")
        someone.save_card()
        someone.open("/marketplace")
        someone.page.get_by_role("button", name="Add to cart: VM-Starter").click()
        someone.open_buy_now("vm-production")
        someone.press_card_page()
        someone.page.get_by_role("link", name="Cancel and go back").click()
        someone.expect_purchase("awaiting_funds")
        give_roles(system, someone)
        yield someone


@pytest.fixture(scope="module")
def own_paths(regular: Visitor) -> list[str]:
    """The pages of the purchase that waits, and of what runs."""
    waiting = regular.page.url
    regular.open("/dashboard/deployments")
    regular.page.get_by_role("link", name="VM-Starter", exact=True).click()
    expect(regular.page).to_have_url(re.compile("/dashboard/deployments/."))
    return [url.removeprefix(regular.base_url) for url in (waiting, regular.page.url)]


def test_no_page_breaks_a_rule_that_axe_knows(regular: Visitor, own_paths: list[str]) -> None:
    found = {}
    for path in [*PAGES, *own_paths]:
        regular.open(path)
        for theme, rules in RULES.items():
            # Colours that are still on their way from one theme to the other have no contrast.
            regular.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            results = AXE.run(regular.page, options={**rules, **VIOLATIONS_ALONE})
            if results.violations_count:
                found[path, theme] = results.generate_snapshot()

    assert found == {}


@pytest.mark.soak
def test_the_focus_is_seen_wherever_it_is(regular: Visitor) -> None:
    unseen = []
    for path, theme in zip(PAGES, cycle(RULES), strict=False):
        regular.page.emulate_media(color_scheme=theme)
        regular.open(path)
        for _ in range(STOPS_MAX):
            regular.page.keyboard.press("Tab")
            focus: dict[str, Any] | None = regular.page.evaluate(FOCUSED)
            if focus is None:
                break
            if focus.get("isForeign"):
                continue
            if focus["ring"] is None:
                unseen.append((path, focus["named"], "no ring"))
            elif not focus["isOnPicture"] and contrast(focus["ring"], focus["around"]) < 3:
                unseen.append((path, focus["named"], f"{focus['ring']} on {focus['around']}"))

    assert unseen == []


def contrast(one: str, other: str) -> float:
    """The contrast of two CSS colours: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Of ``rgb(13, 90, 67)``, or ``color(srgb 0.05 0.35 0.26 / 0.9)`` as the browser mixes it."""
    full = 1 if "srgb" in colour else 255
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (float(part) / full for part in re.findall(r"[\d.]+", colour)[:3])
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
