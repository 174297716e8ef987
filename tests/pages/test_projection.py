"""The line of the projected balance."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from contracts.billing import BurnRate, DeploymentBurnRate, DeploymentStatus
from contracts.catalog import Category
from contracts.topup import AutoTopupStatus
from services.gateway.pages.projection import project

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DOLLAR = 1_000_000


def burning(balance_micros: int, monthly_micros: int) -> BurnRate:
    deployment = DeploymentBurnRate(
        deployment_id=UUID(int=1),
        deployment_name="VM",
        category=Category.COMPUTE,
        status=DeploymentStatus.ACTIVE,
        monthly_cost_micros=monthly_micros,
        daily_cost_micros=monthly_micros // 30,
        share_percent=100,
    )
    return BurnRate(
        balance_micros=balance_micros,
        monthly_burn_micros=monthly_micros,
        daily_burn_micros=monthly_micros // 30,
        hourly_burn_micros=monthly_micros // 720,
        deployments=[deployment],
        projected_balance_30_days_micros=balance_micros - monthly_micros,
        days_until_empty=None,
        empty_at=None,
    )


def topping_up(threshold_micros: int, state: str = "active") -> AutoTopupStatus:
    return AutoTopupStatus(enabled=True, state=state, threshold_micros=threshold_micros)


def test_the_line_ends_at_the_projected_balance() -> None:
    burn = burning(47_500_000, 23 * DOLLAR)

    line = project(NOW, burn, None)

    assert (line.days[0].balance_micros, line.days[-1].balance_micros) == (
        burn.balance_micros,
        burn.projected_balance_30_days_micros,
    )


def test_the_trigger_is_the_first_day_below_the_threshold() -> None:
    line = project(NOW, burning(20 * DOLLAR, 30 * DOLLAR), topping_up(10 * DOLLAR))

    assert line.trigger_at == NOW + timedelta(days=11)


def test_paused_auto_topup_draws_no_line_and_has_no_trigger() -> None:
    line = project(NOW, burning(20 * DOLLAR, 30 * DOLLAR), topping_up(10 * DOLLAR, "paused"))

    assert (line.threshold_micros, line.trigger_at) == (None, None)


def test_the_table_and_the_chart_show_the_same_numbers() -> None:
    line = project(NOW, burning(20 * DOLLAR, 7 * DOLLAR), None)

    balances = line.chart["balances_micros"]
    assert [day.balance_micros for day in line.table] == balances[::5]  # type: ignore[index]
