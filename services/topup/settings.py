"""What the top-up service reads from its environment, once, at start."""

import functools
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from chassis.papers.seller import SellerSettings
from chassis.settings import ServiceSettings, load_settings, seconds
from chassis.terms import Micros, TopupTerms


def _growing(delays: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(set(delays)) != list(delays):
        raise ValueError("growing whole seconds separated by commas, such as 60,300,1800")
    return delays


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    return tuple(name.strip() for name in names)


class TopupSettings(TopupTerms, SellerSettings, ServiceSettings):
    """Amounts are micro-dollars (1 USD = 1 000 000), durations seconds."""

    stripe_api_key: Annotated[str, Field(pattern=r"^(sk|rk)_(test|live)_\S+$")]
    stripe_api_base: str = ""
    """Where Stripe answers; empty: Stripe itself. The sandbox is http://127.0.0.1:12111."""
    stripe_webhook_secret: Annotated[str, Field(min_length=8)]
    stripe_connect_timeout_s: Annotated[int, Field(ge=1, le=30)] = 3
    stripe_read_timeout_s: Annotated[int, Field(ge=1, le=80)] = 20
    stripe_network_retries: Annotated[int, Field(ge=0, le=5)] = 2
    webhook_tolerance_s: Annotated[int, Field(ge=30, le=3_600)] = 300
    public_url: Annotated[str, Field(pattern=r"^https?://\S+$")] = "http://127.0.0.1:8000"

    threshold_max_micros: Micros = 10_000_000_000
    auto_topups_stopped: bool = False
    """The operator's switch as a setting; the one in the database stops them as well."""
    user_charges_per_hour_max: Annotated[int, Field(ge=1)] = 10
    user_hourly_cap_micros: Micros = 10_000_000_000
    system_charges_per_hour_max: Annotated[int, Field(ge=1)] = 2_000
    system_hourly_cap_micros: Micros = 200_000_000_000
    stale_after_s: Annotated[int, Field(ge=1, le=86_400)] = 300
    """A trigger older than this reads the wallet before it charges. A charge older than this is
    sent no more, and only then can be given up."""
    purchase_page_life_s: Annotated[int, Field(ge=60, le=86_400)] = 1_800
    """How long a card page for a purchase stays open, during which nothing else pays for it."""
    janitor_looks_s: Annotated[
        tuple[int, ...], NoDecode, BeforeValidator(seconds), AfterValidator(_growing)
    ] = (60, 300, 1_800, 7_200, 21_600, 86_400)
    """When a charge whose outcome is unknown is asked about, counted from its start."""
    charge_workers: Annotated[int, Field(ge=1, le=50)] = 8
    """How many calls of one kind (charges, notices, …) may wait for Stripe at once."""

    approved_logins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = (
        "mycelium_admin",
    )
    """Logins at the broker of persons who may credit and correct wallets by hand."""

    notices_kept_days: Annotated[int, Field(ge=31, le=3_650)] = 90
    """Longer than the 30 days for which the processor may send one again."""
    triggers_kept_days: Annotated[int, Field(ge=33, le=3_650)] = 90
    """With the refusals. Longer than the 32 days for which one may be decided about again."""
    commands_kept_days: Annotated[int, Field(ge=31, le=3_650)] = 365
    """How long the key of a saved setting or of a page for a card is known, and which key at the
    processor is spent."""
    removed_cards_kept_days: Annotated[int, Field(ge=31, le=3_650)] = 90

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.topup_min_micros > self.topup_max_micros:
            raise ValueError("TOPUP_MIN_MICROS is above TOPUP_MAX_MICROS")
        if self.stripe_api_base and "_live_" in self.stripe_api_key:
            raise ValueError("a live STRIPE_API_KEY with a STRIPE_API_BASE that is not Stripe")
        if self.clock_offset_days and not self.stripe_api_base:
            raise ValueError("CLOCK_OFFSET_DAYS is for the payment sandbox, and this is Stripe")
        return self


@functools.cache
def get_settings() -> TopupSettings:
    """The settings of this process; it stops with a line for each bad one."""
    return load_settings(TopupSettings)
