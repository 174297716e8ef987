"""The catalog's settings."""

import functools

from chassis.settings import KeptDays, ServiceSettings, load_settings


class CatalogSettings(ServiceSettings):
    """Beside what every service needs: how long reservations are kept."""

    reservations_kept_days: KeptDays = 90
    """Far longer than a purchase can wait for its money, after which nobody asks again."""


@functools.cache
def get_settings() -> CatalogSettings:
    return load_settings(CatalogSettings)
