"""What stands above the dashboard."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts.billing import Forecast, Purchase, PurchasedLine, PurchaseStatus
from contracts.catalog import BillingPeriod, Category
from contracts.topup import AutoTopupStatus, Refusal, RefusalCode, Trigger
from contracts.wallet import AccountStatus, Wallet
from services.gateway.app import create_app
from services.gateway.models import Notification
from services.gateway.pages.attention import CONFIRM_EMAIL_AFTER, Box, boxes, reminders
from services.gateway.people.users import CurrentUser
from services.gateway.settings import GatewaySettings
from tests.pages.test_forecast_chart import TODAY, foretold

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DOLLAR = 1_000_000
USER = UUID(int=1)
DECLINED = "Your bank declined the card."


@pytest.fixture(autouse=True)
def _addresses() -> Iterator[None]:
    settings = GatewaySettings(
        amqp_uri="amqp://127.0.0.1:1/",
        database_url="postgresql+psycopg2://127.0.0.1:1/none",
        secret_key="x" * 32,
    )
    with create_app(settings).test_request_context("/dashboard"):
        yield


def wallet(available: int = 100 * DOLLAR, status: AccountStatus = AccountStatus.OPEN) -> Wallet:
    return Wallet(
        user_id=USER,
        account_id=1,
        balance_micros=available,
        held_micros=0,
        available_micros=available,
        status=status,
        opened_at=NOW,
    )


def auto_topup(state: str = "active", **fields: Any) -> AutoTopupStatus:
    return AutoTopupStatus(
        enabled=state != "off", state=state, threshold_micros=10 * DOLLAR, **fields
    )


def refused() -> AutoTopupStatus:
    refusal = Refusal(
        refusal_code=RefusalCode.DAILY_LIMIT,
        reason="The daily limit is reached.",
        trigger=Trigger.LOW_BALANCE,
        refused_at=NOW,
    )
    return auto_topup(last_refusal=refusal)


def waiting(status: PurchaseStatus = PurchaseStatus.AWAITING_FUNDS) -> Purchase:
    line = PurchasedLine(
        product_id=uuid4(),
        product_name="VM-Production",
        category=Category.COMPUTE,
        quantity=1,
        unit_price_micros=15 * DOLLAR,
        amount_micros=15 * DOLLAR,
        billing_period=BillingPeriod.MONTH,
    )
    return Purchase(
        purchase_id=uuid4(),
        user_id=USER,
        status=status,
        total_micros=15 * DOLLAR,
        shortfall_micros=5 * DOLLAR,
        lines=[line],
        deployment_ids=[],
        created_at=NOW,
        updated_at=NOW,
    )


def message(kind: str) -> Notification:
    return Notification(
        notification_id=uuid4(),
        kind=kind,
        severity="warning",
        title=f"About {kind}",
        body="",
        link="",
    )


def titles(found: list[Box]) -> list[str]:
    return [box.title for box in found]


def test_all_is_well_and_nothing_stands_there() -> None:
    assert boxes(wallet(), auto_topup(), [], None, []) == []


def test_a_refusal_that_no_longer_matters_has_no_box() -> None:
    low, enough = wallet(5 * DOLLAR), wallet(50 * DOLLAR)

    assert titles(boxes(low, refused(), [], None, [])) == ["Auto top-up can't charge yet"]
    assert boxes(enough, refused(), [], None, []) == []


def test_a_pause_is_one_box_with_the_way_out_first() -> None:
    paused = auto_topup("paused", state_reason=DECLINED, confirm_url="https://bank.example/confirm")

    [box] = boxes(wallet(0), paused, [], None, [])

    assert (box.body, box.actions[0].address) == (DECLINED, "https://bank.example/confirm")


def test_a_charge_under_way_is_not_said_to_be_refused() -> None:
    paying = refused().model_copy(update={"in_flight_topup_id": uuid4()})

    assert titles(boxes(wallet(0), paying, [waiting()], None, [])) == ["Auto top-up is paying"]


def test_five_purchases_that_wait_are_one_box() -> None:
    [box] = boxes(wallet(0), auto_topup("off"), [waiting() for _ in range(5)], None, [])

    assert box.body == "VM-Production, $15.00, and 4 more. You need $5.00 more."


def test_with_a_frozen_wallet_nobody_is_sent_to_buy_credits() -> None:
    frozen = wallet(0, AccountStatus.FROZEN)

    found = boxes(frozen, auto_topup("paused", state_reason=DECLINED), [], None, [])

    assert "Buy credits now" not in [action.label for box in found for action in box.actions]


def test_a_frozen_wallet_comes_first() -> None:
    frozen = wallet(0, AccountStatus.FROZEN)

    found = boxes(frozen, auto_topup("paused", state_reason=DECLINED), [], None, [])

    assert titles(found) == ["Your wallet is frozen", "Auto top-up is paused"]


def short(days: int, refusal: str = "") -> Forecast:
    return foretold(
        [5],
        short_on=TODAY + timedelta(days=days),
        short_by_micros=29 * DOLLAR,
        days_until_empty=days,
        auto_topup_refusal=refusal,
    )


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (0, ["Short by $29.00 today"]),
        (7, ["Short by $29.00 on 5\N{NO-BREAK SPACE}December"]),
        (8, []),
    ],
)
def test_what_is_short_within_a_week_is_said_with_its_day(days: int, expected: list[str]) -> None:
    assert titles(boxes(wallet(), auto_topup("off"), [], short(days), [])) == expected


def test_what_is_short_although_auto_topup_is_on_says_why() -> None:
    [off] = boxes(wallet(), auto_topup("off"), [], short(3), [])
    [on] = boxes(wallet(), auto_topup(), [], short(3, "The daily limit is reached."), [])

    assert off.actions[0].label == "Set up auto top-up"
    assert on.body.endswith("The daily limit is reached.")
    assert [action.label for action in on.actions] == ["Buy credits now"]


def test_a_balance_that_covers_what_is_due_has_no_box() -> None:
    assert boxes(wallet(), auto_topup("off"), [], foretold([5, 5]), []) == []


def test_messages_of_one_kind_are_one_box_that_can_be_dismissed() -> None:
    unread = [message("deployment_failed") for _ in range(4)]

    [box] = boxes(wallet(), auto_topup(), [], None, unread)

    assert box.notification is unread[0]
    assert box.actions[-1].label == "3 more like this"


@pytest.mark.parametrize(
    ("is_confirmed", "age", "is_reminded"),
    [
        (False, CONFIRM_EMAIL_AFTER, True),
        (False, CONFIRM_EMAIL_AFTER - timedelta(microseconds=1), False),
        (True, CONFIRM_EMAIL_AFTER, False),
    ],
)
def test_an_address_that_is_not_confirmed_is_reminded_of_after_a_day(
    is_confirmed: bool, age: timedelta, is_reminded: bool
) -> None:
    user = CurrentUser(
        user_id=USER,
        email="ann@example.com",
        created_at=NOW - age,
        has_wallet=True,
        is_email_confirmed=is_confirmed,
        has_second_step=False,
        time_zone="UTC",
        is_staff=False,
    )

    assert bool(reminders(user, NOW)) is is_reminded
