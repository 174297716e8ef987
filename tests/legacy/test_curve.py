"""The arithmetic of a pool, for any order of anything: nothing is worth less for who stays."""

from fractions import Fraction
from math import isqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import Conflict
from services.legacy.pools import curve
from services.legacy.pools.curve import Change, Reserves

units = st.one_of(st.integers(1, 3), st.integers(1, 10**4), st.integers(1, 10**15))
steps = st.lists(st.tuples(st.sampled_from("boaw"), units, units), max_size=12)

EMPTY = Reserves(0, 0, 0)


def after(pool: Reserves, change: Change) -> Reserves:
    return Reserves(pool.base - change.base, pool.other - change.other, pool.shares + change.shares)


def worth(pool: Reserves) -> Fraction:
    """The product of a pool's coins, for the square of a share."""
    return Fraction(pool.base * pool.other, pool.shares**2)


def step(pool: Reserves, what: str, one: int, two: int) -> Change | None:
    """Exchange the base (b) or the other coin (o), add (a), withdraw (w); None where refused."""
    try:
        if what == "b":
            return curve.exchange(pool, one, 0)
        if what == "o":
            return curve.exchange(pool, 0, one)
        if what == "a":
            return curve.add(pool, one, two)
        return curve.withdraw(pool, 1 + one % pool.shares) if pool.shares else None
    except Conflict:
        return None


@given(units, units, steps)
def test_a_share_is_never_worth_less_whatever_is_done(
    base: int, other: int, wanted: list[tuple[str, int, int]]
) -> None:
    pool = after(EMPTY, curve.add(EMPTY, base, other))
    for what, one, two in wanted:
        change = step(pool, what, one, two)
        if change is None:
            continue
        left = after(pool, change)
        assert min(left.base, left.other, left.shares) >= 0
        assert (left.shares == 0) == (left.base == 0) == (left.other == 0)
        assert left.shares == 0 or pool.shares == 0 or worth(left) >= worth(pool)
        pool = left


@given(units, units, steps)
def test_the_last_provider_can_always_leave_with_everything(
    base: int, other: int, wanted: list[tuple[str, int, int]]
) -> None:
    pool = after(EMPTY, curve.add(EMPTY, base, other))
    for what, one, two in wanted:
        change = step(pool, what, one, two)
        pool = after(pool, change) if change else pool

    if pool.shares:
        assert after(pool, curve.withdraw(pool, pool.shares)) == EMPTY


@given(units, units, units)
def test_nobody_gains_by_going_there_and_back(base: int, other: int, given_units: int) -> None:
    pool = Reserves(base, other, 1)
    try:
        there = curve.exchange(pool, given_units, 0)
        back = curve.exchange(after(pool, there), 0, there.other)
    except Conflict:
        return

    assert there.base + back.base < 0


@given(units, units, units, units, units)
def test_who_adds_and_leaves_at_once_gains_nothing_and_loses_a_unit_at_most(
    base: int, other: int, shares: int, base_max: int, other_max: int
) -> None:
    pool = Reserves(base, other, 1 + shares % isqrt(base * other))
    try:
        added = curve.add(pool, base_max, other_max)
    except Conflict:
        return
    left = curve.withdraw(after(pool, added), added.shares)

    assert -base_max <= added.base < 0
    assert -other_max <= added.other < 0
    assert -1 <= added.base + left.base <= 0
    assert -1 <= added.other + left.other <= 0


@pytest.mark.parametrize("inside", [1, 2, 3])
@pytest.mark.parametrize("outside", [1, 2, 3])
@pytest.mark.parametrize("given_units", [1, 2, 3, 10**15])
def test_of_the_smallest_pools_nothing_is_got_for_nothing(
    inside: int, outside: int, given_units: int
) -> None:
    try:
        change = curve.exchange(Reserves(inside, outside, 1), given_units, 0)
    except Conflict:
        return

    assert (change.base, change.fee >= 1) == (-given_units, True)
    assert 0 < change.other < outside


def test_a_swap_is_reckoned_as_by_hand() -> None:
    # 100 in: 1 is the fee, and 99 ÷ (1000 + 99) of 2000 are 180.16.
    change = curve.exchange(Reserves(1_000, 2_000, 7), 100, 0)

    assert change == Change(-100, 180, fee=1)
    # A little would have got 198 for 99: it is 9.0909 % less.
    assert curve.impact_ppm(Reserves(1_000, 2_000, 7), change) == 90_910


def test_the_other_way_round_it_is_the_same() -> None:
    there = curve.exchange(Reserves(1_000, 2_000, 7), 100, 0)
    back = curve.exchange(Reserves(2_000, 1_000, 7), 0, 100)

    assert (back.base, back.other, back.fee) == (there.other, there.base, there.fee)


def test_an_empty_pool_gives_nothing() -> None:
    with pytest.raises(Conflict, match="This pool is empty"):
        curve.exchange(EMPTY, 1, 0)


@given(units, units, steps)
def test_no_share_is_worth_nothing(
    base: int, other: int, wanted: list[tuple[str, int, int]]
) -> None:
    pool = after(EMPTY, curve.add(EMPTY, base, other))
    for what, one, two in wanted:
        change = step(pool, what, one, two)
        pool = after(pool, change) if change else pool
        assert not pool.shares or max(pool.base, pool.other) >= pool.shares


def test_more_shares_than_there_are_are_refused() -> None:
    with pytest.raises(Conflict, match="not so many shares"):
        curve.withdraw(Reserves(6, 6, 5), 6)
