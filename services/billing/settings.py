"""Billing's settings."""

import functools
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from chassis.papers.seller import SellerSettings
from chassis.settings import ServiceSettings, load_settings

DAY_S = 24 * 3600


class BillingSettings(SellerSettings, ServiceSettings):
    """``provisioning`` says who makes a deployment active: billing itself, at once, or a
    provisioner outside that hears ``deployment_requested`` and reports back.
    """

    provisioning: Literal["at_once", "external"] = "at_once"
    purchase_lifetime_s: Annotated[int, Field(ge=1)] = 24 * 3600
    """How long a purchase waits for money before it expires."""

    marketplace_fee_bps: Annotated[int, Field(ge=0, le=10_000)] = 1_000
    """What the marketplace keeps of what a provider sells, in basis points: 1,000 are 10 %. It
    holds for what is sold from now on, by who has no fee of their own."""

    return_window_s: Annotated[int, Field(ge=0)] = DAY_S
    """How long after a purchase its buyer may give it back by himself, while nothing of it has
    run; 0: never."""

    tax_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """The tax that prices contain, as receipts tell it, in basis points of the price before tax:
    1,900 are 19 %. It is told and not added: what is charged is the price."""

    payout_min_micros: Annotated[int, Field(ge=0)] = 10_000_000
    """The smallest payout that a provider may ask for, in micro-dollars: $10.00."""

    stock_hold_s: Annotated[int, Field(ge=0)] = 15 * 60
    """How long stock stays set aside for a purchase that waits for money: long enough to pay
    by card, too short to empty a shelf with purchases that nobody pays."""

    waiting_purchases_max: Annotated[int, Field(ge=1)] = 20
    """How many unpaid purchases a user may have at once."""

    unpaid_units_per_product_max: Annotated[int, Field(ge=0)] = 3
    unpaid_units_max: Annotated[int, Field(ge=0)] = 10
    """How much stock is set aside for a user who has not paid: units of one product, and of all,
    within 24 hours. A purchase beyond that waits for its money without them."""

    free_deployments_max: Annotated[int, Field(ge=0)] = 10
    """How many deployments that cost nothing a user may have at once."""

    renewal_notice_s: Annotated[int, Field(ge=0)] = 3 * DAY_S
    """How long before a month is charged its owner is told."""

    price_notice_s: Annotated[int, Field(ge=0)] = 30 * DAY_S
    """How long before a deployment's months cost more its owner is told."""

    grace_s: Annotated[int, Field(ge=0)] = 3 * DAY_S
    """How long a deployment runs on after its owner was told that its month is not paid."""

    suspended_s: Annotated[int, Field(ge=0)] = 14 * DAY_S
    """How long a suspended deployment waits before it is stopped."""

    kept_s: Annotated[int, Field(ge=0)] = 30 * DAY_S
    """How long the data of a stopped deployment is kept."""

    deletion_notices_s: tuple[int, int] = (7 * DAY_S, DAY_S)
    """How long before its data is deleted its owner is told, the first and the last time."""

    renewal_retry_s: Annotated[int, Field(ge=1)] = 6 * 3600
    """How long after a wallet did not pay it is asked again, unless money comes sooner."""

    charges_per_day_max: Annotated[int, Field(ge=1)] = 40
    """How often a deployment is charged within a day at most: more is a fault of ours, nothing more
    is charged then, and somebody is called."""

    usage_window_s: Annotated[int, Field(ge=0)] = 3 * DAY_S
    """How long after something was used its record is taken."""

    call_timeout_s: Annotated[int, Field(ge=1, le=30)] = 3
    """How long one call to the catalog or the wallet may take."""

    @property
    def claim_lease(self) -> timedelta:
        """How long one worker has a purchase to itself.

        Longer than the calls of one try together, each of which is not begun after its
        deadline: a worker that lost its lease can no longer have an effect.
        """
        return timedelta(seconds=4 * self.call_timeout_s + 1)

    @property
    def grace(self) -> timedelta:
        return timedelta(seconds=self.grace_s)

    @property
    def renewal_notice(self) -> timedelta:
        return timedelta(seconds=self.renewal_notice_s)

    @property
    def price_notice(self) -> timedelta:
        return timedelta(seconds=self.price_notice_s)

    @property
    def renewal_retry(self) -> timedelta:
        return timedelta(seconds=self.renewal_retry_s)

    @property
    def usage_window(self) -> timedelta:
        return timedelta(seconds=self.usage_window_s)

    @property
    def suspended(self) -> timedelta:
        return timedelta(seconds=self.suspended_s)

    @property
    def kept(self) -> timedelta:
        return timedelta(seconds=self.kept_s)

    @property
    def purchase_lifetime(self) -> timedelta:
        return timedelta(seconds=self.purchase_lifetime_s)

    @property
    def return_window(self) -> timedelta:
        return timedelta(seconds=self.return_window_s)

    @property
    def stock_hold(self) -> timedelta:
        return timedelta(seconds=self.stock_hold_s)


@functools.cache
def get_settings() -> BillingSettings:
    return load_settings(BillingSettings)
