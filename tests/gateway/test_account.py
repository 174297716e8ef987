"""One's own account: password, address, second step, sessions, tokens, and its end."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pyotp
import pytest
import requests
from sqlalchemy import select, text

from chassis.clock import utc_now
from chassis.database import Connected
from services.gateway.api import OPERATIONS
from services.gateway.models import (
    ApiToken,
    Base,
    Mail,
    MailLink,
    RoleGrant,
    SellerAgreement,
    TransferRow,
    User,
    UserSession,
)
from services.gateway.notifications import links, topics
from services.gateway.notifications.links import Purpose
from services.gateway.people import closing, second_step, sessions, tokens, users
from services.gateway.people.tokens import EVERYTHING, Scope
from tests.gateway.conftest import PASSWORD, Api, Site, add_user, error_of, granted, token_for
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token, log_in
from tests.locks import done_after
from tests.patience import PATIENCE_S

SECRET_KEY = "a secret for tests only, of enough length"
NEW_PASSWORD = "another horse, another battery"
PAGE = "/dashboard/account"


@pytest.fixture
def people(database: Connected) -> list[User]:
    """Three in the order in which they came: the middle one is looked at."""
    return [add_user(database, f"{name}@example.com", has_wallet=True) for name in "abc"]


@pytest.fixture
def ann(people: list[User]) -> User:
    return people[1]


class Browser:
    """Somebody who is logged in, and fills in the forms of the account page."""

    def __init__(self, site: Site, user: User) -> None:
        self.base_url = site.base_url
        self.http, self.csrf = log_in(site, user)

    def post(self, path: str, **fields: Any) -> requests.Response:
        data = {"csrf_token": self.csrf, **fields}
        return self.http.post(
            self.base_url + path, data=data, allow_redirects=False, timeout=PATIENCE_S
        )

    def is_logged_in(self) -> bool:
        page = self.http.get(self.base_url + PAGE, allow_redirects=False, timeout=PATIENCE_S)
        return page.status_code == 200


@pytest.fixture
def mailing(serve: Callable[..., Site]) -> Site:
    return serve(smtp_url="smtp+plain://127.0.0.1:1", rate_limit_reset_account="100 per hour")


def newest_link(database: Connected, user: User) -> str:
    with database.read() as session:
        link = session.scalars(
            select(MailLink)
            .where(MailLink.user_id == user.user_id)
            .order_by(MailLink.link_id.desc())
            .limit(1)
        ).one()
        return links.address_of(link, SECRET_KEY)


def follow(site: Site, address: str, **fields: str) -> requests.Response:
    """Open a link from a mail in a browser that knows nothing, and press its button."""
    browser = requests.Session()
    page = browser.get(site.base_url + address, timeout=PATIENCE_S)
    if page.status_code != 200:
        return page
    path, _, link = address.partition("?link=")
    data = {"csrf_token": csrf_token(page.text), "link": link, **fields}
    return browser.post(site.base_url + path, data=data, allow_redirects=False, timeout=PATIENCE_S)


def ask_for_reset(site: Site, email: str) -> str:
    browser = requests.Session()
    page = browser.get(f"{site.base_url}/password/forgot", timeout=PATIENCE_S)
    form = {"csrf_token": csrf_token(page.text), "email": email}
    answer = browser.post(f"{site.base_url}/password/forgot", data=form, timeout=PATIENCE_S)
    assert answer.ok
    return answer.text.replace(email, "").replace(csrf_token(page.text), "")


def can_log_in(database: Connected, user: User, password: str) -> bool:
    try:
        return users.log_in(database, user.email, password).user_id == user.user_id
    except users.WrongCredentials:
        return False


def test_a_reset_ends_whatever_was_issued_before_and_works_once(
    database: Connected, mailing: Site, people: list[User]
) -> None:
    browsers = [Browser(mailing, user) for user in people]
    secrets = [token_for(database, user) for user in people]

    known, unknown = (
        ask_for_reset(mailing, email) for email in ("B@Example.com", "nobody@example.com")
    )
    replaced = newest_link(database, people[1])
    ask_for_reset(mailing, "b@example.com")
    link = newest_link(database, people[1])
    weak = follow(mailing, link, password="password1")
    assert can_log_in(database, people[1], PASSWORD)
    done = follow(mailing, link, password=NEW_PASSWORD)

    assert re.sub(r"\s+", " ", known) == re.sub(r"\s+", " ", unknown)
    assert (weak.status_code, done.status_code) == (422, 303)
    for used in (replaced, link, link.replace("?link=", "?link=A"), "/password/reset?link=x"):
        assert follow(mailing, used, password="a third password").status_code == 410
    assert can_log_in(database, people[1], NEW_PASSWORD)
    assert not can_log_in(database, people[1], PASSWORD)
    with database.read() as session:
        alive = [tokens.find(session, utc_now(), secret) is not None for secret in secrets]
    assert alive == [True, False, True]
    assert [each.is_logged_in() for each in (browsers[0], browsers[2])] == [True, True]
    with database.read() as session:
        live = [len(sessions.open_ones(session, utc_now(), each.user_id)) for each in people]
        mailed = {(mail.user_id, mail.kind) for mail in session.scalars(select(Mail))}
    assert live == [1, 0, 1]
    assert (people[1].user_id, "password_changed") in mailed


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_link_ends_on_the_instant_and_is_for_its_purpose_alone(
    database: Connected, ann: User, purpose: Purpose
) -> None:
    now = utc_now()
    with database.begin() as session:
        link = links.make(session, now, ann.user_id, purpose, ann.email)
        session.flush()
        text = links.address_of(link, SECRET_KEY).partition("link=")[2]
        end = now + links.LIFETIMES[purpose]
        others = [other for other in Purpose if other is not purpose]

        def found(at: Any, key: str = SECRET_KEY, wanted: Any = (purpose,)) -> bool:
            return links.opened(session, at, key, text, *wanted, to_use=True) is not None

        assert found(end - timedelta(microseconds=1))
        assert not found(end)
        assert not found(now, wanted=others)
        assert not found(now, key="another secret key")


def test_two_who_use_one_link_at_once_set_one_password(database: Connected, ann: User) -> None:
    now = utc_now()
    with database.begin() as session:
        link = links.make(session, now, ann.user_id, Purpose.PASSWORD_RESET, ann.email)
        session.flush()
        text = links.address_of(link, SECRET_KEY).partition("link=")[2]

    def use() -> bool:
        with database.begin() as session:
            opened = links.opened(
                session, now, SECRET_KEY, text, Purpose.PASSWORD_RESET, to_use=True
            )
            return opened is not None

    def hold(session: Any) -> None:
        links.end(session, now, ann.user_id)

    assert done_after(database, hold, use) is False


def test_another_password_needs_the_old_one_and_ends_what_logins_gave(
    database: Connected, mailing: Site, ann: User
) -> None:
    mine, other = Browser(mailing, ann), Browser(mailing, ann)
    now = utc_now()
    with database.begin() as session:
        login = tokens.issue(session, now, ann.user_id, "login", is_of_login=True)
        named = tokens.issue(session, now, ann.user_id, "backup")
        ruling = tokens.issue(session, now, ann.user_id, "ops", (Scope.BUY, Scope.ADMIN))
    ask_for_reset(mailing, ann.email)
    link = newest_link(database, ann)

    wrong = mine.post(f"{PAGE}/password", current_password="wrong", password=NEW_PASSWORD)
    assert (wrong.status_code, "current password is wrong" in wrong.text) == (422, True)
    assert can_log_in(database, ann, PASSWORD)
    right = mine.post(f"{PAGE}/password", current_password=PASSWORD, password=NEW_PASSWORD)

    assert right.status_code == 303
    assert can_log_in(database, ann, NEW_PASSWORD)
    with database.read() as session:
        live = sessions.open_ones(session, utc_now(), ann.user_id)
        alive = [
            tokens.find(session, utc_now(), each) is not None for each in (login, named, ruling)
        ]
    assert (len(live), alive) == (1, [False, True, False])
    assert mine.is_logged_in()
    assert other.http.cookies
    assert follow(mailing, link, password="a third password").status_code == 410


def test_the_address_is_confirmed_and_changed_by_links_and_the_old_one_hears_of_it(
    database: Connected, mailing: Site, people: list[User]
) -> None:
    ann, browser = people[1], Browser(mailing, people[1])
    with database.begin() as session:
        session.get_one(User, ann.user_id).email_confirmed_at = None
    payout = Api(mailing.base_url, token_for(database, ann)).command("/api/payouts", {"amount": 5})
    assert error_of(payout) == (403, "email_not_confirmed")
    browser.post(f"{PAGE}/email/confirmation")
    first = newest_link(database, ann)
    assert follow(mailing, first).status_code == 303

    asked = {"current_password": PASSWORD, "email": "new@example.com"}
    refused = browser.post(f"{PAGE}/email", **{**asked, "current_password": "wrong"})
    same = browser.post(f"{PAGE}/email", **{**asked, "email": "B@example.com"})
    taken = browser.post(f"{PAGE}/email", **{**asked, "email": "C@example.com"})
    free = browser.post(f"{PAGE}/email", **asked)
    assert [refused.status_code, same.status_code] == [422, 422]
    assert taken.status_code == free.status_code == 303
    ask_for_reset(mailing, ann.email)
    with database.read() as session:
        reset = links.address_of(
            session.scalars(
                select(MailLink).where(MailLink.purpose == Purpose.PASSWORD_RESET)
            ).one(),
            SECRET_KEY,
        )
        change = links.address_of(
            session.scalars(select(MailLink).where(MailLink.email == "new@example.com")).one(),
            SECRET_KEY,
        )
        assert session.get_one(User, ann.user_id).email == ann.email
    assert follow(mailing, change).status_code == 303

    with database.read() as session:
        changed = session.get_one(User, ann.user_id)
        mailed = {(mail.address, mail.kind) for mail in session.scalars(select(Mail))}
    assert (changed.email, changed.email_key) == ("new@example.com", "new@example.com")
    # What was sent to the old mailbox opens nothing any more.
    assert follow(mailing, reset, password=NEW_PASSWORD).status_code == 410
    assert {(ann.email, "email_changed"), ("C@example.com", "email_in_use")} <= mailed
    assert ("C@example.com", "change_email") not in mailed


def test_an_address_that_somebody_took_meanwhile_stays_theirs(
    database: Connected, mailing: Site, ann: User
) -> None:
    browser = Browser(mailing, ann)
    browser.post(f"{PAGE}/email", current_password=PASSWORD, email="new@example.com")
    add_user(database, "NEW@example.com", has_wallet=False)

    assert follow(mailing, newest_link(database, ann)).status_code == 409
    with database.read() as session:
        assert session.get_one(User, ann.user_id).email == ann.email


@pytest.fixture
def guarded(database: Connected, ann: User) -> tuple[User, str, list[str]]:
    """Ann with a second step: its secret, and her recovery codes."""
    now = utc_now() - timedelta(hours=1)
    with database.begin() as session:
        secret = second_step.begin(session, ann.user_id, SECRET_KEY)
        session.flush()
        code = pyotp.TOTP(secret).at(now)
        codes = second_step.confirm(session, now, ann.user_id, SECRET_KEY, code)
    return ann, secret, codes


def test_a_code_is_taken_once_and_again_for_a_retry_of_the_same(
    database: Connected, guarded: tuple[User, str, list[str]]
) -> None:
    ann, secret, codes = guarded
    now, totp = utc_now(), pyotp.TOTP(secret)

    def takes(code: str, purpose: str, at: Any = now) -> bool:
        try:
            with database.begin() as session:
                second_step.check(session, at, ann.user_id, SECRET_KEY, code, purpose)
        except users.SecondStepRequired:
            return False
        return True

    code = totp.at(now)
    assert not takes("", "pay")
    assert not takes(f"{(int(code) + 1) % 1_000_000:06d}", "pay")
    assert [takes(code, "pay"), takes(code, "pay"), takes(code, "log in")] == [True, True, False]
    # A clock that is half a minute off is right; an older code than the last one is not.
    assert takes(totp.at(now + timedelta(seconds=30)), "log in")
    assert not takes(totp.at(now), "pay")
    assert not takes(totp.at(now + timedelta(seconds=90)), "log in")
    # Stored as a fast hash, which takes 112 random bits or more (ASVS 5.0, 6.5.2).
    assert all(len(each) == 29 for each in codes)
    assert takes(codes[0].upper().replace("-", " "), "log in")
    assert not takes(codes[0], "log in")
    with database.read() as session:
        stored = session.get_one(User, ann.user_id).second_step_secret or ""
        assert second_step.codes_left(session, ann.user_id) == 9
    assert secret not in stored


def test_logging_in_asks_for_the_second_step_in_a_browser_and_over_the_api(
    site: Site, database: Connected, guarded: tuple[User, str, list[str]]
) -> None:
    ann, secret, codes = guarded
    browser = requests.Session()
    page = browser.get(f"{site.base_url}/login", timeout=PATIENCE_S)
    form = {"email": ann.email, "password": PASSWORD, "csrf_token": csrf_token(page.text)}
    asked = browser.post(
        f"{site.base_url}/login?next=/dashboard/wallet", data=form, timeout=PATIENCE_S
    )
    assert asked.url.startswith(f"{site.base_url}/login/second-step")
    assert not browser.get(site.base_url + PAGE, allow_redirects=False, timeout=PATIENCE_S).ok or (
        "login" in browser.get(site.base_url + PAGE, timeout=PATIENCE_S).url
    )

    def enter(code: str) -> requests.Response:
        data = {"csrf_token": csrf_token(asked.text), "code": code}
        place = f"{site.base_url}/login/second-step"
        return browser.post(place, data=data, allow_redirects=False, timeout=PATIENCE_S)

    wrong, right = enter("000000x"), enter(pyotp.TOTP(secret).now())
    assert (wrong.status_code, right.status_code) == (401, 303)
    assert (
        browser.get(site.base_url + PAGE, allow_redirects=False, timeout=PATIENCE_S).status_code
        == 200
    )

    program = Api(site.base_url)
    credentials = {"email": ann.email, "password": PASSWORD}
    refused = program.post("/api/auth/login", credentials)
    assert error_of(refused) == (401, "second_step_required")
    assert program.post("/api/auth/login", {**credentials, "code": codes[1]}).ok
    with database.read() as session:
        told = [mail.kind for mail in session.scalars(select(Mail)) if mail.user_id == ann.user_id]
    assert told.count("new_sign_in") == 2


def test_a_code_logs_in_once_whoever_has_the_password(
    site: Site, database: Connected, guarded: tuple[User, str, list[str]]
) -> None:
    ann, secret, _ = guarded
    credentials = {"email": ann.email, "password": PASSWORD}

    def by_program(code: str) -> int:
        return Api(site.base_url).post("/api/auth/login", {**credentials, "code": code}).status_code

    def by_browser(code: str) -> int:
        browser = requests.Session()
        page = browser.get(f"{site.base_url}/login", timeout=PATIENCE_S)
        form = {**credentials, "csrf_token": csrf_token(page.text)}
        asked = browser.post(f"{site.base_url}/login", data=form, timeout=PATIENCE_S)
        form = {"csrf_token": csrf_token(asked.text), "code": code}
        return browser.post(
            asked.url, data=form, allow_redirects=False, timeout=PATIENCE_S
        ).status_code

    first, second = (pyotp.TOTP(secret).at(utc_now(), counter_offset=at) for at in (0, 1))

    assert [by_program(first), by_program(first), by_browser(first)] == [200, 401, 401]
    assert [by_browser(second), by_browser(second), by_program(second)] == [303, 401, 401]


def test_a_code_changes_one_thing_of_the_account(
    mailing: Site, database: Connected, guarded: tuple[User, str, list[str]]
) -> None:
    ann, secret, _ = guarded
    program = Api(mailing.base_url, token_for(database, ann))
    body = {"email": "new@example.com", "current_password": PASSWORD}
    body["code"] = pyotp.TOTP(secret).at(utc_now())

    def change() -> requests.Response:
        return program.request("PATCH", "/api/account", json=body)

    assert change().ok
    assert error_of(change()) == (401, "second_step_required")


def test_money_leaves_with_a_code_only(
    site: Site, database: Connected, guarded: tuple[User, str, list[str]]
) -> None:
    ann, _, _ = guarded
    program = Api(site.base_url, token_for(database, ann))

    answer = program.command("/api/payouts", {"amount": 12.5})

    assert error_of(answer) == (401, "second_step_required")


def test_a_second_step_logs_out_whoever_was_not_asked_for_it(
    site: Site, database: Connected, people: list[User]
) -> None:
    """Else who knew the password before is let into what it stands before."""
    here, there = Browser(site, people[1]), Browser(site, people[1])
    others = [Browser(site, people[0]), Browser(site, people[2])]
    with database.begin() as session:
        for user in people:
            tokens.issue(session, utc_now(), user.user_id, "login", is_of_login=True)
        tokens.issue(session, utc_now(), people[1].user_id, "named")
    begun = here.post(f"{PAGE}/second-step", current_password=PASSWORD)
    secret = re.search(r"<code>([A-Z2-7 ]{32,})</code>", begun.text)
    assert secret is not None

    wrong = here.post(f"{PAGE}/second-step/confirm", code="1")
    assert (wrong.status_code, there.is_logged_in()) == (422, True)
    done = here.post(
        f"{PAGE}/second-step/confirm", code=pyotp.TOTP(secret[1].replace(" ", "")).now()
    )

    assert done.status_code == 200
    with database.read() as session:
        left = [len(sessions.open_ones(session, utc_now(), user.user_id)) for user in people]
        left_tokens = [
            [token.name for token in tokens.living(session, utc_now(), user.user_id)]
            for user in people
        ]
    assert left == [1, 1, 1]
    assert left_tokens == [["login"], ["named"], ["login"]]
    assert here.is_logged_in()
    assert all(browser.is_logged_in() for browser in others)


CHANGING = [each for each in OPERATIONS if not each.is_public and each.method != "GET"]


@pytest.mark.parametrize("operation", CHANGING, ids=lambda each: f"{each.method} {each.path}")
def test_a_token_does_what_its_scopes_say_and_no_more(
    site: Site, database: Connected, ann: User, operation: Any
) -> None:
    path = re.sub(r"<[^>]*>", str(uuid4()), operation.path)

    def code_with(scopes: set[Scope]) -> str:
        with database.begin() as session:
            secret = tokens.issue(session, utc_now(), ann.user_id, "t", scopes)
        answer = Api(site.base_url, secret).request(operation.method, path, data="no JSON")
        return "" if answer.ok else error_of(answer)[1]

    for lacking in operation.scopes - {Scope.READ}:
        assert code_with(set(EVERYTHING) - {lacking}) == "scope_missing"
    assert code_with(set(operation.scopes)) != "scope_missing"


def test_what_reads_needs_to_read_and_every_other_endpoint_was_thought_about() -> None:
    reading = {each.name for each in OPERATIONS if each.scopes == {Scope.READ}}

    assert {each.name for each in OPERATIONS if each.method == "GET"} - reading == {
        each.name for each in OPERATIONS if each.method == "GET" and (each.is_public or each.roles)
    }
    assert {each.name for each in CHANGING} & reading == {"log_out", "read_notification"}


def test_a_token_reads_pages_and_fills_in_no_forms(
    site: Site, database: Connected, ann: User
) -> None:
    browser = Browser(site, ann)
    browser.http.headers["Authorization"] = f"Bearer {token_for(database, ann)}"

    answer = browser.post(f"{PAGE}/time-zone", time_zone="Europe/Berlin")

    assert browser.http.get(site.base_url + PAGE, timeout=PATIENCE_S).status_code == 200
    assert answer.status_code == 403


def test_a_token_makes_no_token_that_is_more_or_lives_longer_than_itself(
    site: Site, database: Connected, people: list[User]
) -> None:
    now = utc_now()
    with database.begin() as session:
        short = tokens.issue(
            session, now, people[1].user_id, "short", expires_at=now + timedelta(days=2)
        )
    program = Api(site.base_url, short)
    made = granted(program.post("/api/tokens", {"name": "mine", "scopes": []}))
    long = granted(
        program.post("/api/tokens", {"name": "x", "scopes": ["buy"], "expires_in_days": 90})
    )
    reader = Api(site.base_url, made["token"])
    theirs = Api(site.base_url, token_for(database, people[2]))

    assert made["scopes"] == ["read"]
    assert made["expires_at"] == long["expires_at"]
    assert error_of(reader.post("/api/tokens", {"name": "y", "scopes": ["money"]})) == (
        403,
        "scope_missing",
    )
    listed = granted(program.get("/api/tokens"))["tokens"]
    assert [each["name"] for each in listed] == ["x", "mine", "short"]
    assert "token" not in listed[0]
    path = f"/api/tokens/{made['token_id']}"
    assert error_of(theirs.request("DELETE", path)) == (404, "not_found")
    assert reader.get("/api/account").ok
    assert program.request("DELETE", path).ok
    assert error_of(program.request("DELETE", path)) == (404, "not_found")


def test_a_scope_that_only_a_later_version_knows_is_left_out_and_the_token_works(
    site: Site, database: Connected, ann: User
) -> None:
    with database.begin() as session:
        secret = tokens.issue(session, utc_now(), ann.user_id, "t", {Scope.BUY})
        found = tokens.find(session, utc_now(), secret)
        assert found is not None
        token = tokens.get(session, utc_now(), ann.user_id, found.token_id)
        token.scopes = "read plant buy"

    listed = granted(Api(site.base_url, secret).get("/api/tokens"))["tokens"]

    assert [each["scopes"] for each in listed] == [["read", "buy"]]


def test_a_token_ends_on_the_instant_and_there_is_a_bound_on_their_number(
    database: Connected, ann: User
) -> None:
    now = utc_now()
    with database.begin() as session:
        end = now + timedelta(days=1)
        secret = tokens.issue(session, now, ann.user_id, "t", expires_at=end)
        session.flush()
        assert tokens.find(session, end - timedelta(microseconds=1), secret) is not None
        assert tokens.find(session, end, secret) is None
        for _ in range(tokens.NAMED_MAX - 1):
            tokens.issue(session, now, ann.user_id, "t")
            session.flush()
        with pytest.raises(users.TooMany):
            tokens.issue(session, now, ann.user_id, "t")
        tokens.issue(session, now, ann.user_id, "login", is_of_login=True)
        tokens.issue(session, end, ann.user_id, "room since one has ended")


def test_a_token_of_a_login_lives_on_with_its_use_and_half_a_year_at_most(
    database: Connected, ann: User
) -> None:
    began, idle = utc_now(), timedelta(days=30)
    instant = timedelta(microseconds=1)
    with database.begin() as session:
        secret = tokens.issue(
            session, began, ann.user_id, "login", expires_at=began + idle, is_of_login=True
        )
        session.flush()
        used = began
        while (found := tokens.find(session, used + idle - instant, secret)) is not None:
            assert tokens.find(session, used + idle, secret) is None
            used += timedelta(days=25)
            tokens.note_used(session, used, found.token_id, idle)

        last = began + timedelta(days=180)
        assert used == began + timedelta(days=175)
        assert tokens.find(session, last - instant, secret) is not None
        assert tokens.find(session, last, secret) is None


def test_a_named_token_ends_when_it_was_said_however_much_it_is_used(
    database: Connected, ann: User
) -> None:
    now = utc_now()
    with database.begin() as session:
        for ends in (None, now + timedelta(days=2)):
            secret = tokens.issue(session, now, ann.user_id, "t", expires_at=ends)
            session.flush()
            found = tokens.find(session, now, secret)
            assert found is not None
            tokens.note_used(session, now + timedelta(days=1), found.token_id, timedelta(days=30))
            assert tokens.get(session, now, ann.user_id, found.token_id).expires_at == ends


def test_a_login_gives_a_token_with_an_end_and_what_is_made_with_it_has_its_own(
    site: Site, database: Connected, ann: User
) -> None:
    given = Api(site.base_url).post("/api/auth/login", {"email": ann.email, "password": PASSWORD})
    program = Api(site.base_url, granted(given)["token"])

    made = granted(program.post("/api/tokens", {"name": "backup", "scopes": ["buy"]}))

    of_login = [row for row in granted(program.get("/api/tokens"))["tokens"] if row["is_of_login"]]
    ends = datetime.fromisoformat(of_login[0]["expires_at"])
    assert abs(ends - utc_now() - timedelta(days=30)) < timedelta(hours=1)
    assert made["expires_at"] is None


def test_sessions_are_listed_and_ended_by_their_owner_alone(
    site: Site, database: Connected, people: list[User]
) -> None:
    ann = people[1]
    mine, other = Browser(site, ann), Browser(site, ann)
    theirs = Api(site.base_url, token_for(database, people[2]))
    program = Api(site.base_url, token_for(database, ann))
    with database.read() as session:
        newest = sessions.open_ones(session, utc_now(), ann.user_id)
    listed = granted(program.get("/api/sessions"))["sessions"]
    assert [each["session_id"] for each in listed] == [str(row.session_id) for row in newest]
    assert listed[0]["device"] == "A Python program"
    path = f"/api/sessions/{listed[0]['session_id']}"
    assert error_of(theirs.request("DELETE", path)) == (404, "not_found")
    assert program.request("DELETE", path).ok
    assert error_of(program.request("DELETE", path)) == (404, "not_found")

    # The one that logged in last was ended.
    assert other.http.cookies
    Browser(site, ann)
    assert mine.post(f"{PAGE}/sessions/end").status_code == 303
    with database.read() as session:
        assert len(sessions.open_ones(session, utc_now(), ann.user_id)) == 1
    assert mine.is_logged_in()


def test_a_session_in_use_ends_some_day_all_the_same(database: Connected, ann: User) -> None:
    begun, day = utc_now(), timedelta(days=1)
    last = begun + sessions.LIVES_FOR
    with database.begin() as session:
        secret = sessions.start(session, begun, ann.user_id, 30 * day)
        session.flush()
        row = session.scalars(select(UserSession)).one()
        sessions.note_seen(session, last - day, row.session_id, 30 * day)
        session.flush()

        assert sessions.find(session, last - timedelta(microseconds=1), secret) is not None
        assert sessions.find(session, last, secret) is None


def test_choices_are_kept_by_the_page_and_the_api_and_by_one_click_in_a_mail(
    site: Site, database: Connected, people: list[User]
) -> None:
    ann, browser = people[1], Browser(site, people[1])
    program = Api(site.base_url, token_for(database, ann))
    browser.post(f"{PAGE}/notifications", **{"page.runway": "on", "mail.purchases": "on"})
    browser.post(f"{PAGE}/time-zone", time_zone="Europe/Berlin")
    browser.post(f"{PAGE}/time-zone", time_zone="../etc/passwd")
    browser.post(f"{PAGE}/billing-details", name="Example GmbH", address="1\n2\n3\n4\n5\n6\n7")

    account = granted(program.get("/api/account"))
    choices = account["notifications"]
    assert account["time_zone"] == "Europe/Berlin"
    assert choices["runway"] == {"page": True, "mail": False, "always_mailed": False}
    assert choices["charges"] == {"page": False, "mail": True, "always_mailed": True}
    page = browser.http.get(site.base_url + PAGE, timeout=PATIENCE_S).text
    assert re.search(r"\(.*[0-9]{2}:[0-9]{2}\sin\sBerlin\)", page)

    path = links.unsubscribe_address(SECRET_KEY, ann.user_id, "purchases")
    requests.get(site.base_url + path, timeout=PATIENCE_S)
    assert granted(program.get("/api/account"))["notifications"]["purchases"]["mail"]
    one_click = {"List-Unsubscribe": "One-Click"}
    assert requests.post(site.base_url + path, data=one_click, timeout=PATIENCE_S).ok
    assert not granted(program.get("/api/account"))["notifications"]["purchases"]["mail"]
    forged = requests.post(
        site.base_url + path.replace("?link=", "?link=A"), data=one_click, timeout=PATIENCE_S
    )
    assert forged.status_code == 410

    changed = program.request(
        "PATCH", "/api/account", json={"notifications": {"sales": {"page": True, "mail": False}}}
    )
    assert granted(changed)["notifications"]["sales"]["mail"] is False
    for body in ({"time_zone": "Mars/Base"}, {"notifications": {"cars": {}}}, {"email": "x@e.org"}):
        assert program.request("PATCH", "/api/account", json=body).status_code == 422
    with database.read() as session:
        assert topics.wants_mail(session, people[2].user_id, "purchase_completed")


def test_over_the_api_an_account_is_deleted_with_its_password_when_nothing_is_left(
    member: Api, database: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = [closing.Reason("Your wallet holds $5.00.", "/dashboard/wallet", "Open your wallet")]
    monkeypatch.setattr(closing, "reasons_against", lambda _: reasons)
    monkeypatch.setattr(closing, "_end_charges", lambda _: None)

    def delete(password: str) -> requests.Response:
        return member.request("DELETE", "/api/account", json={"current_password": password})

    refused = delete(PASSWORD)
    reasons = []
    wrong = delete("wrong horse battery")
    done = delete(PASSWORD)

    assert (error_of(refused), "$5.00" in refused.text) == ((409, "conflict"), True)
    assert error_of(wrong) == (422, "wrong_password")
    assert done.status_code == 200
    assert error_of(member.get("/api/account")) == (401, "authentication_required")
    with database.read() as session:
        assert session.get_one(User, member.user_id).deleted_at is not None


def test_an_account_is_deleted_when_nothing_is_left_and_its_records_stay(
    system: Any, system_database: Connected, new_member: Callable[[], Api]
) -> None:
    rich, done = new_member(), new_member()
    give(system, rich, 5)
    assert rich.user_id is not None
    assert done.user_id is not None
    done.get("/api/wallet/info")

    def delete(member: Api, password: str = PASSWORD) -> requests.Response:
        with system_database.read() as session:
            user = session.get_one(User, member.user_id)
        browser = Browser(Site(system.base_url), user)
        return browser.post(f"{PAGE}/delete", current_password=password)

    refused = delete(rich)
    assert (refused.status_code, "Your wallet holds $5.00" in refused.text) == (409, True)
    assert delete(done, "wrong").status_code == 422
    assert delete(done).status_code == 303

    with system_database.read() as session:
        gone = session.get_one(User, done.user_id)
        left = [
            session.scalars(select(table).where(table.user_id == done.user_id)).all()
            for table in (UserSession, ApiToken, MailLink)
        ]
        (mail,) = session.scalars(select(Mail).where(Mail.user_id == done.user_id))
    assert (gone.email, left) == (f"deleted-{done.user_id}", [[], [], []])
    assert (mail.kind, mail.address) == ("account_deleted", done.email)
    assert not can_log_in(system_database, gone, PASSWORD)
    assert (
        Api(system.base_url)
        .post("/api/auth/register", {"email": done.email, "password": PASSWORD})
        .ok
    )
    assert rich.get("/api/account").ok


def test_what_tells_who_somebody_was_is_deleted_wherever_it_stands() -> None:
    of_users = {
        mapper.class_ for mapper in Base.registry.mappers if "user_id" in mapper.local_table.c
    }

    # The books name the id alone, and so does what somebody agreed to who sold; a role keeps the
    # account.
    stay = {User, TransferRow, SellerAgreement, RoleGrant}
    assert of_users - set(closing.TELL_WHO) == stay


def test_what_forgets_somebody_forgets_nobody_else(database: Connected, people: list[User]) -> None:
    now = utc_now()
    with database.begin() as session:
        for user in people:
            tokens.issue(session, now, user.user_id, "t")
            sessions.start(session, now, user.user_id, timedelta(days=1))
        session.flush()
        closing.forget(session, now, people[1].user_id)
        closing.forget(session, now, people[1].user_id)
        session.flush()
        left = [
            (len(tokens.living(session, now, u.user_id)), session.get_one(User, u.user_id).email)
            for u in people
        ]
        told = session.scalars(
            text(
                "SELECT payload ->> 'user_id' FROM outbox WHERE type = 'account_deleted'"
                " AND payload ->> 'user_id' = ANY(:users)"
            ),
            {"users": [str(user.user_id) for user in people]},
        ).all()

    assert told == [str(people[1].user_id)]
    assert left == [
        (1, "a@example.com"),
        (0, f"deleted-{people[1].user_id}"),
        (1, "c@example.com"),
    ]
