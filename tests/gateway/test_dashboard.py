"""The dashboard and the list of deployments, with what services told put in their place."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from chassis.clock import utc_now
from chassis.database import Connected
from contracts.billing import (
    BurnRate,
    Deployment,
    DeploymentBurnRate,
    DeploymentList,
    DeploymentStatus,
    Forecast,
    ForecastDay,
    GetForecast,
    ListDeployments,
    Purchase,
    PurchasedLine,
    PurchaseStatus,
)
from contracts.catalog import Category
from contracts.topup import AutoTopupState, AutoTopupStatus, GetAutoTopup, GetAutoTopupState
from contracts.wallet import AccountStatus, GetWallet, Wallet
from services.gateway.app import create_app
from services.gateway.backend import Backend
from tests.gateway.conftest import add_user, answers_with, gateway_settings
from tests.gateway.test_site import logged_in

LIST = "/dashboard/deployments"


@pytest.fixture
def app(nobody_answers: None, databases: dict[str, str]) -> Iterator[Flask]:
    app = create_app(gateway_settings(databases["gateway"]))
    yield app
    app.extensions["mycelium"].close()


@pytest.fixture
def browser(app: Flask, database: Connected) -> FlaskClient:
    return logged_in(app, add_user(database, has_wallet=True))


def wallet(available_micros: int) -> Wallet:
    return Wallet(
        user_id=uuid4(),
        account_id=1,
        balance_micros=available_micros,
        held_micros=0,
        available_micros=available_micros,
        status=AccountStatus.OPEN,
        opened_at=utc_now(),
    )


def quiet_forecast() -> Forecast:
    burn = BurnRate(
        balance_micros=0,
        monthly_burn_micros=0,
        daily_burn_micros=0,
        hourly_burn_micros=0,
        deployments=[],
        projected_balance_30_days_micros=0,
        days_until_empty=None,
        empty_at=None,
    )
    return Forecast(available_micros=0, days=[], due_next=[], burn_rate=burn)


@pytest.mark.parametrize(("available_micros", "done"), [(0, []), (1, ["Buy credits"])])
def test_who_has_no_deployment_sees_what_to_do_first_and_what_is_done(
    browser: FlaskClient, monkeypatch: pytest.MonkeyPatch, available_micros: int, done: list[str]
) -> None:
    page_module = "services.gateway.pages.dashboard"
    told = {GetForecast: quiet_forecast()}
    monkeypatch.setattr(f"{page_module}.ask", lambda question: told.get(type(question)))
    monkeypatch.setattr(f"{page_module}.ask_all", lambda *_: (wallet(available_micros), None))
    monkeypatch.setattr(f"{page_module}.forecast_chart.draw", lambda *_: None)

    page = browser.get("/dashboard").text

    steps = re.findall(r'<li( class="done")?><a class="row-title" href="([^"]*)">([^<]*)<', page)
    assert [(address, title) for _, address, title in steps] == [
        ("/dashboard/wallet#buy-credits", "Buy credits"),
        ("/marketplace", "Choose a machine"),
        ("/dashboard/wallet/auto-topup", "Set up auto top-up"),
    ]
    assert [title for is_done, _, title in steps if is_done] == done


def test_the_burn_rate_is_told_by_the_hour_with_its_end_and_the_share_of_each(
    browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = datetime(2028, 3, 14, 12, tzinfo=UTC)
    web = DeploymentBurnRate(
        deployment_id=uuid4(),
        deployment_name="web",
        category=Category.COMPUTE,
        status=DeploymentStatus.ACTIVE,
        monthly_cost_micros=72_000_000,
        daily_cost_micros=2_400_000,
        share_percent=63,
    )
    told = {
        "hourly_burn_micros": 100_000,
        "days_until_empty": 1_234,
        "empty_at": empty,
        "deployments": [web],
    }
    forecast = quiet_forecast()
    assert forecast.burn_rate is not None
    forecast = forecast.model_copy(update={"burn_rate": forecast.burn_rate.model_copy(update=told)})
    page_module, asked = "services.gateway.pages.dashboard", {GetForecast: forecast}
    monkeypatch.setattr(f"{page_module}.ask", lambda question: asked.get(type(question)))
    monkeypatch.setattr(f"{page_module}.ask_all", lambda *_: (wallet(1), None))
    monkeypatch.setattr(f"{page_module}.forecast_chart.draw", lambda *_: None)

    page = browser.get("/dashboard").text

    assert "<dt>Per hour, on average</dt><dd>$0.10</dd>" in page
    assert "<dt>Days until empty</dt><dd>1,234</dd>" in page
    assert (
        "<dt>Empty at this rate on</dt><dd>14\N{NO-BREAK SPACE}Mar\N{NO-BREAK SPACE}2028</dd>"
        in page
    )
    assert '$72.00/month <span class="soft">63 %</span>' in page


class Services:
    """In place of all of them; ``waiting`` are purchases that wait for credits."""

    def __init__(self, state: AutoTopupState, *waiting: Purchase) -> None:
        today = ForecastDay(date=utc_now().date(), balance_micros=0, events=[], events_total=0)
        told = {"days": [today], "waiting": list(waiting)}
        self.answers = {
            GetForecast: quiet_forecast().model_copy(update=told),
            GetWallet: wallet(7_000_000),
            GetAutoTopupState: state,
            GetAutoTopup: AutoTopupStatus.model_validate(state, from_attributes=True),
        }
        self.questions: list[Any] = []

    @property
    def asked(self) -> list[type]:
        return [type(question) for question in self.questions]

    def begin(self, _backend: Backend, request: Any, _timeout_s: float) -> Callable[[], Any]:
        self.questions.append(request)
        return lambda: self.answers[type(request)]


@pytest.mark.parametrize(
    ("is_on", "waits", "others"),
    [(False, False, []), (True, False, [GetAutoTopup]), (False, True, [GetAutoTopup])],
)
def test_the_whole_of_auto_topup_is_asked_where_something_of_it_is_shown(
    browser: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    is_on: bool,
    waits: bool,
    others: list[type],
) -> None:
    state = AutoTopupState(enabled=is_on, state="active" if is_on else "off", threshold_micros=0)
    services = Services(state, *([purchase()] if waits else []))
    answers_with(monkeypatch, services)

    page = browser.get("/dashboard").text

    assert services.asked == [GetForecast, GetWallet, GetAutoTopupState, *others]
    shown = re.search(r"<dt>Auto top-up</dt><dd>([^<]*)</dd>", page)
    assert shown is not None
    assert shown[1] == ("Active" if is_on else "Off")


@pytest.mark.parametrize("path", ["/dashboard", "/api/wallet/forecast"])
def test_who_shows_the_forecast_asks_for_the_ends_of_promotional_credit(
    browser: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    services = Services(AutoTopupState(enabled=False, state="off", threshold_micros=0))
    answers_with(monkeypatch, services)

    assert browser.get(path).status_code == 200

    assert services.questions[0].with_promotion_ends


def purchase() -> Purchase:
    line = PurchasedLine.model_construct(product_name="VM", quantity=1)
    return Purchase.model_construct(
        purchase_id=uuid4(),
        status=PurchaseStatus.AWAITING_FUNDS,
        total_micros=5_000_000,
        shortfall_micros=5_000_000,
        lines=[line],
    )


class Billing:
    """In place of billing: what was asked, and as many deployments as it is to have."""

    def __init__(self, *deployments: Deployment) -> None:
        self.deployments = list(deployments)
        self.asked: list[ListDeployments] = []

    def call(self, request: Any) -> DeploymentList:
        self.asked.append(request)
        return DeploymentList(deployments=self.deployments, next_cursor="older")


def deployment(identifier: UUID) -> Deployment:
    return Deployment(
        deployment_id=identifier,
        purchase_id=uuid4(),
        product_id=uuid4(),
        name="VM",
        category=Category.COMPUTE,
        status=DeploymentStatus.ACTIVE,
        monthly_cost_micros=5_000_000,
        created_at=utc_now(),
    )


def test_deployments_are_filtered_by_state_page_after_page(
    browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [uuid4(), uuid4()]
    billing = Billing(*map(deployment, ids))
    page_module = "services.gateway.pages.dashboard"
    monkeypatch.setattr(
        f"{page_module}.call_while", lambda asked, _: (billing.call(asked), (None, None))
    )

    everything, active = browser.get(LIST), browser.get(f"{LIST}?state=active")
    nonsense = browser.get(f"{LIST}?state=running")
    billing.deployments = []
    none_left = browser.get(f"{LIST}?state=failed").text

    assert [each.statuses for each in billing.asked[:2]] == [[], [DeploymentStatus.ACTIVE]]
    assert nonsense.status_code == 422
    assert '<option value="active" selected>' in active.text
    assert f'href="{LIST}?cursor=older&amp;state=active"' in active.text
    # Of the same name, from the same moment: their ids tell them apart.
    assert all(f"#{each.hex[-6:]}" in everything.text for each in ids)
    assert "None is in this state" in none_left
