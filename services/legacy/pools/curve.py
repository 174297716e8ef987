"""What a pool gives for what: a constant product with a fee, in whole units.

``base`` and ``other`` are the pool's two coins, ``shares`` what it has issued. All is rounded
against who trades, so that ``base × other ÷ shares²`` never falls; the fee stays in the pool. This
is the arithmetic of Uniswap's second version (https://docs.uniswap.org/contracts/v2/concepts), but
for two things: no first shares are locked up for ever, so that the last provider can always leave,
and who adds pays for the whole shares that they get and nothing beside them.
"""

from dataclasses import dataclass
from math import isqrt

from contracts.errors import Conflict

FEE_BPS = 30
"""Of what is given, in hundredths of a percent, rounded up."""
_ALL_BPS = 10_000
PPM = 1_000_000


@dataclass(frozen=True)
class Reserves:
    """What is in a pool, and the shares of it that were issued; all zero where it is empty."""

    base: int
    other: int
    shares: int


@dataclass(frozen=True)
class Change:
    """What it does to what a user has: below zero is what they give. ``fee`` is a part of that."""

    base: int = 0
    other: int = 0
    shares: int = 0
    fee: int = 0


def exchange(pool: Reserves, base: int, other: int) -> Change:
    """Give so much of one of the coins, where the other is zero.

    Raises ``Conflict`` for an empty pool, and where nothing would come of it.
    """
    _require_coins(pool)
    given = base or other
    fee = -(-given * FEE_BPS // _ALL_BPS)
    inside, outside = (pool.base, pool.other) if base else (pool.other, pool.base)
    taken = outside * (given - fee) // (inside + given - fee)
    if taken == 0:
        raise Conflict("So little comes to nothing in this pool. Give more.")
    if base:
        return Change(-given, taken, fee=fee)
    return Change(taken, -given, fee=fee)


def impact_ppm(pool: Reserves, change: Change) -> int:
    """How much worse than for a little this exchange is, without its fee, in millionths; rounded
    up."""
    given, taken = -min(change.base, change.other), max(change.base, change.other)
    inside, outside = (pool.base, pool.other) if change.base < 0 else (pool.other, pool.base)
    at_first = (given - change.fee) * outside
    return -((taken * inside - at_first) * PPM // at_first)


def add(pool: Reserves, base_max: int, other_max: int) -> Change:
    """Add so much at most. The first to add sets the rate, and all of it is taken.

    Raises ``Conflict`` for less than a share.
    """
    if pool.shares == 0:
        return Change(-base_max, -other_max, isqrt(base_max * other_max))
    shares = min(
        base_max * pool.shares // pool.base,
        other_max * pool.shares // pool.other,
    )
    if shares == 0:
        raise Conflict("That is less than a share of this pool. Add more.")
    return Change(
        -_up(shares * pool.base, pool.shares), -_up(shares * pool.other, pool.shares), shares
    )


def withdraw(pool: Reserves, shares: int) -> Change:
    """Take out what belongs to some of the shares; to all of them, everything.

    The first shares are the root of the product, which never falls for a share: each is worth a
    unit of one of the coins at least. Raises ``Conflict`` for more shares than there are.
    """
    if shares > pool.shares:
        raise Conflict("There are not so many shares of this pool.")
    return Change(shares * pool.base // pool.shares, shares * pool.other // pool.shares, -shares)


def _require_coins(pool: Reserves) -> None:
    if pool.shares == 0:
        raise Conflict("This pool is empty: who adds to it first sets its rate.")


def _up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
