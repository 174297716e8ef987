"""Billing's settings."""

import functools
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from chassis.papers.seller import SellerSettings
from chassis.settings import KeptDays, ServiceSettings, load_settings
from chassis.terms import DAY_S, PurchaseTerms


class BillingSettings(PurchaseTerms, SellerSettings, ServiceSettings):
    """``provisioning`` says who makes a deployment active: billing itself, at once, or a
    provisioner outside that hears ``deployment_requested`` and reports back.
    """

    provisioning: Literal["at_once", "external"] = "at_once"
    payout_min_micros: Annotated[int, Field(ge=0)] = 10_000_000
    """The smallest payout that a provider may ask for, in micro-dollars: $10.00."""

    unpaid_units_per_product_max: Annotated[int, Field(ge=0)] = 3
    unpaid_units_max: Annotated[int, Field(ge=0)] = 10
    """How much stock is set aside for a user who has not paid: units of one product, and of all,
    within 24 hours. A purchase beyond that waits for its money without them."""

    deletion_notices_s: tuple[int, int] = (7 * DAY_S, DAY_S)
    """How long before its data is deleted its owner is told, the first and the last time."""

    renewal_retry_s: Annotated[int, Field(ge=1)] = 6 * 3600
    """How long after a wallet did not pay it is asked again, unless money comes sooner."""

    charges_per_day_max: Annotated[int, Field(ge=1)] = 40
    """How often a deployment is charged within a day at most, and a wallet for usage, which is once
    an hour: more is a fault of ours, nothing more is charged then, and somebody is called."""

    usage_window_s: Annotated[int, Field(ge=0)] = 3 * DAY_S
    """How long after something was used its record is taken."""

    usage_records_kept_days: Annotated[KeptDays, Field(ge=400)] = 400
    """A deployment's page shows the last 366 days, of whole months."""

    call_timeout_s: Annotated[int, Field(ge=1, le=30)] = 3
    """How long one call to the catalog or the wallet may take."""

    @property
    def claim_lease(self) -> timedelta:
        """How long one worker has a purchase to itself.

        Longer than the calls of one try together, each of which is not begun after its
        deadline: a worker that lost its lease can no longer have an effect. They are the debit of
        the group in which it was recorded, a rehearsal, a reservation, its own debit, and one more.
        """
        return timedelta(seconds=5 * self.call_timeout_s + 1)

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
