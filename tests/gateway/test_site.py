"""What the gateway decides alone, over real HTTP: who asks, CSRF, headers, limits, errors."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable
from datetime import timedelta

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chassis.client import RpcClient
from chassis.clock import utc_now
from chassis.database import Connected
from contracts.errors import DeadlineExceeded
from services.gateway.app import create_app
from services.gateway.models import User
from services.gateway.pages import forms  # noqa: F401 - the pages must load
from services.gateway.people import identity
from tests.gateway.conftest import (
    DOCUMENT,
    NO_BROKER,
    PASSWORD,
    Api,
    Site,
    add_user,
    error_of,
    gateway_settings,
    read,
    token_for,
)
from tests.patience import PATIENCE_S, eventually


def log_in(site: Site, user: User) -> tuple[requests.Session, str]:
    """A browser that is logged in, and the CSRF token of its pages."""
    browser = site.browser()
    page = browser.get(f"{site.base_url}/login")
    form = {"email": user.email, "password": PASSWORD, "csrf_token": csrf_token(page.text)}
    answer = browser.post(f"{site.base_url}/login", data=form, allow_redirects=False)
    assert answer.status_code == 303, answer.text[:500]
    return browser, csrf_token(browser.get(f"{site.base_url}/docs/none").text)


def logged_in(app: Flask, user: User) -> FlaskClient:
    """The same in this process."""
    client = app.test_client()
    form = {"email": user.email, "password": PASSWORD}
    token = csrf_token(client.get("/login").text)
    assert client.post("/login", data={**form, "csrf_token": token}).status_code == 303
    return client


def csrf_token(page: str) -> str:
    found = re.search(r'name="csrf[-_]token"[^>]*?(?:value|content)="([^"]+)"', page)
    assert found, page[:500]
    return found[1]


@pytest.fixture
def user(database: Connected) -> User:
    return add_user(database, has_wallet=True)


def test_a_live_process_says_so_and_names_what_is_missing(site: Site) -> None:
    services = ("wallet", "catalog", "billing", "topup")
    healthy = requests.get(f"{site.base_url}/healthz", timeout=PATIENCE_S)

    def ready() -> tuple[int, dict[str, str]]:
        answer = requests.get(f"{site.base_url}/readyz", timeout=PATIENCE_S)
        return answer.status_code, answer.json()["checks"]

    assert healthy.status_code == 200
    away = dict.fromkeys(services, "away")
    eventually(ready, lambda found: found == (503, {"database": "ok", **away}))


def test_an_unknown_address_of_the_api_is_a_json_404(site: Site) -> None:
    answer = requests.get(f"{site.base_url}/api/nothing", timeout=PATIENCE_S)

    assert error_of(answer) == (404, "not_found")


def test_an_error_is_a_problem_document_and_keeps_the_error_object(site: Site) -> None:
    answer = requests.get(f"{site.base_url}/api/nothing", timeout=PATIENCE_S)

    assert answer.headers["Content-Type"] == "application/problem+json"
    body = read(answer)
    error = body.pop("error")
    assert body == {
        "type": "urn:mycelium:problem:not_found",
        "title": "Not found",
        "status": 404,
        "detail": error["message"],
    }


def test_answers_of_the_api_say_how_many_requests_are_left(
    serve: Callable[..., Site], database: Connected
) -> None:
    site = serve(rate_limit_default="3 per hour")
    address, user = f"{site.base_url}/api/auth/me", add_user(database, has_wallet=True)
    headers = {"Authorization": f"Bearer {token_for(database, user)}"}

    answers = [requests.get(address, headers=headers, timeout=PATIENCE_S) for _ in range(4)]

    told = [(each.status_code, each.headers["RateLimit"]) for each in answers]
    assert told == [
        (200, '"default";r=2'),
        (200, '"default";r=1'),
        (200, '"default";r=0'),
        (429, '"default";r=0'),
    ]
    assert {each.headers["RateLimit-Policy"] for each in answers} == {'"default";q=3;w=3600'}
    assert int(answers[3].headers["Retry-After"]) > 0
    page = requests.get(f"{site.base_url}/login", timeout=PATIENCE_S)
    assert "RateLimit" not in page.headers


def test_a_wrong_method_is_a_json_405_that_names_the_right_ones(site: Site) -> None:
    answer = requests.delete(f"{site.base_url}/api/wallet/info", timeout=PATIENCE_S)

    assert error_of(answer) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


def test_a_visitor_gets_a_401_from_the_api(site: Site) -> None:
    answer = requests.get(f"{site.base_url}/api/auth/me", timeout=PATIENCE_S)

    assert error_of(answer) == (401, "authentication_required")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_visitor_of_a_page_is_sent_to_the_login_and_back(site: Site) -> None:
    answer = requests.get(f"{site.base_url}/dashboard", timeout=PATIENCE_S, allow_redirects=False)

    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login?next=%2Fdashboard"


@pytest.mark.parametrize("token", ["", "nonsense", "myc_" + "x" * 43, "x" * 5000, "\u00e9"])
def test_a_wrong_token_is_a_401(site: Site, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    answer = requests.get(f"{site.base_url}/api/auth/me", headers=headers, timeout=PATIENCE_S)

    assert error_of(answer) == (401, "authentication_required")


def test_a_token_works_until_its_logout(member: Api) -> None:
    assert read(member.get("/api/auth/me"))["email"] == member.email

    assert member.post("/api/auth/logout").status_code == 200

    assert error_of(member.get("/api/auth/me")) == (401, "authentication_required")


def test_a_cookie_works_for_the_api_without_csrf_for_questions(site: Site, user: User) -> None:
    browser, _ = log_in(site, user)

    assert read(browser.get(f"{site.base_url}/api/auth/me"))["email"] == user.email


def test_a_command_by_cookie_needs_the_csrf_token(site: Site, user: User) -> None:
    browser, token = log_in(site, user)
    address = f"{site.base_url}/api/auth/logout"

    assert error_of(browser.post(address)) == (403, "csrf_failed")
    wrong = browser.post(address, headers={"X-CSRFToken": "wrong"})
    assert error_of(wrong) == (403, "csrf_failed")
    right = browser.post(address, headers={"X-CSRFToken": token})
    assert right.status_code == 200


def test_another_sites_bearer_header_does_not_open_the_cookies_account(
    site: Site, user: User
) -> None:
    browser, _ = log_in(site, user)
    answer = browser.get(f"{site.base_url}/api/auth/me", headers={"Authorization": "Bearer wrong"})

    assert error_of(answer) == (401, "authentication_required")


def test_a_form_without_its_csrf_token_is_refused(site: Site) -> None:
    form = {"email": "ann@example.com", "password": PASSWORD}
    answer = requests.post(f"{site.base_url}/login", data=form, timeout=PATIENCE_S)

    assert answer.status_code == 403


def test_logging_in_gives_a_new_cookie_and_logging_out_kills_copies(site: Site, user: User) -> None:
    browser, token = log_in(site, user)
    copied = browser.cookies.get("mycelium_session")

    browser.post(f"{site.base_url}/logout", data={"csrf_token": token}, allow_redirects=False)

    thief = requests.get(
        f"{site.base_url}/api/auth/me",
        cookies={"mycelium_session": str(copied)},
        timeout=PATIENCE_S,
    )
    assert error_of(thief) == (401, "authentication_required")


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(
    serve: Callable[..., Site],
) -> None:
    secure_site = serve(public_url="https://mycelium.example")
    cookie = requests.get(f"{secure_site.base_url}/login", timeout=PATIENCE_S).headers["Set-Cookie"]

    assert_is_kept_safe("mycelium_session", cookie)


def test_the_cookie_gets_a_new_end_with_a_page_now_and_then(
    serve: Callable[..., Site], user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve()
    browser, _ = log_in(site, user)

    def ends_anew(after: timedelta) -> bool:
        monkeypatch.setattr(identity, "utc_now", lambda: utc_now() + after)
        return "Set-Cookie" in browser.get(f"{site.base_url}/docs").headers

    minutes = [timedelta(minutes=number) for number in (4, 6, 8, 12)]
    assert [ends_anew(after) for after in minutes] == [False, True, False, True]


def test_a_login_brings_all_that_the_cookie_needs(site: Site, user: User) -> None:
    browser = site.browser()
    page = browser.get(f"{site.base_url}/login")
    form = {"email": user.email, "password": PASSWORD, "csrf_token": csrf_token(page.text)}
    entered = browser.post(f"{site.base_url}/login", data=form, allow_redirects=False)

    first = browser.get(f"{site.base_url}/docs")

    assert "mycelium_session" in entered.headers["Set-Cookie"]
    assert "Set-Cookie" not in first.headers


def test_cookies_are_signed_with_sha_256() -> None:
    app = create_app(gateway_settings("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    page = app.test_client().get("/login")
    value = page.headers["Set-Cookie"].partition("=")[2].partition(";")[0]

    assert len(urlsafe_b64decode(value.rpartition(".")[2] + "=")) == 32


def assert_is_kept_safe(name: str, cookie: str) -> None:
    """By its prefix a browser holds it to what stands behind: Secure, the whole site, no domain."""
    assert cookie.startswith(f"__Host-{name}=")
    assert set(cookie.split("; ")) >= {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"}
    assert "Domain" not in cookie


def test_under_tls_a_login_works_and_its_browser_is_known_again(
    databases: dict[str, str], database: Connected
) -> None:
    user, limits = add_user(database, has_wallet=True), {"rate_limit_login": "1 per hour"}
    secure = gateway_settings(databases["gateway"], public_url="https://mycelium.example", **limits)
    browser, base_url = create_app(secure).test_client(), "https://mycelium.example"

    def send(path: str, **form: str) -> TestResponse:
        token = csrf_token(browser.get("/login", base_url=base_url).text)
        data, headers = {"csrf_token": token, **form}, {"Referer": f"{base_url}/login"}
        return browser.post(path, data=data, headers=headers, base_url=base_url)

    answers = [send("/login", email=user.email, password=PASSWORD)]
    asked = browser.get("/api/auth/me", base_url=base_url)
    browser.delete_cookie("__Host-mycelium_session", domain="mycelium.example")
    answers.append(send("/login", email=user.email, password=PASSWORD))

    assert [answer.status_code for answer in (*answers, asked)] == [303, 303, 200]
    assert_is_kept_safe("mycelium_device", answers[0].headers.getlist("Set-Cookie")[0])


def test_logins_are_in_the_log_with_who_and_without_what_was_typed(
    serve: Callable[..., Site], user: User, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve()
    with caplog.at_level("INFO", logger="services.gateway"):
        for password in ("a wrong password", PASSWORD):
            Api(site.base_url).post("/api/auth/login", {"email": user.email, "password": password})
        log_in(site, user)

    lines = [vars(line) for line in caplog.records if "login" in line.msg or "logged" in line.msg]
    assert [(line["msg"], line["user_id"], line.get("by")) for line in lines] == [
        ("a login was refused", str(user.user_id), None),
        ("logged in", str(user.user_id), "program"),
        ("logged in", str(user.user_id), "browser"),
    ]
    assert not any(typed in str(lines) for typed in (user.email, PASSWORD, "a wrong password"))


def test_every_answer_carries_the_safety_headers(site: Site) -> None:
    for path in ("/login", "/api/nothing", "/healthz"):
        headers = requests.get(site.base_url + path, timeout=PATIENCE_S).headers

        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe-inline" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"


def test_a_request_id_is_given_back_when_it_is_harmless(site: Site) -> None:
    address = f"{site.base_url}/healthz"
    kept = requests.get(address, headers={"X-Request-Id": "request-1234"}, timeout=PATIENCE_S)
    replaced = requests.get(address, headers={"X-Request-Id": "<script>"}, timeout=PATIENCE_S)

    assert kept.headers["X-Request-Id"] == "request-1234"
    assert len(replaced.headers["X-Request-Id"]) == 36


def test_too_many_logins_for_one_address_are_refused(
    serve: Callable[..., Site], database: Connected
) -> None:
    user = add_user(database, has_wallet=True)
    api = Api(serve(rate_limit_login_email="3 per day").base_url)
    wrong = {"email": user.email, "password": "wrong password"}

    tries = [error_of(api.post("/api/auth/login", wrong))[0] for _ in range(4)]
    other = api.post("/api/auth/login", {**wrong, "email": "other@example.com"})

    assert tries == [401, 401, 401, 429]
    assert error_of(other)[0] == 401


def test_too_many_logins_from_one_place_are_refused(serve: Callable[..., Site]) -> None:
    api = Api(serve(rate_limit_login="2 per day").base_url)
    bodies = [{"email": f"{n}@example.com", "password": "wrong password"} for n in range(3)]

    tries = [api.post("/api/auth/login", body) for body in bodies]

    assert [error_of(answer)[0] for answer in tries] == [401, 401, 429]
    assert int(tries[2].headers["Retry-After"]) > 0


def test_too_many_requests_are_refused_with_retry_after(serve: Callable[..., Site]) -> None:
    api = Api(serve(rate_limit_default="2 per day").base_url)

    answers = [api.get("/api/auth/me") for _ in range(3)]

    assert error_of(answers[2]) == (429, "too_many_requests")
    assert int(answers[2].headers["Retry-After"]) > 0


def test_registering_works_while_the_wallet_is_away(site: Site) -> None:
    api = Api(site.base_url)

    answer = api.post("/api/auth/register", {"email": "new@example.com", "password": PASSWORD})

    assert answer.status_code == 201
    assert read(answer)["token"].startswith("myc_")


def test_a_broker_that_is_away_is_a_503_as_well(
    serve: Callable[..., Site], database: Connected
) -> None:
    site = serve(amqp_uri=NO_BROKER)
    user = add_user(database, has_wallet=True)
    answer = Api(site.base_url, token_for(database, user)).get("/api/deployments")

    assert error_of(answer) == (503, "unavailable")


def test_a_service_that_is_away_is_a_503_that_says_when_to_retry(member: Api) -> None:
    answer = member.get("/api/wallet/info")

    assert error_of(answer) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_wallet_that_does_not_answer_in_time_is_the_status_that_the_document_names(
    member: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> None:
        raise DeadlineExceeded("No answer came in time.")

    monkeypatch.setattr(RpcClient, "begin", lambda *_: silent)

    answer = member.get("/api/wallet/info")

    described = DOCUMENT["paths"]["/api/wallet/info"]["get"]["description"]
    assert f"answers {answer.status_code};" in described


def test_a_webhook_is_sent_again_later_while_topup_is_away(site: Site) -> None:
    answer = requests.post(
        f"{site.base_url}/webhooks/stripe",
        data=b"{}",
        headers={"Stripe-Signature": "t=1,v1=00"},
        timeout=PATIENCE_S,
    )

    assert error_of(answer) == (503, "unavailable")


def test_the_access_log_holds_no_secrets(member: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="gateway.access"):
        member.get("/api/auth/me?token=secret-in-the-address")

    lines = [vars(record) for record in caplog.records if record.name == "gateway.access"]
    assert lines[-1]["path"] == "/api/auth/me"
    assert "secret-in-the-address" not in str(lines)
    assert str(member.token) not in str(lines)


def test_a_token_is_of_no_use_to_somebody_who_reads_the_database(
    member: Api, database: Connected
) -> None:
    with database.read() as session:
        stored = session.connection().exec_driver_sql("SELECT secret_sha256 FROM api_tokens")
        values = [bytes(row[0]) for row in stored]

    assert str(member.token).encode() not in values
    assert token_for(database, add_user(database, has_wallet=True)) != member.token
