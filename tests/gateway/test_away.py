"""While a service is away: what still works, what is refused, and that it heals by itself."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psutil
import pytest
import requests

from services.gateway.backend import ANSWER_WITHIN_S
from tests.gateway.conftest import PASSWORD, Api, error_of, read
from tests.patience import PATIENCE_S, eventually, min_of

ALL_OK = dict.fromkeys(("database", "wallet", "catalog", "billing", "topup"), "ok")


def readiness_of(base_url: str) -> tuple[int, Any]:
    answer = requests.get(f"{base_url}/readyz", timeout=PATIENCE_S)
    return answer.status_code, answer.json()["checks"]


@pytest.fixture
def without(system: Any) -> Iterator[Callable[[str], None]]:
    """Stop a process for the rest of a test. After it the website has noticed that all are back:
    till then it waits for a moment only for who left it without an answer."""
    stopped: list[str] = []

    def stop(name: str) -> None:
        stopped.append(name)
        system.stop(name)

    yield stop
    for name in stopped:
        system.start(name)
    eventually(lambda: readiness_of(system.base_url), lambda found: found == (200, ALL_OK))


def test_registering_while_the_wallet_is_away_gives_a_wallet_later(
    system: Any, visitor: Api, without: Callable[[str], None]
) -> None:
    without("wallet")
    body = {"email": f"{uuid4()}@example.com", "password": PASSWORD}
    registered = visitor.post("/api/auth/register", body)
    visitor.token = read(registered)["token"]
    away = visitor.at_once.get("/api/wallet/info")
    system.start("wallet")

    assert registered.status_code == 201
    assert error_of(away) == (503, "unavailable")
    assert int(away.headers["Retry-After"]) > 0
    assert read(visitor.get("/api/wallet/info"))["balance"] == 0


def test_the_balance_shows_while_topup_is_away(
    api: Api, visitor: Api, without: Callable[[str], None]
) -> None:
    without("topup")

    info = read(api.at_once.get("/api/wallet/info"))
    short = read(api.at_once.get("/api/wallet/check-affordability?amount=5"))
    navbar = read(api.at_once.get("/api/navbar/dropdown-data"))
    webhook = visitor.at_once.post(
        "/webhooks/stripe", data=b"{}", headers={"Stripe-Signature": "t=1,v1=00"}
    )

    assert (info["balance"], info["auto_topup_enabled"]) == (0, None)
    assert short["shortfall_info"]["reason_code"] == "unavailable"
    assert navbar["auto_topup_status"] == "Unavailable"
    assert error_of(webhook) == (503, "unavailable")
    assert error_of(api.at_once.get("/api/wallet/auto-topup/status")) == (503, "unavailable")


def test_readiness_names_the_service_that_is_away(
    system: Any, without: Callable[[str], None]
) -> None:
    without("catalog")

    eventually(
        lambda: readiness_of(system.base_url),
        lambda found: found == (503, {**ALL_OK, "catalog": "away"}),
    )


def test_readiness_says_so_of_every_service_that_answers(system: Any) -> None:
    eventually(lambda: readiness_of(system.base_url), lambda found: found == (200, ALL_OK))


def test_a_request_that_waits_is_finished_before_the_site_stops(
    system: Any, api: Api, product: dict[str, Any], without: Callable[[str], None]
) -> None:
    without("topup")
    answers: list[requests.Response] = []

    def buy() -> None:
        body = {"product_id": product["product_id"]}
        answers.append(api.at_once.command("/api/wallet/purchase-with-topup", body))

    waiting = threading.Thread(target=buy)
    waiting.start()
    _until_it_waits(system, api)
    system.stop("gateway")
    waiting.join()
    system.start("topup")
    system.start("gateway")

    assert [answer.status_code for answer in answers] == [202]


def _until_it_waits(system: Any, api: Api) -> None:
    """Until the purchase is stored: from then on the request waits for its money."""
    other = replace(api, http=requests.Session())
    eventually(lambda: read(other.get("/api/purchases"))["purchases"])


def test_services_that_hang_are_waited_for_side_by_side_and_once(system: Any, api: Api) -> None:
    """The dashboard asks three of them; one after the other they took twice as long."""
    hanging = [psutil.Process(system.child(name).pid) for name in ("wallet", "billing", "topup")]
    browser = requests.Session()
    browser.headers["Authorization"] = f"Bearer {api.token}"

    def page_takes_s() -> float:
        for path in ("/api/wallet/info", "/api/deployments", "/api/wallet/auto-topup/status"):
            # Who left the last question unanswered is not waited for as long.
            eventually(lambda path=path: api.get(path).ok)
        for process in hanging:
            process.suspend()
        try:
            page = browser.get(f"{system.base_url}/dashboard", timeout=PATIENCE_S)
        finally:
            for process in hanging:
                process.resume()
        assert page.status_code == 200
        return page.elapsed.total_seconds()

    assert min_of(page_takes_s, 2 * ANSWER_WITHIN_S) < 2 * ANSWER_WITHIN_S
    assert eventually(lambda: api.get("/api/wallet/info"), lambda answer: answer.ok)
