"""A person in front of a real browser, and what such a person does on the site."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Response, expect

from tests.patience import GAP, PATIENCE_S, TOO_BUSY, eventually

PASSWORD = "correct horse battery staple"
GOOD_CARD = "4242 4242 4242 4242"
CARD_DECLINED_LATER = "4000 0000 0000 0341"
"""It can be saved; each charge of it is declined."""

ASKS_EACH_TIME = "4000 0027 6000 3184"
"""The bank asks its customer about each payment."""

DISPUTED = "4000 0000 0000 0259"
"""Its owner disputes each payment at once."""

PATIENCE_MS = PATIENCE_S * 1_000
# The browser writes a line for every answer that is an error; those pages are looked at anyway. A
# part of a page is asked for again by itself where the site is too busy to answer.
_ABOUT_STATUS = re.compile(
    r"(Failed to load resource: the server responded with a status of"
    r"|Response Status Error Code) (4\d\d|50[34])\b"
)


@dataclass
class Visitor:
    """``complaints`` are what the browser held against a page: errors, refused scripts."""

    context: BrowserContext
    page: Page
    base_url: str
    sandbox_url: str
    email: str = field(default_factory=lambda: f"shopper-{uuid4().hex[:12]}@example.org")
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, message: ConsoleMessage) -> None:
        is_ours = not message.location.get("url", "").startswith(self.sandbox_url)
        is_fault = message.type in ("error", "warning") and not _ABOUT_STATUS.match(message.text)
        if is_ours and is_fault:
            self.complaints.append(f"{self.page.url}: {message.text}")

    def open(self, path: str) -> Response:
        """Loads it again while a part of the site is too busy for all of it."""

        def load() -> Response:
            answer = self.page.goto(self.base_url + path)
            assert answer is not None
            return answer

        def is_whole(answer: Response) -> bool:
            gap = GAP.search(self.page.locator("body").inner_text())
            return answer.status not in TOO_BUSY and not gap

        return eventually(load, is_whole, interval_s=0.5)

    @property
    def path(self) -> str:
        return urlsplit(self.page.url).path

    def register(self) -> None:
        self.open("/register")
        self.page.get_by_label("Email").fill(self.email)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Create account").click()
        expect(self.page).to_have_url(re.compile("/dashboard$"))

    def pay_on_card_page(self, card: str = GOOD_CARD) -> None:
        """Fill in the card processor's hosted page, and come back to the site."""
        expect(self.page).to_have_url(re.compile(re.escape(self.sandbox_url)))
        self.page.get_by_label("Card number").fill(card)
        self.page.get_by_label("Expiry").fill("12 / 34")
        self.page.get_by_label("Security code").fill("123")
        self.page.get_by_label("Name on card").fill("Example Shopper")
        self.page.locator("form#card button[type=submit]").click()
        if card == ASKS_EACH_TIME:
            self.page.get_by_role("button", name="Complete").click()
        expect(self.page).to_have_url(re.compile(re.escape(self.base_url)))

    def save_card(self, card: str = GOOD_CARD) -> None:
        """From the auto top-up page to the hosted page, and back."""
        self.open("/dashboard/wallet/auto-topup")
        self.page.get_by_role("button", name="Add a card").click()
        self.pay_on_card_page(card)
        last4 = card[-4:]
        expect(self.page.get_by_label("Payment method")).to_contain_text(last4)

    def switch_auto_topup_on(self, threshold: str = "10", amount: str = "25") -> None:
        self.open("/dashboard/wallet/auto-topup")
        self.page.get_by_label("Enable auto top-up").check()
        self.page.get_by_label("When credits are below").fill(threshold)
        self.page.get_by_label("Purchase this amount").fill(amount)
        self.page.get_by_label("I agree to automatic charges").check()
        self.page.get_by_role("button", name="Save Settings").click()

    def buy_credits(self, dollars: int) -> None:
        """From the wallet, by card, until the credits are there."""
        self.open("/dashboard/wallet")
        self.choose_credits(dollars)
        self.press_card_page()
        self.pay_on_card_page()
        expect(self.page.locator("#topup-status")).to_have_attribute("data-status", "credited")

    def press_card_page(self) -> None:
        """The button that leads to the hosted page, whether or not a card is saved."""
        leads = re.compile("^(Buy Credits( and continue)?|Use another card)$")
        self.page.locator("main, dialog[open]").get_by_role("button", name=leads).last.click()

    def choose_credits(self, dollars: int) -> None:
        self.page.get_by_role("radio", name=f"${dollars}", exact=False).first.check(force=True)

    def open_buy_now(self, slug: str) -> None:
        """Press Buy Now on a product's page; the dialog opens."""
        dialog = self.page.get_by_role("dialog")

        def opens() -> bool:
            self.open(f"/marketplace/{slug}")
            self.page.get_by_role("button", name="Buy Now").click()
            expect(dialog).to_be_visible()
            return not GAP.search(dialog.inner_text())

        eventually(opens, interval_s=0.5)

    def buy_now(self, slug: str) -> None:
        """Buy what the credits cover, or what auto top-up will pay."""
        self.open_buy_now(slug)
        self.page.get_by_role("button", name=re.compile("^Buy Now for")).click()

    def expect_purchase(self, status: str) -> None:
        """The page of the purchase gets there by itself: nothing is pressed, nothing reloaded."""
        expect(self.page.locator("#purchase-status")).to_have_attribute("data-status", status)

    def expect_balance(self, formatted: str) -> None:
        self.open("/dashboard")
        # The page asks anew by itself.
        expect(self.page.locator(".balance")).to_have_text(formatted)

    def expect_on(self, path: str, selector: str, says: str) -> None:
        """What stands on a page that tells of what happens by itself, and that does not ask anew:
        it is loaded again until it is there."""

        def is_there() -> bool:
            self.open(path)
            return self.page.locator(selector).filter(has_text=says).count() > 0

        eventually(is_there)

    def sideways_scroll(self) -> int:
        """By how many pixels the page is wider than the window."""
        width: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return width
