"""What an owner does with a deployment, over the API and on its page."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest
import requests
from flask import Flask

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import GetDeployment, GetUsage
from contracts.errors import Unavailable
from contracts.wallet import GetWallet
from services.gateway.app import create_app
from services.gateway.backend import Backend
from tests.contracts.golden import examples
from tests.gateway.conftest import (
    PASSWORD,
    Api,
    add_user,
    answers_with,
    error_of,
    gateway_settings,
    granted,
    read,
)
from tests.gateway.test_api import give
from tests.gateway.test_site import csrf_token, logged_in
from tests.patience import Browser, eventually


@pytest.fixture
def owner(system: Any, api: Api) -> Api:
    give(system, api, 25)
    return api


@pytest.fixture
def path(owner: Api, product: dict[str, Any]) -> str:
    """Of a deployment that runs, at $5.00 a month."""
    body = {"product_id": product["product_id"]}
    purchase = granted(owner.command("/api/wallet/instant-purchase", body))
    return f"/api/deployments/{purchase['deployment_ids'][0]}"


def patch(api: Api, path: str, body: object) -> requests.Response:
    return api.request("PATCH", path, json=body, headers={"Idempotency-Key": str(uuid4())})


def test_it_says_when_the_next_month_is_charged(owner: Api, path: str) -> None:
    deployment = granted(owner.get(path))

    assert deployment["next_renewal_at"] == deployment["paid_until"]
    assert f"{deployment['next_renewal_usd']}" == "5.00"
    assert (deployment["owed_usd"], deployment["history"]) == (0, [])


def test_its_page_says_how_long_credits_would_last_without_it(
    owner: Api, path: str, product: dict[str, Any]
) -> None:
    """Of $25.00 two cost $10.00 every month, and one of them $5.00."""
    body = {"product_id": product["product_id"]}
    granted(owner.command("/api/wallet/instant-purchase", body))
    told = granted(owner.get("/api/wallet/forecast?days=92"))
    browser, address = signed_in(owner), owner.base_url + path.replace("/api", "/dashboard")
    page = spaced(browser.get(address).text)
    granted(owner.command(f"{path}/stop"))
    stopped = browser.get(address).text

    short_on = date.fromisoformat(told["short_on"])
    assert f"Your credits last until {short_on.day} {short_on:%b %Y}." in page
    days = (date.fromisoformat(told["days"][-1]["date"]) - short_on).days
    assert (
        "Without this deployment they would cover everything due in the next 3 months"
        f" (<strong>+{days} days or more</strong>)."
    ) in page
    assert "Without it" not in stopped


class Billing:
    """One deployment, as it is told, and what the wallet tells; ``asked`` is how often its usage
    was."""

    asked = 0

    def __init__(
        self, wallet: dict[str, Any] | None = None, due_micros: int = 0, **told: object
    ) -> None:
        self.told = {"status": "active", **told}
        self.wallet, self.due_micros = wallet, due_micros

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        if isinstance(request, GetDeployment):
            told = {**examples("billing")["Deployment"], **self.told}
            return lambda: GetDeployment.reply.model_validate(told)
        if isinstance(request, GetUsage):
            self.asked += 1
            return lambda: GetUsage.reply.model_validate(
                {"days": [], "due_micros": self.due_micros}
            )
        if isinstance(request, GetWallet) and self.wallet is not None:
            wallet = {**examples("wallet")["Wallet"], **self.wallet}
            return lambda: GetWallet.reply.model_validate(wallet)
        raise Unavailable("It is away.")


def test_its_page_says_what_is_saved_without_it_where_credits_cover_everything(
    owner: Api, path: str
) -> None:
    """$25.00 cover three months of $5.00."""
    browser, address = signed_in(owner), owner.base_url + path.replace("/api", "/dashboard")
    page = spaced(browser.get(address).text)
    granted(owner.command(f"{path}/cancel", {"when": "period_end"}))
    ends = browser.get(address).text

    until = utc_now().date() + timedelta(days=92)
    assert "Your credits cover everything due in the next 3 months." in page
    assert (
        "Without this deployment you would spend <strong>$15.00 less</strong> by"
        f" {until.day} {until:%b %Y}."
    ) in page
    assert "Without it" not in ends


def test_its_page_says_how_long_data_are_kept_here_and_what_was_used_by_now(
    nobody_answers: None,
    databases: dict[str, str],
    database: Connected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = create_app(gateway_settings(databases["gateway"], kept_s=7 * 24 * 3600))
    browser = logged_in(site, add_user(database, has_wallet=True))
    billing = Billing()
    answers_with(monkeypatch, billing)
    pages = [browser.get(f"/dashboard/deployments/{uuid4()}").text for _ in range(2)]
    site.extensions["mycelium"].close()

    assert all("its data is kept for 7 days after its month" in page for page in pages)
    assert billing.asked == 2


def test_its_page_says_until_when_data_are_kept(shown: Callable[..., str]) -> None:
    """Also where the announcements of their deletion take longer than they are kept otherwise."""
    page = shown(status="active", kept_until="2027-03-09T12:00:00Z")

    assert "its data is kept until 9 Mar 2027." in page


@pytest.fixture
def shown(alone: Flask, database: Connected, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The page of a deployment of which billing tells this."""
    browser = logged_in(alone, add_user(database, has_wallet=True))

    def page(**told: Any) -> str:
        answers_with(monkeypatch, Billing(**told))
        return spaced(browser.get(f"/dashboard/deployments/{uuid4()}").text)

    return page


def spaced(page: str) -> str:
    """With plain spaces in dates, too."""
    return page.replace("\N{NO-BREAK SPACE}", " ")


LADDER = [
    {"status": "suspended", "at": "2026-12-03T12:00:00Z"},
    {"status": "stopped", "at": "2026-12-17T12:00:00Z"},
    {"status": "cancelled", "at": "2027-01-16T12:00:00Z"},
]


@pytest.mark.parametrize(
    ("status", "ladder", "says", "then"),
    [
        (
            "active",
            LADDER,
            "It keeps running until 3 Dec 2026, and is paid by itself",
            "suspended; it is stopped on 17 Dec 2026 and deleted with its data on 16 Jan 2027.",
        ),
        (
            "suspended",
            LADDER[1:],
            "unless you start it again, it is stopped on 17 Dec 2026",
            " and deleted with its data on 16 Jan 2027.",
        ),
        ("stopped", LADDER[2:], "Its data is kept until 16 Jan 2027, and then deleted.", ""),
    ],
)
def test_its_page_says_all_that_becomes_of_it_and_when(
    shown: Callable[..., str], status: str, ladder: list[dict[str, str]], says: str, then: str
) -> None:
    """Of a month as of usage; an older billing tells the next date alone."""
    told = {
        "status": status,
        "owed_micros": 5_000_000,
        "next_status": ladder[0]["status"],
        "next_status_at": ladder[0]["at"],
    }

    month, usage = (
        shown(**told, owed_usage_micros=micros, ladder=ladder) for micros in (0, 5_000_000)
    )
    from_an_older_one = shown(**told)

    assert all(each in page for each in (says, then) for page in (month, usage))
    assert says in from_an_older_one
    assert "deleted with its data" not in from_an_older_one


def test_a_month_that_is_being_asked_for_is_not_called_unpaid(shown: Callable[..., str]) -> None:
    page = shown(owed_micros=5_000_000, owed_usage_micros=0, next_status=None, next_status_at=None)

    assert "This month is not paid" not in page


def test_a_month_and_usage_that_are_both_unpaid_are_named_with_what_both_come_to(
    shown: Callable[..., str],
) -> None:
    """Who bought credits for one of them could still be suspended for the other."""
    page = shown(
        owed_micros=5_000_000,
        owed_usage_micros=2_000_000,
        next_status="suspended",
        next_status_at=LADDER[0]["at"],
        ladder=LADDER,
    )

    assert "This month and what it used are not paid" in page
    assert "$5.00 is due: $3.00 for the month, and $2.00 for what it used. It keeps" in page


@pytest.mark.parametrize(
    ("wallet", "says"),
    [
        ({"status": "open"}, "Buy credits</a>"),
        (
            {"status": "frozen", "available_micros": 1},
            "Your wallet is frozen: nothing is paid with it until that is settled. <a",
        ),
        (
            {"status": "frozen", "available_micros": -2_000_000},
            "Your wallet is frozen and $2.00 below zero: <a",
        ),
        (None, "Buy credits</a>"),
    ],
)
@pytest.mark.parametrize("status", ["active", "suspended"])
def test_nobody_whose_wallet_is_frozen_is_sent_to_buy_credits(
    shown: Callable[..., str], wallet: dict[str, Any] | None, says: str, status: str
) -> None:
    told = {"next_status": "suspended", "next_status_at": LADDER[0]["at"], "ladder": LADDER}
    page = shown(wallet=wallet, status=status, owed_micros=5_000_000, **told)

    assert f"wallet covers it. {says}" in re.sub(r'<a href="[^"]*">Buy', "Buy", page)
    assert page.count("Buy credits</a></p>") == ("Buy" in says)


@pytest.mark.parametrize(
    ("due_micros", "says"),
    [
        (0, "Nothing more is charged for it."),
        (1, "What it uses until then is charged every hour; nothing else is."),
    ],
)
def test_what_ends_with_its_month_is_said_to_be_charged_for_what_it_still_uses(
    shown: Callable[..., str], due_micros: int, says: str
) -> None:
    ends = {"next_status": "cancelled", "next_status_at": LADDER[0]["at"], "ladder": []}

    assert f"is not renewed. {says}" in shown(due_micros=due_micros, **ends)


@pytest.mark.parametrize(
    ("start_micros", "used_micros", "owed_micros", "says", "button"),
    [
        (0, 0, 0, "That costs nothing now: its month is paid until", "Start"),
        (
            2_000_000,
            2_000_000,
            2_000_000,
            (
                "$2.00 is taken from your wallet: $2.00 for what it used, which is paid first."
                " Its month is paid until"
            ),
            "Pay $2.00 and start",
        ),
        (
            7_000_000,
            2_000_000,
            2_000_000,
            (
                "$7.00 is taken from your wallet: $2.00 for what it used, which is paid first,"
                " and $5.00 for a month from today."
            ),
            "Pay $7.00 and start",
        ),
        (
            10_000_000,
            2_000_000,
            4_000_000,
            (
                "$10.00 is taken from your wallet: $2.00 for what this and other deployments"
                " used, which is paid first, $3.00 for the time that ran, and $5.00 for a month"
                " from today."
            ),
            "Pay $10.00 and start",
        ),
        (
            8_000_000,
            0,
            3_000_000,
            (
                "$8.00 is taken from your wallet: $3.00 for the time that ran, and $5.00 for a"
                " month from today."
            ),
            "Pay $8.00 and start",
        ),
        (
            5_000_000,
            0,
            0,
            "$5.00 is taken from your wallet: $5.00 for a month from today.",
            "Pay $5.00 and start",
        ),
    ],
)
def test_a_start_names_all_that_it_takes(
    shown: Callable[..., str],
    start_micros: int,
    used_micros: int,
    owed_micros: int,
    says: str,
    button: str,
) -> None:
    """Usage that was charged is paid before anything starts, also within a month that is paid."""
    page = shown(
        status="suspended",
        start_micros=start_micros,
        start_usage_micros=used_micros,
        owed_micros=owed_micros,
        owed_usage_micros=min(used_micros, 1_000_000 if owed_micros == 4_000_000 else used_micros),
        monthly_cost_micros=5_000_000,
        new_price_from=None,
        paid_until="2099-12-30T12:00:00Z",
    )

    assert says in page
    assert f">{button}</button>" in page
    assert f'name="amount_micros" value="{start_micros}"' in page


@pytest.mark.parametrize("status", ["suspended", "stopped", "cancelled", "failed"])
@pytest.mark.parametrize(
    ("used_micros", "says"),
    [
        (0, "$5.00 for the time it ran."),
        (2_000_000, "$3.00 for the time it ran, and $2.00 for what it used."),
        (5_000_000, "$5.00 for what it used."),
    ],
)
def test_the_page_of_what_does_not_run_says_what_is_owed_and_how_that_is_paid(
    shown: Callable[..., str], status: str, used_micros: int, says: str
) -> None:
    page = shown(status=status, owed_micros=5_000_000, owed_usage_micros=used_micros)
    paid = shown(status=status, owed_micros=0, owed_usage_micros=0)

    assert "You owe $5.00" in page
    assert f"{says} This is paid by itself as soon as your wallet covers it." in page
    assert "You owe" not in paid


def test_it_is_renamed_stopped_started_and_cancelled_and_its_history_says_so(
    owner: Api, path: str
) -> None:
    granted(patch(owner, path, {"name": "Shop"}))
    stopped = granted(owner.command(f"{path}/stop"))
    started = granted(owner.command(f"{path}/start"))
    ending = granted(owner.command(f"{path}/cancel"))
    kept = granted(owner.command(f"{path}/start"))
    cancelled = granted(owner.command(f"{path}/cancel", {"when": "now"}))

    states = [each["status"] for each in (stopped, started, ending, kept, cancelled)]
    assert states == ["stopped", "active", "active", "active", "cancelled"]
    assert (ending["next_status"], kept["next_status"]) == ("cancelled", None)
    rung = {"status": "cancelled", "at": ending["paid_until"]}
    assert (ending["ladder"], kept["ladder"]) == ([rung], [])
    assert (cancelled["name"], [change["cause"] for change in cancelled["history"]]) == (
        "Shop",
        ["owner", "will_go_on", "will_end", "owner", "owner", "renamed"],
    )


def test_a_wish_that_makes_no_sense_says_why(owner: Api, path: str) -> None:
    assert error_of(patch(owner, path, {"name": " "})) == (422, "bad_request")
    assert error_of(owner.command(f"{path}/cancel", {"when": "later"})) == (422, "bad_request")
    assert error_of(owner.post(f"{path}/stop")) == (400, "idempotency_key_required")
    granted(owner.command(f"{path}/cancel", {"when": "now"}))
    assert error_of(owner.command(f"{path}/start")) == (409, "conflict")


def test_anothers_deployment_does_not_exist(
    owner: Api, path: str, new_member: Callable[[], Api]
) -> None:
    other = new_member()

    answers = [other.get(path), patch(other, path, {"name": "Mine"})]
    answers += [other.command(f"{path}/{act}") for act in ("stop", "start")]
    answers.append(other.command(f"{path}/cancel", {}))
    answers.append(other.get(f"{path}/sizes"))
    answers.append(other.command(f"{path}/resize", {"product_id": str(uuid4())}))

    assert {error_of(answer) for answer in answers} == {(404, "not_found")}


def test_its_page_does_the_same_and_says_what_follows(owner: Api, path: str) -> None:
    page = path.replace("/api", "/dashboard")
    browser = Browser()
    login = browser.get(f"{owner.base_url}/login")
    form = {"email": owner.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    browser.post(f"{owner.base_url}/login", data=form)
    shown = browser.get(owner.base_url + page).text

    def press(act: str, **fields: str) -> str:
        shown = browser.get(owner.base_url + page).text
        token = {"csrf_token": csrf_token(shown)}
        fields |= dict(re.findall(r'name="(amount_micros)" value="(\d+)"', shown))
        answer = browser.post(f"{owner.base_url}{page}/{act}", data={**token, **fields})
        assert answer.ok, answer.text[:300]
        return answer.text

    assert "is charged for another month" in shown
    assert "<h1>Shop &amp; more</h1>" in press("name", name="Shop & more")
    assert "Its data is kept until" in press("stop")
    assert "It runs." in press("start")
    assert "It ends with its month" in press("cancel", when="period_end")
    assert "You cancelled it" in press("start")
    assert "It is deleted." in press("cancel", when="now")
    eventually(lambda: read(owner.get(path))["status"], lambda status: status == "cancelled")


def test_it_is_started_for_the_amount_that_was_seen_or_not_at_all(owner: Api, path: str) -> None:
    granted(owner.command(f"{path}/stop"))
    browser, page = signed_in(owner), owner.base_url + path.replace("/api", "/dashboard")
    shown = browser.get(page).text
    form = {"csrf_token": csrf_token(shown), "amount_micros": "5000000"}

    over_api = owner.command(f"{path}/start", {"amount_usd": 5})
    on_page = browser.post(f"{page}/start", data=form).text
    without = browser.post(f"{page}/start", data={**form, "amount_micros": ""})
    bad = owner.command(f"{path}/start", {"amount_usd": -1})

    assert error_of(over_api) == (409, "price_changed")
    assert "Starting it now costs $0.00, not $5.00." in on_page
    assert (without.status_code, error_of(bad)) == (422, (422, "bad_request"))
    assert 'name="amount_micros" value="0"' in shown
    stopped = granted(owner.get(path))
    assert (stopped["status"], stopped["start_usd"]) == ("stopped", 0)
    started = granted(owner.command(f"{path}/start", {"amount_usd": stopped["start_usd"]}))
    assert (started["status"], started["start_usd"]) == ("active", 0)


def signed_in(owner: Api) -> requests.Session:
    browser = Browser()
    login = browser.get(f"{owner.base_url}/login")
    form = {"email": owner.email, "password": PASSWORD, "csrf_token": csrf_token(login.text)}
    browser.post(f"{owner.base_url}/login", data=form)
    return browser


@pytest.fixture
def machine(owner: Api) -> str:
    """The path of a VM-Starter that runs."""
    product = granted(owner.get("/api/products/vm-starter"))
    body = {"product_id": product["product_id"]}
    purchase = granted(owner.command("/api/wallet/instant-purchase", body))
    return f"/api/deployments/{purchase['deployment_ids'][0]}"


def test_it_is_resized_over_the_api_and_charged_the_difference(owner: Api, machine: str) -> None:
    sizes = granted(owner.get(f"{machine}/sizes"))
    options = sizes["options"]
    larger = next(each for each in options if each["name"] == "VM-Production")
    body = {
        "product_id": larger["product_id"],
        "amount_usd": larger["amount_usd"],
        "quoted_at": sizes["quoted_at"],
    }
    for_less = owner.command(f"{machine}/resize", {**body, "amount_usd": -1})
    resized = granted(owner.command(f"{machine}/resize", body))
    balance = read(owner.get("/api/wallet/info"))["balance"]

    assert error_of(for_less) == (409, "price_changed")
    assert [each["name"] for each in options] == ["VM-Production", "VM-Memory"]
    assert (resized["name"], resized["next_renewal_usd"]) == ("VM-Production", 15)
    assert balance == 25 - 5 - larger["amount_usd"]


def test_a_size_that_cannot_be_paid_is_refused_and_nothing_is_changed(
    owner: Api, machine: str
) -> None:
    options = granted(owner.get(f"{machine}/sizes"))["options"]
    memory = next(each for each in options if each["name"] == "VM-Memory")

    refused = owner.command(f"{machine}/resize", {"product_id": memory["product_id"]})

    assert error_of(refused) == (402, "insufficient_funds")
    assert granted(owner.get(machine))["next_renewal_usd"] == 5
    nothing = owner.command(f"{machine}/resize", {"product_id": str(uuid4())})
    assert error_of(nothing) == (404, "not_found")


def test_its_page_offers_the_sizes_and_charges_the_amount_that_it_showed(
    owner: Api, machine: str
) -> None:
    browser, page = signed_in(owner), owner.base_url + machine.replace("/api", "/dashboard")
    larger = granted(owner.get(f"{machine}/sizes"))["options"][0]
    offered = browser.get(page).text
    asked = browser.get(f"{page}/resize", params={"product_id": larger["product_id"]}).text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asked))
    hidden["csrf_token"] = csrf_token(asked)

    done = browser.post(f"{page}/resize", data=hidden)
    again = browser.post(f"{page}/resize", data=hidden)
    balance = read(owner.get("/api/wallet/info"))["available"]

    assert "VM-Production, $15.00/month" in offered
    assert "You pay today" in asked
    assert "It is resized." in done.text
    assert "It is resized." in again.text
    assert round(20_000_000 - balance * 1_000_000) == pytest.approx(
        int(hidden["amount_micros"]), abs=10_000
    )
    missing = browser.get(f"{page}/resize", params={"product_id": str(uuid4())})
    assert missing.status_code == 404
    bad = browser.post(f"{page}/resize", data={**hidden, "amount_micros": "much"})
    assert bad.status_code == 422
