"""What buyers are promised: a service keeps it and the website tells it, from the same settings."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DAY_S = 24 * 3600

Micros = Annotated[int, Field(gt=0)]
Seconds = Annotated[int, Field(ge=0, le=31 * DAY_S)]


class PurchaseTerms(BaseSettings):
    """Billing keeps these."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    purchase_lifetime_s: Annotated[int, Field(ge=1)] = 24 * 3600
    """How long a purchase waits for money before it expires."""

    return_window_s: Annotated[int, Field(ge=0)] = DAY_S
    """How long after a purchase its buyer may give it back by himself, while nothing of it has
    run; 0: never."""

    tax_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """The tax that prices contain, as receipts tell it, in basis points of the price before tax:
    1,900 are 19 %. It is told and not added: what is charged is the price."""

    marketplace_fee_bps: Annotated[int, Field(ge=0, le=10_000)] = 1_000
    """What the marketplace keeps of what a provider sells, in basis points: 1,000 are 10 %. It
    holds for what is sold from now on, by who has no fee of their own."""

    stock_hold_s: Annotated[int, Field(ge=0)] = 15 * 60
    """How long stock stays set aside for a purchase that waits for money: long enough to pay
    by card, too short to empty a shelf with purchases that nobody pays."""

    waiting_purchases_max: Annotated[int, Field(ge=1)] = 20
    """How many unpaid purchases a user may have at once."""

    free_deployments_max: Annotated[int, Field(ge=0)] = 10
    """How many deployments that cost nothing a user may have at once."""

    renewal_notice_s: Annotated[int, Field(ge=0)] = 3 * DAY_S
    """How long before a month is charged its owner is told."""

    price_notice_s: Annotated[int, Field(ge=0)] = 30 * DAY_S
    """How long before a deployment's months cost more its owner is told."""

    grace_s: Annotated[int, Field(ge=1)] = 3 * DAY_S
    """How long a deployment runs on after its owner was told that its month is not paid. Not 0: a
    month that waits for no money is none in a forecast of automatic top-ups."""

    suspended_s: Annotated[int, Field(ge=0)] = 14 * DAY_S
    """How long a suspended deployment waits before it is stopped."""

    kept_s: Annotated[int, Field(ge=0)] = 30 * DAY_S
    """How long the data of a stopped deployment is kept."""


class TopupTerms(BaseSettings):
    """The top-up service keeps these. Amounts are micro-dollars."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    topup_min_micros: Micros = 5_000_000
    topup_max_micros: Micros = 2_000_000_000
    card_refund_window_s: Annotated[int, Field(ge=0)] = 14 * DAY_S
    """How long after a top-up its owner may have what is unused of it paid back to the card by
    themselves; 0: never."""
    auto_topup_cool_down_s: Seconds = 60
    """After an automatic charge, whatever became of it, the next one waits this long."""
    auto_topup_decline_delay_s: Seconds = 300
    """After a decline; it doubles with every further one."""
    auto_topup_declines_max: Annotated[int, Field(ge=1, le=10)] = 4
