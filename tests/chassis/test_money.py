"""Money at the edges: what is taken, what is refused, what is shown."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.money import (
    MAX_AMOUNT_MICROS,
    InvalidAmount,
    divide_half_even,
    format_usd,
    from_cents,
    parse_usd,
    to_cents,
    usd_number,
    whole_cents,
)

amounts = st.integers(min_value=-MAX_AMOUNT_MICROS, max_value=MAX_AMOUNT_MICROS)


@given(amounts)
def test_what_is_written_as_dollars_is_read_back_exactly(amount_micros: int) -> None:
    assert parse_usd(str(usd_number(amount_micros)), allow_negative=True) == amount_micros


@given(amounts, st.integers(min_value=1, max_value=10**9))
def test_division_rounds_once_to_the_nearest_and_halves_to_even(
    numerator: int, denominator: int
) -> None:
    exact = (Decimal(numerator) / Decimal(denominator)).quantize(Decimal(1), "ROUND_HALF_EVEN")

    assert divide_half_even(numerator, denominator) == int(exact)


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_a_half_goes_to_the_even_number(whole: int, denominator: int) -> None:
    half_more = divide_half_even((2 * whole + 1) * denominator, 2 * denominator)

    assert half_more == whole + whole % 2


@pytest.mark.parametrize(
    ("numerator", "denominator", "rounded"),
    [
        (1, 2, 0), (3, 2, 2), (5, 2, 2), (-1, 2, 0), (-3, 2, -2), (-5, 2, -2), (15, 30, 0),
        (45, 30, 2), (14, 30, 0), (16, 30, 1), (46, 30, 2), (44, 30, 1), (0, 30, 0), (30, 30, 1),
    ],
)  # fmt: skip
def test_a_division_next_to_a_half(numerator: int, denominator: int, rounded: int) -> None:
    assert divide_half_even(numerator, denominator) == rounded


@pytest.mark.parametrize(
    ("amount_micros", "cents_micros"),
    [(0, 0), (1, 10_000), (9_999, 10_000), (10_000, 10_000), (10_001, 20_000), (-1, 0)],
)
def test_a_card_pays_whole_cents_and_never_too_little(
    amount_micros: int, cents_micros: int
) -> None:
    assert whole_cents(amount_micros) == cents_micros


def test_a_billion_dollars_is_read_and_a_micro_dollar_more_is_not() -> None:
    assert parse_usd("1000000000") == MAX_AMOUNT_MICROS
    assert parse_usd("-1000000000", allow_negative=True) == -MAX_AMOUNT_MICROS
    for value in ("1000000000.000001", "-1000000000.000001"):
        with pytest.raises(InvalidAmount, match="at most"):
            parse_usd(value, allow_negative=True)


def test_less_than_nothing_is_negative_and_nothing_is_not() -> None:
    assert parse_usd("-0") == 0
    with pytest.raises(InvalidAmount, match="negative"):
        parse_usd("-0.000001")


@pytest.mark.parametrize(
    ("value", "amount_micros"),
    [("25", 25_000_000), ("0.000001", 1), (Decimal("5.00"), 5_000_000), (0, 0)],
)
def test_dollars_are_read(value: str | int | Decimal, amount_micros: int) -> None:
    assert parse_usd(value) == amount_micros


@pytest.mark.parametrize(
    "value",
    [
        "",
        "five",
        "1_0",
        "1e2",
        "１２",
        "٣",
        " 5",
        "5\n",
        "+5",
        "5.",
        ".5",
        "12,50",
        "0x10",
        "NaN",
        "Infinity",
        "-1",
        "0.0000001",
        "1000000000.01",
        "1e999999",
        "1e-999999",
        "1." + "0" * 40 + "1",
        "9" * 5000,
        True,
        5.0,
        None,
        [5],
    ],
)
def test_what_nobody_can_mean_is_refused_with_a_sentence(value: object) -> None:
    with pytest.raises(InvalidAmount, match=r"^An amount .+\.$"):
        parse_usd(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("amount_micros", "text"),
    [
        (25_000_000, "$25.00"),
        (-5_000_000, "−$5.00"),
        (125, "$0.000125"),
        (1_250_000_000, "$1,250.00"),
        (0, "$0.00"),
        (100_000, "$0.10"),
        (MAX_AMOUNT_MICROS, "$1,000,000,000.00"),
    ],
)
def test_dollars_are_shown(amount_micros: int, text: str) -> None:
    assert format_usd(amount_micros) == text


def test_part_of_a_cent_cannot_be_charged() -> None:
    with pytest.raises(InvalidAmount, match="whole number of cents"):
        to_cents(1)


@given(st.integers(min_value=0, max_value=10**11))
def test_cents_are_exact_both_ways(amount_cents: int) -> None:
    assert to_cents(from_cents(amount_cents)) == amount_cents
