"""What a quantity of a meter costs in one month: nothing but arithmetic.

It is rated as a whole, and rounded half-even once. What a part of the month costs is the
difference of two totals, so that however the records come in and however often they are charged,
the parts come to what the whole costs, to the micro-dollar.
"""

from itertools import pairwise

from chassis.money import divide_half_even
from contracts.catalog import Meter


def rated_micros(meter: Meter, quantity: int) -> int:
    """What ``quantity`` units cost: the included ones nothing, the others by their tiers."""
    begins = [meter.included_units, *(tier.above_units for tier in meter.tiers)]
    prices = [meter.price_micros, *(tier.price_micros for tier in meter.tiers)]
    within = pairwise([*begins, max(quantity, begins[-1])])
    micros = sum(
        max(min(quantity, end) - begin, 0) * price
        for (begin, end), price in zip(within, prices, strict=True)
    )
    return divide_half_even(micros, meter.per_units)
