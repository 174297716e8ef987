"""A month that passes between two runs, as a person lives through it with CLOCK_OFFSET_DAYS."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import render_template
from pydantic import ValidationError

from chassis import clock
from contracts.billing import ListDeployments
from contracts.wallet import Statement, TransactionKind
from deploy.local.processes import Ports, Secrets, processes
from deploy.stripe_sandbox.sandbox import Sandbox
from deploy.stripe_sandbox.settings import Settings
from deploy.stripe_sandbox.store import Store
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.topup.settings import TopupSettings
from tests.billing.test_checkout import buy, buyer_with
from tests.conftest import StackFactory
from tests.patience import eventually

PROCESSES = ("wallet", "catalog", "billing")


@pytest.mark.soak
def test_what_was_bought_is_renewed_when_the_product_runs_a_month_later(
    service_stack: StackFactory,
) -> None:
    stack = service_stack(*PROCESSES)
    user_id = buyer_with(stack, "20")
    buy(stack, user_id)

    for name in reversed(PROCESSES):
        stack.stop(name)
    for name in PROCESSES:
        stack.start(name, {"CLOCK_OFFSET_DAYS": "31"})

    renewals = Statement(user_id=user_id, kinds=[TransactionKind.RENEWAL])
    (renewal,) = eventually(lambda: stack.rpc.call(renewals).transactions)
    assert renewal.amount_micros == -5_000_000
    assert renewal.effective_at - datetime.now(UTC) > timedelta(days=30)
    month_later = datetime.now(UTC) + timedelta(days=55)

    def is_renewed() -> bool:
        (deployment,) = stack.rpc.call(ListDeployments(user_id=user_id)).deployments
        return deployment.paid_until is not None and deployment.paid_until > month_later

    eventually(is_renewed)


def test_every_process_and_the_sandbox_get_the_offset(tmp_path: Path) -> None:
    every = processes(
        database_url=lambda _: "",
        amqp_uri=lambda _: "",
        ports=Ports.choose(),
        secret=Secrets(),
        sandbox_data=tmp_path / "sandbox.sqlite",
        environment={"CLOCK_OFFSET_DAYS": "31"},
    )

    assert {process.environment["CLOCK_OFFSET_DAYS"] for process in every} == {"31"}
    (sandbox,) = [process for process in every if process.name == "sandbox"]
    assert sandbox.environment["SANDBOX_CLOCK_OFFSET_DAYS"] == "31"


def test_the_sandbox_lives_as_far_ahead() -> None:
    sandbox = Sandbox(Settings(clock_offset_days=31), Store(""))

    assert abs(sandbox.now() - time.time() - 31 * 86_400) < 5


def test_with_stripe_itself_nobody_lives_ahead() -> None:
    given = {
        "amqp_uri": "",
        "database_url": "",
        "stripe_api_key": "sk_test_x",
        "stripe_webhook_secret": "whsec_of_a_test",
        "clock_offset_days": 31,
    }

    assert TopupSettings(**given, stripe_api_base="http://127.0.0.1:1").clock_offset_days == 31
    with pytest.raises(ValidationError, match="CLOCK_OFFSET_DAYS"):
        TopupSettings(**given)


@pytest.fixture
def _a_day_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CLOCK_OFFSET_DAYS", "1")
    clock.ahead.cache_clear()
    yield
    clock.ahead.cache_clear()


@pytest.mark.usefixtures("_a_day_ahead")
def test_every_page_says_that_the_clock_is_ahead() -> None:
    settings = GatewaySettings(
        amqp_uri="amqp://127.0.0.1:1/",
        database_url="postgresql+psycopg2://127.0.0.1:1/none",
        secret_key="x" * 32,
    )
    with create_app(settings).test_request_context("/"):
        page = render_template("base.html", current_user=None, navbar=lambda: None)

    there = datetime.now(UTC) + timedelta(days=1)
    assert f"The clock is 1 day ahead: here it is {there.day} {there:%b %Y}." in page.replace(
        "\N{NO-BREAK SPACE}", " "
    )
