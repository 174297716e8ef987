"""The settings of the wallet's processes."""

import functools
from typing import Annotated

from pydantic import Field

from chassis.money import MAX_AMOUNT_MICROS
from chassis.settings import ServiceSettings, load_settings


class WalletSettings(ServiceSettings):
    """Beside what every service needs: how the committer groups commands."""

    committer_batch_size: Annotated[int, Field(ge=1, le=1_000)] = 500
    """At most so many commands share one database transaction (a batch call stays whole)."""
    committer_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """So many commands may wait; the next caller hears ``Overloaded`` at once."""
    promotion_max_micros: Annotated[int, Field(gt=0, le=MAX_AMOUNT_MICROS)] = 100_000_000
    """How much promotional credit one person may give at once, in micro-dollars."""


@functools.cache
def get_settings() -> WalletSettings:
    """The settings of this process, read once."""
    return load_settings(WalletSettings)
