from datetime import timedelta
from typing import cast
from uuid import uuid4

import pytest

from chassis.client import RpcClient
from chassis.money import parse_usd
from contracts.wallet import AccountStatus, GetWallets, Wallet, Wallets
from services.billing.deployments.queries import Burning
from services.billing.forecast.balances import wallet_of
from services.billing.forecast.burn_rate import analyse
from services.billing.models import DeploymentRow
from tests.billing.conftest import NOW


def burning(*monthly_usd: str) -> Burning:
    rows = [
        DeploymentRow(
            deployment_id=uuid4(),
            name=f"deployment {number}",
            category="compute",
            status="active",
            monthly_cost_micros=parse_usd(price),
        )
        for number, price in enumerate(monthly_usd)
    ]
    return Burning(len(rows), sum(row.monthly_cost_micros for row in rows), rows)


def test_a_balance_is_asked_for_without_what_of_it_is_promotional() -> None:
    wallet = Wallet(
        user_id=uuid4(),
        account_id=1,
        balance_micros=parse_usd("5"),
        held_micros=0,
        available_micros=parse_usd("5"),
        status=AccountStatus.OPEN,
        opened_at=NOW,
    )
    asked: list[GetWallets] = []

    class Answers:
        def call(self, request: GetWallets, _: float) -> Wallets:
            asked.append(request)
            return Wallets(wallets=[wallet] if wallet.user_id in request.user_ids else [])

    rpc = cast(RpcClient, Answers())

    assert [wallet_of(rpc, each, 1.0) for each in (wallet.user_id, uuid4())] == [wallet, None]
    assert not any(each.with_expiring for each in asked)


def test_the_plans_example_burns_23_dollars_a_month() -> None:
    analysis = analyse(parse_usd("47.50"), burning("15", "5", "3"), NOW)

    assert analysis.monthly_burn_micros == parse_usd("23.00")


def test_the_plans_example_projects_24_dollars_50() -> None:
    analysis = analyse(parse_usd("47.50"), burning("15", "5", "3"), NOW)

    assert analysis.projected_balance_30_days_micros == parse_usd("24.50")


def test_the_plans_example_lasts_61_days() -> None:
    analysis = analyse(parse_usd("47.50"), burning("15", "5", "3"), NOW)

    assert analysis.days_until_empty == 61


def test_the_day_and_the_hour_are_rounded_once_from_the_month() -> None:
    analysis = analyse(0, burning("15", "5", "3"), NOW)

    assert (analysis.daily_burn_micros, analysis.hourly_burn_micros) == (766_667, 31_944)


def test_half_a_micro_dollar_goes_to_the_even_one() -> None:
    days = [analyse(0, burning(f"0.0000{cents}"), NOW).daily_burn_micros for cents in ("15", "45")]

    assert days == [0, 2]


def test_the_shares_of_the_plans_example() -> None:
    analysis = analyse(0, burning("15", "5", "3"), NOW)

    assert [part.share_percent for part in analysis.deployments] == [65, 22, 13]


def test_a_whole_number_of_days_loses_none_to_rounding() -> None:
    analysis = analyse(parse_usd("20"), burning("5"), NOW)

    assert (analysis.days_until_empty, analysis.empty_at) == (120, NOW + timedelta(days=120))


def test_nothing_burning_never_empties() -> None:
    analysis = analyse(parse_usd("20"), burning(), NOW)

    assert (analysis.days_until_empty, analysis.empty_at) == (None, None)


@pytest.mark.parametrize("balance", ["0", "-12.50"])
def test_an_empty_or_negative_balance_lasts_no_day(balance: str) -> None:
    analysis = analyse(parse_usd(balance, allow_negative=True), burning("5"), NOW)

    assert (analysis.days_until_empty, analysis.empty_at) == (0, NOW)


def test_an_end_beyond_the_calendar_has_no_date() -> None:
    analysis = analyse(parse_usd("1000000000"), burning("0.000001"), NOW)

    assert analysis.empty_at is None
