"""One's own account in a browser, with mails that really arrive; nothing of it needs a script."""

import re

import pyotp
import pytest
import requests
from playwright.sync_api import expect

from tests.e2e.conftest import PHONE, NewVisitor
from tests.e2e.visitor import PASSWORD, Visitor
from tests.patience import PATIENCE_S, eventually
from tests.system import System

NEW_PASSWORD = "another horse, another battery"


@pytest.fixture(scope="module")
def mailbox(system: System) -> str:
    system.start("mailbox")
    return system.mailbox_url


def mailed_link(mailbox: str, email: str, subject: str) -> str:
    """The link of the newest such mail to an address, once it has arrived."""

    def look() -> str:
        listed = requests.get(mailbox, timeout=PATIENCE_S).text
        row = re.search(rf'<a href="(/\d+)">{subject}</a></td><td>{re.escape(email)}', listed)
        if row is None:
            return ""
        link = re.search(
            r'href="(http[^"]*link=[^"]*)"', requests.get(mailbox + row[1], timeout=PATIENCE_S).text
        )
        return link[1] if link else ""

    return eventually(look)


def log_in(someone: Visitor, password: str) -> None:
    someone.open("/login")
    someone.page.get_by_label("Email").fill(someone.email)
    someone.page.get_by_label("Password").fill(password)
    someone.page.get_by_role("button", name="Log in").click()


def test_who_forgot_the_password_gets_in_again_by_mail(
    new_visitor: NewVisitor, mailbox: str
) -> None:
    someone = new_visitor(PHONE, javascript=False)
    someone.register()
    someone.page.goto(mailed_link(mailbox, someone.email, "Confirm your email address"))
    someone.page.get_by_role("button", name="Confirm").click()
    expect(someone.page.get_by_text(f"{someone.email} is confirmed.").first).to_be_visible()

    stranger = new_visitor(javascript=False)
    stranger.email = someone.email
    stranger.open("/login")
    stranger.page.get_by_role("link", name="Forgot your password?").click()
    stranger.page.get_by_label("Email").fill(someone.email)
    stranger.page.get_by_role("button", name="Send the link").click()
    expect(stranger.page.get_by_text("a link is on its way")).to_be_visible()
    stranger.page.goto(mailed_link(mailbox, someone.email, "Choose a new password"))
    stranger.page.get_by_label("New password").fill("password1")
    stranger.page.get_by_role("button", name="Change the password").click()
    expect(stranger.page.get_by_text("Many people use this password")).to_be_visible()
    stranger.page.get_by_label("New password").fill(NEW_PASSWORD)
    stranger.page.get_by_role("button", name="Change the password").click()
    expect(stranger.page.get_by_text("Log in with it.")).to_be_visible()
    log_in(stranger, NEW_PASSWORD)

    expect(stranger.page).to_have_url(re.compile("/dashboard$"))
    eventually(lambda: someone.open("/dashboard").url.endswith("/login?next=%2Fdashboard"))


def test_a_second_step_and_a_token_are_set_up_without_a_script(
    new_visitor: NewVisitor,
) -> None:
    someone = new_visitor(javascript=False)
    someone.register()
    someone.open("/dashboard/account")
    section = someone.page.locator("#second-step")
    section.get_by_label("Current password").fill(PASSWORD)
    section.get_by_role("button", name="Set it up").click()
    secret = someone.page.locator("code").inner_text().replace(" ", "")
    code = someone.page.get_by_label("Code of the app")
    code.fill("000 000x")
    someone.page.get_by_role("button", name="Switch it on").click()
    expect(someone.page.get_by_text("The code is wrong")).to_be_visible()
    code.fill(pyotp.TOTP(secret).now())
    someone.page.get_by_role("button", name="Switch it on").click()
    recovery = someone.page.locator("li code").first.inner_text()
    someone.page.get_by_role("link", name="I have kept them").click()
    expect(section.get_by_text("10 of 10 recovery codes")).to_be_visible()

    someone.page.get_by_text("Make a token").click()
    someone.page.get_by_label("Name", exact=True).fill("Backup script")
    someone.page.get_by_label("Buy:").check()
    someone.page.get_by_role("button", name="Make the token").click()
    token = someone.page.locator("#tokens code", has_text="myc_").inner_text()
    answer = requests.get(
        f"{someone.base_url}/api/tokens",
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE_S,
    )
    assert answer.json()["tokens"][0]["scopes"] == ["read", "buy"]

    stranger = new_visitor()
    stranger.email = someone.email
    log_in(stranger, PASSWORD)
    stranger.page.get_by_label("Code").fill(recovery)
    stranger.page.get_by_role("button", name="Log in").click()
    expect(stranger.page).to_have_url(re.compile("/dashboard$"))
    someone.expect_on("/dashboard/notifications", "main", "New sign-in to your account")
