"""What old files have staked and in pools, as it is opened here: whole millionths, by coin."""

from decimal import Decimal

import pytest

from services.legacy.planning.judging import judge
from services.legacy.reading import documents
from tests.legacy.conftest import user

COIN = 1_000_000
POSITIONS = (
    '"pool_positions":{"tfp-usd":{"amount":"100"},"tfp-eur":{"amount":"12.5"},'
    '"tfp-tft":{"amount":"1000.25"},"tfp-cad":{"amount":"7"}}'
)
HELD = ('"staked_amount":"112.5"', POSITIONS)


def holdings(*fields: str) -> dict[tuple[str, bool], int]:
    judged = judge(documents.read(user("a@example.org", "7", *fields).encode()), Decimal("0.1"))
    return {(each["coin"], each["is_staked"]): each["units"] for each in judged.holdings}


def test_what_was_staked_and_in_pools_is_opened_by_coin() -> None:
    assert holdings(*HELD) == {
        ("TFP", True): 112_500_000,
        ("TFP", False): 112_500_000,
        ("TFT", False): 1_000_250_000,
        ("CAD", False): 7 * COIN,
    }


@pytest.mark.parametrize(
    ("amount", "units"),
    [
        ("0.0000005", None),
        ("0.0000015", 2),
        ("0.0000025", 2),
        ("1000000000", 10**15),
        ("1000000000.000001", None),
        ("-1", None),
        ("0", None),
    ],
)
def test_an_amount_is_rounded_once_and_what_no_account_is_opened_for_is_left_out(
    amount: str, units: int | None
) -> None:
    found = holdings(f'"staked_amount":"{amount}"')

    assert found == ({("TFP", True): units} if units else {})


@pytest.mark.parametrize("asset", ["USD", "BTC", ""])
def test_what_is_no_coin_of_a_pool_stays_in_the_archive(asset: str) -> None:
    position = f'"pool_positions":{{"7":{{"asset":"{asset}","amount":"5"}}}}'

    assert holdings(position) == ({("TFP", False): 5 * COIN} if not asset else {})


def test_several_positions_in_a_coin_are_one_amount_rounded_once() -> None:
    position = '{"asset":"TFP","amount":"0.0000004"}'
    written = ",".join(f'"{number}":{position}' for number in range(4))

    assert holdings(f'"pool_positions":{{{written}}}') == {("TFP", False): 2}
