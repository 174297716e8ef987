"""Who gets what of a price: who sells, less the marketplace's fee, and the marketplace.

The fee is rounded half-even, once for each price, and who sells gets the rest: both come to the
price exactly. What nobody sells but the marketplace is its revenue as a whole.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from chassis.money import divide_half_even
from contracts.wallet import HouseAccount, Share

WHOLE_BPS = 10_000
"""A fee of a hundred percent, in basis points."""


class Price(NamedTuple):
    """What is paid for something, who sells it, and the fee that was written down with it.

    Without a fee all of it is the marketplace's: there was none when it was sold, or nobody sells
    it but the marketplace. ``given_fee_micros`` is a fee that ``fee_bps`` does not give: of a part
    of a price, of which all parts come to that of the whole, or after a discount.
    """

    amount_micros: int
    provider_id: UUID | None
    fee_bps: int | None
    given_fee_micros: int | None = None

    @property
    def earner_id(self) -> UUID | None:
        """Who earns by it."""
        return None if self.fee_bps is None else self.provider_id

    @property
    def fee_micros(self) -> int:
        """What the marketplace keeps of what somebody else sells."""
        if self.given_fee_micros is not None:
            return self.given_fee_micros
        return divide_half_even(self.amount_micros * (self.fee_bps or 0), WHOLE_BPS)

    def fee_of(self, part_micros: int) -> int:
        """The fee of a part of it."""
        if self.given_fee_micros is not None:
            return divide_half_even(self.given_fee_micros * part_micros, self.amount_micros)
        return self._replace(amount_micros=part_micros).fee_micros

    @property
    def net_micros(self) -> int:
        """What who sells gets."""
        return self.amount_micros - self.fee_micros


def shares(prices: Iterable[Price]) -> list[Share]:
    """The shares of one payment for all of these, one for each who gets something.

    None where all of it is the marketplace's revenue, which is where a payment goes by itself.
    """
    prices = list(prices)
    if all(price.earner_id is None for price in prices):
        return []
    micros: Counter[UUID | HouseAccount] = Counter()
    for price in prices:
        if price.earner_id is None:
            micros[HouseAccount.MARKETPLACE_REVENUE] += price.amount_micros
        else:
            micros[price.earner_id] += price.net_micros
            micros[HouseAccount.FEES] += price.fee_micros
    parts = {destination: part for destination, part in micros.items() if part}
    if parts.keys() <= {HouseAccount.MARKETPLACE_REVENUE}:
        return []
    return [Share(destination=who, amount_micros=part) for who, part in parts.items()]


def parts(price: Price) -> list[Share]:
    """Who gives back how much of a price, each by name."""
    if price.earner_id is None:
        house = HouseAccount.MARKETPLACE_REVENUE
        return [Share(destination=house, amount_micros=price.amount_micros)]
    return shares([price])
