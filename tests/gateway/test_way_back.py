"""A session that ends while a form is open: one logs in and is back at the form's page."""

from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from chassis.database import Connected
from services.gateway.models import User
from tests.gateway.conftest import PASSWORD, Site, add_user
from tests.gateway.test_site import csrf_token, log_in
from tests.patience import PATIENCE_S

FORM_PAGE = "/marketplace/small-machine/buy?quantity=2"
POSTED_TO = "/purchases"


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, has_wallet=True)


def send_form(site: Site, browser: requests.Session, token: str, page: str) -> requests.Response:
    return browser.post(
        site.base_url + POSTED_TO,
        data={"csrf_token": token},
        headers={"Referer": site.base_url + page},
        allow_redirects=False,
    )


def next_of(answer: requests.Response) -> str:
    assert answer.status_code == 303, answer.text[:300]
    location = urlsplit(answer.headers["Location"])
    assert location.path == "/login"
    return parse_qs(location.query)["next"][0]


def test_a_form_whose_session_was_ended_leads_to_the_login_and_back_to_its_page(
    site: Site, user: User
) -> None:
    browser, token = log_in(site, user)
    copy = site.browser()
    copy.cookies.update(browser.cookies)
    copy.post(f"{site.base_url}/logout", data={"csrf_token": token}, allow_redirects=False)
    back = next_of(send_form(site, browser, token, FORM_PAGE))

    page = browser.get(f"{site.base_url}/login", params={"next": back}).text
    form = {"email": user.email, "password": PASSWORD, "next": back}
    again = browser.post(
        f"{site.base_url}/login",
        data={**form, "csrf_token": csrf_token(page)},
        allow_redirects=False,
    )

    assert back == FORM_PAGE
    assert (again.status_code, again.headers["Location"]) == (303, FORM_PAGE)


def test_a_form_whose_cookie_has_run_out_leads_to_the_login_and_back(site: Site) -> None:
    answer = send_form(site, site.browser(), "of a cookie that has gone", FORM_PAGE)

    assert next_of(answer) == FORM_PAGE


def test_a_form_of_an_earlier_session_opens_its_page_again_and_says_why(
    site: Site, user: User
) -> None:
    browser, _ = log_in(site, user)

    answer = send_form(site, browser, "of another session", FORM_PAGE)

    assert (answer.status_code, answer.headers["Location"]) == (303, FORM_PAGE)
    assert "open for too long" in browser.get(f"{site.base_url}/docs/none").text


def test_an_old_login_form_is_shown_afresh(site: Site) -> None:
    answer = site.browser().post(
        f"{site.base_url}/login",
        data={"email": "ann@example.com", "password": PASSWORD, "csrf_token": "old"},
        headers={"Referer": f"{site.base_url}/login?next=%2Fdashboard"},
        allow_redirects=False,
    )

    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=%2Fdashboard")


@pytest.mark.parametrize(
    "page", [POSTED_TO, "/logout", "/nothing/here", "//evil.example/", "/\\evil.example"]
)
def test_nobody_is_sent_to_what_is_no_page(site: Site, user: User, page: str) -> None:
    browser = site.browser()
    login_page = browser.get(f"{site.base_url}/login").text
    form = {"email": user.email, "password": PASSWORD, "next": page}

    answer = browser.post(
        f"{site.base_url}/login",
        data={**form, "csrf_token": csrf_token(login_page)},
        allow_redirects=False,
    )

    assert answer.headers["Location"] == "/dashboard"


def test_a_form_of_another_site_is_refused(site: Site, user: User) -> None:
    browser, _ = log_in(site, user)
    answer = browser.post(
        site.base_url + POSTED_TO,
        headers={"Referer": "https://evil.example/marketplace"},
        allow_redirects=False,
    )

    assert answer.status_code == 403


def test_a_part_of_a_page_sends_the_whole_browser_to_the_login(site: Site) -> None:
    answer = requests.get(
        f"{site.base_url}/marketplace/small-machine/buy",
        headers={"HX-Request": "true", "Referer": f"{site.base_url}/marketplace"},
        timeout=PATIENCE_S,
    )

    assert answer.status_code == 200
    assert answer.headers["HX-Redirect"] == "/login?next=%2Fmarketplace"
