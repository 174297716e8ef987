"""The catalog's settings."""

import functools
from typing import Annotated

from pydantic import Field

from chassis.settings import KeptDays, ServiceSettings, load_settings


class CatalogSettings(ServiceSettings):
    """Beside what every service needs: how long reservations are kept, what a seller may do."""

    reservations_kept_days: KeptDays = 90
    """Far longer than a purchase can wait for its money, after which nobody asks again."""

    seller_products_max: Annotated[int, Field(ge=0)] = 100
    """How many products one provider has for sale at once."""

    seller_new_products_per_day: Annotated[int, Field(ge=0)] = 20
    """How many a provider puts up for sale within a day, whatever became of them since."""

    seller_prices_per_day: Annotated[int, Field(ge=1)] = 3
    """How many prices a provider gives one product within a day, the first one too: whoever rents
    it is told of each."""


@functools.cache
def get_settings() -> CatalogSettings:
    return load_settings(CatalogSettings)
